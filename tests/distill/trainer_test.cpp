// Whole runs of a tiny model: what is learnt, and what must be equal to the bit.
#include "distill/trainer.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cmath>
#include <fstream>

#include "core/error.h"
#include "distill/tiny_model.h"

namespace qad::distill {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

struct Outcome {
  TrainResult result;
  std::vector<std::int64_t> started;
  std::vector<StepInfo> steps;
  std::vector<at::Tensor> masters, values;
};

Outcome run(Pair& pair, const TrainConfig& config, std::int64_t stop_after = -1,
            bool with_teacher = true) {
  Outcome out;
  std::vector<at::Tensor> masters;
  for (const at::Tensor& t : pair.masters) masters.push_back(t.clone());
  Trainer trainer(pair.student, masters, with_teacher ? &pair.teacher : nullptr, pair.policy,
                  config);
  Callbacks callbacks;
  callbacks.started = [&](std::int64_t steps_done) {
    EXPECT_TRUE(out.steps.empty());
    out.started.push_back(steps_done);
  };
  callbacks.step = [&](const StepInfo& s) { out.steps.push_back(s); };
  callbacks.stop = [&] { return out.steps.back().step == stop_after; };
  out.result = trainer.train(random_stream(), random_batches(), callbacks);
  for (const at::Tensor& t : trainer.masters()) out.masters.push_back(t.clone());
  out.values = values_of(pair.student);
  return out;
}

Outcome run(const TrainConfig& config, std::int64_t stop_after = -1, bool with_teacher = true) {
  Pair pair;
  return run(pair, config, stop_after, with_teacher);
}

void expect_equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(at::equal(a[i], b[i])) << i;
}

struct Folder {
  fs::path path = fs::path(::testing::TempDir()) / fmt::format("qad_trainer_{}", ::getpid());
  Folder() { fs::remove_all(path); }
  ~Folder() { fs::remove_all(path); }
};

TEST(Trainer, EveryLossFalls) {
  const auto only = [](double ops::LossWeights::*member) {
    ops::LossWeights w;
    w.forward_kl = 0;
    w.*member = 1;
    return w;
  };
  for (const ops::LossWeights& loss :
       {only(&ops::LossWeights::forward_kl), only(&ops::LossWeights::reverse_kl),
        only(&ops::LossWeights::jensen_shannon), only(&ops::LossWeights::mse),
        only(&ops::LossWeights::cross_entropy)}) {
    TrainConfig config = tiny_train();
    config.loss = loss;
    config.batch_sequences = 16;
    config.learning_rate = loss.cross_entropy > 0 ? 3e-3 : 3e-4;  // labels are random: far to go
    const Outcome r = run(config);
    EXPECT_EQ(r.result.steps_done, 20);
    EXPECT_EQ(r.steps.back().tokens, r.result.tokens);
    ASSERT_EQ(r.result.validations.size(), 5);  // steps 0, 5, 10, 15, 20
    EXPECT_LT(r.result.validations.back().loss, 0.97 * r.result.validations.front().loss);
    ASSERT_EQ(r.result.kept.size(), 3);
    EXPECT_LE(r.result.kept[0].loss, r.result.kept[1].loss);
  }
}

TEST(Trainer, TiedModelsTrain) {
  Pair pair(true);
  TrainConfig config = tiny_train();
  config.batch_sequences = 16;
  config.learning_rate = 3e-4;
  const Outcome r = run(pair, config);
  EXPECT_LT(r.result.validations.back().kl, r.result.validations.front().kl);
}

// What is learned with an FP8 cache is learned for it: nearer to the teacher than without training,
// and every parameter before the cache moves.
TEST(Trainer, TrainsWithAnFp8Cache) {
  Pair pair;
  for (models::Layer& layer : pair.student.layers) layer.attention->kv_scales = {0x1p-6f, 0x1p-7f};
  TrainConfig config = tiny_train();
  config.batch_sequences = 16;
  config.learning_rate = 3e-4;
  const Outcome r = run(pair, config);
  EXPECT_LT(r.result.validations.back().kl, 0.97 * r.result.validations.front().kl);
  for (std::size_t i = 0; i < r.masters.size(); ++i)
    EXPECT_FALSE(at::equal(r.masters[i], pair.masters[i])) << i;
}

// Every parameter of Mamba is trained, in each precision of moments.
TEST(Trainer, HybridsTrain) {
  for (const StateType states : {StateType::fp32, StateType::bf16, StateType::int8}) {
    Pair pair(tiny_hybrid());
    TrainConfig config = tiny_train();
    config.batch_sequences = 16;
    config.learning_rate = 3e-4;
    config.optimizer_states = states;
    const Outcome r = run(pair, config);
    EXPECT_LT(r.result.validations.back().kl, 0.97 * r.result.validations.front().kl);
    const auto parameters = models::parameters(pair.student);
    for (std::size_t i = 0; i < parameters.size(); ++i)
      EXPECT_FALSE(at::equal(r.masters[i], pair.masters[i])) << parameters[i]->parts[0].name;
  }
}

// All of a mixture learns but the correction, which is as it was to the bit, also where masters are
// split and layers run again.
TEST(Trainer, ExpertsAndTheirRouterLearn) {
  for (const bool small : {false, true}) {
    Pair pair(tiny_experts_config());
    TrainConfig config = tiny_train();
    config.batch_sequences = 16;
    config.learning_rate = 3e-4;
    config.split_masters = small;
    pair.student.placement.recomputed_layers = small ? 2 : 0;
    models::Experts& experts = *pair.student.layers[1].experts;
    experts.correction.value.add_(0x1p-20);  // no BF16 value
    const at::Tensor correction = experts.correction.value.clone();
    const Outcome r = run(pair, config);
    EXPECT_LT(r.result.validations.back().kl, 0.9 * r.result.validations.front().kl);
    const auto parameters = models::parameters(pair.student);
    for (std::size_t i = 0; i < parameters.size(); ++i)
      if (!parameters[i]->constant) {
        EXPECT_FALSE(at::equal(r.masters[i].to(at::kFloat), pair.masters[i]))
            << parameters[i]->parts.front().name;
      }
    EXPECT_TRUE(at::equal(experts.correction.value, correction));
    std::int64_t seen = 0;
    for (const models::Mlp& e : experts.routed) {
      ASSERT_TRUE(e.down.quant->clipped.defined());
      seen += e.down.quant->seen;
    }
    // Two choices a token; training steps and validations alike count each token once.
    EXPECT_EQ(seen, 2 * 32 * pair.student.layers[0].mlp->down.quant->seen / 48);
  }
}

void expect_values_are_shipped(const TrainConfig& config) {
  Pair pair;
  const Outcome r = run(pair, config);
  const auto parameters = models::parameters(pair.student);
  std::size_t quantised = 0;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    models::LinearQuant* quant = nullptr;
    for (models::Linear* l : models::linears(pair.student))
      if (&l->weight == parameters[i]) quant = l->quant.get();
    at::Tensor expected = at::empty_like(r.values[i]);
    quantize::shipped_value("w", r.masters[i], quant, pair.policy.global, expected);
    EXPECT_TRUE(at::equal(expected, r.values[i])) << parameters[i]->parts[0].name;
    EXPECT_FALSE(parameters[i]->value.requires_grad());
    quantised += quant != nullptr;
  }
  EXPECT_EQ(quantised, 8);
}

TEST(Trainer, ValuesAreWhatWouldBeShipped) {
  TrainConfig config = tiny_train();
  expect_values_are_shipped(config);
  config.split_masters = true;
  expect_values_are_shipped(config);
}

TEST(Trainer, ResumedEqualsUninterrupted) {
  const Outcome whole = run(tiny_train());
  for (const std::int64_t stop : {1, 5, 12}) {
    const Folder folder;
    TrainConfig config = tiny_train();
    config.state_folder = folder.path;
    const Outcome first = run(config, stop);
    EXPECT_THAT(first.started, ElementsAre(0));
    EXPECT_TRUE(first.result.interrupted);
    EXPECT_EQ(first.result.steps_done, stop);
    const Outcome second = run(config);
    EXPECT_FALSE(second.result.interrupted);
    EXPECT_THAT(second.started, ElementsAre(stop));
    EXPECT_EQ(second.steps.front().step, stop + 1);
    EXPECT_EQ(second.result.tokens, whole.result.tokens);
    expect_equal(second.masters, whole.masters);
    expect_equal(second.values, whole.values);
    ASSERT_EQ(second.result.validations.size(), whole.result.validations.size());
    for (std::size_t i = 0; i < whole.result.validations.size(); ++i)
      EXPECT_EQ(second.result.validations[i].loss, whole.result.validations[i].loss);
    const Outcome third = run(config);  // done already
    EXPECT_THAT(third.started, ElementsAre(20));
    EXPECT_TRUE(third.steps.empty());
    expect_equal(third.masters, whole.masters);
  }
}

TEST(Trainer, MomentsOfFewerBitsResumeToTheSameBits) {
  for (const StateType states : {StateType::bf16, StateType::int8}) {
    TrainConfig config = tiny_train();
    config.optimizer_states = states;
    const Outcome whole = run(config);
    const Folder folder;
    config.state_folder = folder.path;
    run(config, 5);
    expect_equal(run(config).masters, whole.masters);
    config.optimizer_states = StateType::fp32;
    EXPECT_THAT(error_of([&] { run(config); }), HasSubstr("optimizer_states"));
  }
}

TEST(Trainer, SplitMastersResumeToTheSameBits) {
  const Folder folder;
  TrainConfig config = tiny_train();
  config.split_masters = true;
  const auto state = [&] {
    std::ifstream file(config.state_folder + "/resume/model.safetensors", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  config.state_folder = folder.path / "whole";
  run(config);
  const std::string whole = state();
  EXPECT_THAT(whole.substr(0, 4096), HasSubstr("master_low/"));
  config.state_folder = folder.path / "parts";
  run(config, 7);
  run(config);
  EXPECT_TRUE(state() == whole);  // masters and moments
  config.split_masters = false;
  EXPECT_THAT(error_of([&] { run(config); }), HasSubstr("masters was"));
}

TEST(Trainer, AKillWhileSavingLeavesTheResumePointBefore) {
  const Folder folder;
  TrainConfig config = tiny_train();
  config.state_folder = folder.path;
  run(config, 7);
  // What a killed save leaves behind: a half-written folder beside.
  fs::create_directories(folder.path / ".resume.partial-1");
  write_file(folder.path / ".resume.partial-1" / "model.safetensors", "half");
  const Outcome r = run(config);
  EXPECT_EQ(r.steps.front().step, 8);
  expect_equal(r.masters, run(tiny_train()).masters);
}

TEST(Trainer, AnErrorLosesNothingBeforeTheLastValidation) {
  const Folder folder;
  TrainConfig config = tiny_train();
  config.state_folder = folder.path;
  {
    Pair pair;
    Trainer trainer(pair.student, pair.masters, &pair.teacher, pair.policy, config);
    Callbacks callbacks;
    callbacks.step = [](const StepInfo& s) {
      if (s.step == 13) throw std::runtime_error("the disk is full");
    };
    EXPECT_THROW(trainer.train(random_stream(), random_batches(), callbacks), std::runtime_error);
  }
  const Outcome rest = run(config);
  EXPECT_THAT(rest.started, ElementsAre(10));
  expect_equal(rest.masters, run(tiny_train()).masters);
}

TEST(Trainer, AnInfiniteWeightStopsTheRunByName) {
  for (const std::size_t i : {0, 2}) {  // the embedding, which is not quantised, and q, k, v
    Pair pair;
    const std::string name = models::parameters(pair.student)[i]->parts.front().name;
    Trainer trainer(pair.student, pair.masters, &pair.teacher, pair.policy, tiny_train());
    Callbacks callbacks;
    callbacks.step = [&](const StepInfo& s) {
      if (s.step == 3) trainer.masters()[i].view(-1)[0].fill_(INFINITY);
    };
    EXPECT_THAT(error_of([&] { trainer.train(random_stream(), random_batches(), callbacks); }),
                HasSubstr(name));
  }
}

TEST(Trainer, ImpossibleSettingsAreNamed) {
  const auto refused = [](const char* name, auto&& change) {
    TrainConfig config = tiny_train();
    change(config);
    EXPECT_THAT(error_of([&] { run(config); }), HasSubstr(name));
  };
  for (const double bad : {-0.1, 1.0, double{NAN}}) {
    refused("beta1", [&](TrainConfig& c) { c.beta1 = bad; });
    refused("beta2", [&](TrainConfig& c) { c.beta2 = bad; });
  }
  for (const double bad : {-1.0, 0.0, double{NAN}, double{INFINITY}}) {
    refused("epsilon", [&](TrainConfig& c) { c.epsilon = bad; });
    refused("learning_rate", [&](TrainConfig& c) { c.learning_rate = bad; });
  }
  for (const double bad : {-0.1, 1.1, double{NAN}})
    refused("final_fraction", [&](TrainConfig& c) { c.final_fraction = bad; });
  refused("weight_decay", [](TrainConfig& c) { c.weight_decay = -1; });
  refused("loss.mse", [](TrainConfig& c) { c.loss.mse = -1; });
  refused("loss.temperature", [](TrainConfig& c) { c.loss.temperature = 0; });
  refused("every loss", [](TrainConfig& c) { c.loss.forward_kl = 0; });
}

TEST(Trainer, AnotherConfigurationOrModelCannotResume) {
  const Folder folder;
  TrainConfig config = tiny_train();
  config.state_folder = folder.path;
  run(config, 3);
  TrainConfig other = config;
  other.learning_rate = 1e-3;
  EXPECT_THAT(error_of([&] { run(other); }), HasSubstr("learning_rate was 0.003 and is 0.001"));
  Pair pair;
  pair.masters[0][0][0] += 1;
  EXPECT_THAT(error_of([&] { run(pair, config); }), HasSubstr("model was"));

  Pair taught;  // by a teacher that differs in one norm of one layer
  taught.teacher.layers[1].feed_forward_norm->value[3] += 1;
  EXPECT_THAT(error_of([&] { run(taught, config); }), HasSubstr("teacher was"));

  const auto with = [&](auto&& change) {
    Pair changed;
    change(*changed.student.layers[0].mlp);
    return error_of([&] { run(changed, config); });
  };
  EXPECT_THAT(with([](auto& mlp) { mlp.down.quant.reset(); }),
              HasSubstr("layers.0.mlp.down_proj was"));
  EXPECT_THAT(with([](auto& mlp) { mlp.down.quant->input_global.reset(); }),
              HasSubstr("layers.0.mlp.down_proj was"));
  EXPECT_THAT(with([](auto& mlp) { mlp.down.quant->weight_rule = nvfp4::BlockScale::mse; }),
              HasSubstr("layers.0.mlp.down_proj was"));
  Pair cached;
  for (models::Layer& layer : cached.student.layers) layer.attention->kv_scales = {0.5f, 0.25f};
  EXPECT_THAT(error_of([&] { run(cached, config); }), HasSubstr("k_proj.k_scale was absent"));
  Pair amax;
  amax.policy.global = nvfp4::GlobalScale::amax;
  EXPECT_THAT(error_of([&] { run(amax, config); }), HasSubstr("quantize.global_scale was"));

  Pair same;
  auto batches = random_batches();
  batches[0].weights[0] = 0;
  Trainer trainer(same.student, same.masters, &same.teacher, same.policy, config);
  EXPECT_THAT(error_of([&] { trainer.train(random_stream(), batches, {}); }),
              HasSubstr("validation data was"));
  const int threads = at::get_num_threads();
  at::set_num_threads(threads + 1);
  EXPECT_THAT(error_of([&] { run(config); }), HasSubstr("threads was"));
  at::set_num_threads(threads);
}

TEST(Trainer, RestorePutsBackACandidate) {
  for (const auto& [on_disk, split] : {std::pair{false, false}, {true, false}, {true, true}}) {
    const Folder folder;
    TrainConfig config = tiny_train();
    config.split_masters = split;
    // Straight to step 10 of the same schedule, by interrupting there.
    const Outcome ten = run(config, 10);
    if (on_disk) config.state_folder = folder.path;
    Pair pair;
    Trainer trainer(pair.student, pair.masters, &pair.teacher, pair.policy, config);
    const TrainResult result = trainer.train(random_stream(), random_batches(), {});
    ASSERT_THAT(result.kept, ::testing::Contains(::testing::Field(&Validation::step, 10)));
    trainer.restore(10);
    expect_equal(trainer.masters(), ten.masters);
    expect_equal(values_of(pair.student), ten.values);
    EXPECT_THROW(trainer.restore(11), Error);
    if (on_disk) {
      std::size_t folders = 0;
      for (const auto& e : fs::directory_iterator(folder.path))
        folders += e.path().filename().string().starts_with("kept-");
      EXPECT_EQ(folders, 3);  // evicted ones are gone
    }
  }
}

TEST(Trainer, AccumulationEqualsOneLargeBatch) {
  TrainConfig config = tiny_train();
  config.steps = 1;
  const Outcome whole = run(config);
  config.micro_sequences = 1;
  const Outcome parts = run(config);
  // One forward and backward in FP32; sums of some thousand terms in another order.
  EXPECT_NEAR(parts.steps[0].loss, whole.steps[0].loss, 1e-5 * whole.steps[0].loss);
  EXPECT_NEAR(parts.steps[0].gradient_norm, whole.steps[0].gradient_norm,
              1e-4 * whole.steps[0].gradient_norm);
  config.micro_sequences = 3;  // 3 + 1
  const Outcome uneven = run(config);
  EXPECT_NEAR(uneven.steps[0].gradient_norm, whole.steps[0].gradient_norm,
              1e-4 * whole.steps[0].gradient_norm);
}

TEST(Trainer, RecomputedLayersChangeNothing) {
  for (const bool tied : {false, true}) {
    TrainConfig config = tiny_train();
    config.micro_sequences = 3;  // 3 + 1
    const auto with = [&](std::int64_t layers) {
      Pair pair(tied);
      pair.student.placement.recomputed_layers = layers;
      std::vector<std::int64_t> counted;
      const Outcome out = run(pair, config);
      for (const models::Linear* l : models::linears(pair.student)) {
        if (!l->quant) continue;
        counted.push_back(l->quant->seen);
        counted.push_back(l->quant->clipped.item<std::int64_t>());
      }
      return std::pair(out, counted);
    };
    const auto plain = with(0);
    EXPECT_GT(plain.second.at(0), 0);
    for (const std::int64_t layers : {1, 2}) {
      const auto again = with(layers);
      expect_equal(again.first.masters, plain.first.masters);
      expect_equal(again.first.values, plain.first.values);
      EXPECT_EQ(again.second, plain.second);
      for (std::size_t i = 0; i < plain.first.steps.size(); ++i) {
        EXPECT_EQ(again.first.steps[i].loss, plain.first.steps[i].loss);
        EXPECT_EQ(again.first.steps[i].gradient_norm, plain.first.steps[i].gradient_norm);
      }
    }
  }
}

TEST(Trainer, RecomputedMambaChangesNothing) {
  const auto values = [](std::int64_t layers) {
    Pair pair(tiny_hybrid());
    pair.student.placement.recomputed_layers = layers;
    return run(pair, tiny_train()).values;
  };
  expect_equal(values(4), values(0));
}

TEST(Trainer, CachedTeacherChangesNothing) {
  TrainConfig config = tiny_train();
  config.steps = 40;  // several epochs
  config.micro_sequences = 1;
  const Outcome plain = run(config);
  config.cache_teacher = true;
  const Outcome cached = run(config);
  expect_equal(cached.masters, plain.masters);
}

TEST(Trainer, ATeacherOnDiskServesLaterRuns) {
  const Folder folder;
  TrainConfig config = tiny_train();
  config.micro_sequences = 1;
  const Outcome plain = run(config);
  config.cache_teacher = true;
  config.cache_folder = folder.path;
  expect_equal(run(config).masters, plain.masters);
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder.path))
    if (entry.is_regular_file()) files.push_back(entry.path());
  ASSERT_FALSE(files.empty());
  const auto written = fs::last_write_time(files.front());
  expect_equal(run(config).masters, plain.masters);
  EXPECT_EQ(fs::last_write_time(files.front()), written);  // read, not made again

  // Another teacher has a folder of its own.
  Pair other;
  other.teacher.final_norm.value.mul_(2);
  run(other, config);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()), 2);

  // States of other tokens under this name are found out.
  for (const fs::path& file : files)
    if (file != files.front())
      fs::copy_file(files.front(), file, fs::copy_options::overwrite_existing);
  EXPECT_THAT(error_of([&] { run(config); }), HasSubstr("does not hold"));
}

TEST(Trainer, TrainsWithoutATeacher) {
  TrainConfig config = tiny_train();
  config.loss.forward_kl = 0;
  config.loss.cross_entropy = 1;
  const Outcome r = run(config, -1, false);
  EXPECT_LT(r.result.validations.back().ce, r.result.validations.front().ce);
  EXPECT_THROW(run(tiny_train(), -1, false), Error);  // forward KL needs one
}

TEST(Trainer, TheTeacherMayHaveOtherSizesButNotAnotherVocabulary) {
  Pair pair;
  pair.teacher = random_model(tiny_config(true, 64));
  EXPECT_EQ(run(pair, tiny_train()).result.steps_done, 20);
  auto config = tiny_config();
  config.vocabulary = 50;
  pair.teacher = random_model(config);
  EXPECT_THROW(run(pair, tiny_train()), Error);
}

}  // namespace
}  // namespace qad::distill
