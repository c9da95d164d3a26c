// Rules over names, and the table that says what they did.
#include "quantize/policy.h"

#include <fmt/ranges.h>
#include <fnmatch.h>

#include <algorithm>

#include "core/error.h"
#include "core/nearest.h"

namespace qad::quantize {
namespace {

constexpr std::int64_t kBf16 = 2, kFloat = 4;

std::string verdict_text(const Verdict& v) {
  return v.quantize ? "quantised as " + std::string(ops::name_of(v.precision)) : v.why;
}

Verdict decide_part(const Policy& policy, const models::Linear& linear, const std::string& name,
                    std::int64_t layers) {
  Verdict v{name != "lm_head", name != "lm_head" ? "" : "output head"};
  for (const Rule& rule : policy.rules) {
    if (::fnmatch(rule.pattern.c_str(), name.c_str(), 0) != 0) continue;
    const std::string why = rule.why.empty() ? "rule " + rule.pattern : rule.why;
    v = {rule.quantize, rule.quantize ? "" : why, rule.precision};
  }
  if (linear.layer >= 0 && v.quantize) {
    if (linear.layer < policy.keep_first)
      v = {false, fmt::format("first {} layers", policy.keep_first)};
    else if (linear.layer >= layers - policy.keep_last)
      v = {false, fmt::format("last {} layers", policy.keep_last)};
  }
  const std::int64_t cols = linear.weight.value.size(1);
  if (v.quantize && cols % nvfp4::kBlock != 0)
    v = {false, fmt::format("{} columns are not a multiple of 16", cols)};
  if (!v.quantize) v.precision = ops::Precision::nvfp4;
  return v;
}

void add(std::vector<CoverageRow>& rows, const std::string& kind, std::int64_t tensors,
         std::int64_t parameters, std::int64_t bytes_before, std::int64_t bytes_after,
         const Verdict& v) {
  auto row = std::find_if(rows.begin(), rows.end(), [&](const CoverageRow& r) {
    return r.kind == kind && r.quantized == v.quantize && r.why == v.why &&
           r.precision == v.precision;
  });
  if (row == rows.end())
    row = rows.insert(rows.end(), {kind, 0, 0, 0, 0, v.quantize, v.why, v.precision});
  row->tensors += tensors;
  row->parameters += parameters;
  row->bytes_before += bytes_before;
  row->bytes_after += bytes_after;
}

// Of a nemotron_h, whose mixers and feed-forwards all go by one name.
void keep_hybrid_attention(Policy& policy) {
  policy.rules.push_back({"backbone.layers.*.mixer.[qkvo]_proj", false, "attention kept"});
}
void keep_layer(Policy& policy, int layer, const char* why) {
  policy.rules.push_back({fmt::format("backbone.layers.{}.mixer.*", layer), false, why});
}

}  // namespace

std::vector<std::string> presets() {
  return {"nvfp4", "nvfp4-weight-only", "nvfp4-mlp-only", "nvfp4-nano-9b-v2", "nvfp4-nano-30b-a3b"};
}

Policy preset(const std::string& name) {
  Policy policy;
  if (name == "nvfp4-weight-only") {
    policy.activations = false;
  } else if (name == "nvfp4-mlp-only") {
    policy.rules.push_back({"*.self_attn.*", false, "attention kept"});
  } else if (name == "nvfp4-nano-9b-v2") {
    keep_hybrid_attention(policy);
    for (const int layer : {0, 1, 54, 55}) keep_layer(policy, layer, "first and last two layers");
  } else if (name == "nvfp4-nano-30b-a3b") {
    keep_hybrid_attention(policy);
    for (const int layer : {4, 11, 18, 25, 32, 41}) keep_layer(policy, layer, "before attention");
    policy.fp8_cache = true;
  } else if (name != "nvfp4") {
    fail("quantize", "preset: expected one of {}, found \"{}\"{}", fmt::join(presets(), ", "), name,
         did_you_mean(name, presets()));
  }
  return policy;
}

Verdict decide(const Policy& policy, const models::Linear& linear, std::int64_t layers) {
  const models::Part& first = linear.weight.parts.front();
  const Verdict verdict = decide_part(policy, linear, linear_name(first), layers);
  for (const models::Part& part : linear.weight.parts) {
    const Verdict other = decide_part(policy, linear, linear_name(part), layers);
    check(other.quantize == verdict.quantize && other.precision == verdict.precision, "quantize",
          "policy: {} ({}) and {} ({}) read the same input and must be quantised together; widen "
          "or drop the rule",
          linear_name(first), verdict_text(verdict), linear_name(part), verdict_text(other));
  }
  return verdict;
}

namespace {

// Serving engines compute all experts of a layer in one kernel.
void check_experts(const models::Model& model, const Policy& policy) {
  const auto layers = static_cast<std::int64_t>(model.layers.size());
  for (const models::Layer& layer : model.layers) {
    if (!layer.experts) continue;
    const models::Linear& first = layer.experts->routed.front().gate_up;
    const Verdict wanted = decide(policy, first, layers);
    for (const models::Mlp& expert : layer.experts->routed)
      for (const models::Linear* l : {&expert.gate_up, &expert.down}) {
        const Verdict found = decide(policy, *l, layers);
        check(found.quantize == wanted.quantize && found.precision == wanted.precision, "quantize",
              "policy: {} ({}) and {} ({}): the experts of a layer must be quantised together; "
              "widen or drop the rule",
              linear_name(first.weight.parts.front()), verdict_text(wanted),
              linear_name(l->weight.parts.front()), verdict_text(found));
      }
  }
}

}  // namespace

void check_rules(const models::Model& model, const Policy& policy) {
  std::vector<std::string> names;
  for (const models::Linear* l : models::linears(model))
    for (const models::Part& part : l->weight.parts) names.push_back(linear_name(part));
  // A tied head is no linear, but a rule about it is no mistake.
  names.push_back("lm_head");
  for (const Rule& rule : policy.rules)
    check(std::any_of(names.begin(), names.end(),
                      [&](const std::string& name) {
                        return ::fnmatch(rule.pattern.c_str(), name.c_str(), 0) == 0;
                      }),
          "quantize",
          "policy: pattern \"{}\" matches no linear of this model; names look like {}{}",
          rule.pattern, names.front(), did_you_mean(rule.pattern, names));
  const auto layers = static_cast<int>(model.layers.size());
  check(policy.keep_first >= 0 && policy.keep_last >= 0 &&
            policy.keep_first + policy.keep_last <= layers,
        "quantize", "policy: keep_first {} and keep_last {} exceed the model's {} layers",
        policy.keep_first, policy.keep_last, layers);
  for (const Rule& rule : policy.rules) {
    if (!rule.quantize || rule.precision != ops::Precision::fp8) continue;
    check(policy.activations, "quantize",
          "policy: pattern \"{}\": FP8 quantises inputs too, which a policy for weights alone does "
          "not; drop format: fp8, or take another policy",
          rule.pattern);
  }
  check_experts(model, policy);
  const auto in = [&](ops::Precision precision) {
    return std::ranges::any_of(models::linears(model), [&](const models::Linear* l) {
      const Verdict v = decide(policy, *l, layers);
      return v.quantize && v.precision == precision;
    });
  };
  check(
      !policy.by_hessians() || in(ops::Precision::nvfp4) || !in(ops::Precision::fp8), "quantize",
      "policy: weight_scales: hessian and rounding: gptq are for NVFP4, and every quantised linear "
      "is FP8; choose max and nearest");
}

void check_device(const models::Model& model, const Policy& policy, const at::Device& device) {
  if (device.is_cpu()) return;
  for (const models::Layer& layer : model.layers) {
    if (!layer.experts) continue;
    const models::Linear& first = layer.experts->routed.front().gate_up;
    const Verdict v = decide(policy, first, static_cast<std::int64_t>(model.layers.size()));
    check(!v.quantize || v.precision != ops::Precision::fp8, "quantize",
          "policy: {}: experts in FP8 are computed on a CPU alone, found {}; use --device cpu, or "
          "leave them NVFP4 or BF16",
          linear_name(first.weight.parts.front()), device.str());
  }
}

std::vector<CoverageRow> coverage(const models::Model& model, const Policy& policy) {
  check_rules(model, policy);
  std::vector<CoverageRow> rows;
  std::int64_t all = 0, matrices = 0, matrix_tensors = 0, tensors = 0;
  for (const models::Linear* l : models::linears(model)) {
    const Verdict v = decide(policy, *l, static_cast<std::int64_t>(model.layers.size()));
    const std::int64_t cols = l->weight.value.size(1), n = l->weight.value.numel();
    const auto parts = static_cast<std::int64_t>(l->weight.parts.size());
    const std::int64_t scalars = parts * (policy.activations ? 8 : 4);
    const std::int64_t codes = v.precision == ops::Precision::fp8
                                   ? n
                                   : n / 2 + l->weight.value.size(0) * nvfp4::blocks_per_row(cols);
    add(rows, l->kind, parts, n, n * kBf16, v.quantize ? codes + scalars : n * kBf16, v);
    matrices += n;
    matrix_tensors += parts;
  }
  for (const models::Parameter* p : models::parameters(model)) {
    all += p->value.numel();
    tensors += static_cast<std::int64_t>(p->parts.size());
  }
  const auto plain = [&](const char* kind, std::int64_t n, std::int64_t bytes, const char* why) {
    add(rows, kind, 1, n, bytes, bytes, {false, why});
    matrices += n;
    ++matrix_tensors;
  };
  for (const models::Linear* l : models::linears(model))
    if (l->low_rank) {
      const std::int64_t n = l->low_rank->down.value.numel() + l->low_rank->up.value.numel();
      const auto parts = static_cast<std::int64_t>(l->weight.parts.size());
      add(rows, "low rank", 2 * parts, n, 0, n * kBf16, {false, "corrects NVFP4 products"});
      matrices += n;
      matrix_tensors += 2 * parts;
    }
  const std::int64_t embedding = model.embedding.value.numel();
  plain("embedding", embedding, embedding * kBf16, "a table, not a product");
  for (const models::Layer& layer : model.layers) {
    if (layer.mamba) {
      const std::int64_t n = layer.mamba->conv.value.numel();
      plain("convolution", n, n * kBf16, "of each channel alone");
    }
    if (!layer.experts) continue;
    const std::int64_t n = layer.experts->router.value.numel();
    plain("router", n, n * kBf16, "chooses experts");
    if (!layer.experts->correction) continue;
    const std::int64_t corrections = layer.experts->correction->value.numel();
    plain("router correction", corrections, corrections * kFloat, "chooses experts");
  }
  const std::int64_t rest = all - matrices;
  add(rows, "norms and biases", tensors - matrix_tensors, rest, rest * kBf16, rest * kBf16,
      {false, "vectors"});
  return rows;
}

std::string_view format_of(const CoverageRow& row) {
  if (row.quantized) return ops::name_of(row.precision);
  return row.bytes_after == row.parameters * kFloat ? "F32" : "BF16";
}

std::string coverage_table(const std::vector<CoverageRow>& rows) {
  constexpr const char* kLine = "{:<17} {:>7} {:>14} {:>15} {:>15}  {}\n";
  std::string text =
      fmt::format(kLine, "layer", "tensors", "parameters", "bytes before", "bytes after", "format");
  CoverageRow sum{"total", 0, 0, 0, 0, false, ""};
  std::int64_t nvfp4 = 0, fp8 = 0;
  for (const CoverageRow& r : rows) {
    text += fmt::format(
        kLine, r.kind, r.tensors, r.parameters, r.bytes_before, r.bytes_after,
        r.quantized ? std::string(format_of(r)) : fmt::format("{}: {}", format_of(r), r.why));
    sum.tensors += r.tensors;
    sum.parameters += r.parameters;
    sum.bytes_before += r.bytes_before;
    sum.bytes_after += r.bytes_after;
    if (r.quantized) (r.precision == ops::Precision::fp8 ? fp8 : nvfp4) += r.parameters;
  }
  const auto percent = [&](std::int64_t n) {
    return 100.0 * static_cast<double>(n) /
           static_cast<double>(std::max<std::int64_t>(1, sum.parameters));
  };
  std::string shares = fmt::format("{:.1f} % of parameters in NVFP4", percent(nvfp4));
  if (fp8 > 0) shares += fmt::format(", {:.1f} % in FP8", percent(fp8));
  return text + fmt::format(kLine, sum.kind, sum.tensors, sum.parameters, sum.bytes_before,
                            sum.bytes_after, shares);
}

}  // namespace qad::quantize
