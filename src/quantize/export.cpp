// A model as the folder that serving engines load.
#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <map>
#include <utility>

#include "checkpoint/nvfp4_tensors.h"
#include "core/error.h"
#include "models/verify.h"
#include "nvfp4/global_scale.h"
#include "ops/threads.h"
#include "quantize/quantize.h"

namespace qad::quantize {
namespace {

constexpr std::string_view kOperation = "export";

// In `type`, which is FP32 or BF16.
void append_plain(std::vector<checkpoint::OutTensor>& out, const models::Part& part,
                  const at::Tensor& rows, at::ScalarType type) {
  const auto stored = type == at::kFloat ? checkpoint::DType::f32 : checkpoint::DType::bf16;
  out.push_back({part.name, stored, rows.sizes().vec(), [rows, type](std::byte* bytes) {
                   const at::Tensor values = rows.to(type).to(at::kCPU).contiguous();
                   const auto* data = static_cast<const std::byte*>(values.const_data_ptr());
                   std::copy_n(data, values.nbytes(), bytes);
                 }});
}

// Of finite rows [n, cols].
void quantize_rows(const at::Tensor& rows, float global, nvfp4::BlockScale rule,
                   std::uint8_t* codes, std::uint8_t* scales) {
  const at::Tensor w = rows.to(at::kBFloat16).to(at::kCPU, at::kFloat).contiguous();
  const float* x = w.const_data_ptr<float>();
  const std::int64_t n = rows.size(0), cols = rows.size(1), blocks = nvfp4::blocks_per_row(cols);
  at::parallel_for(
      0, n, std::max<std::int64_t>(1, 65536 / cols), [&](std::int64_t begin, std::int64_t end) {
        nvfp4::quantize(x + begin * cols, end - begin, cols, global, rule,
                        codes + begin * blocks * nvfp4::kBlock / 2, scales + begin * blocks);
      });
}

void append_quantized(std::vector<checkpoint::OutTensor>& out, const models::Part& part,
                      const at::Tensor& rows, const models::LinearQuant& quant) {
  checkpoint::append_nvfp4(out, linear_name(part), rows.size(0), rows.size(1), quant.weight_global,
                           quant.input_global,
                           [=, global = quant.weight_global, rule = quant.weight_rule](
                               std::uint8_t* codes, std::uint8_t* scales) {
                             quantize_rows(rows, global, rule, codes, scales);
                           });
}

// All quantised linears are W4A4, or all are weight-only.
bool is_weight_only(const std::vector<const models::Linear*>& linears) {
  std::size_t quantized = 0, with_inputs = 0;
  for (const models::Linear* l : linears) {
    quantized += l->quant ? 1 : 0;
    with_inputs += l->quant && l->quant->input_global ? 1 : 0;
  }
  check(with_inputs == 0 || with_inputs == quantized, kOperation,
        "expected input scales for all quantised linears or for none, found {} of {}", with_inputs,
        quantized);
  return with_inputs == 0;
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

// The folder with everything but its tensors.
checkpoint::OutFolder folder_of(const models::Model& model, const checkpoint::Checkpoint& source) {
  const auto linears = models::linears(model);

  checkpoint::OutFolder folder;
  folder.config = exported_config(source.config);
  folder.generation_config = source.generation_config;
  const bool any = std::any_of(linears.begin(), linears.end(),
                               [](const models::Linear* l) { return l->quant != nullptr; });
  if (any) {
    auto configs = checkpoint::quant_configs(excluded_modules(model), is_weight_only(linears));
    folder.hf_quant_config = std::move(configs.hf_quant_config);
    folder.config["quantization_config"] = std::move(configs.quantization_config);
  }

  return folder;
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

std::vector<std::string> excluded_modules(const models::Model& model) {
  std::vector<std::string> excluded{"lm_head", linear_name(model.embedding.parts.front())};
  // Engines make linears of short convolutions and routers, too.
  for (const models::Layer& layer : model.layers) {
    if (layer.mamba) excluded.push_back(linear_name(layer.mamba->conv.parts.front()));
    if (layer.experts) excluded.push_back(linear_name(layer.experts->router.parts.front()));
  }
  for (const models::Linear* l : models::linears(model))
    for (const models::Part& part : l->weight.parts) {
      if (l->quant)
        std::erase(excluded, linear_name(part));
      else
        excluded.push_back(linear_name(part));
    }
  return excluded;
}

checkpoint::OutFolder export_folder(const models::Model& model,
                                    const std::vector<at::Tensor>& masters,
                                    const checkpoint::Checkpoint& source) {
  const auto parameters = models::parameters(model);
  check(masters.size() == parameters.size(), kOperation, "expected {} masters, found {}",
        parameters.size(), masters.size());
  const auto quant_of = quants_of(model);
  checkpoint::OutFolder folder = folder_of(model, source);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const models::Parameter& p = *parameters[i];
    check(masters[i].sizes() == p.value.sizes(), kOperation, "{}: expected a master of {} rows",
          p.parts.front().name, p.value.size(0));
    const auto quant = quant_of.find(&p);
    std::int64_t row = 0;
    for (const models::Part& part : p.parts) {
      const at::Tensor rows = masters[i].detach().narrow(0, row, part.rows);
      if (quant != quant_of.end() && quant->second)
        append_quantized(folder.tensors, part, rows, *quant->second);
      else
        append_plain(folder.tensors, part, rows, stored_type(p));
      row += part.rows;
    }
  }
  return folder;
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
  nvfp4::BlockScale blocks;
  std::vector<const models::Parameter*> next;  // to be read ahead
  std::vector<at::Tensor> values = {};         // FP32, of the parts that are not BF16
  float global = 0;

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
    global = nvfp4::global_scale(nvfp4::bf16_amax(most), rule, blocks);
    check(nvfp4::scale_fits(global), kOperation,
          "{}: expected weights that NVFP4 can hold, found {} as the largest",
          parameter.parts.front().name, nvfp4::bf16_amax(most));
    for (const models::Parameter* p : next)
      for (const models::Part& part : p->parts) checkpoint::prefetch(source, source.at(part.name));
  }

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
      nvfp4::quantize(x, n, cols, global, blocks, codes + first * of_row * nvfp4::kBlock / 2,
                      scales + first * of_row);
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

void append_plain_from(std::vector<checkpoint::OutTensor>& out,
                       const checkpoint::Checkpoint& source, const models::Part& part,
                       at::ScalarType type) {
  const checkpoint::Tensor& t = source.at(part.name);
  const auto stored = type == at::kFloat ? checkpoint::DType::f32 : checkpoint::DType::bf16;
  out.push_back({part.name, stored, t.shape, [&source, &t, type](std::byte* bytes) {
                   read_plain(source, t, type, bytes);
                   checkpoint::release(source, t);
                 }});
}

}  // namespace

checkpoint::OutFolder export_from(const checkpoint::Checkpoint& source, const models::Model& model,
                                  nvfp4::GlobalScale rule) {
  const auto parameters = models::parameters(model);
  const auto quant_of = quants_of(model);
  checkpoint::OutFolder folder = folder_of(model, source);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const models::Parameter& p = *parameters[i];
    const auto found = quant_of.find(&p);
    if (found == quant_of.end() || found->second == nullptr) {
      for (const models::Part& part : p.parts)
        append_plain_from(folder.tensors, source, part, stored_type(p));
      continue;
    }
    const models::LinearQuant& quant = *found->second;
    const auto pending = std::make_shared<Pending>(Pending{source, p, rule, quant.weight_rule, {}});
    if (i + 1 < parameters.size()) pending->next.push_back(parameters[i + 1]);
    for (std::size_t part = 0; part < p.parts.size(); ++part)
      checkpoint::append_nvfp4(
          folder.tensors, linear_name(p.parts[part]), p.parts[part].rows, p.value.size(1),
          [pending] { return pending->global; }, quant.input_global,
          [pending, part](std::uint8_t* codes, std::uint8_t* scales) {
            pending->give(part, codes, scales);
          });
  }
  return folder;
}

}  // namespace qad::quantize
