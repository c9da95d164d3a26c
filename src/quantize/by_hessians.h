// Post-training quantisation by what calibration says of inputs: layer after layer, H = X^T X of
// each linear's input as its product reads it (quantised, if it is), with the layers before already
// quantised. Then block scales (Policy::hessian_scales), codes (Rounding::gptq) or both follow from
// H. Of H one layer's is in memory at a time, FP32: 4 cols^2 bytes a linear. Where the model is H
// is summed, on a CPU the weights are rounded.
//
// An expert has a H of its own. One that gets fewer tokens than H needs (its columns for GPTQ, 16
// for block scales), of which H would be singular, is rounded to nearest by the rule.
#pragma once

#include <map>

#include "quantize/quantize.h"

namespace qad::quantize {

struct ByHessians {
  std::vector<at::Tensor> masters;  // in the order of models::parameters(); rounded ones on a CPU
  std::vector<UnreachedExperts> plain;
};
// As quantize(), of a model in memory. Throws Error for a linear other than an expert's with too
// few tokens.
ByHessians quantize_by_hessians(models::Model& model, const Policy& policy,
                                const std::vector<float>& input_amax,
                                const std::vector<models::Tokens>& batches,
                                const std::function<void(std::size_t layers)>& progress = {});

// Of the layer whose H take most: all of its quantised linears', experts' included. `model` may be
// models::build()'s.
double hessian_bytes(const models::Model& model, const Policy& policy);

struct CodesByHessians {
  std::map<const models::Parameter*, PackedCodes> weights;  // those that are in no plain expert
  std::vector<UnreachedExperts> plain;
};
// The same of a model on disk, one layer of which is in memory; the results, 4.5 bits a value, stay
// there for export_from. `model` is open_model's and was given to choose_quantised; its placement
// must not pack weights.
CodesByHessians quantize_by_hessians(const checkpoint::Checkpoint& source, models::Model& model,
                                     const Policy& policy,
                                     const std::vector<models::Tokens>& batches,
                                     const std::function<void(std::size_t layers)>& progress = {});

}  // namespace qad::quantize
