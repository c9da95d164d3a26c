// Changes of an unquantised model that leave its function as it is and make it easier to quantise,
// folded into its own weights: whoever computes the result needs to know nothing. Of models in
// FP32: BF16 would round what was folded.
//
// What can be scaled, channel by channel, is a site: what makes the channels is divided by s, the
// columns that read them are multiplied by it. What can be rotated is the residual stream, from the
// embedding to the head, and the values of each head between v and o.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "models/model.h"
#include "quantize/policy.h"

namespace qad::quantize {

struct Site {
  std::string name;  // of the first reader: "model.layers.0.self_attn.q_proj"
  // Rows [first_row, first_row + channels) of the maker, a norm's weight or a matrix, and of its
  // bias.
  models::Parameter *maker, *bias = nullptr;
  std::int64_t first_row = 0, channels = 0;
  std::vector<models::Linear*> readers;  // all that read the channels, but for
  models::Parameter* router = nullptr;   // of experts, which is never quantised
  // Columns: each run of `run` channels (a value's head) is read `repeat` times in a row (by the
  // query heads of its group).
  std::int64_t run = 1, repeat = 1;
  bool squared = false;  // between maker and readers: max(x, 0)^2
  bool after_norm = false;

  at::Tensor columns(const at::Tensor& of_channels) const;  // [channels] -> [columns]
};
// Of one layer, in the order of its forward pass: norm -> what reads it (qkv, gate and up, Mamba's
// in, experts with their router), v -> o, up -> down, Mamba's norm -> out.
std::vector<Site> sites(models::Layer& layer);
// Multiplies what readers see of each channel by s, FP32 [channels], positive: the model computes
// the same. Throws Error for a linear that is quantised, and for values not in FP32.
void scale(const Site& site, const at::Tensor& s);

enum class ScaleRule {
  // s = mean |x|^alpha of the alpha in 0, 0.05, ... 0.95 that brings the quantised readers' outputs
  // nearest to what they were (AWQ, arXiv 2306.00978); 0 changes nothing.
  awq,
  // s = max |x|^smoothing / max |w|^(1 - smoothing), at norms alone (SmoothQuant, arXiv
  // 2211.10438).
  smoothquant,
};
struct SiteScales {
  std::string name;
  double alpha = 0;
  double error_before = 0, error_after = 0;  // sums of squares over the readers' outputs; awq only
};
// Chooses and folds the scales of all sites that a linear reads which `policy` quantises, layer by
// layer: what enters the quantiser of each reader is that of the unquantised model. `batches`: at
// least one. `progress`: of the layers.
std::vector<SiteScales> scale_channels(models::Model& model, const Policy& policy, ScaleRule rule,
                                       double smoothing, const std::vector<models::Tokens>& batches,
                                       const std::function<void(std::size_t done)>& progress = {});

// A head of its own for a model whose head is its embedding: the same values. False if it had one.
bool untie_head(models::Model& model);

// An orthogonal matrix FP32 [n, n] whose entries all have magnitudes of at most sqrt(2 / n): random
// signs by `seed`, then for n = 2^k m, m odd, the Kronecker product of the Hartley matrix of m
// (cos + sin of 2 pi i j / m) and the Hadamard matrix of 2^k; for m = 1 a randomised Hadamard
// matrix (QuaRot, arXiv 2404.00456).
at::Tensor hadamard(std::int64_t n, std::uint64_t seed);
// Rotates the residual stream, and the values of each attention head. Norms' weights go into the
// columns that read them, and are 1 afterwards. Throws Error for a tied head (untie_head), a linear
// that is quantised, and for values not in FP32.
void rotate(models::Model& model, std::uint64_t seed);

}  // namespace qad::quantize
