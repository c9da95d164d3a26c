// From a configuration to parameters with their Hugging Face names and shapes. Blocks are built
// through a scope, so that a name is written where its parameter is (design decision 4).
#include <ATen/ops/empty.h>
#include <fmt/core.h>

#include "core/error.h"
#include "models/model.h"

namespace qad::models {
namespace {

struct Scope {
  std::string prefix;

  Scope operator/(std::string_view name) const {
    return {prefix.empty() ? std::string(name) : fmt::format("{}.{}", prefix, name)};
  }
  Scope operator/(std::size_t i) const { return *this / std::to_string(i); }
};

struct Rows {
  const char* name;
  std::int64_t rows;
};

at::Tensor shape_only(at::IntArrayRef shape) {
  return at::empty(shape, at::TensorOptions().dtype(at::kFloat).device(at::kMeta));
}

// A tensor with a name of its own.
Parameter plain(const Scope& scope, at::IntArrayRef shape) {
  return {{{scope.prefix, shape[0]}}, shape_only(shape)};
}

Parameter vector(const Scope& scope, std::int64_t rows) {
  return plain(scope / "weight", {rows});
}

// One matrix of several named parts that read the same input (design decision 3).
Linear linear(const Scope& scope, const std::string& kind, int layer,
              std::initializer_list<Rows> parts, std::int64_t cols, bool bias) {
  Linear out{kind, layer, {}, std::nullopt, nullptr};
  Parameter biases;
  std::int64_t rows = 0;
  for (const Rows& part : parts) {
    out.weight.parts.push_back({(scope / part.name / "weight").prefix, part.rows});
    biases.parts.push_back({(scope / part.name / "bias").prefix, part.rows});
    rows += part.rows;
  }
  out.weight.value = shape_only({rows, cols});
  if (bias) {
    biases.value = shape_only({rows});
    out.bias = std::move(biases);
  }
  return out;
}

Attention attention(const Scope& scope, const AttentionConfig& c, int layer, std::int64_t hidden) {
  const std::int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  Attention out{c,
                linear(scope, "qkv", layer, {{"q_proj", q}, {"k_proj", kv}, {"v_proj", kv}}, hidden,
                       c.qkv_bias),
                linear(scope, "o", layer, {{"o_proj", hidden}}, q, c.output_bias), std::nullopt,
                std::nullopt};
  if (c.qk_norm) {
    out.q_norm = vector(scope / "q_norm", c.head_dim);
    out.k_norm = vector(scope / "k_norm", c.head_dim);
  }
  return out;
}

Mamba mamba(const Scope& scope, const MambaConfig& c, int layer, std::int64_t hidden) {
  const std::int64_t channels = c.conv_channels(), rows = c.inner() + channels + c.heads;
  Mamba out{c,
            linear(scope, "mamba_in", layer, {{"in_proj", rows}}, hidden, c.projection_bias),
            linear(scope, "mamba_out", layer, {{"out_proj", hidden}}, c.inner(), c.projection_bias),
            plain(scope / "conv1d" / "weight", {channels, 1, c.kernel}),
            std::nullopt,
            plain(scope / "dt_bias", {c.heads}),
            plain(scope / "A_log", {c.heads}),
            plain(scope / "D", {c.heads}),
            vector(scope / "norm", c.inner())};
  if (c.conv_bias) out.conv_bias = plain(scope / "conv1d" / "bias", {channels});
  return out;
}

// `of`: "" or what kind of MLP it is, "expert ".
Mlp mlp(const Scope& scope, const MlpConfig& c, int layer, std::int64_t hidden,
        const std::string& of = "") {
  Linear first = c.activation == Activation::relu2
                     ? linear(scope, of + "up", layer, {{"up_proj", c.width}}, hidden, c.bias)
                     : linear(scope, of + "gate_up", layer,
                              {{"gate_proj", c.width}, {"up_proj", c.width}}, hidden, c.bias);
  return {c, std::move(first),
          linear(scope, of + "down", layer, {{"down_proj", hidden}}, c.width, c.bias)};
}

Experts experts(const Scope& scope, const ExpertsConfig& c, int layer, std::int64_t hidden) {
  const Scope gate = scope / "gate";
  Experts out{c,
              {{{(gate / "weight").prefix, c.experts}}, shape_only({c.experts, hidden})},
              std::nullopt,
              {},
              std::nullopt};
  if (c.scores == Scores::sigmoid) {
    out.correction = plain(gate / "e_score_correction_bias", {c.experts});
    out.correction->constant = true;
  }
  for (std::int64_t e = 0; e < c.experts; ++e)
    out.routed.push_back(mlp(scope / "experts" / static_cast<std::size_t>(e),
                             {c.width, false, c.activation}, layer, hidden, "expert "));
  if (c.shared_width > 0)
    out.shared = mlp(scope / "shared_experts", {c.shared_width, c.bias, c.activation}, layer,
                     hidden, "shared ");
  return out;
}

// What an architecture's checkpoints call the pieces of a model.
struct Names {
  const char *body, *embedding, *final_norm;
  const char *mixer_norm, *mixer, *feed_forward_norm, *feed_forward;  // in a layer
};
constexpr Names kLlama{
    "model", "embed_tokens", "norm", "input_layernorm", "self_attn", "post_attention_layernorm",
    "mlp"};
// A layer is one of these, and has one norm.
constexpr Names kNemotronH{"backbone", "embeddings", "norm_f", "norm", "mixer", "norm", "mixer"};

// These call the visitors in checkpoint order; one walk, so that all lists agree.
template <class Linear, class OnParameter, class OnLinear>
void walk_linear(Linear& l, OnParameter& parameter, OnLinear& linear) {
  linear(l);
  parameter(l.weight);
  if (l.bias) parameter(*l.bias);
  if (!l.low_rank) return;
  parameter(l.low_rank->down);
  parameter(l.low_rank->up);
}

template <class Layer, class OnParameter, class OnLinear>
void walk_layer(Layer& layer, OnParameter& parameter, OnLinear& linear) {
  const auto optional = [&](auto& p) {
    if (p) parameter(*p);
  };
  optional(layer.mixer_norm);
  if (layer.attention) {
    walk_linear(layer.attention->qkv, parameter, linear);
    optional(layer.attention->q_norm);
    optional(layer.attention->k_norm);
    walk_linear(layer.attention->output, parameter, linear);
  }
  if (layer.mamba) {
    parameter(layer.mamba->conv);
    optional(layer.mamba->conv_bias);
    walk_linear(layer.mamba->in, parameter, linear);
    parameter(layer.mamba->dt_bias);
    parameter(layer.mamba->a_log);
    parameter(layer.mamba->norm);
    parameter(layer.mamba->d);
    walk_linear(layer.mamba->out, parameter, linear);
  }
  optional(layer.feed_forward_norm);
  const auto mlp = [&](auto& m) {
    walk_linear(m.gate_up, parameter, linear);
    walk_linear(m.down, parameter, linear);
  };
  if (layer.mlp) mlp(*layer.mlp);
  if (layer.experts) {
    parameter(layer.experts->router);
    optional(layer.experts->correction);
    for (auto& expert : layer.experts->routed) mlp(expert);
    if (layer.experts->shared) mlp(*layer.experts->shared);
  }
}

template <class Model, class OnParameter, class OnLinear>
void walk(Model& model, OnParameter&& parameter, OnLinear&& linear) {
  parameter(model.embedding);
  for (auto& layer : model.layers) walk_layer(layer, parameter, linear);
  parameter(model.final_norm);
  if (model.head) walk_linear(*model.head, parameter, linear);
}

}  // namespace

std::string key_scale_name(const Layer& layer) {
  return linear_name(layer.attention->qkv.weight.parts[1]) + ".k_scale";
}
std::string value_scale_name(const Layer& layer) {
  return linear_name(layer.attention->qkv.weight.parts[2]) + ".v_scale";
}

std::string linear_name(const Part& part) {
  return part.name.substr(0, part.name.size() - std::string_view(".weight").size());
}

bool takes_low_rank(const Linear& l) {
  return l.layer >= 0 && !l.kind.starts_with("expert ");
}

void give_low_rank(Linear& l, std::int64_t rank) {
  LowRank& correction = l.low_rank.emplace();
  for (const Part& part : l.weight.parts) {
    correction.down.parts.push_back({linear_name(part) + ".svdquant_lora_a", rank});
    correction.up.parts.push_back({linear_name(part) + ".svdquant_lora_b", part.rows});
  }
  const auto parts = static_cast<std::int64_t>(l.weight.parts.size());
  correction.down.value = shape_only({parts * rank, l.weight.value.size(1)});
  correction.up.value = shape_only({l.weight.value.size(0), rank});
}

Model build(const ModelConfig& config) {
  const Names& names = config.architecture == "NemotronHForCausalLM" ? kNemotronH : kLlama;
  const Scope root, body = root / names.body;
  Model model;
  model.config = config;
  model.embedding = {{{(body / names.embedding / "weight").prefix, config.vocabulary}},
                     shape_only({config.vocabulary, config.hidden})};
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    const Scope scope = body / "layers" / i;
    const int number = static_cast<int>(i);
    const LayerConfig& c = config.layers[i];
    Layer layer;
    if (c.attention || c.mamba) layer.mixer_norm = vector(scope / names.mixer_norm, config.hidden);
    if (c.mamba) layer.mamba = mamba(scope / names.mixer, *c.mamba, number, config.hidden);
    if (c.attention) {
      layer.attention = attention(scope / names.mixer, *c.attention, number, config.hidden);
    }
    if (c.mlp) {
      layer.feed_forward_norm = vector(scope / names.feed_forward_norm, config.hidden);
      layer.mlp = mlp(scope / names.feed_forward, *c.mlp, number, config.hidden);
    }
    if (c.experts) {
      layer.feed_forward_norm = vector(scope / names.feed_forward_norm, config.hidden);
      layer.experts = experts(scope / names.feed_forward, *c.experts, number, config.hidden);
    }
    model.layers.push_back(std::move(layer));
  }
  model.final_norm = vector(body / names.final_norm, config.hidden);
  if (!config.tied)
    model.head =
        linear(root, "lm_head", -1, {{"lm_head", config.vocabulary}}, config.hidden, false);
  return model;
}

const Parameter& Model::head_parameter() const {
  return head ? head->weight : embedding;
}

const at::Tensor& Model::head_weight() const {
  return head_parameter().value;
}

std::vector<Parameter*> parameters(Model& model) {
  std::vector<Parameter*> out;
  walk(
      model, [&](Parameter& p) { out.push_back(&p); }, [](Linear&) {});
  return out;
}

std::vector<const Parameter*> parameters(const Model& model) {
  std::vector<const Parameter*> out;
  walk(
      model, [&](const Parameter& p) { out.push_back(&p); }, [](const Linear&) {});
  return out;
}

std::vector<Parameter*> parameters(Layer& layer) {
  std::vector<Parameter*> out;
  const auto parameter = [&](Parameter& p) { out.push_back(&p); };
  const auto linear = [](Linear&) {};
  walk_layer(layer, parameter, linear);
  return out;
}

std::vector<const Parameter*> parameters(const Layer& layer) {
  std::vector<const Parameter*> out;
  const auto parameter = [&](const Parameter& p) { out.push_back(&p); };
  const auto linear = [](const Linear&) {};
  walk_layer(layer, parameter, linear);
  return out;
}

std::vector<Linear*> linears(Model& model) {
  std::vector<Linear*> out;
  walk(
      model, [](Parameter&) {}, [&](Linear& l) { out.push_back(&l); });
  return out;
}

std::vector<const Linear*> linears(const Model& model) {
  std::vector<const Linear*> out;
  walk(
      model, [](const Parameter&) {}, [&](const Linear& l) { out.push_back(&l); });
  return out;
}

std::int64_t parameter_count(const ModelConfig& config) {
  return parameter_count(build(config));
}

std::int64_t parameter_count(const Model& model) {
  std::int64_t count = 0;
  for (const Parameter* p : parameters(model)) count += p->value.numel();
  return count;
}

}  // namespace qad::models
