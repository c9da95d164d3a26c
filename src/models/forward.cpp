// The forward pass. Training and cached decoding share every line but the attention itself, which
// is handed in: over whole documents, or over a cache that grows.
#include "models/model.h"

#include <ATen/ops/aminmax.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "core/error.h"
#include "models/rope.h"
#include "ops/ops.h"

namespace qad::models {
namespace {

// (layer, its attention, qkv [T, heads + 2 kv_heads, D] after rotation) -> [T, heads * D]
using Attend = std::function<at::Tensor(std::size_t, const AttentionConfig&, const at::Tensor&)>;

// The input of a linear as its product reads it.
at::Tensor quantized_input(const Linear& l, const at::Tensor& x) {
  if (!l.quant || !l.quant->input_global) return x;
  l.quant->seen += x.numel();
  if (!l.quant->clipped.defined()) l.quant->clipped = at::zeros({}, x.options().dtype(at::kLong));
  return ops::fake_quantize(x, {*l.quant->input_global, l.quant->input_rule, l.quant->clipped});
}

at::Tensor apply(const Linear& l, const at::Tensor& x, const Observer& observer) {
  if (observer) observer(l, x);
  return ops::linear(quantized_input(l, x), l.weight.value, l.bias ? l.bias->value : at::Tensor());
}

// Positions are rows of `cos` and `sin`.
struct Rotation {
  at::Tensor cos, sin, rows;
};

at::Tensor qkv_of(const Attention& a, const at::Tensor& x, const Rotation& rotation, double eps,
                  const Observer& observer) {
  const AttentionConfig& c = a.config;
  const std::int64_t heads = c.heads + 2 * c.kv_heads;
  at::Tensor qkv = apply(a.qkv, x, observer).view({x.size(0), heads, c.head_dim});
  if (c.qk_norm) {
    const auto split = qkv.split_with_sizes({c.heads, c.kv_heads, c.kv_heads}, 1);
    qkv = at::cat({ops::rms_norm(split[0].contiguous(), a.q_norm->value, eps),
                   ops::rms_norm(split[1].contiguous(), a.k_norm->value, eps), split[2]},
                  1);
  }
  return ops::rope(qkv, rotation.cos, rotation.sin, rotation.rows, c.heads + c.kv_heads);
}

at::Tensor run(const Model& model, const at::Tensor& ids, const Rotation& rotation,
               const Attend& attend, const Observer& observer) {
  const double eps = model.config.norm_eps;
  at::Tensor h = ops::embedding(model.embedding.value, ids);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const Layer& layer = model.layers[i];
    if (layer.attention) {
      const at::Tensor x = ops::rms_norm(h, layer.attention_norm->value, eps);
      const at::Tensor qkv = qkv_of(*layer.attention, x, rotation, eps, observer);
      const at::Tensor mixed = attend(i, layer.attention->config, qkv);
      h = h.add(apply(layer.attention->output, mixed, observer));
    }
    if (layer.mlp) {
      const at::Tensor x = ops::rms_norm(h, layer.mlp_norm->value, eps);
      const at::Tensor gated = ops::swiglu(apply(layer.mlp->gate_up, x, observer));
      h = h.add(apply(layer.mlp->down, gated, observer));
    }
  }
  return ops::rms_norm(h, model.final_norm.value, eps);
}

double attention_scale(const AttentionConfig& c) {
  return 1 / std::sqrt(static_cast<double>(c.head_dim));
}

// All layers rotate alike; a model without attention has nothing to rotate.
Rotation rotation_of(const Model& model, std::int64_t begin, std::int64_t end, at::Tensor rows) {
  for (const LayerConfig& layer : model.config.layers)
    if (layer.attention) {
      const RopeTables t = rope_tables(model.config.rope, layer.attention->head_dim, begin, end);
      return {t.cos, t.sin, std::move(rows)};
    }
  return {};
}

void check_ids(const Model& model, const at::Tensor& ids) {
  check(ids.dim() == 1 && ids.scalar_type() == at::kLong && ids.numel() > 0, "forward",
        "expected token ids int64 [T], T > 0");
  const auto [least, most] = at::aminmax(ids);
  check(least.item<std::int64_t>() >= 0 && most.item<std::int64_t>() < model.config.vocabulary,
        "forward",
        "token ids: expected 0 to {} (vocab_size {}), found {} to {}; does the tokenizer "
        "belong to this model?",
        model.config.vocabulary - 1, model.config.vocabulary, least.item<std::int64_t>(),
        most.item<std::int64_t>());
}

// Room for `length` positions: doubles, so that appending one token costs amortised one copy.
void reserve(at::Tensor& cached, const AttentionConfig& c, std::int64_t used, std::int64_t length) {
  if (cached.defined() && cached.size(1) >= length) return;
  const std::int64_t capacity = std::max<std::int64_t>({length, 2 * used, 64});
  at::Tensor larger = at::empty({c.kv_heads, capacity, c.head_dim}, at::kFloat);
  if (cached.defined()) larger.narrow(1, 0, used).copy_(cached.narrow(1, 0, used));
  cached = std::move(larger);
}

// Queries of the new tokens against everything cached; query i sees `past` + i + 1 keys.
at::Tensor attend_cached(const AttentionConfig& c, const at::Tensor& qkv, at::Tensor& keys,
                         at::Tensor& values, std::int64_t past) {
  const std::int64_t t = qkv.size(0), length = past + t, group = c.heads / c.kv_heads;
  const auto split = qkv.split_with_sizes({c.heads, c.kv_heads, c.kv_heads}, 1);
  reserve(keys, c, past, length);
  reserve(values, c, past, length);
  keys.narrow(1, past, t).copy_(split[1].transpose(0, 1));
  values.narrow(1, past, t).copy_(split[2].transpose(0, 1));

  // [kv_heads, group * T, D]: the heads that read one kv head become its rows.
  const at::Tensor q = split[0].permute({1, 0, 2}).reshape({c.kv_heads, group * t, c.head_dim});
  at::Tensor scores = at::bmm(q, keys.narrow(1, 0, length).transpose(1, 2));
  scores.mul_(attention_scale(c));
  if (t > 1) {
    const at::Tensor hidden =
        at::ones({t, length}, at::kBool).triu(past + 1).repeat({group, 1}).unsqueeze(0);
    scores.masked_fill_(hidden, -INFINITY);
  }
  const at::Tensor mixed = at::bmm(at::softmax(scores, -1), values.narrow(1, 0, length));
  return mixed.view({c.heads, t, c.head_dim}).transpose(0, 1).reshape({t, c.heads * c.head_dim});
}

}  // namespace

Tokens tokens_of(const std::vector<std::vector<std::int32_t>>& documents) {
  std::vector<std::int64_t> ids, positions;
  std::vector<std::int32_t> ends{0};
  for (const auto& document : documents) {
    for (std::size_t i = 0; i < document.size(); ++i) {
      ids.push_back(document[i]);
      positions.push_back(static_cast<std::int64_t>(i));
    }
    ends.push_back(static_cast<std::int32_t>(ids.size()));
  }
  return {at::tensor(ids), at::tensor(positions), at::tensor(ends, at::kInt)};
}

at::Tensor forward(const Model& model, const Tokens& tokens, const Observer& observer) {
  check_ids(model, tokens.ids);
  const std::int64_t positions = tokens.positions.max().item<std::int64_t>() + 1;
  const auto attend = [&](std::size_t, const AttentionConfig& c, const at::Tensor& qkv) {
    return ops::attention(qkv, tokens.cu_seqlens, positions, c.heads, c.kv_heads,
                          attention_scale(c));
  };
  return run(model, tokens.ids, rotation_of(model, 0, positions, tokens.positions), attend,
             observer);
}

at::Tensor forward_cached(const Model& model, const at::Tensor& ids, KvCache& cache) {
  const at::NoGradGuard no_grad;
  check_ids(model, ids);
  cache.keys.resize(model.layers.size());
  cache.values.resize(model.layers.size());
  const std::int64_t past = cache.length, t = ids.size(0);
  const auto attend = [&](std::size_t i, const AttentionConfig& c, const at::Tensor& qkv) {
    return attend_cached(c, qkv, cache.keys[i], cache.values[i], past);
  };
  const at::Tensor hidden =
      run(model, ids, rotation_of(model, past, past + t, at::arange(t, at::kLong)), attend, {});
  cache.length = past + t;
  return hidden;
}

at::Tensor head_input(const Model& model, const at::Tensor& hidden) {
  return model.head ? quantized_input(*model.head, hidden) : hidden;
}

at::Tensor logits(const Model& model, const at::Tensor& hidden) {
  return ops::linear(head_input(model, hidden), model.head_weight());
}

}  // namespace qad::models
