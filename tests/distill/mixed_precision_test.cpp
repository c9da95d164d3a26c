// Training with linears in FP8 beside NVFP4: values are what would be shipped, a resumed run has
// the same bytes, and learned scales are those of NVFP4's blocks.
#include <gmock/gmock.h>
#include <unistd.h>

#include <fstream>

#include "core/error.h"
#include "core/file.h"
#include "distill/tiny_model.h"

namespace qad::distill {
namespace {

using ::testing::HasSubstr;

struct Mixed : Pair {
  explicit Mixed(const models::ModelConfig& config, bool learn_scales = false,
                 const char* pattern = "*.[qkvo]_proj")
      : Pair(config) {
    policy.rules.push_back({pattern, true, "", ops::Precision::fp8});
    student = random_model(config);
    std::vector<float> amax = quantize::calibrate(student, {random_batches()[0].tokens});
    quantize::lend_maxima(student, amax);
    quantize::quantize(student, policy, amax);
    if (learn_scales) quantize::fix_scales(student, policy, masters);
  }
};

struct Folder {
  fs::path path = fs::temp_directory_path() / fmt::format("qad_mixed_{}", ::getpid());
  ~Folder() { fs::remove_all(path); }
};

std::string state_of(const TrainConfig& config) {
  std::ifstream file(config.state_folder + "/resume/model.safetensors", std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

TrainResult run(Mixed& pair, const TrainConfig& config, std::int64_t stop_after = -1) {
  std::vector<at::Tensor> masters;
  for (const at::Tensor& t : pair.masters) masters.push_back(t.clone());
  Trainer trainer(pair.student, masters, &pair.teacher, pair.policy, config);
  std::int64_t last = 0;
  Callbacks callbacks;
  callbacks.step = [&](const StepInfo& s) { last = s.step; };
  callbacks.stop = [&] { return last == stop_after; };
  TrainResult result = trainer.train(random_stream(), random_batches(), callbacks);
  const auto parameters = models::parameters(pair.student);
  for (std::size_t i = 0; i < parameters.size(); ++i)
    for (models::Linear* l : models::linears(pair.student)) {
      if (&l->weight != parameters[i] || !l->quant) continue;
      const at::Tensor value = parameters[i]->value.detach();
      at::Tensor shipped = at::empty_like(value);
      quantize::shipped_value("w", trainer.masters()[i], l->quant.get(), pair.policy.global,
                              shipped);
      EXPECT_TRUE(at::equal(shipped, value)) << parameters[i]->parts[0].name;
      EXPECT_FALSE(at::equal(trainer.masters()[i], pair.masters[i]));  // it was trained
    }
  return result;
}

TEST(MixedPrecision, DistilsNearerToItsTeacher) {
  for (const bool experts : {false, true}) {
    Mixed pair(experts ? tiny_experts_config() : tiny_config(), false,
               experts ? "*.experts.*" : "*.[qkvo]_proj");
    TrainConfig config = tiny_train();
    config.batch_sequences = 16;
    config.learning_rate = 3e-4;
    const TrainResult result = run(pair, config);
    EXPECT_LT(result.validations.back().kl, 0.97 * result.validations.front().kl) << experts;
  }
}

TEST(MixedPrecision, ResumesToTheSameBytes) {
  for (const bool learn : {false, true}) {
    const Folder folder;
    TrainConfig config = tiny_train();
    config.learn_scales = learn;
    config.state_folder = folder.path / "whole";
    Mixed whole(tiny_config(), learn);
    run(whole, config);
    const std::string expected = state_of(config);
    EXPECT_GT(expected.size(), 10000u);
    config.state_folder = folder.path / "parts";
    Mixed first(tiny_config(), learn), second(tiny_config(), learn);
    run(first, config, 7);
    EXPECT_FALSE(state_of(config) == expected);
    run(second, config);
    EXPECT_TRUE(state_of(config) == expected) << learn;
    const auto a = values_of(whole.student), b = values_of(second.student);
    for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(at::equal(a[i], b[i]));
    // Another precision is another run.
    Mixed other(tiny_config(), learn, "*.o_proj");
    try {
      run(other, config);
      ADD_FAILURE() << "resumed";
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("q_proj"));
    }
  }
}

TEST(MixedPrecision, WithoutBlocksThereAreNoScalesToLearn) {
  Mixed pair(tiny_config(), true, "*_proj");
  TrainConfig config = tiny_train();
  config.learn_scales = true;
  try {
    run(pair, config);
    ADD_FAILURE() << "learned nothing";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("no weight is NVFP4"));
  }
}

TEST(MixedPrecision, LearnedScalesAreThoseOfBlocks) {
  Mixed pair(tiny_config(), true);
  std::vector<at::Tensor> before;
  for (const models::Linear* l : models::linears(pair.student))
    if (l->quant && l->quant->weight_scales.defined())
      before.push_back(l->quant->weight_scales.clone());
  EXPECT_EQ(before.size(), 4u);  // gate and up, down, of two layers
  TrainConfig config = tiny_train();
  config.learn_scales = true;
  config.scales_rate = 1;
  run(pair, config);
  std::size_t i = 0;
  for (const models::Linear* l : models::linears(pair.student)) {
    if (!l->quant || l->quant->precision == ops::Precision::fp8) continue;
    EXPECT_FALSE(at::equal(before[i++], l->quant->weight_scales));
  }
  EXPECT_EQ(i, before.size());
}

}  // namespace
}  // namespace qad::distill
