// The forward pass. Training and decoding share every line but the attention itself, which is
// handed in: over whole documents, or over a cache of pages; likewise what Mamba's layers look back
// with.
#include "models/model.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "core/error.h"
#include "models/experts.h"
#include "ops/mamba.h"
#include "ops/ops.h"
#include "ops/paged_attention.h"
#include "ops/recompute.h"

namespace qad::models {
namespace {

// How the layers of a pass look back along their sequence, by their number.
struct Along {
  // qkv [T, heads + 2 kv_heads, D] as it is attended to -> [T, heads * D]
  std::function<at::Tensor(std::size_t, const Attention&, const at::Tensor& qkv)> attend;
  // The mixer's convolution and scan (ops/mamba.h).
  std::function<at::Tensor(std::size_t, const Mamba&, const at::Tensor& xbc)> convolve;
  std::function<at::Tensor(std::size_t, const Mamba&, const at::Tensor& xbc, const at::Tensor& dt)>
      scan;
};

// Positions are rows of `cos` and `sin`.
struct Rotation {
  at::Tensor cos, sin, rows;
};

// What the layers of one forward pass share.
struct Pass {
  const Model& model;
  Rotation rotation;
  Along along;
  Observer observer;   // may be empty
  bool again = false;  // in the backward pass: statistics have counted it before
  CacheObserver cache_observer = {};
};

// How the input of `l`, `values` numbers with these options, is quantised; absent: not at all.
std::optional<ops::Quantizer> quantizer(const Linear& l, std::int64_t values,
                                        const at::TensorOptions& options, bool again) {
  if (!l.quant || !l.quant->input_global) return std::nullopt;
  ops::Quantizer q{*l.quant->input_global, l.quant->input_rule, {}};
  const at::TensorOptions counter = options.dtype(at::kLong);
  if (again) {
    q.clipped = at::empty({}, counter);  // nobody reads it
    return q;
  }
  l.quant->seen += values;
  if (!l.quant->clipped.defined()) l.quant->clipped = at::zeros({}, counter);
  q.clipped = l.quant->clipped;
  return q;
}

bool is_fp8(const Linear& l) {
  return l.quant && l.quant->precision == ops::Precision::fp8;
}

// The input of a linear as its product reads it.
at::Tensor quantized_input(const Linear& l, const at::Tensor& x, bool again = false) {
  const auto q = quantizer(l, x.numel(), x.options(), again);
  if (!q) return x;
  return is_fp8(l) ? ops::fake_quantize_fp8(x, q->global, q->clipped) : ops::fake_quantize(x, *q);
}

// What a linear reads: its product as it is quantised, its correction as it is.
struct Input {
  at::Tensor read, plain = {};
};

// make(quantizer or null) gives the input of `l`, quantised in the same pass unless somebody wants
// to see it before, or it becomes FP8.
template <class Make>
Input input_of(const Pass& pass, const Linear& l, const at::Tensor& like, Make make) {
  if (pass.observer || is_fp8(l) || l.low_rank) {
    const at::Tensor x = make(nullptr);
    if (pass.observer) pass.observer(l, x);
    return {quantized_input(l, x, pass.again), l.low_rank ? x : at::Tensor()};
  }
  const auto q = quantizer(l, like.size(0) * l.weight.value.size(1), like.options(), pass.again);
  return {make(q ? &*q : nullptr)};
}

at::Tensor product(const Model& model, const Linear& l, const at::Tensor& x) {
  const at::Tensor bias = l.bias ? l.bias->value : at::Tensor();
  if (l.weight.packed) return ops::linear(x, *l.weight.packed, bias);
  if (!model.placement.packs_inputs || !l.quant || !l.quant->input_global || is_fp8(l))
    return ops::linear(x, l.weight.value, bias);
  const ops::Quantizer q{*l.quant->input_global, l.quant->input_rule, l.quant->clipped};
  return ops::linear(x, l.weight.value, bias, &q);
}

at::Tensor correction(const Linear& l, const at::Tensor& x) {
  const Parameter &down = l.low_rank->down, &up = l.low_rank->up;
  const at::Tensor inner = ops::linear(x, down.value);
  if (up.parts.size() == 1) return ops::linear(inner, up.value);
  const std::int64_t rank = up.value.size(1);
  std::vector<at::Tensor> parts;
  std::int64_t row = 0, at = 0;
  for (const Part& part : up.parts) {
    parts.push_back(
        ops::linear(inner.narrow(1, at, rank).contiguous(), up.value.narrow(0, row, part.rows)));
    row += part.rows;
    at += rank;
  }
  return at::cat(parts, 1);
}

at::Tensor apply(const Model& model, const Linear& l, const Input& x) {
  const at::Tensor y = product(model, l, x.read);
  return l.low_rank ? y.add(correction(l, x.plain)) : y;
}

// The residual stream, and what the last block adds to it: the next norm does that in its pass.
struct Residual {
  at::Tensor sum, delta;

  at::Tensor norm(const at::Tensor& weight, double eps, const ops::Quantizer* q = nullptr) {
    if (!delta.defined()) return ops::rms_norm(sum, weight, eps, q);
    auto [next, y] = ops::add_rms_norm(sum, delta, weight, eps, q);
    sum = next;
    delta = at::Tensor();
    return y;
  }
};

// Queries, keys and values as they are cached, but for their rounding.
at::Tensor qkv_of(const Pass& pass, const Attention& a, const Input& x) {
  const Model& model = pass.model;
  const Rotation& r = pass.rotation;
  const AttentionConfig& c = a.config;
  const std::int64_t heads = c.heads + 2 * c.kv_heads;
  const double eps = model.config.norm_eps;
  at::Tensor qkv = apply(model, a.qkv, x).view({x.read.size(0), heads, c.head_dim});
  if (c.qk_norm) {
    const auto split = qkv.split_with_sizes({c.heads, c.kv_heads, c.kv_heads}, 1);
    qkv = at::cat({ops::rms_norm(split[0].contiguous(), a.q_norm->value, eps),
                   ops::rms_norm(split[1].contiguous(), a.k_norm->value, eps), split[2]},
                  1);
  }
  return c.rotary ? ops::rope(qkv, r.cos, r.sin, r.rows, c.heads + c.kv_heads) : qkv;
}

at::Tensor mlp_of(const Pass& pass, const Mlp& m, const Input& x) {
  const at::Tensor gate_up = apply(pass.model, m.gate_up, x);
  const auto activated = [&](const ops::Quantizer* q) {
    return m.config.activation == Activation::relu2 ? ops::relu2(gate_up, q)
                                                    : ops::swiglu(gate_up, q);
  };
  return apply(pass.model, m.down, input_of(pass, m.down, gate_up, activated));
}

Residual run_layer(const Pass& pass, std::size_t i, Residual h) {
  const Model& model = pass.model;
  const Layer& layer = model.layers[i];
  const auto normed = [&](const Linear& l, const Parameter& norm) {
    return input_of(pass, l, h.sum, [&](const ops::Quantizer* q) {
      return h.norm(norm.value, model.config.norm_eps, q);
    });
  };
  if (layer.attention) {
    const Attention& a = *layer.attention;
    const Input x = normed(a.qkv, *layer.mixer_norm);
    const at::Tensor qkv = qkv_of(pass, a, x);
    if (pass.cache_observer)
      pass.cache_observer(i, qkv.narrow(1, a.config.heads, a.config.kv_heads),
                          qkv.narrow(1, a.config.heads + a.config.kv_heads, a.config.kv_heads));
    const at::Tensor mixed = pass.along.attend(i, a, qkv);
    h.delta = apply(model, a.output, input_of(pass, a.output, mixed, [&](const ops::Quantizer* q) {
                      return q ? ops::fake_quantize(mixed, *q) : mixed;
                    }));
  }
  if (layer.mamba) {
    const Mamba& m = *layer.mamba;
    const MambaConfig& c = m.config;
    const at::Tensor projected = apply(model, m.in, normed(m.in, *layer.mixer_norm));
    const auto parts = projected.split_with_sizes({c.inner(), c.conv_channels(), c.heads}, 1);
    const at::Tensor xbc = pass.along.convolve(i, m, parts[1]);
    const at::Tensor y = pass.along.scan(i, m, xbc, parts[2]);
    h.delta = apply(model, m.out, input_of(pass, m.out, y, [&](const ops::Quantizer* q) {
                      return ops::gated_rms_norm(y, parts[0], m.norm.value, c.groups,
                                                 model.config.norm_eps, q);
                    }));
  }
  if (layer.mlp) {
    const Mlp& m = *layer.mlp;
    h.delta = mlp_of(pass, m, normed(m.gate_up, *layer.feed_forward_norm));
  }
  if (layer.experts) {
    const Experts& m = *layer.experts;
    const at::Tensor x = h.norm(layer.feed_forward_norm->value, model.config.norm_eps);
    at::Tensor shared;
    if (m.shared)
      shared = mlp_of(pass, *m.shared,
                      input_of(pass, m.shared->gate_up, x, [&](const ops::Quantizer* q) {
                        return q ? ops::fake_quantize(x, *q) : x;
                      }));
    h.delta = run_experts(m, x, shared, pass.observer, pass.again);
  }
  return h;
}

// The same, keeping only `h` until the backward pass.
Residual run_layer_twice(const Pass& pass, std::size_t i, const Residual& h) {
  const Layer& layer = pass.model.layers[i];
  if (parameters(layer).empty()) return h;
  ops::Tensors values;
  for (const Parameter* p : parameters(layer)) values.push_back(p->value);
  const ops::Tensors out = ops::recomputed(
      "layer", {h.sum, h.delta}, values, [pass, i](const ops::Tensors& entering, bool again) {
        Pass this_time = pass;
        this_time.again = again;
        const Residual left = run_layer(this_time, i, {entering[0], entering[1]});
        return ops::Tensors{left.sum, left.delta};
      });
  return {out[0], out[1]};
}

at::Tensor embedded(const Model& model, const at::Tensor& ids) {
  const Parameter& table = model.embedding;
  return table.packed ? ops::embedding(*table.packed, ids) : ops::embedding(table.value, ids);
}

at::Tensor run(const Pass& pass, const at::Tensor& ids) {
  const Model& model = pass.model;
  Residual h{embedded(model, ids), {}};
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const bool twice = !pass.observer && at::GradMode::is_enabled() &&
                       static_cast<std::int64_t>(i) < model.placement.recomputed_layers;
    h = twice ? run_layer_twice(pass, i, h) : run_layer(pass, i, std::move(h));
  }
  return h.norm(model.final_norm.value, model.config.norm_eps);
}

ops::ScanParameters scan_parameters(const Mamba& m) {
  return {m.dt_bias.value, m.a_log.value, m.d.value};
}
ops::ScanShape scan_shape(const MambaConfig& c) {
  return {c.head_dim, c.groups, c.least_step, c.most_step};
}
at::Tensor conv_bias(const Mamba& m) {
  return m.conv_bias ? m.conv_bias->value : at::Tensor();
}

double attention_scale(const AttentionConfig& c) {
  return 1 / std::sqrt(static_cast<double>(c.head_dim));
}

// All layers that rotate do it alike; there may be none.
Rotation rotation_of(const Model& model, std::int64_t length, at::Tensor rows) {
  for (const LayerConfig& layer : model.config.layers) {
    if (!layer.attention || !layer.attention->rotary) continue;
    RopeTables& t = model.rope;
    const std::int64_t made = t.cos.defined() ? t.cos.size(0) : 0;
    if (made < length) {
      t = rope_tables(model.config.rope, layer.attention->head_dim, 0, std::max(length, 2 * made));
      t = {t.cos.to(model.placement.device), t.sin.to(model.placement.device)};
    }
    return {t.cos, t.sin, std::move(rows)};
  }
  return {};
}

}  // namespace

void check_tokens(const Model& model, const Tokens& tokens) {
  check(tokens.ids.dim() == 1 && tokens.ids.scalar_type() == at::kLong && tokens.ids.numel() > 0,
        "forward", "expected token ids int64 [T], T > 0");
  check(tokens.least_id >= 0 && tokens.most_id < model.config.vocabulary, "forward",
        "token ids: expected 0 to {} (vocab_size {}), found {} to {}; does the tokenizer "
        "belong to this model?",
        model.config.vocabulary - 1, model.config.vocabulary, tokens.least_id, tokens.most_id);
}

void reserve_positions(const Model& model, std::int64_t length) {
  rotation_of(model, length, {});
}

namespace {

// As they come back from an FP8 cache, where the layer's is one.
at::Tensor rounded(const Attention& a, const at::Tensor& qkv) {
  if (!a.kv_scales) return qkv;
  return ops::fake_quantize_cache(qkv, a.config.heads, a.config.kv_heads, a.kv_scales->key,
                                  a.kv_scales->value);
}

// Over whole documents, whose tokens are `here`, on the model's device.
Pass pass_over(const Model& model, const Tokens& here, const Observer& observer,
               const CacheObserver& cache_observer) {
  // By value: layers that run again do so when this function is left.
  Along along;
  along.attend = [here](std::size_t, const Attention& a, const at::Tensor& qkv) {
    const AttentionConfig& c = a.config;
    return ops::attention(rounded(a, qkv), here.cu_seqlens, here.longest, c.heads, c.kv_heads,
                          attention_scale(c));
  };
  along.convolve = [here](std::size_t, const Mamba& m, const at::Tensor& xbc) {
    return ops::causal_conv(xbc, m.conv.value, conv_bias(m), here.cu_seqlens);
  };
  along.scan = [here](std::size_t, const Mamba& m, const at::Tensor& xbc, const at::Tensor& dt) {
    return ops::mamba_scan(xbc, dt, scan_parameters(m), here.cu_seqlens, here.longest,
                           scan_shape(m.config));
  };
  return {model,         rotation_of(model, here.longest, here.positions), along, observer, false,
          cache_observer};
}

}  // namespace

at::Tensor forward(const Model& model, const Tokens& tokens, const Observer& observer,
                   const CacheObserver& cache_observer) {
  check_tokens(model, tokens);
  const Tokens here = tokens.to(model.placement.device);
  return run(pass_over(model, here, observer, cache_observer), here.ids);
}

at::Tensor embed(const Model& model, const Tokens& tokens) {
  check_tokens(model, tokens);
  return embedded(model, tokens.ids.to(model.placement.device));
}

at::Tensor forward_layer(const Model& model, std::size_t layer, const Tokens& tokens,
                         const at::Tensor& stream, const Observer& observer,
                         const CacheObserver& cache_observer) {
  const Tokens here = tokens.to(model.placement.device);
  const Residual left =
      run_layer(pass_over(model, here, observer, cache_observer), layer, {stream, {}});
  return left.delta.defined() ? left.sum.add(left.delta) : left.sum;
}

at::Tensor final_norm(const Model& model, const at::Tensor& stream) {
  return ops::rms_norm(stream, model.final_norm.value, model.config.norm_eps);
}

at::Tensor forward_paged(const Model& model, const PagedTokens& tokens, const PagedCache& cache) {
  const at::NoGradGuard no_grad;
  check_tokens(model, tokens.tokens);
  const at::Device device = model.placement.device;
  const Tokens here = tokens.tokens.to(device);
  const at::Tensor lengths = tokens.lengths.to(device), pages = tokens.pages.to(device);
  check(tokens.slots.defined() || bytes_of_slot(model) == 0, "paged forward",
        "expected a slot for each sequence's state, found none");
  const ops::StateSlots slots{lengths,
                              tokens.slots.defined() ? tokens.slots.to(device) : at::Tensor()};
  Along along;
  along.attend = [&](std::size_t i, const Attention& a, const at::Tensor& qkv) {
    const AttentionConfig& c = a.config;
    const KvScales scales = a.kv_scales.value_or(KvScales());
    return ops::paged_attention(qkv, cache.keys[i], cache.values[i], here.cu_seqlens, lengths,
                                pages, here.longest, tokens.longest, c.heads, c.kv_heads,
                                attention_scale(c), scales.key, scales.value);
  };
  along.convolve = [&](std::size_t i, const Mamba& m, const at::Tensor& xbc) {
    return ops::causal_conv_cached(xbc, m.conv.value, conv_bias(m), here.cu_seqlens, slots,
                                   cache.convolutions[i]);
  };
  along.scan = [&](std::size_t i, const Mamba& m, const at::Tensor& xbc, const at::Tensor& dt) {
    return ops::mamba_scan_cached(xbc, dt, scan_parameters(m), here.cu_seqlens, slots,
                                  cache.states[i], scan_shape(m.config));
  };
  return run({model, rotation_of(model, tokens.longest, here.positions), along, {}}, here.ids);
}

at::Tensor forward_cached(const Model& model, const std::vector<std::int32_t>& ids,
                          KvCache& cache) {
  PagedTokens t{tokens_of({ids}), {}, at::zeros({1, 1}, at::kInt), 0, at::zeros({1}, at::kInt)};
  t.longest = cache.length + t.tokens.longest;
  t.tokens.positions.add_(cache.length);
  t.lengths = at::full({1}, t.longest, at::kInt);
  PagedCache& page = cache.page;
  if (page.page_tokens < t.longest) {  // doubles, so that appending costs amortised one copy
    PagedCache larger =
        make_paged_cache(model, 1, std::max<std::int64_t>({t.longest, 2 * page.page_tokens, 64}));
    if (page.pages > 0) {  // states do not grow
      larger.convolutions = page.convolutions;
      larger.states = page.states;
    }
    for (std::size_t i = 0; i < page.keys.size(); ++i) {
      if (!page.keys[i].defined()) continue;
      larger.keys[i].narrow(1, 0, page.page_tokens).copy_(page.keys[i]);
      larger.values[i].narrow(1, 0, page.page_tokens).copy_(page.values[i]);
    }
    page = larger;
  }
  const at::Tensor hidden = forward_paged(model, t, page);
  cache.length = t.longest;
  return hidden;
}

at::Tensor head_input(const Model& model, const at::Tensor& hidden) {
  return model.head ? quantized_input(*model.head, hidden) : hidden;
}

at::Tensor logits(const Model& model, const at::Tensor& hidden) {
  const at::Tensor x = head_input(model, hidden), &weight = model.head_weight();
  if (const auto& packed = model.head_parameter().packed) return ops::linear(x, *packed);
  // Sums of a BF16 product are FP32, and stay so.
  return x.scalar_type() == at::kFloat ? ops::linear(x, weight) : at::mm(x, weight.t(), at::kFloat);
}

}  // namespace qad::models
