// Prediction of a run's peak memory from shapes alone: what the trainer holds throughout, and what
// one micro-batch adds at its worst moment.
#include "distill/trainer.h"

namespace qad::distill {

namespace {

constexpr double kFloat = 4;

// What one value, gradient and moment takes.
struct Bytes {
  double value = kFloat, gradient = kFloat, moment = kFloat;
};
Bytes bytes_of(const TrainConfig& config, const models::Placement& placement) {
  Bytes b;
  if (placement.type == at::kBFloat16) b.value = 2;
  if (config.bf16_gradients) b.gradient = 2;
  if (config.optimizer_states == StateType::bf16) b.moment = 2;
  if (config.optimizer_states == StateType::int8) b.moment = 1 + kFloat / 256;
  return b;
}

// The program with LibTorch loaded (116 MiB: VmHWM of `qad inspect`), its data, tokenizer and what
// calibration leaves (20 MiB, the rest of the demo's peak).
constexpr double kProgram = 136 << 20;
// What ops/head_loss.h keeps of logits at a time.
constexpr double kLogits = 64 << 20, kLogitTokens = 1024;
// On a GPU: CUDA's context with cuBLAS's and cuDNN's workspaces, and the chunks of logits that
// cuda/head_loss.cpp keeps.
constexpr double kCuda = 900 << 20, kCudaLogits = 4096.0 * (1 << 20);

// Floats a token that the operators save between forward and backward (given to record in
// src/ops): both norms their input, each linear its (quantised) input, attention the rotated q, k,
// v and a log-sum-exp a head, SwiGLU its input; q/k norms their input besides.
std::int64_t saved_per_token(const models::ModelConfig& config) {
  std::int64_t floats = 2 * config.hidden + 1;  // final norm, head
  for (const models::LayerConfig& layer : config.layers) {
    if (layer.attention) {
      const models::AttentionConfig& a = *layer.attention;
      const std::int64_t q = a.heads * a.head_dim, kv = a.kv_heads * a.head_dim;
      floats += 2 * config.hidden + 1 + (q + 2 * kv) + a.heads + q;
      if (a.qk_norm) floats += q + kv;
    }
    if (layer.mlp) floats += 2 * config.hidden + 1 + 3 * layer.mlp->width;
  }
  return floats;
}

}  // namespace

double MemoryPlan::total() const {
  double sum = 0;
  for (const auto& [kind, size] : bytes) sum += size;
  return sum;
}

MemoryPlan plan_memory(const models::ModelConfig& student, const models::ModelConfig* teacher,
                       const TrainConfig& config, const models::Placement& placement,
                       std::int64_t epoch_tokens) {
  // In floating point: numbers from a recipe may be absurd, and must not overflow.
  const Bytes bytes = bytes_of(config, placement);
  const bool gpu = !placement.device.is_cpu();
  const double n = static_cast<double>(models::parameter_count(student));
  const double seq_len = static_cast<double>(config.seq_len);
  const std::int64_t micro = config.micro_sequences > 0
                                 ? std::min(config.micro_sequences, config.batch_sequences)
                                 : config.batch_sequences;
  const double tokens = static_cast<double>(micro) * seq_len;
  const double vocabulary = static_cast<double>(student.vocabulary);
  const double hidden = static_cast<double>(student.hidden);
  const double head = vocabulary * hidden;
  const double activations = static_cast<double>(saved_per_token(student)) * tokens * bytes.value;

  MemoryPlan plan;
  plan.bytes.emplace_back(gpu ? "CUDA" : "program and data", gpu ? kCuda : kProgram);
  plan.bytes.emplace_back("student", n * bytes.value);
  plan.bytes.emplace_back("master weights", n * kFloat);
  plan.bytes.emplace_back("AdamW moments", 2 * n * bytes.moment);
  if (teacher != nullptr)
    plan.bytes.emplace_back("teacher",
                            static_cast<double>(models::parameter_count(*teacher)) * bytes.value);
  plan.bytes.emplace_back("activations", activations);
  // They come as activations go, but hardly fit into what those leave: measured at the 135M shape,
  // both count. The head's comes in FP32; a tied embedding's own is one more of its size.
  plan.bytes.emplace_back("gradients", n * bytes.gradient + (student.tied ? head * kFloat : 0) +
                                           (config.bf16_gradients ? head * kFloat : 0));
  // Logits of a chunk of tokens, hidden states and their gradient.
  const bool both = teacher != nullptr && config.loss.divergences() > 0;
  const double logits = (both ? 2 : 1) * std::min(tokens, kLogitTokens) * vocabulary * kFloat;
  plan.bytes.emplace_back(
      "loss", (gpu ? kCudaLogits : std::min(kLogits, logits)) + 3 * tokens * hidden * bytes.value);
  if (config.cache_teacher && teacher != nullptr) {
    const double all =
        static_cast<double>(config.steps) * static_cast<double>(config.batch_sequences) * seq_len;
    const double cached = epoch_tokens > 0 ? std::min(all, static_cast<double>(epoch_tokens)) : all;
    plan.bytes.emplace_back("teacher cache",
                            cached * static_cast<double>(teacher->hidden) * bytes.value);
  }
  if (config.state_folder.empty())
    plan.bytes.emplace_back(
        "kept candidates",
        static_cast<double>(std::max<std::int64_t>(0, config.keep_best)) * n * kFloat);
  return plan;
}

std::int64_t fitting_micro_batch(const models::ModelConfig& student,
                                 const models::ModelConfig* teacher, TrainConfig config,
                                 const models::Placement& placement, double room,
                                 std::int64_t epoch_tokens) {
  std::int64_t micro = config.batch_sequences;
  for (; micro > 1; --micro) {
    if (config.batch_sequences % micro != 0) continue;
    config.micro_sequences = micro;
    if (plan_memory(student, teacher, config, placement, epoch_tokens).total() <= room) break;
  }
  return micro;
}

}  // namespace qad::distill
