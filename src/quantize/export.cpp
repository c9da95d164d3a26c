// A model as the folder that serving engines load.
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "checkpoint/nvfp4_tensors.h"
#include "core/error.h"
#include "models/verify.h"
#include "nvfp4/global_scale.h"
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
  std::vector<std::string> excluded{"lm_head", linear_name(model.embedding.parts.front())};
  for (const models::Layer& layer : model.layers)
    if (layer.experts) excluded.push_back(linear_name(layer.experts->router.parts.front()));
  for (const models::Linear* l : linears) {
    for (const models::Part& part : l->weight.parts) {
      const std::string name = linear_name(part);
      if (l->quant)
        std::erase(excluded, name);
      else
        excluded.push_back(name);
    }
  }

  checkpoint::OutFolder folder;
  folder.config = exported_config(source.config);
  folder.generation_config = source.generation_config;
  const bool any = std::any_of(linears.begin(), linears.end(),
                               [](const models::Linear* l) { return l->quant != nullptr; });
  if (any) {
    auto configs = checkpoint::quant_configs(excluded, is_weight_only(linears));
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

// A matrix that is read when the first of its parts is asked for, and let go of with the last.
struct Pending {
  const checkpoint::Checkpoint& source;
  const models::Parameter& parameter;
  nvfp4::GlobalScale rule;
  nvfp4::BlockScale blocks;
  std::vector<const models::Parameter*> next;  // to be read ahead
  at::Tensor rows = {};                        // bf16 values, FP32
  float global = 0;
  std::size_t parts_given = 0;

  void read() {
    rows = at::empty(parameter.value.sizes(), at::kFloat);
    float* to = rows.data_ptr<float>();
    std::uint32_t most = 0;
    for (const models::Part& part : parameter.parts) {
      const checkpoint::Tensor& t = source.at(part.name);
      const std::string bad = models::read_finite(t, to);
      check(bad.empty(), kOperation, "{}: {}", source.path.string(), bad);
      const std::int64_t n = t.elements();
      for (std::int64_t i = 0; i < n; ++i) {
        to[i] = nvfp4::round_to_bf16(to[i]);
        most = std::max(most, nvfp4::magnitude_bits(to[i]));
      }
      to += n;
      checkpoint::release(source, t);
    }
    global = nvfp4::global_scale(nvfp4::bf16_amax(most), rule, blocks);
    check(nvfp4::scale_fits(global), kOperation,
          "{}: expected weights that NVFP4 can hold, found {} as the largest",
          parameter.parts.front().name, nvfp4::bf16_amax(most));
    for (const models::Parameter* p : next)
      for (const models::Part& part : p->parts) checkpoint::prefetch(source, source.at(part.name));
  }

  void give(std::size_t part, std::uint8_t* codes, std::uint8_t* scales) {
    if (parts_given == 0) read();
    std::int64_t row = 0;
    for (std::size_t i = 0; i < part; ++i) row += parameter.parts[i].rows;
    quantize_rows(rows.narrow(0, row, parameter.parts[part].rows), global, blocks, codes, scales);
    if (++parts_given == parameter.parts.size()) rows.reset();
  }
};

// The tensor's values in `type`, FP32 or BF16. What is BF16 already is copied.
void read_plain(const checkpoint::Checkpoint& source, const checkpoint::Tensor& t,
                at::ScalarType type, std::byte* bytes) {
  const auto n = static_cast<std::size_t>(t.elements());
  if (type == at::kBFloat16 && t.dtype == checkpoint::DType::bf16 && !t.read &&
      t.raw.size() == 2 * n) {
    std::copy_n(t.raw.data(), t.raw.size(), bytes);
    constexpr std::uint16_t kExponent = 0x7F80;  // all ones: infinite or NaN
    bool bad = false;
    for (std::size_t i = 0; i < n; ++i) {
      std::uint16_t bits;
      std::memcpy(&bits, bytes + 2 * i, sizeof bits);
      bad |= (bits & kExponent) == kExponent;
    }
    if (!bad) return;
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
