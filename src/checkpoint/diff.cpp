#include "checkpoint/diff.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "checkpoint/dtype.h"
#include "checkpoint/out_model.h"

namespace qad::checkpoint {
namespace {

struct Side {
  std::map<std::string, const OutWeight*> weights;
  std::map<std::string, float> scales;

  explicit Side(const OutModel& m) : scales(m.kv_scales) {
    for (const OutWeight& w : m.weights) {
      weights[w.name] = &w;
      const auto input = w.nvfp4 ? w.nvfp4->input_scale
                         : w.fp8 ? w.fp8->input_scale
                                 : std::optional<float>();
      if (input) scales[w.linear() + ".input_scale"] = *input;
    }
  }
};

void compare_values(const float* a, const float* b, std::int64_t n, WeightDifference& d) {
  for (std::int64_t i = 0; i < n; ++i) {
    const double x = a[i], error = x - b[i];
    d.a2 += x * x;
    d.error2 += error * error;
    // Also where one is NaN, or an infinity.
    if (!(std::abs(error) <= d.max_error) && a[i] != b[i]) d.max_error = std::abs(error);
  }
  d.kind = d.max_error == 0 ? "equal" : "values";
}

WeightDifference compare(const OutWeight& a, const OutWeight& b) {
  WeightDifference d;
  d.name = a.name;
  if (a.shape != b.shape) {
    d.kind = shape_text(a.shape) + " and " + shape_text(b.shape);
    return d;
  }
  const std::int64_t n = *count_elements(a.shape);
  std::vector<float> x(static_cast<std::size_t>(n)), y(x.size());
  values_of(a, x.data());
  values_of(b, y.data());
  compare_values(x.data(), y.data(), n, d);
  return d;
}

}  // namespace

double WeightDifference::snr_db() const {
  return error2 == 0 ? std::numeric_limits<double>::infinity() : 10 * std::log10(a2 / error2);
}

std::vector<WeightDifference> differences(
    const Checkpoint& a, const Checkpoint& b,
    const std::function<void(std::size_t done, std::size_t all)>& progress) {
  // As FP32, so that nothing is rounded on the way.
  const OutModel model_a = out_model(a, DType::f32), model_b = out_model(b, DType::f32);
  const Side side_a(model_a), side_b(model_b);
  std::set<std::string> names, scales;
  for (const Side* side : {&side_a, &side_b}) {
    for (const auto& [name, w] : side->weights) names.insert(name);
    for (const auto& [name, value] : side->scales) scales.insert(name);
  }
  std::vector<WeightDifference> found;
  const auto both = [&](const std::string& name, const auto& in_a, const auto& in_b, auto&& use) {
    const auto x = in_a.find(name), y = in_b.find(name);
    if (x != in_a.end() && y != in_b.end()) return found.push_back(use(x->second, y->second));
    found.push_back({name, x != in_a.end() ? "only in A" : "only in B"});
  };
  for (const std::string& name : names) {
    both(name, side_a.weights, side_b.weights,
         [](const OutWeight* x, const OutWeight* y) { return compare(*x, *y); });
    if (progress) progress(found.size(), names.size());
  }
  for (const std::string& name : scales)
    both(name, side_a.scales, side_b.scales, [&](float x, float y) {
      WeightDifference d;
      d.name = name;
      compare_values(&x, &y, 1, d);
      return d;
    });
  return found;
}

}  // namespace qad::checkpoint
