// How much of the next-token distribution each part of a model costs when it alone is quantised,
// and which parts a budget of bits keeps in FP8 or BF16.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/model.h"
#include "quantize/policy.h"

namespace qad::quantize {

enum class Format { nvfp4, fp8, bf16 };
std::string_view name_of(Format format);  // "NVFP4", "FP8", "BF16"

// Linears that must be quantised together: one with its fused parts, or a layer's routed experts.
struct Sensitivity {
  std::string kind;
  int layer = -1;
  std::vector<std::string> patterns;  // of their names: what a rule of the policy says
  std::int64_t weights = 0;
  // KL(unquantised || these alone quantised), nats a token: in the policy's precision, and in FP8
  // where that is NVFP4 and FP8 may be chosen.
  double kl = 0;
  std::optional<double> kl_fp8 = {};
  Format least = Format::nvfp4;   // the policy's precision
  Format format = Format::nvfp4;  // the chosen one
};

// Of all that `policy` quantises, in the order of the model, which is unquantised before and after.
// input_amax as quantize() takes it. `fp8`: whether FP8 is tried too, which a policy for weights
// alone cannot have. `batches`: every token counts. A layer that is tried runs with those behind
// it, so a model of N groups costs some N / 2 forward passes and N heads, twice that with FP8.
// `progress`: of the groups.
std::vector<Sensitivity> sensitivities(
    models::Model& model, const Policy& policy, bool fp8, const std::vector<float>& input_amax,
    const std::vector<models::Tokens>& batches,
    const std::function<void(std::size_t done, std::size_t all)>& progress = {});

constexpr double kNvfp4Bits = 4.5, kFp8Bits = 8, kBf16Bits = 16;

// Gives each group the precision, from the policy's upwards, with which the sum of their KLs is
// least while the mean over all weights stays within `bits` (4.5 to 16): exactly, taking KLs to add
// up. Of equal sums the one with fewer bits. Returns the mean.
double choose(std::vector<Sensitivity>& groups, double bits);

// For what is not in the policy's precision.
std::vector<Rule> rules_of(const std::vector<Sensitivity>& groups);

// One row a layer, one column a kind; a star behind what is left in BF16, a plus behind FP8.
std::string sensitivity_table(const std::vector<Sensitivity>& groups);

// Where two models of one shape differ: KL(a || a with this part of b), nats a token. A part: the
// embedding, one layer, or the final norm with the head; at the end all of b. What of it is due to
// a layer shows only where both models have their residual streams in the same basis: a rotated
// model (transform.h) has parts that fit no other.
struct PartKl {
  std::string part;
  double kl = 0;
};
std::vector<PartKl> part_kls(
    const models::Model& a, const models::Model& b, const std::vector<models::Tokens>& batches,
    const std::function<void(std::size_t done, std::size_t all)>& progress = {});

}  // namespace qad::quantize
