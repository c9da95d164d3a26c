// A model as the folder that serving engines load.
#include <algorithm>
#include <map>

#include "checkpoint/nvfp4_tensors.h"
#include "core/error.h"
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

void append_quantized(std::vector<checkpoint::OutTensor>& out, const models::Part& part,
                      const at::Tensor& rows, const models::LinearQuant& quant) {
  const std::int64_t n = rows.size(0), cols = rows.size(1);
  checkpoint::append_nvfp4(
      out, linear_name(part), n, cols, quant.weight_global, quant.input_global,
      [=, global = quant.weight_global, rule = quant.weight_rule](std::uint8_t* codes,
                                                                  std::uint8_t* scales) {
        const at::Tensor w = rows.to(at::kBFloat16).to(at::kCPU, at::kFloat).contiguous();
        const float* x = w.const_data_ptr<float>();
        const std::int64_t blocks = nvfp4::blocks_per_row(cols);
        at::parallel_for(0, n, std::max<std::int64_t>(1, 65536 / cols),
                         [&](std::int64_t begin, std::int64_t end) {
                           nvfp4::quantize(x + begin * cols, end - begin, cols, global, rule,
                                           codes + begin * blocks * nvfp4::kBlock / 2,
                                           scales + begin * blocks);
                         });
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
  const auto linears = models::linears(model);
  check(masters.size() == parameters.size(), kOperation, "expected {} masters, found {}",
        parameters.size(), masters.size());
  std::map<const models::Parameter*, const models::LinearQuant*> quant_of;
  for (const models::Linear* l : linears) quant_of[&l->weight] = l->quant.get();

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
        append_plain(folder.tensors, part, rows, p.constant ? at::kFloat : at::kBFloat16);
      row += part.rows;
    }
  }
  return folder;
}

}  // namespace qad::quantize
