// Post-training quantisation of a loaded model: calibrate input scales, choose global scales, and
// keep the values of the forward pass equal to what will be shipped.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "checkpoint/out_model.h"
#include "models/model.h"
#include "quantize/policy.h"

namespace qad::quantize {

// Largest magnitude of each linear's input over calibration batches, in the order of
// models::linears().
std::vector<float> calibrate(const models::Model& model, const std::vector<models::Tokens>& batches,
                             const std::function<void(std::size_t done)>& progress = {});

// Sets LinearQuant by policy (weight-only: input_amax may be empty), and replaces every value by
// what is shipped: fake-quantised where quantised, rounded to BF16 elsewhere. `value`s must hold
// the unquantised weights.
void quantize(models::Model& model, const Policy& policy, const std::vector<float>& input_amax);

// What the forward pass reads, from an FP32 master: nvfp4 fake quantisation of bf16(master) under
// the linear's scales (weight_global is raised, never lowered, when a weight outgrew it), or
// bf16(master): ops::ship_ with the scale in `quant`. Throws Error naming the tensor by `name`, its
// Hugging Face name, when a weight to be quantised is not finite, or too large for NVFP4.
void shipped_value(const std::string& name, const at::Tensor& master, models::LinearQuant* quant,
                   nvfp4::GlobalScale rule, at::Tensor& value);

struct LayerError {
  std::string name;
  double sqnr_db;  // 10 log10(|W|^2 / |W - Q(W)|^2) against the BF16 weight
};
// `originals`: the unquantised values, in the order of models::parameters(). One row a tensor.
std::vector<LayerError> weight_errors(const models::Model& quantized,
                                      const std::vector<at::Tensor>& originals);

// The model as it can be written in any format (checkpoint/formats.h). Codes come from `masters`
// (one a parameter, in the order of models::parameters()), since quantising a value again need not
// give the same scale; dequantising what is written gives `value`, bit for bit.
checkpoint::OutModel export_model(const models::Model& model,
                                  const std::vector<at::Tensor>& masters,
                                  const checkpoint::Checkpoint& source);

}  // namespace qad::quantize
