// GGUF's rope.scaling keys and rope_freqs.weight to config.json's rope_scaling.
#include "checkpoint/gguf_rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <vector>

#include "core/error.h"

namespace qad::checkpoint {
namespace {

constexpr std::string_view kOp = "open_gguf";

// Llama 3's rotary scaling: the converter stores no parameters but the divisor it gives each
// frequency.
struct Llama3Rope {
  double factor, low, high, original_context;

  double divisor(double frequency) const {
    const double rotations =
        original_context * frequency / (2 * std::numbers::pi);  // over the original context
    if (rotations > high) return 1;
    if (rotations < low) return factor;
    const double smooth = (rotations - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  }
};

// The parameters that give `divisors`, which fix them up to a common scale of low, high and
// original_context: Llama 3's published low = 1 settles it. Between the plateaus smooth is a line
// in the frequency, and two of its points give it.
std::optional<Llama3Rope> fit_llama3(const std::vector<float>& divisors, double theta) {
  const double factor = shortest_decimal(*std::ranges::max_element(divisors));
  const auto frequency = [&](std::size_t i) {
    return std::pow(theta, -static_cast<double>(i) / static_cast<double>(divisors.size()));
  };
  const auto matches = [&](const Llama3Rope& rope) {
    for (std::size_t i = 0; i < divisors.size(); ++i) {
      if (!(std::abs(rope.divisor(frequency(i)) / divisors[i] - 1) < 1e-4)) return false;
    }
    return true;
  };
  // As published; of other models the context is a power of two too.
  if (const Llama3Rope published{factor, 1, 4, 8192}; matches(published)) return published;
  for (double context = 16; context <= 0x1p20; context *= 2)
    if (const Llama3Rope likely{factor, 1, 4, context}; matches(likely)) return likely;

  std::vector<std::size_t> slope;
  for (std::size_t i = 0; i < divisors.size(); ++i) {
    if (divisors[i] > 1 && divisors[i] < factor) slope.push_back(i);
  }
  if (slope.size() < 2) return std::nullopt;
  const auto smooth = [&](std::size_t i) {
    return (1 / divisors[i] - 1 / factor) / (1 - 1 / factor);
  };
  const std::size_t a = slope.front(), b = slope.back();
  const double gradient = (smooth(a) - smooth(b)) / (frequency(a) - frequency(b));
  const double high = 1 + 1 / (gradient * frequency(a) - smooth(a));
  const double context = gradient * (high - 1) * 2 * std::numbers::pi;
  if (!(context >= 1 && context <= INT32_MAX)) return std::nullopt;
  for (const Llama3Rope& rope : {Llama3Rope{factor, 1, std::round(high), std::round(context)},
                                 Llama3Rope{factor, 1, high, std::round(context)}}) {
    if (rope.high > 1 && matches(rope)) return rope;
  }
  return std::nullopt;
}

}  // namespace

Json gguf_rope_scaling(const GgufFile& file, const Keys& keys, std::int64_t head_dim,
                       double theta) {
  const Json* type = keys.find("rope.scaling.type");
  const std::string name = type == nullptr     ? "none"
                           : type->is_string() ? type->get<std::string>()
                                               : "malformed";
  const GgufTensor* divisors = find_tensor(file, "rope_freqs.weight");
  if (divisors != nullptr) {
    const std::vector<std::int64_t> expected{head_dim / 2};
    check(divisors->shape == expected && divisors->format->name == "F32", kOp,
          "{}: rope_freqs.weight: expected {} values in F32", file.where, head_dim / 2);
    std::vector<float> values(static_cast<std::size_t>(head_dim / 2));
    divisors->format->dequantize(divisors->data.data(), head_dim / 2, values.data());
    if (std::ranges::all_of(values, [](float v) { return v == 1; })) return nullptr;
    check(name == "none" &&
              std::ranges::all_of(values, [](float v) { return v >= 1 && std::isfinite(v); }),
          kOp, "{}: rope_freqs.weight together with rope scaling '{}' is not Llama 3's scaling",
          file.where, name);
    const auto rope = fit_llama3(values, theta);
    check(rope.has_value(), kOp,
          "{}: rope_freqs.weight fits no Llama 3 scaling (factor, low and high frequency factor, "
          "original context)",
          file.where);
    return {
        {"rope_type", "llama3"},
        {"factor", rope->factor},
        {"low_freq_factor", rope->low},
        {"high_freq_factor", rope->high},
        {"original_max_position_embeddings", static_cast<std::int64_t>(rope->original_context)}};
  }
  if (name == "none") return nullptr;
  check(name == "linear" || name == "yarn", kOp,
        "{}: rope scaling '{}' is not supported; expected none, linear, yarn or Llama 3's "
        "rope_freqs.weight",
        file.where, name);
  Json scaling{{"rope_type", name}, {"factor", keys.number("rope.scaling.factor")}};
  if (name == "yarn") {
    keys.require_neutral("rope.scaling.attn_factor", 1);  // Hugging Face's is another quantity
    keys.require_neutral("rope.scaling.yarn_attn_factor", 1);
    keys.require_neutral("rope.scaling.yarn_ext_factor", 1);
    keys.require_neutral("rope.scaling.yarn_log_multiplier", 0);
    scaling["original_max_position_embeddings"] =
        keys.integer("rope.scaling.original_context_length");
    for (const auto beta : {"beta_fast", "beta_slow"}) {
      const std::string key = fmt::format("rope.scaling.yarn_{}", beta);
      if (keys.find(key)) scaling[beta] = keys.number(key);
    }
  }
  return scaling;
}

std::vector<float> rope_to_gguf(const Json& config, const std::string& arch, std::int64_t head_dim,
                                Json& keys) {
  constexpr std::string_view kWrite = "write_gguf";
  // Older files: rope_theta and rope_scaling; Transformers 5: rope_parameters with both.
  Json rope = Json::object();
  for (const char* key : {"rope_parameters", "rope_scaling"})
    if (rope.empty() && config.contains(key) && config[key].is_object()) rope = config[key];
  const double theta = rope.value("rope_theta", config.value("rope_theta", 10000.0));
  keys[arch + ".rope.freq_base"] = theta;
  const std::string type = rope.value("rope_type", rope.value("type", std::string("default")));
  if (type == "default") return {};
  check(type == "linear" || type == "yarn" || type == "llama3", kWrite,
        "rope type \"{}\": expected default, linear, yarn or llama3", type);
  const double factor = rope.at("factor").get<double>();
  const double context = rope.value("original_max_position_embeddings",
                                    config.value("original_max_position_embeddings",
                                                 config.value("max_position_embeddings", 0.0)));
  if (type == "llama3") {
    const Llama3Rope llama3{factor, rope.at("low_freq_factor").get<double>(),
                            rope.at("high_freq_factor").get<double>(), context};
    std::vector<float> divisors;
    for (std::int64_t i = 0; i < head_dim / 2; ++i)
      divisors.push_back(static_cast<float>(llama3.divisor(
          std::pow(theta, -2 * static_cast<double>(i) / static_cast<double>(head_dim)))));
    return divisors;
  }
  keys[arch + ".rope.scaling.type"] = type;
  keys[arch + ".rope.scaling.factor"] = factor;
  if (type == "linear") return {};
  for (const char* key : {"attention_factor", "mscale", "mscale_all_dim", "truncate"})
    check(!rope.contains(key) || rope[key].is_null(), kWrite,
          "rope type yarn with {}: GGUF has another meaning of it", key);
  keys[arch + ".rope.scaling.original_context_length"] = static_cast<std::uint32_t>(context);
  for (const char* beta : {"beta_fast", "beta_slow"})
    if (rope.contains(beta))
      keys[fmt::format("{}.rope.scaling.yarn_{}", arch, beta)] = rope[beta].get<double>();
  return {};
}

}  // namespace qad::checkpoint
