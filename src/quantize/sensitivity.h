// How much of the next-token distribution each part of a model costs when it alone is quantised,
// and which parts a budget of bits leaves in BF16.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "models/model.h"
#include "quantize/policy.h"

namespace qad::quantize {

// Linears that must be quantised together: one with its fused parts, or a layer's routed experts.
struct Sensitivity {
  std::string kind;
  int layer = -1;
  std::vector<std::string> patterns;  // of their names: what a rule of the policy says
  std::int64_t weights = 0;
  double kl = 0;          // KL(unquantised || these alone quantised), nats a token
  bool quantised = true;  // chosen
};

// Of all that `policy` quantises, in the order of the model, which is unquantised before and after.
// input_amax as quantize() takes it. `batches`: every token counts. A layer that is tried runs with
// those behind it, so a model of N groups costs some N / 2 forward passes and N heads. `progress`:
// of the groups.
std::vector<Sensitivity> sensitivities(
    models::Model& model, const Policy& policy, const std::vector<float>& input_amax,
    const std::vector<models::Tokens>& batches,
    const std::function<void(std::size_t done, std::size_t all)>& progress = {});

constexpr double kNvfp4Bits = 4.5, kBf16Bits = 16;

// Leaves in BF16 what has the most KL a weight, as long as the mean over all weights stays within
// `bits` (4.5 to 16), taking KLs to add up. Returns the mean.
double choose(std::vector<Sensitivity>& groups, double bits);

// For what is left in BF16.
std::vector<Rule> rules_of(const std::vector<Sensitivity>& groups);

// One row a layer, one column a kind; a star behind what is left in BF16.
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
