// What the plan counts, and what it makes fit.
#include <gtest/gtest.h>

#include <map>

#include "core/error.h"
#include "distill/tiny_model.h"

namespace qad::distill {
namespace {

TEST(MemoryPlan, CountsWhatIsHeld) {
  // 48 x 32 embedding and head; a layer: 64 x 32, 32 x 32, 96 x 32, 32 x 48, two norms of 32.
  const std::int64_t n = 2 * 48 * 32 + 2 * (64 * 32 + 32 * 32 + 96 * 32 + 32 * 48 + 64) + 32;
  const auto config = tiny_config();
  TrainConfig train = tiny_train();
  train.state_folder = "x";
  const MemoryPlan plan = plan_memory(config, &config, train, {});
  std::map<std::string, std::int64_t> bytes(plan.bytes.begin(), plan.bytes.end());
  EXPECT_EQ(bytes["student"], 4 * n);
  EXPECT_EQ(bytes["master weights"], 4 * n);
  EXPECT_EQ(bytes["AdamW moments"], 8 * n);
  EXPECT_EQ(bytes["teacher"], 4 * n);
  std::int64_t sum = 0;
  for (const auto& [kind, size] : bytes) sum += size;
  EXPECT_EQ(plan.total(), sum);
  EXPECT_EQ(plan_memory(config, nullptr, train, {}).bytes.size(), plan.bytes.size() - 1);
}

std::map<std::string, double> planned(const models::ModelConfig& config, const TrainConfig& train,
                                      const char* device, const quantize::Policy& policy = {}) {
  models::Placement placement = models::placement_named(device);
  placement.packs_inputs = !placement.device.is_cpu();
  const MemoryPlan plan = plan_memory(config, &config, train, placement, 0, policy);
  return {plan.bytes.begin(), plan.bytes.end()};
}

TEST(MemoryPlan, SplitMastersShareWhatIsNotQuantised) {
  const auto config = tiny_config();
  TrainConfig train = tiny_train();
  train.split_masters = true;
  const double quantised = 2 * (64 * 32 + 32 * 32 + 96 * 32 + 32 * 48),
               others = 2 * 48 * 32 + 2 * 64 + 32;
  EXPECT_EQ(planned(config, train, "cuda")["master weights"], 4 * quantised + 2 * others);
  EXPECT_EQ(planned(config, train, "cpu")["master weights"], 4 * (quantised + others));
}

TEST(MemoryPlan, CountsSavedInputsAsTheyAreAndPacked) {
  const auto config = tiny_config();
  TrainConfig train = tiny_train();
  train.batch_sequences = 1000;  // so that activations decide where the peak is
  train.micro_sequences = 0;
  const double tokens = 1000.0 * static_cast<double>(train.seq_len);
  // A layer: two norms' inputs of 32, q, k and v of 64, SwiGLU's input of 96; 1/rms twice, two
  // log-sum-exps; attention's result of 32. Inputs of linears: 32 and 32 and 32 and 48. At the end
  // a norm, with the head's input.
  const double others = 2 * (64 + 64 + 96 + 32) + 64, floats = 2 * 4 + 1,
               inputs = 2 * (3 * 32 + 48);
  quantize::Policy weights_only;
  weights_only.activations = false;
  EXPECT_EQ(planned(config, train, "cpu")["activations"], tokens * 4 * (others + floats + inputs));
  EXPECT_EQ(planned(config, train, "cuda")["activations"],
            tokens * (2 * others + 4 * floats + inputs * 9 / 16));
  // Then attention's result and the next linear's input are one.
  EXPECT_EQ(planned(config, train, "cuda", weights_only)["activations"],
            tokens * (2 * (others + inputs - 2 * 32) + 4 * floats));
}

TEST(MemoryPlan, CountsLowRankCorrections) {
  const auto config = tiny_config();
  TrainConfig train = tiny_train();
  train.batch_sequences = 1000;
  train.micro_sequences = 0;
  const double tokens = 1000.0 * static_cast<double>(train.seq_len);
  quantize::Policy corrected;
  corrected.low_rank = 4;
  auto without = planned(config, train, "cuda"), with = planned(config, train, "cuda", corrected);
  // Of two layers: q (32 rows), k and v (16 each) of 32, o of 32, gate and up (48 each) of 32, down
  // (32) of 48.
  const double values = 2 * 4.0 * ((3 * 32 + 64) + (32 + 32) + (2 * 32 + 96) + (48 + 32));
  EXPECT_EQ(with["student"] - without["student"], 2 * values);
  EXPECT_EQ(with["AdamW moments"] - without["AdamW moments"], 8 * values);
  EXPECT_EQ(with["teacher"], without["teacher"]);
  // Each linear's input once more, and four numbers of each part between the two products.
  EXPECT_EQ(with["activations"] - without["activations"],
            tokens * 2 * 2 * ((32 + 32 + 32 + 48) + 4 * (3 + 1 + 2 + 1)));
}

TEST(MemoryPlan, CountsWhatHybridsSave) {
  TrainConfig train = tiny_train();
  train.batch_sequences = 1000;
  train.micro_sequences = 0;
  const double tokens = 1000.0 * static_cast<double>(train.seq_len);
  // Each of four layers: the norm's input of 32 and its 1/rms; the first linear's input of 32.
  // Mamba: a projection of 32 + 96 + 4, the convolution's 96, the scan's 32, 1/rms of two groups,
  // the last linear's input of 32. The MLP: 48 before and behind its activation. Attention: q, k
  // and v of 64, its result and the next linear's input of 32, two log-sum-exps.
  const double mamba = 132 + 96 + 32 + 2 + 32, mlp = 48 + 48, attention = 64 + 32 + 32 + 2;
  EXPECT_EQ(planned(tiny_hybrid(), train, "cpu")["activations"],
            tokens * 4 * (4 * (32 + 1 + 32) + 2 * mamba + mlp + attention + 32 + 1 + 32));
}

TEST(MemoryPlan, RecomputedLayersKeepWhatEntersThem) {
  auto config = tiny_config();
  config.layers.resize(5, config.layers[0]);
  TrainConfig train = tiny_train();
  train.batch_sequences = 1000;  // so that activations decide where the peak is
  train.micro_sequences = 0;
  const double tokens = 1000.0 * static_cast<double>(train.seq_len);
  // As above: what a layer saves, in values, floats and packed inputs; then the end.
  const double layer = 64 + 64 + 96 + 32, floats = 2 + 2, inputs = 3 * 32 + 48;
  const auto activations = [&](const char* device, std::int64_t recomputed) {
    models::Placement placement = models::placement_named(device);
    placement.packs_inputs = !placement.device.is_cpu();
    placement.recomputed_layers = recomputed;
    const MemoryPlan plan = plan_memory(config, &config, train, placement);
    for (const auto& [kind, bytes] : plan.bytes)
      if (kind == "activations") return bytes;
    return 0.0;
  };
  const double cpu = 4 * (layer + floats + inputs), gpu = 2 * layer + 4 * floats + inputs * 9 / 16;
  const double cpu_end = 4 * (64 + 1), gpu_end = 2 * 64 + 4;
  EXPECT_EQ(activations("cpu", 0), tokens * (5 * cpu + cpu_end));
  // The stream alone enters the first layer, with what the layer before adds the others.
  EXPECT_EQ(activations("cpu", 1), tokens * (4 * 32 + 4 * cpu + cpu_end));
  EXPECT_EQ(activations("cpu", 3), tokens * (4 * (32 + 2 * 64) + 2 * cpu + cpu_end));
  // The last of five runs again before those before it have gone, but behind the end.
  EXPECT_EQ(activations("cpu", 5), tokens * (4 * (32 + 4 * 64) + cpu));
  // On a GPU two layers peak in the head, none where the last layer has run again, with 32 + 3 x 48
  // values on their way back.
  const double back = 2 * (32 + 3 * 48);
  EXPECT_EQ(activations("cuda", 3), tokens * (2 * (32 + 2 * 64) + 2 * gpu + gpu_end));
  EXPECT_EQ(activations("cuda", 5), tokens * (2 * (32 + 4 * 64) + gpu + back));
}

// By hand: of n values each card has a quarter; two layers, or both heads, are whole.
TEST(MemoryPlan, CardsShareAllButActivations) {
  auto config = tiny_config();
  config.layers.resize(3, config.layers[0]);
  config.layers[2].mlp->width = 80;
  const std::int64_t layer = 64 * 32 + 32 * 32 + 96 * 32 + 32 * 48 + 64,
                     wide = 64 * 32 + 32 * 32 + 160 * 32 + 32 * 80 + 64, head = 48 * 32,
                     n = 2 * head + 2 * layer + wide + 32;
  TrainConfig train = tiny_train();
  train.state_folder = "x";
  train.cuda_graphs = false;
  models::Placement gpu = models::placement_named("cuda");
  const auto of = [&](std::int64_t cards, std::int64_t sequences,
                      const models::ModelConfig& teacher) {
    TrainConfig c = train;
    c.batch_sequences = sequences;
    const MemoryPlan plan = plan_memory(config, &teacher, c, gpu, 0, {}, cards);
    return std::map<std::string, double>(plan.bytes.begin(), plan.bytes.end());
  };
  auto one = of(1, 2000, config), four = of(4, 500, config);
  EXPECT_FALSE(one.contains("weights that are whole"));
  EXPECT_EQ(four["student"], 2 * n / 4.0);
  EXPECT_EQ(four["teacher"], 2 * n / 4.0);
  EXPECT_EQ(four["master weights"], 4 * n / 4.0);
  EXPECT_EQ(four["AdamW moments"], 8 * n / 4.0);
  EXPECT_EQ(four["weights that are whole"], 2.0 * static_cast<double>(layer + wide));
  // A card's sequences have the activations of as many on one card.
  EXPECT_EQ(four["activations"], of(1, 500, config)["activations"]);
  // Heads of a large vocabulary are more than layers.
  auto words = config;
  words.vocabulary = config.vocabulary = 480;
  EXPECT_EQ(of(4, 2, words)["weights that are whole"], 2.0 * 2 * 480 * 32);
  EXPECT_THROW(plan_memory(config, &config, train, {}, 0, {}, 4), Error);  // on a CPU
}

// Where nothing passes but gradients: a quarter of all, and a layer's until it is summed up.
TEST(MemoryPlan, CardsShareGradients) {
  auto config = tiny_config();
  config.layers.resize(40, config.layers[0]);
  const double layer = 64 * 32 + 32 * 32 + 96 * 32 + 32 * 48 + 64, head = 48 * 32,
               n = 2 * head + 40 * layer + 32;
  TrainConfig train = tiny_train();
  train.seq_len = 1;
  train.batch_sequences = 1;
  models::Placement gpu = models::placement_named("cuda");
  const auto gradients = [&](std::int64_t cards) {
    for (const auto& [kind, bytes] : plan_memory(config, &config, train, gpu, 0, {}, cards).bytes)
      if (kind == "gradients") return bytes;
    return 0.0;
  };
  EXPECT_EQ(gradients(1), 4 * n);
  EXPECT_EQ(gradients(4), n + 4 * layer);
}

TEST(MemoryPlan, MoreCardsFitMore) {
  const auto config = tiny_config();
  TrainConfig train = tiny_train();
  train.batch_sequences = 64;
  train.micro_sequences = 0;
  const models::Placement gpu = models::placement_named("cuda");
  const auto fit = [&](std::int64_t cards, double room) {
    TrainConfig c = train;
    c.batch_sequences = 64 / cards;
    return fit_memory(config, &config, c, gpu, room, 0, {}, cards);
  };
  TrainConfig eight = train;
  eight.batch_sequences = 8;
  eight.cuda_graphs = false;
  const double room = plan_memory(config, &config, eight, gpu, 0, {}, 8).total() / 0.95 + 1;
  EXPECT_TRUE(fit(8, room).fits);
  EXPECT_EQ(fit(8, room).micro_sequences, 8);
  EXPECT_FALSE(fit(1, room).fits && fit(1, room).micro_sequences == 64);
}

TEST(MemoryPlan, ASmallerMicroBatchComesAfterPackedInputs) {
  const auto config = tiny_config();
  TrainConfig train = tiny_train();
  train.batch_sequences = 1000;
  train.micro_sequences = 0;
  models::Placement gpu = models::placement_named("cuda");
  const auto total = [&](std::int64_t micro, bool packs, bool graphs = false) {
    TrainConfig c = train;
    c.micro_sequences = micro;
    c.cuda_graphs = graphs;
    gpu.packs_inputs = packs;
    return plan_memory(config, &config, c, gpu).total();
  };
  const auto expect = [&](double room, std::int64_t micro, bool packs) {
    // A twentieth is left free.
    const Fit fit = fit_memory(config, &config, train, gpu, room / 0.95 * (1 + 1e-12));
    EXPECT_EQ(fit.micro_sequences, micro) << room;
    EXPECT_EQ(fit.packs_inputs, packs) << room;
  };
  // CUDA graphs cost no micro-batch: there is room for them or they are off.
  const auto graphs = [&](double room) {
    return fit_memory(config, &config, train, gpu, room / 0.95 * (1 + 1e-12)).cuda_graphs;
  };
  ASSERT_LT(total(1000, false), total(1000, false, true));
  EXPECT_TRUE(graphs(total(1000, false, true)));
  EXPECT_FALSE(graphs(total(1000, false, true) - 1));
  ASSERT_LT(total(1000, true), total(1000, false));
  expect(total(1000, false), 1000, false);
  expect(total(1000, false) - 1, 1000, true);
  ASSERT_LT(total(500, false), total(1000, true));
  expect(total(1000, true) - 1, 500, false);
  expect(0, 1, true);  // nothing fits
  train.micro_sequences = 250;
  expect(total(1000, false), 250, false);
}

TEST(MemoryPlan, RecomputationComesLast) {
  auto config = tiny_config();
  config.layers.resize(5, config.layers[0]);
  TrainConfig train = tiny_train();
  train.batch_sequences = train.micro_sequences = 1000;
  train.cuda_graphs = false;
  models::Placement gpu = models::placement_named("cuda");
  const auto total = [&](std::int64_t layers) {
    models::Placement p = gpu;
    p.packs_inputs = true;
    p.recomputed_layers = layers;
    return plan_memory(config, &config, train, p).total();
  };
  const auto expect = [&](double room, std::int64_t layers, bool fits) {
    const Fit fit = fit_memory(config, &config, train, gpu, room / 0.95 * (1 + 1e-12));
    EXPECT_EQ(fit.recomputed_layers, layers) << room;
    EXPECT_EQ(fit.micro_sequences, 1000);
    EXPECT_TRUE(fit.packs_inputs);
    EXPECT_EQ(fit.fits, fits);
  };
  expect(total(0), 0, true);
  for (std::int64_t layers = 1; layers <= 5; ++layers) {
    ASSERT_LT(total(layers), total(layers - 1));
    expect(total(layers - 1) - 1, layers, true);
  }
  expect(total(5) - 1, 5, false);
  gpu.recomputed_layers = 3;  // at least
  expect(total(3), 3, true);
  expect(total(3) - 1, 4, true);
  gpu.recomputed_layers = 0;
  train.micro_sequences = 0;  // smaller micro-batches are tried before
  EXPECT_EQ(fit_memory(config, &config, train, gpu, total(1) / 0.95).recomputed_layers, 0);
}

TEST(MemoryPlan, KeepsOnlyWhatValidationsFound) {
  const auto config = tiny_config();
  TrainConfig train = tiny_train();
  train.state_folder.clear();
  train.keep_best = 10;
  train.steps = 20;
  const auto kept = [&](std::int64_t every) {
    train.validate_every = every;
    const auto bytes = planned(config, train, "cpu");
    return bytes.at("kept candidates") / bytes.at("master weights");
  };
  EXPECT_EQ(kept(0), 0);   // one, when training is over
  EXPECT_EQ(kept(10), 2);  // before the first step and after the tenth
  EXPECT_EQ(kept(1), 10);
}

TEST(MemoryPlan, SmallBatchesPeakWhereGradientsAreAll) {
  const auto config = tiny_config(false, 1024);
  TrainConfig train = tiny_train();
  train.batch_sequences = 1;
  auto bytes = planned(config, train, "cuda");
  EXPECT_EQ(bytes["gradients"], bytes["master weights"]);
  train.batch_sequences = 2000, train.micro_sequences = 2000;
  bytes = planned(config, train, "cuda");
  EXPECT_EQ(bytes["gradients"], 48 * 1024 * 4) << "the head's";
  train.micro_sequences = 1000;
  bytes = planned(config, train, "cuda");
  EXPECT_EQ(bytes["gradients"], bytes["master weights"] + 48 * 1024 * 4);
}

}  // namespace
}  // namespace qad::distill
