// A model as what can be written in the formats that serving engines load.
#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <map>
#include <utility>

#include "core/error.h"
#include "models/verify.h"
#include "nvfp4/global_scale.h"
#include "ops/threads.h"
#include "quantize/quantize.h"

namespace qad::quantize {
namespace {

constexpr std::string_view kOperation = "export";

// In `type`, which is FP32 or BF16.
checkpoint::OutWeight plain(const models::Part& part, std::vector<std::int64_t> shape,
                            at::ScalarType type, std::function<void(std::byte*)> fill) {
  const auto stored = type == at::kFloat ? checkpoint::DType::f32 : checkpoint::DType::bf16;
  return {part.name, std::move(shape), stored, std::move(fill), {}, {}};
}

checkpoint::OutWeight plain(const models::Part& part, const at::Tensor& rows, at::ScalarType type) {
  return plain(part, rows.sizes().vec(), type, [rows, type](std::byte* bytes) {
    const at::Tensor values = rows.to(type).to(at::kCPU).contiguous();
    const auto* data = static_cast<const std::byte*>(values.const_data_ptr());
    std::copy_n(data, values.nbytes(), bytes);
  });
}

// Of finite rows [n, cols]; chosen: their block scales, or undefined.
void quantize_rows(const at::Tensor& rows, float global, nvfp4::BlockScale rule,
                   const at::Tensor& chosen, std::uint8_t* codes, std::uint8_t* scales) {
  const at::Tensor w = rows.to(at::kBFloat16).to(at::kCPU, at::kFloat).contiguous();
  const float* x = w.const_data_ptr<float>();
  const std::int64_t n = rows.size(0), cols = rows.size(1), blocks = nvfp4::blocks_per_row(cols);
  if (chosen.defined())
    std::copy_n(chosen.cpu().const_data_ptr<std::uint8_t>(), n * blocks, scales);
  at::parallel_for(
      0, n, std::max<std::int64_t>(1, 65536 / cols), [&](std::int64_t begin, std::int64_t end) {
        const float* from = x + begin * cols;
        std::uint8_t *to = codes + begin * blocks * nvfp4::kBlock / 2, *s = scales + begin * blocks;
        if (chosen.defined())
          nvfp4::quantize_with_scales(from, end - begin, cols, global, s, to);
        else
          nvfp4::quantize(from, end - begin, cols, global, rule, to, s);
      });
}

checkpoint::OutWeight quantized(const models::Part& part, std::int64_t cols,
                                checkpoint::OutNvfp4 nvfp4) {
  checkpoint::OutWeight w{part.name, {part.rows, cols}, checkpoint::DType::bf16, {}, {}, {}};
  w.nvfp4 = std::move(nvfp4);
  return w;
}

checkpoint::OutWeight quantized(const models::Part& part, std::int64_t cols,
                                checkpoint::OutFp8 fp8) {
  checkpoint::OutWeight w{part.name, {part.rows, cols}, checkpoint::DType::bf16, {}, {}, {}};
  w.fp8 = std::move(fp8);
  return w;
}

void encode_fp8(const float* x, std::int64_t n, float scale, std::uint8_t* codes) {
  for (std::int64_t i = 0; i < n; ++i) codes[i] = nvfp4::e4m3_encode(x[i] / scale);
}

// Of finite rows [n, cols].
void encode_fp8_rows(const at::Tensor& rows, float scale, std::uint8_t* codes) {
  const at::Tensor w = rows.to(at::kBFloat16).to(at::kCPU, at::kFloat).contiguous();
  const float* x = w.const_data_ptr<float>();
  at::parallel_for(0, w.numel(), 65536, [&](std::int64_t begin, std::int64_t end) {
    encode_fp8(x + begin, end - begin, scale, codes + begin);
  });
}

Json exported_config(const Json& source) {
  Json config = source;
  config.erase("quantization_config");
  // Both spellings, where the source has them; readers of either must find what the tensors are.
  const bool old_spelling = config.contains("torch_dtype");
  if (old_spelling) config["torch_dtype"] = "bfloat16";
  if (!old_spelling || config.contains("dtype")) config["dtype"] = "bfloat16";
  return config;
}

// Everything but its weights.
checkpoint::OutModel model_of(const checkpoint::Checkpoint& source, const models::Model& model) {
  checkpoint::OutModel out;
  out.config = exported_config(source.config);
  out.generation_config = source.generation_config;
  for (const models::Layer& layer : model.layers) {
    if (!layer.attention || !layer.attention->kv_scales) continue;
    out.kv_cache_algo = "FP8";
    out.kv_scales[key_scale_name(layer)] = layer.attention->kv_scales->key;
    out.kv_scales[value_scale_name(layer)] = layer.attention->kv_scales->value;
  }
  return out;
}

std::map<const models::Parameter*, models::LinearQuant*> quants_of(const models::Model& model) {
  std::map<const models::Parameter*, models::LinearQuant*> quant_of;
  for (const models::Linear* l : models::linears(model)) quant_of[&l->weight] = l->quant.get();
  return quant_of;
}

at::ScalarType stored_type(const models::Parameter& p) {
  return p.constant ? at::kFloat : at::kBFloat16;
}

}  // namespace

checkpoint::OutModel export_model(const models::Model& model,
                                  const std::vector<at::Tensor>& masters,
                                  const checkpoint::Checkpoint& source) {
  const auto parameters = models::parameters(model);
  check(masters.size() == parameters.size(), kOperation, "expected {} masters, found {}",
        parameters.size(), masters.size());
  const auto quant_of = quants_of(model);
  checkpoint::OutModel out = model_of(source, model);
  // A head may have become one of its own.
  if (out.config.value("tie_word_embeddings", false) != model.config.tied)
    out.config["tie_word_embeddings"] = model.config.tied;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const models::Parameter& p = *parameters[i];
    check(masters[i].sizes() == p.value.sizes(), kOperation, "{}: expected a master of {} rows",
          p.parts.front().name, p.value.size(0));
    const auto quant = quant_of.find(&p);
    std::int64_t row = 0;
    for (const models::Part& part : p.parts) {
      const at::Tensor rows = masters[i].detach().narrow(0, row, part.rows);
      if (quant == quant_of.end() || quant->second == nullptr) {
        out.weights.push_back(plain(part, rows, stored_type(p)));
      } else {
        const models::LinearQuant& q = *quant->second;
        if (q.precision == ops::Precision::fp8) {
          out.weights.push_back(
              quantized(part, rows.size(1),
                        checkpoint::OutFp8{{q.weight_global},
                                           q.input_global,
                                           [rows, scale = q.weight_global](std::uint8_t* codes) {
                                             encode_fp8_rows(rows, scale, codes);
                                           }}));
          row += part.rows;
          continue;
        }
        const at::Tensor chosen =
            q.weight_scales.defined() ? q.weight_scales.narrow(0, row, part.rows) : at::Tensor();
        out.weights.push_back(quantized(
            part, rows.size(1),
            checkpoint::OutNvfp4{q.weight_global, q.input_global,
                                 [rows, global = q.weight_global, rule = q.weight_rule, chosen](
                                     std::uint8_t* codes, std::uint8_t* scales) {
                                   quantize_rows(rows, global, rule, chosen, codes, scales);
                                 }}));
      }
      row += part.rows;
    }
  }
  return out;
}

checkpoint::OutModel outline(const checkpoint::Checkpoint& source, const models::Model& model,
                             const Policy& policy) {
  checkpoint::OutModel out = model_of(source, model);
  out.config["tie_word_embeddings"] = model.config.tied;
  if (policy.fp8_cache) out.kv_cache_algo = "FP8";
  std::map<const models::Parameter*, const models::Linear*> linear_of;
  for (const models::Linear* l : models::linears(model)) linear_of[&l->weight] = l;
  const auto layers = static_cast<std::int64_t>(model.layers.size());
  const float global = policy.global == nvfp4::GlobalScale::pow2 ? 1.0f : 1.0f / 3;
  for (const models::Parameter* p : models::parameters(model)) {
    const auto linear = linear_of.find(p);
    const bool chosen =
        linear != linear_of.end() && decide(policy, *linear->second, layers).quantize;
    for (const models::Part& part : p->parts) {
      std::vector<std::int64_t> shape = p->value.sizes().vec();
      if (!shape.empty()) shape[0] = part.rows;
      checkpoint::OutWeight w = plain(part, std::move(shape), stored_type(*p), {});
      if (chosen)
        w.nvfp4 = {global, policy.activations ? std::optional(1.0f) : std::nullopt, {}, {}};
      out.weights.push_back(std::move(w));
    }
  }
  return out;
}

namespace {

// The bits of each, if the file has the tensor's values as BF16.
const std::uint16_t* bf16_of(const checkpoint::Tensor& t) {
  const bool plain = t.dtype == checkpoint::DType::bf16 && !t.read &&
                     t.raw.size() == 2 * static_cast<std::size_t>(t.elements()) &&
                     reinterpret_cast<std::uintptr_t>(t.raw.data()) % 2 == 0;
  return plain ? reinterpret_cast<const std::uint16_t*>(t.raw.data()) : nullptr;
}

constexpr std::int64_t kGrain = 1 << 16;  // values that are worth waking a thread for

// The largest bits of a magnitude; those of an infinity or a NaN are larger than all others.
std::uint16_t largest_bits(const std::uint16_t* bits, std::int64_t n) {
  std::atomic<std::uint16_t> most = 0;
  ops::parallel_for(0, n, kGrain, [&](std::int64_t begin, std::int64_t end) {
    std::uint16_t here = 0;
    for (std::int64_t i = begin; i < end; ++i)
      here = std::max<std::uint16_t>(here, bits[i] & 0x7FFF);
    std::uint16_t before = most;
    while (before < here && !most.compare_exchange_weak(before, here)) {
    }
  });
  return most;
}

// A matrix that is read when the first of its parts is asked for, and let go of with each. What the
// file has as BF16 is never in memory in another type but for some rows.
struct Pending {
  const checkpoint::Checkpoint& source;
  const models::Parameter& parameter;
  nvfp4::GlobalScale rule;
  const models::LinearQuant& quant;
  std::vector<const models::Parameter*> next;  // to be read ahead
  std::vector<at::Tensor> values = {};         // FP32, of the parts that are not BF16
  float global = 0;

  bool is_fp8() const { return quant.precision == ops::Precision::fp8; }
  const checkpoint::Tensor& tensor(std::size_t part) const {
    return source.at(parameter.parts[part].name);
  }

  void read() {
    std::uint32_t most = 0;
    for (std::size_t i = 0; i < parameter.parts.size(); ++i) {
      const checkpoint::Tensor& t = tensor(i);
      const std::int64_t n = t.elements();
      values.emplace_back();
      if (const std::uint16_t* bits = bf16_of(t)) {
        most = std::max(most, std::uint32_t{largest_bits(bits, n)} << 16);
        if (most < nvfp4::kInfinityBits) continue;
      }
      values.back() = at::empty({n}, at::kFloat);
      float* to = values.back().data_ptr<float>();
      const std::string bad = models::read_finite(t, to);
      check(bad.empty(), kOperation, "{}: {}", source.path.string(), bad);
      for (std::int64_t k = 0; k < n; ++k) {
        to[k] = nvfp4::round_to_bf16(to[k]);
        most = std::max(most, nvfp4::magnitude_bits(to[k]));
      }
      checkpoint::release(source, t);
    }
    check(most < nvfp4::kInfinityBits, kOperation,
          "{}: expected weights that BF16 can hold, found larger ones",
          parameter.parts.front().name);
    const float amax = nvfp4::bf16_amax(most);
    global =
        is_fp8() ? ops::fp8_scale(amax, rule) : nvfp4::global_scale(amax, rule, quant.weight_rule);
    check(is_fp8() || nvfp4::scale_fits(global), kOperation,
          "{}: expected weights that NVFP4 can hold, found {} as the largest",
          parameter.parts.front().name, amax);
    for (const models::Parameter* p : next)
      for (const models::Part& part : p->parts) checkpoint::prefetch(source, source.at(part.name));
  }

  // `scales` of NVFP4's blocks.
  void give(std::size_t part, std::uint8_t* codes, std::uint8_t* scales) {
    if (values.empty()) read();
    const checkpoint::Tensor& t = tensor(part);
    const std::int64_t rows = parameter.parts[part].rows, cols = parameter.value.size(1);
    const std::int64_t of_row = nvfp4::blocks_per_row(cols);
    const at::Tensor plain = std::exchange(values[part], {});
    const float* floats = plain.defined() ? plain.const_data_ptr<float>() : nullptr;
    const std::uint16_t* bits = bf16_of(t);
    const std::int64_t step = std::max<std::int64_t>(1, kGrain / cols);
    ops::for_pieces((rows + step - 1) / step, [&](std::int64_t piece) {
      const std::int64_t first = piece * step, n = std::min(step, rows - first);
      std::vector<float> some;
      const float* x = floats + first * cols;
      if (floats == nullptr) {
        some.resize(static_cast<std::size_t>(n * cols));
        for (std::int64_t i = 0; i < n * cols; ++i)
          some[static_cast<std::size_t>(i)] =
              std::bit_cast<float>(std::uint32_t{bits[first * cols + i]} << 16);
        x = some.data();
      }
      if (is_fp8())
        encode_fp8(x, n * cols, global, codes + first * cols);
      else
        nvfp4::quantize(x, n, cols, global, quant.weight_rule,
                        codes + first * of_row * nvfp4::kBlock / 2, scales + first * of_row);
    });
    checkpoint::release(source, t);
  }
};

// The tensor's values in `type`, FP32 or BF16. What is BF16 already is copied.
void read_plain(const checkpoint::Checkpoint& source, const checkpoint::Tensor& t,
                at::ScalarType type, std::byte* bytes) {
  if (const std::uint16_t* bits = bf16_of(t); bits != nullptr && type == at::kBFloat16)
    if (largest_bits(bits, t.elements()) < nvfp4::kInfinityBits >> 16) {
      std::copy_n(t.raw.data(), t.raw.size(), bytes);
      return;
    }
  const at::Tensor values = at::empty({t.elements()}, at::kFloat);
  const std::string bad = models::read_finite(t, values.data_ptr<float>());
  check(bad.empty(), kOperation, "{}: {}", source.path.string(), bad);
  const at::Tensor stored = values.to(type);
  std::copy_n(static_cast<const std::byte*>(stored.const_data_ptr()), stored.nbytes(), bytes);
}

checkpoint::OutWeight plain_from(const checkpoint::Checkpoint& source, const models::Part& part,
                                 at::ScalarType type) {
  const checkpoint::Tensor& t = source.at(part.name);
  return plain(part, t.shape, type, [&source, &t, type](std::byte* bytes) {
    read_plain(source, t, type, bytes);
    checkpoint::release(source, t);
  });
}

// Rows of a matrix that was rounded before.
checkpoint::OutWeight packed(const models::Part& part, std::int64_t row, std::int64_t cols,
                             const models::LinearQuant& quant, const PackedCodes& made) {
  const at::Tensor codes = made.codes.narrow(0, row, part.rows);
  const at::Tensor scales = made.scales.narrow(0, row, part.rows);
  return quantized(part, cols,
                   checkpoint::OutNvfp4{
                       made.global, quant.input_global,
                       [codes, scales](std::uint8_t* to_codes, std::uint8_t* to_scales) {
                         std::copy_n(codes.const_data_ptr<std::uint8_t>(), codes.numel(), to_codes);
                         std::copy_n(scales.const_data_ptr<std::uint8_t>(), scales.numel(),
                                     to_scales);
                       }});
}

}  // namespace

checkpoint::OutModel export_from(const checkpoint::Checkpoint& source, const models::Model& model,
                                 nvfp4::GlobalScale rule,
                                 const std::map<const models::Parameter*, PackedCodes>& ready,
                                 bool scales_first) {
  const auto parameters = models::parameters(model);
  const auto quant_of = quants_of(model);
  checkpoint::OutModel out = model_of(source, model);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const models::Parameter& p = *parameters[i];
    const auto found = quant_of.find(&p);
    if (found == quant_of.end() || found->second == nullptr) {
      for (const models::Part& part : p.parts)
        out.weights.push_back(plain_from(source, part, stored_type(p)));
      continue;
    }
    const models::LinearQuant& quant = *found->second;
    if (const auto made = ready.find(&p); made != ready.end()) {
      std::int64_t row = 0;
      for (const models::Part& part : p.parts) {
        out.weights.push_back(packed(part, row, p.value.size(1), quant, made->second));
        row += part.rows;
      }
      continue;
    }
    const auto pending = std::make_shared<Pending>(Pending{source, p, rule, quant, {}});
    if (i + 1 < parameters.size()) pending->next.push_back(parameters[i + 1]);
    if (scales_first) {
      pending->read();
      pending->values.clear();  // until its turn comes
    }
    const std::int64_t cols = p.value.size(1);
    const auto global = [pending] { return pending->global; };
    for (std::size_t part = 0; part < p.parts.size(); ++part) {
      if (pending->is_fp8())
        out.weights.push_back(quantized(p.parts[part], cols,
                                        checkpoint::OutFp8{{0},
                                                           quant.input_global,
                                                           [pending, part](std::uint8_t* codes) {
                                                             pending->give(part, codes, nullptr);
                                                           },
                                                           global}));
      else
        out.weights.push_back(quantized(
            p.parts[part], cols,
            checkpoint::OutNvfp4{pending->global, quant.input_global,
                                 [pending, part](std::uint8_t* codes, std::uint8_t* scales) {
                                   pending->give(part, codes, scales);
                                 },
                                 scales_first ? std::function<float()>() : global}));
    }
  }
  return out;
}

}  // namespace qad::quantize
