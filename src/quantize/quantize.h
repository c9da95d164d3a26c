// Post-training quantisation of a loaded model: calibrate input scales, choose global scales, and
// keep the values of the forward pass equal to what will be shipped.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/out_model.h"
#include "models/model.h"
#include "quantize/policy.h"

namespace qad::quantize {

// Largest magnitudes of the keys (rotated) and values of a layer; 0 where it has no attention.
struct CacheMaxima {
  float key = 0, value = 0;
};

// Largest magnitude of each linear's input over calibration batches, in the order of
// models::linears(). `cache`, if given, becomes that of each layer's keys and values.
std::vector<float> calibrate(const models::Model& model, const std::vector<models::Tokens>& batches,
                             const std::function<void(std::size_t done)>& progress = {},
                             std::vector<CacheMaxima>* cache = nullptr);

// The same of a model on disk, of which one layer at a time is in memory: `model` is
// models::open_model's. The batches' residual streams, 4 hidden bytes a token on a CPU, go from
// layer to layer. `progress`: of the layers.
std::vector<float> calibrate(const checkpoint::Checkpoint& source, models::Model& model,
                             const std::vector<models::Tokens>& batches,
                             const std::function<void(std::size_t done)>& progress = {},
                             std::vector<CacheMaxima>* cache = nullptr);

// Experts to which calibration sent nothing, or only zeros: which, of how many.
struct UnreachedExperts {
  int layer;
  std::vector<std::size_t> experts;
  std::size_t of;
};
// What serving engines need all the same: their maxima, zeros in `input_amax`, become the largest
// of the same product among the experts of their layer. Throws Error for a layer of which none was
// reached.
std::vector<UnreachedExperts> lend_maxima(const models::Model& model,
                                          std::vector<float>& input_amax);
// "3 of 128 experts in layer 4 (0, 17, 90)", joined by "; ".
std::string to_text(const std::vector<UnreachedExperts>& unreached);

// Sets LinearQuant by policy as quantize() does, but for weight_global, which is left 0: nothing is
// known of the weights.
void choose_quantised(models::Model& model, const Policy& policy,
                      const std::vector<float>& input_amax);
// Sets LinearQuant by policy (weight-only: input_amax may be empty), and replaces every value by
// what is shipped: fake-quantised where quantised, rounded to BF16 elsewhere. `value`s must hold
// the unquantised weights.
void quantize(models::Model& model, const Policy& policy, const std::vector<float>& input_amax);

// From here on the model attends to keys and values as an FP8 cache gives them back. A scale is
// amax / 448, as ModelOpt's, or by GlobalScale::pow2 the power of two at or above it: that costs a
// floating-point format nothing, and code * scale is exact in BF16. Throws Error for maxima that
// are not those of this model, or not finite.
void quantize_cache(models::Model& model, nvfp4::GlobalScale rule,
                    const std::vector<CacheMaxima>& maxima);

// What the forward pass reads, from an FP32 master: NVFP4 or FP8 fake quantisation of bf16(master)
// under the linear's scales (weight_global is raised, never lowered, when a weight outgrew it,
// unless block scales were chosen before), or bf16(master): ops::ship_ with the scale in `quant`.
// Throws Error naming the tensor by `name`, its Hugging Face name, when a weight to be quantised is
// not finite, or too large for NVFP4.
void shipped_value(const std::string& name, const at::Tensor& master, models::LinearQuant* quant,
                   nvfp4::GlobalScale rule, at::Tensor& value);

// Keeps the block scales that the rule gives each quantised weight as data
// (LinearQuant::weight_scales), where it has blocks and none yet: for who learns them. Changes no
// value. `masters`: in the order of models::parameters(). The rule is computed on a CPU.
void fix_scales(models::Model& model, const Policy& policy, const std::vector<at::Tensor>& masters);

// A rounded weight, packed as nvfp4::quantize does it, uint8.
struct PackedCodes {
  at::Tensor codes, scales;  // [rows, cols / 2], [rows, cols / 16]
  float global = 0;
};

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

// What either of them will give, before there are values or scales: names, shapes, kinds, the
// configuration. Scales are placeholders, powers of two where `policy` will choose such. For
// checkpoint::check_format.
checkpoint::OutModel outline(const checkpoint::Checkpoint& source, const models::Model& model,
                             const Policy& policy);

// The same of weights that are still in `source`, which must outlive the writing: each
// matrix is read, given its global scale by `rule`, rounded and let go of when its turn comes.
// `model` has no values (models::open_model) and was given to choose_quantised. `ready`: weights
// that were rounded before (by_hessians.h), which are written instead. `scales_first`: weights are
// read once more, now, so that global scales are known before the first is written.
checkpoint::OutModel export_from(const checkpoint::Checkpoint& source, const models::Model& model,
                                 nvfp4::GlobalScale rule,
                                 const std::map<const models::Parameter*, PackedCodes>& ready = {},
                                 bool scales_first = false);

}  // namespace qad::quantize
