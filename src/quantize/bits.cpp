// Which groups of linears get which precision under a budget of bits: a knapsack from whose items
// one of up to three must be taken each, solved exactly.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "quantize/sensitivity.h"

namespace qad::quantize {
namespace {

constexpr std::string_view kOperation = "bits";
constexpr std::size_t kMostStates = std::size_t{1} << 26;  // 1.6 GB of them

// What a group can be, in the order of its cost. Costs are half bits, so whole numbers.
struct Choice {
  Format format;
  std::int64_t cost;
  double kl;
};

std::vector<Choice> choices_of(const Sensitivity& g) {
  const auto cost = [&](double bits) { return g.weights * static_cast<std::int64_t>(2 * bits); };
  std::vector<Choice> all;
  all.push_back({g.least, cost(g.least == Format::fp8 ? kFp8Bits : kNvfp4Bits), g.kl});
  if (g.kl_fp8) all.push_back({Format::fp8, cost(kFp8Bits), *g.kl_fp8});
  all.push_back({Format::bf16, cost(kBf16Bits), 0});
  return all;
}

// The first groups in some precisions: nothing with as few half bits has a smaller sum of KLs.
struct State {
  std::int64_t cost;
  double kl;
  std::int32_t before, choice;  // the state of the groups before the last, and what that became
};

// Of `before` with one group more, those that are worth keeping: by rising cost and falling KL.
std::vector<State> with_group(const std::vector<State>& before, const std::vector<Choice>& choices,
                              std::int64_t most) {
  std::vector<State> all;
  for (std::size_t i = 0; i < before.size(); ++i)
    for (std::size_t c = 0; c < choices.size(); ++c)
      if (before[i].cost + choices[c].cost <= most)
        all.push_back({before[i].cost + choices[c].cost, before[i].kl + choices[c].kl,
                       static_cast<std::int32_t>(i), static_cast<std::int32_t>(c)});
  std::ranges::stable_sort(all, [](const State& a, const State& b) {
    return a.cost != b.cost ? a.cost < b.cost : a.kl < b.kl;
  });
  std::vector<State> kept;
  for (const State& s : all)
    if (kept.empty() || s.kl < kept.back().kl) kept.push_back(s);
  return kept;
}

}  // namespace

double choose(std::vector<Sensitivity>& groups, double bits) {
  check(bits >= kNvfp4Bits && bits <= kBf16Bits, kOperation,
        "expected {} (all NVFP4) to {} (all BF16), found {}", kNvfp4Bits, kBf16Bits, bits);
  check(!groups.empty(), kOperation, "the policy quantises nothing: there is nothing to choose");
  std::vector<std::vector<Choice>> choices;
  std::int64_t weights = 0, least = 0;
  for (const Sensitivity& g : groups) {
    choices.push_back(choices_of(g));
    weights += g.weights;
    least += choices.back().front().cost;
  }
  // What rounding does to a budget must not cost a group.
  const auto most =
      static_cast<std::int64_t>(std::floor(2 * bits * static_cast<double>(weights) * (1 + 1e-12)));
  check(least <= most, kOperation,
        "expected at least {:.4f}, which the policy's own precisions take, found {}",
        static_cast<double>(least) / (2 * static_cast<double>(weights)), bits);

  // Room that the groups to come need at least is not for those before them.
  std::int64_t to_come = least;
  std::vector<std::vector<State>> stages{{{0, 0, 0, 0}}};
  std::size_t states = 0;
  for (const auto& of_group : choices) {
    to_come -= of_group.front().cost;
    stages.push_back(with_group(stages.back(), of_group, most - to_come));
    states += stages.back().size();
    check(states <= kMostStates, kOperation,
          "{} groups of {} weights in too many different sizes: the exact choice takes more than "
          "{} states; leave some to quantize.rules",
          groups.size(), weights, kMostStates);
  }
  std::size_t at = stages.back().size() - 1;
  const double mean =
      static_cast<double>(stages.back()[at].cost) / (2 * static_cast<double>(weights));
  for (std::size_t i = groups.size(); i-- > 0;) {
    const State& s = stages[i + 1][at];
    groups[i].format = choices[i][static_cast<std::size_t>(s.choice)].format;
    at = static_cast<std::size_t>(s.before);
  }
  return mean;
}

}  // namespace qad::quantize
