// A random two-layer Llama with its NVFP4 copy and random data, small enough to train in a test.
#pragma once

#include <ATen/ATen.h>

#include "core/random.h"
#include "data/batches.h"
#include "distill/trainer.h"
#include "models/model.h"
#include "quantize/quantize.h"

namespace qad::distill {

inline models::ModelConfig tiny_config(bool tied = false, std::int64_t hidden = 32) {
  models::ModelConfig c;
  c.architecture = "LlamaForCausalLM";
  c.model_type = "llama";
  c.hidden = hidden;
  c.vocabulary = 48;
  c.max_positions = 64;
  c.tied = tied;
  models::LayerConfig layer;
  layer.attention = models::AttentionConfig{.heads = 2, .kv_heads = 1, .head_dim = 16};
  layer.mlp = models::MlpConfig{.width = 48};
  c.layers = {layer, layer};
  return c;
}

// Mamba, squared ReLU, attention without positions, Mamba.
inline models::ModelConfig tiny_hybrid() {
  models::ModelConfig c = tiny_config();
  c.architecture = "NemotronHForCausalLM";
  c.model_type = "nemotron_h";
  const models::MambaConfig mamba{.heads = 4, .head_dim = 8, .groups = 2, .state = 16};
  c.layers.assign(4, {});
  c.layers[0].mamba = c.layers[3].mamba = mamba;
  c.layers[1].mlp = models::MlpConfig{.width = 48, .activation = models::Activation::relu2};
  c.layers[2].attention =
      models::AttentionConfig{.heads = 2, .kv_heads = 1, .head_dim = 16, .rotary = false};
  return c;
}

// The second layer a mixture of four experts, two for a token.
inline models::ModelConfig tiny_experts_config() {
  models::ModelConfig c = tiny_config();
  c.layers[1].mlp.reset();
  c.layers[1].experts = models::ExpertsConfig{.experts = 4,
                                              .chosen = 2,
                                              .scale = 1.5,
                                              .width = 32,
                                              .shared_width = 48,
                                              .activation = models::Activation::relu2};
  return c;
}

// BF16 values, as a checkpoint has them.
inline models::Model random_model(const models::ModelConfig& config, std::uint64_t seed = 1) {
  models::Model model = models::build(config);
  Random random{seed};
  for (models::Parameter* p : models::parameters(model)) {
    at::Tensor value = at::empty(p->value.sizes(), at::kFloat);
    float* v = value.data_ptr<float>();
    const bool norm = value.dim() == 1;
    for (std::int64_t i = 0; i < value.numel(); ++i) {
      const double u = random.uniform() + random.uniform() + random.uniform() - 1.5;
      v[i] = nvfp4::round_to_bf16(static_cast<float>(norm ? 1 + 0.1 * u : 0.4 * u));
    }
    p->value = value;
  }
  return model;
}

inline std::vector<at::Tensor> values_of(models::Model& model) {
  std::vector<at::Tensor> values;
  for (const models::Parameter* p : models::parameters(model)) values.push_back(p->value.clone());
  return values;
}

inline std::vector<data::Document> random_documents(std::size_t count, std::uint64_t seed) {
  Random random{seed};
  std::vector<data::Document> documents(count);
  for (data::Document& d : documents) {
    const std::size_t length = 3 + random.below(30);
    for (std::size_t i = 0; i < length; ++i)
      d.ids.push_back(static_cast<text::TokenId>(random.below(48)));
    d.counts.assign(length, 1);
  }
  return documents;
}

inline data::Stream random_stream(std::int64_t seq_len = 16) {
  data::Source source;
  source.documents = random_documents(40, 2);
  source.sequences = data::pack(source.documents, seq_len);
  return data::Stream({source}, 3);
}

inline std::vector<data::Batch> random_batches() {
  const auto documents = random_documents(10, 5);
  const auto sequences = data::pack(documents, 16);
  std::vector<const data::Sequence*> all;
  for (const auto& s : sequences) all.push_back(&s);
  return {data::make_batch(documents, all)};
}

// Teacher, and its copy quantised.
struct Pair {
  explicit Pair(bool tied = false) : Pair(tiny_config(tied)) {}
  explicit Pair(const models::ModelConfig& config)
      : teacher(random_model(config)), student(random_model(config)) {
    masters = values_of(student);
    policy = quantize::preset("nvfp4");
    std::vector<float> amax = quantize::calibrate(student, {random_batches()[0].tokens});
    quantize::lend_maxima(student, amax);
    quantize::quantize(student, policy, amax);
  }
  models::Model teacher, student;
  std::vector<at::Tensor> masters;
  quantize::Policy policy;
};

inline TrainConfig tiny_train() {
  TrainConfig c;
  c.steps = 20;
  c.seq_len = 16;
  c.batch_sequences = 4;
  c.learning_rate = 3e-3;
  c.warmup_steps = 2;
  c.validate_every = 5;
  c.keep_best = 3;
  return c;
}

}  // namespace qad::distill
