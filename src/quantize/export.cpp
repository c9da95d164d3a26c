// A model as what can be written in the formats that serving engines load.
#include <algorithm>
#include <map>

#include "core/error.h"
#include "quantize/quantize.h"

namespace qad::quantize {
namespace {

constexpr std::string_view kOperation = "export";

checkpoint::OutWeight plain(const models::Part& part, const at::Tensor& rows) {
  checkpoint::OutWeight w{part.name, rows.sizes().vec(), checkpoint::DType::bf16, {}, {}, {}};
  w.fill = [rows](std::byte* bytes) {
    const at::Tensor bf16 = rows.to(at::kBFloat16).to(at::kCPU).contiguous();
    const auto* data = static_cast<const std::byte*>(bf16.const_data_ptr());
    std::copy_n(data, bf16.nbytes(), bytes);
  };
  return w;
}

checkpoint::OutWeight quantized(const models::Part& part, const at::Tensor& rows,
                                const models::LinearQuant& quant) {
  checkpoint::OutWeight w{part.name, rows.sizes().vec(), checkpoint::DType::bf16, {}, {}, {}};
  const auto fill = [rows, global = quant.weight_global, rule = quant.weight_rule](
                        std::uint8_t* codes, std::uint8_t* scales) {
    const at::Tensor values = rows.to(at::kBFloat16).to(at::kCPU, at::kFloat).contiguous();
    const float* x = values.const_data_ptr<float>();
    const std::int64_t cols = rows.size(1), blocks = nvfp4::blocks_per_row(cols);
    at::parallel_for(0, rows.size(0), std::max<std::int64_t>(1, 65536 / cols),
                     [&](std::int64_t begin, std::int64_t end) {
                       nvfp4::quantize(x + begin * cols, end - begin, cols, global, rule,
                                       codes + begin * blocks * nvfp4::kBlock / 2,
                                       scales + begin * blocks);
                     });
  };
  w.nvfp4 = {quant.weight_global, quant.input_global, fill};
  return w;
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

checkpoint::OutModel export_model(const models::Model& model,
                                  const std::vector<at::Tensor>& masters,
                                  const checkpoint::Checkpoint& source) {
  const auto parameters = models::parameters(model);
  check(masters.size() == parameters.size(), kOperation, "expected {} masters, found {}",
        parameters.size(), masters.size());
  std::map<const models::Parameter*, const models::LinearQuant*> quant_of;
  for (const models::Linear* l : models::linears(model)) quant_of[&l->weight] = l->quant.get();

  checkpoint::OutModel out;
  out.config = exported_config(source.config);
  out.generation_config = source.generation_config;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const models::Parameter& p = *parameters[i];
    check(masters[i].sizes() == p.value.sizes(), kOperation, "{}: expected a master of {} rows",
          p.parts.front().name, p.value.size(0));
    const auto quant = quant_of.find(&p);
    std::int64_t row = 0;
    for (const models::Part& part : p.parts) {
      const at::Tensor rows = masters[i].detach().narrow(0, row, part.rows);
      out.weights.push_back(quant != quant_of.end() && quant->second
                                ? quantized(part, rows, *quant->second)
                                : plain(part, rows));
      row += part.rows;
    }
  }
  return out;
}

}  // namespace qad::quantize
