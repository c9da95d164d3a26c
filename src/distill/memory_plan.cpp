// Prediction of a run's peak memory from shapes alone: what the trainer holds throughout, and what
// one micro-batch adds at its worst moment.
#include "distill/trainer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "ops/mamba_scan_kernel.h"
#include "quantize/low_rank.h"

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
// On a GPU: the workspaces of cuBLAS and cuDNN. CUDA's own context (0.5 GB) was taken before anyone
// asks how much memory is free.
constexpr double kCuda = 64 << 20;
// What cuda/head_loss.cpp keeps of logits at a time: chunks of a multiple of 128 tokens.
constexpr double kCudaLogits = 4096.0 * (1 << 20);

// Bytes a token that a layer's operators save between forward and backward (given to record in
// src/ops): norms their input and a float a row; each linear its input, as it is or packed;
// attention the rotated q, k, v, its result and a float a head; Mamba what it projects, the
// convolution's result, the scan's, and a float a group; SwiGLU and squared ReLU their input; q/k
// norms their input besides. A result that the next linear reads unquantised is saved once. Experts
// have as many rows as experts are chosen for a token: inputs, which are never packed, what is
// activated and the results; the router has what enters all of them.
double saved_per_token(const models::Model& shape, const models::Layer& layer,
                       const quantize::Policy& policy, double value, bool packs) {
  const auto input = [&](const models::Linear& l, bool saved_anyway) {
    const double values = static_cast<double>(l.weight.value.size(1));
    const bool quantised =
        policy.activations &&
        quantize::decide(policy, l, static_cast<std::int64_t>(shape.layers.size())).quantize;
    if (!quantised) return saved_anyway ? 0 : values * value;
    // A correction reads the input unquantised, and its second product what the first made.
    const double corrected =
        l.low_rank ? (values + static_cast<double>(l.low_rank->down.value.size(0))) * value : 0;
    if (!packs) return values * value + corrected;
    const double blocks = std::ceil(values / nvfp4::kBlock);
    return blocks * (nvfp4::kBlock / 2 + 1) + corrected;
  };
  const double norm = static_cast<double>(shape.config.hidden) * value + kFloat;
  double bytes = 0;
  if (layer.attention) {
    const models::AttentionConfig& a = layer.attention->config;
    const double q = static_cast<double>(a.heads * a.head_dim),
                 kv = static_cast<double>(a.kv_heads * a.head_dim),
                 heads = static_cast<double>(a.heads);
    bytes += norm + input(layer.attention->qkv, false) + (q + 2 * kv) * value + q * value +
             heads * kFloat + input(layer.attention->output, true);
    if (a.qk_norm) bytes += (q + kv) * value + (heads + static_cast<double>(a.kv_heads)) * kFloat;
  }
  if (layer.mamba) {
    const models::MambaConfig& m = layer.mamba->config;
    const auto projected = layer.mamba->in.weight.value.size(0);
    bytes += norm + input(layer.mamba->in, false) +
             static_cast<double>(projected + m.conv_channels() + m.inner()) * value +
             static_cast<double>(m.groups) * kFloat + input(layer.mamba->out, false);
  }
  if (layer.mlp) {
    const double activated = static_cast<double>(layer.mlp->gate_up.weight.value.size(0));
    bytes +=
        norm + input(layer.mlp->gate_up, false) + activated * value + input(layer.mlp->down, false);
  }
  if (layer.experts) {
    const models::Experts& m = *layer.experts;
    const double hidden = static_cast<double>(shape.config.hidden),
                 width = static_cast<double>(m.config.width),
                 chosen = static_cast<double>(m.config.chosen);
    const double activated = static_cast<double>(m.routed.front().gate_up.weight.value.size(0));
    bytes += norm + hidden * value + chosen * (2 * hidden + activated + width) * value +
             chosen * 5 * kFloat;  // weights, scores, numbers of experts and rows
    if (m.shared)
      bytes += input(m.shared->gate_up, true) +
               static_cast<double>(m.shared->gate_up.weight.value.size(0)) * value +
               input(m.shared->down, false);
  }
  return bytes;
}

// What is held of a micro-batch's activations, in bytes a token.
struct Activations {
  double kept = 0;  // from forward to backward
  // When the last layers have gone their way back and layer i, the last of those that run again,
  // has run again; then the one before it, and so on.
  struct Rerun {
    double held;    // what enters the first layers up to this, and what this saves
    double values;  // of the parameters behind it, which have gradients
  };
  std::vector<Rerun> reruns;
};
Activations activations_of(const models::Model& shape, const quantize::Policy& policy, double value,
                           const models::Placement& placement) {
  const double hidden = static_cast<double>(shape.config.hidden) * value;
  const auto layers = static_cast<std::int64_t>(shape.layers.size());
  const auto saved = [&](std::int64_t i) {
    return saved_per_token(shape, shape.layers[static_cast<std::size_t>(i)], policy, value,
                           placement.packs_inputs);
  };
  // The residual stream, and what the layer before adds to it.
  const auto entering = [&](std::int64_t i) { return i == 0 ? hidden : 2 * hidden; };
  const std::int64_t again = std::min(placement.recomputed_layers, layers);
  Activations a;
  for (std::int64_t i = 0; i < again; ++i) a.kept += entering(i);
  double held = a.kept, values = 0;
  a.kept += hidden + kFloat + hidden;  // of the last norm, and the head's input
  const auto pass = [&](std::int64_t i) {
    for (const models::Parameter* p : models::parameters(shape.layers[static_cast<std::size_t>(i)]))
      values += static_cast<double>(p->value.numel());
  };
  for (std::int64_t i = layers - 1; i >= again; --i) {
    a.kept += saved(i);
    pass(i);
  }
  for (std::int64_t i = again - 1; i >= 0; --i) {
    a.reruns.push_back({held + saved(i), values});
    held -= entering(i);
    pass(i);
  }
  return a;
}

// Of weights in these precisions.
double quantised_values(const models::Model& shape, const quantize::Policy& policy,
                        std::initializer_list<ops::Precision> which) {
  double n = 0;
  for (const models::Linear* l : models::linears(shape)) {
    const auto v = quantize::decide(policy, *l, static_cast<std::int64_t>(shape.layers.size()));
    if (v.quantize && std::ranges::find(which, v.precision) != which.end())
      n += static_cast<double>(l->weight.value.numel());
  }
  return n;
}

// A high half that is the student's value itself is counted with the student.
double master_bytes(const models::Model& shape, const quantize::Policy& policy,
                    const TrainConfig& config, const models::Placement& placement) {
  const double n = static_cast<double>(models::parameter_count(shape));
  if (!config.split_masters || placement.type != at::kBFloat16) return n * kFloat;
  return n * 2 + 2 * quantised_values(shape, policy, {ops::Precision::nvfp4, ops::Precision::fp8});
}

// The most values a token on their way through a layer's backward pass: the gradient of the
// residual stream, the activation's of its result, and that of its input; of experts the same, or
// those of what enters and leaves a product, for all rows of a token; in Mamba the scan's inputs'
// beside what they become together, the projection's.
std::int64_t passing_per_token(const models::ModelConfig& config) {
  std::int64_t most = 0;
  for (const models::LayerConfig& layer : config.layers) {
    if (layer.mlp) {
      const std::int64_t widths = layer.mlp->activation == models::Activation::swiglu ? 3 : 2;
      most = std::max(most, config.hidden + widths * layer.mlp->width);
    } else if (layer.experts) {
      const models::ExpertsConfig& e = *layer.experts;
      const std::int64_t widths = e.activation == models::Activation::swiglu ? 3 : 2;
      most = std::max(
          most, config.hidden +
                    e.chosen * std::max(widths * e.width, config.hidden + (widths - 1) * e.width));
      most = std::max(most, 2 * config.hidden + 2 * e.shared_width);
    }
    if (layer.mamba) {
      const std::int64_t projected =
          layer.mamba->inner() + layer.mamba->conv_channels() + layer.mamba->heads;
      most = std::max(most, config.hidden + 2 * projected);
    }
  }
  return most;
}

// What a GPU's scan keeps at its worst, bytes a token: FP32 in chunks, of x seven times as much (x,
// x with its decay, the same of dy, two products with states and x's gradient), of B and C these
// and their gradients, two matrices of pairs for each group, and what enters and leaves a chunk of
// states. The matrices of heads' pairs have gone when products with states come.
double scan_per_token(const models::ModelConfig& config) {
  constexpr double kChunk = ops::kScanChunk;
  double most = 0;
  for (const models::LayerConfig& layer : config.layers) {
    if (!layer.mamba) continue;
    const models::MambaConfig& m = *layer.mamba;
    const double inner = static_cast<double>(m.inner()), heads = static_cast<double>(m.heads);
    const double state = static_cast<double>(m.state), groups = static_cast<double>(m.groups);
    const double of_states = 2 * inner * state / kChunk, pairs = 2 * kChunk * groups;
    const double values = std::max(7 * inner, 5 * inner + 2 * kChunk * heads);
    most = std::max(most, kFloat * (values + 4 * groups * state + pairs + of_states + 7 * heads));
  }
  return most;
}

// Masters that are held while training goes on; those of the last step come when the rest is gone.
double kept_while_training(const TrainConfig& config) {
  if (!config.state_folder.empty() || config.validate_every <= 0) return 0;
  const std::int64_t validations = 1 + (config.steps - 1) / config.validate_every;
  return static_cast<double>(std::max<std::int64_t>(0, std::min(config.keep_best, validations)));
}

// Tokens whose logits a GPU's head keeps at a time, where one takes so many bytes.
double head_rows(double tokens, double bytes) {
  return std::min(tokens, std::max(128.0, std::floor(kCudaLogits / bytes / 128) * 128));
}

// Values of two neighbouring layers and of the largest one.
struct LargestLayers {
  double pair = 0, one = 0;
};
LargestLayers largest_layers(const models::Model& shape) {
  LargestLayers most;
  double before = 0;
  for (const models::Layer& layer : shape.layers) {
    double values = 0;
    for (const models::Parameter* p : models::parameters(layer))
      values += static_cast<double>(p->value.numel());
    most.pair = std::max(most.pair, before + values);
    most.one = std::max(most.one, values);
    before = values;
  }
  return most;
}

// What a micro-batch adds to what is held throughout.
struct Peak {
  double activations, gradients, loss;
  double total() const { return activations + gradients + loss; }
};

}  // namespace

double MemoryPlan::total() const {
  double sum = 0;
  for (const auto& [kind, size] : bytes) sum += size;
  return sum;
}

MemoryPlan plan_memory(const models::ModelConfig& student, const models::ModelConfig* teacher,
                       const TrainConfig& config, const models::Placement& placement,
                       std::int64_t epoch_tokens, const quantize::Policy& policy,
                       std::int64_t cards) {
  check(cards == 1 || (cards > 1 && !placement.device.is_cpu()), "plan",
        "cards: expected one, or several GPUs, found {}", cards);
  // In floating point: numbers from a recipe may be absurd, and must not overflow.
  const Bytes bytes = bytes_of(config, placement);
  const bool gpu = !placement.device.is_cpu();
  const double share = 1 / static_cast<double>(cards);
  models::Model shape = models::build(student);
  quantize::add_low_rank(shape, policy);
  const double n = static_cast<double>(models::parameter_count(shape));
  const double seq_len = static_cast<double>(config.seq_len);
  const std::int64_t micro = config.micro_batch();
  const double tokens = static_cast<double>(micro) * seq_len;
  const double vocabulary = static_cast<double>(student.vocabulary);
  const double hidden = static_cast<double>(student.hidden);
  const double head = vocabulary * hidden;
  const Activations per_token = activations_of(shape, policy, bytes.value, placement);
  const double activations = per_token.kept * tokens;

  MemoryPlan plan;
  plan.bytes.emplace_back(gpu ? "CUDA" : "program and data", gpu ? kCuda : kProgram);
  plan.bytes.emplace_back("student", n * bytes.value * share);
  plan.bytes.emplace_back("master weights", master_bytes(shape, policy, config, placement) * share);
  plan.bytes.emplace_back("AdamW moments", 2 * n * bytes.moment * share);
  if (config.learn_scales)  // step sizes, two moments, gradients
    plan.bytes.emplace_back("learned block scales",
                            quantised_values(shape, policy, {ops::Precision::nvfp4}) /
                                nvfp4::kBlock * 4 * kFloat * share);
  if (teacher != nullptr)
    plan.bytes.emplace_back(
        "teacher", static_cast<double>(models::parameter_count(*teacher)) * bytes.value * share);
  double whole_gradient = 0;  // of a layer, on its way to the other cards
  if (cards > 1) {
    const LargestLayers own = largest_layers(shape);
    double pair = own.pair, heads = head;
    if (teacher != nullptr) {
      pair = std::max(pair, largest_layers(models::build(*teacher)).pair);
      heads += vocabulary * static_cast<double>(teacher->hidden);
    }
    plan.bytes.emplace_back("weights that are whole", std::max(pair, heads) * bytes.value);
    whole_gradient = own.one * bytes.gradient;
  }
  // QAT evaluates with a teacher and trains without.
  const bool both = teacher != nullptr && config.loss.divergences() > 0;
  const double hidden_states = 3 * tokens * hidden * bytes.value;  // both models', and the gradient
  const double passing = (static_cast<double>(passing_per_token(student)) * bytes.value +
                          (gpu ? scan_per_token(student) : 0)) *
                         tokens;
  Peak worst;
  const auto less = [](const Peak& a, const Peak& b) { return a.total() < b.total(); };
  if (gpu) {
    // The head's gradient is FP32 as it is made; a tied embedding's own is one more of its size.
    const double all = n * bytes.gradient * share, of_head = head * kFloat;
    const double earlier = micro < config.batch_sequences ? all : 0;
    // BF16 logits make room for their gradient themselves.
    const double logits = config.bf16_logits ? bytes.value : kFloat;
    const double row =
        vocabulary * ((both ? 2 : 1) * logits + (config.bf16_logits ? 0 : bytes.value));
    const double rows = head_rows(tokens, row);
    // In the head; at the start of the way back; at its end, where activations have gone and
    // gradients come. In between, one falls as the other rises.
    worst = std::max(
        {Peak{activations, of_head + earlier, rows * row + hidden_states},
         Peak{activations + passing, of_head + earlier, 0},
         Peak{passing, all + whole_gradient + (student.tied || config.bf16_gradients ? of_head : 0),
              0}},
        less);
    for (const Activations::Rerun& r : per_token.reruns)
      worst = std::max(
          worst,
          {r.held * tokens + passing,
           of_head + whole_gradient + (earlier > 0 ? earlier : r.values * bytes.gradient * share),
           0},
          less);
  } else {
    // Gradients come as activations go, but hardly fit into what those leave of the heap: measured
    // at the 135M shape, both count.
    double most = activations;
    for (const Activations::Rerun& r : per_token.reruns) most = std::max(most, r.held * tokens);
    worst = {
        most,
        n * bytes.gradient + (student.tied ? head * kFloat : 0) +
            (config.bf16_gradients ? head * kFloat : 0),
        std::min(kLogits, (both ? 2 : 1) * std::min(tokens, kLogitTokens) * vocabulary * kFloat) +
            hidden_states};
  }
  plan.bytes.emplace_back("activations", worst.activations);
  plan.bytes.emplace_back("gradients", worst.gradients);
  plan.bytes.emplace_back("loss", worst.loss);
  if (gpu && config.cuda_graphs && config.validate_every > 0) {
    // A recording keeps its memory while training; a validation between steps has its own.
    const double row = vocabulary * (both ? 2 : 1) * kFloat;
    plan.bytes.emplace_back("validation beside CUDA graphs",
                            head_rows(tokens, row) * row + hidden_states + passing);
  }
  if (config.cache_teacher && config.cache_folder.empty() && both) {
    const double all =
        static_cast<double>(config.steps) * static_cast<double>(config.batch_sequences) * seq_len;
    const double cached = epoch_tokens > 0 ? std::min(all, static_cast<double>(epoch_tokens)) : all;
    plan.bytes.emplace_back("teacher cache",
                            cached * static_cast<double>(teacher->hidden) * bytes.value);
  }
  if (config.state_folder.empty())
    plan.bytes.emplace_back("kept candidates", kept_while_training(config) * n * kFloat * share);
  return plan;
}

void Fit::apply(TrainConfig& config, models::Placement& placement) const {
  config.micro_sequences = micro_sequences;
  config.cuda_graphs = cuda_graphs;
  placement.packs_inputs = packs_inputs;
  placement.recomputed_layers = recomputed_layers;
}

Fit fit_memory(const models::ModelConfig& student, const models::ModelConfig* teacher,
               TrainConfig config, models::Placement placement, double room,
               std::int64_t epoch_tokens, const quantize::Policy& policy, std::int64_t cards) {
  const bool given = config.micro_sequences > 0;
  const auto layers = static_cast<std::int64_t>(student.layers.size());
  const bool graphs = std::exchange(config.cuda_graphs, false);
  const auto fits = [&] {
    return plan_memory(student, teacher, config, placement, epoch_tokens, policy, cards).total() <=
           0.95 * room;
  };
  const auto found = [&](bool fit) {
    config.cuda_graphs = graphs;
    return Fit{config.micro_sequences, placement.packs_inputs, placement.recomputed_layers,
               graphs && fit && fits(), fit};
  };
  for (std::int64_t parts = 1; parts <= config.batch_sequences; ++parts) {
    if (!given) config.micro_sequences = (config.batch_sequences + parts - 1) / parts;
    for (const bool packs : {false, true}) {
      placement.packs_inputs = packs;
      if (fits()) return found(true);
    }
    if (given) break;
  }
  while (placement.recomputed_layers < layers) {
    ++placement.recomputed_layers;
    if (fits()) return found(true);
  }
  return found(false);
}

}  // namespace qad::distill
