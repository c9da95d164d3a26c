// Which matrices become NVFP4 or FP8: a list of rules over Hugging Face names, later rules win (as
// ModelOpt's quant_cfg), with presets for the usual choices.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/model.h"

namespace qad::quantize {

struct Rule {
  std::string pattern;  // glob over the linear's Hugging Face names without ".weight":
                        // "*.self_attn.*", "lm_head"
  bool quantize = false;
  std::string why;                                   // said in the coverage table
  ops::Precision precision = ops::Precision::nvfp4;  // where it quantises
};

// nearest: each weight alone. gptq: what rounding a column does to the linear's result is made good
// by the columns after it (by_hessians.h).
enum class Rounding { nearest, gptq };

struct Policy {
  std::vector<Rule> rules;            // start: every linear but lm_head is quantised
  int keep_first = 0, keep_last = 0;  // layers left in BF16
  bool activations = true;            // false: weight-only (W4A16)
  nvfp4::GlobalScale global = nvfp4::GlobalScale::pow2;
  nvfp4::BlockScale weights = nvfp4::BlockScale::max;
  bool hessian_scales = false;  // instead: by local Hessians, under weights' global scales
  Rounding rounding = Rounding::nearest;
  nvfp4::BlockScale inputs = nvfp4::BlockScale::max;
  double input_headroom = 1;  // input scales are for this multiple of the calibrated amax
  std::int64_t low_rank =
      0;                   // of a correction in BF16 beside each NVFP4 linear (low_rank.h); 0: none
  bool fp8_cache = false;  // keys and values rounded to E4M3, as an FP8 cache holds them

  // Whether weights are rounded by what calibration says of their inputs.
  bool by_hessians() const { return hessian_scales || rounding == Rounding::gptq; }
  bool needs_maxima() const { return activations || fp8_cache; }
};

// By name: nvfp4 (all but lm_head), nvfp4-weight-only, nvfp4-mlp-only, and what NVIDIA kept in BF16
// in the checkpoint of that name: nvfp4-nano-9b-v2 (attention, the first and last two layers) and
// nvfp4-nano-30b-a3b (attention and the Mamba layer before each; keys and values in FP8; arXiv
// 2601.20088). Throws Error naming the presets.
std::vector<std::string> presets();
Policy preset(const std::string& name);

// Whether `linear` is quantised and why not. All parts must agree; a mixed verdict is an Error.
struct Verdict {
  bool quantize;
  std::string why;  // empty when quantised
  ops::Precision precision = ops::Precision::nvfp4;
};
Verdict decide(const Policy& policy, const models::Linear& linear, std::int64_t layers);

// Throws Error for a rule that matches nothing (a typo), for more kept layers than there are, and
// for FP8 where its inputs stay unquantised.
void check_rules(const models::Model& model, const Policy& policy);
// Throws Error for what `device` does not compute of a model that is quantised by `policy`.
void check_device(const models::Model& model, const Policy& policy, const at::Device& device);

// One row per linear kind and outcome.
struct CoverageRow {
  std::string kind;
  std::int64_t tensors = 0, parameters = 0, bytes_before = 0, bytes_after = 0;
  bool quantized = false;
  std::string why;
  ops::Precision precision = ops::Precision::nvfp4;
};
// `model` may be models::build()'s. Bytes are those of the files' tensors, before in BF16.
std::vector<CoverageRow> coverage(const models::Model& model, const Policy& policy);
std::string_view format_of(const CoverageRow& row);  // NVFP4, FP8, BF16 or F32
std::string coverage_table(const std::vector<CoverageRow>& rows);

}  // namespace qad::quantize
