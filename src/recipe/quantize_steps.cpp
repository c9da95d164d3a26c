// From an unquantised model to a quantised one, in memory or on its way from disk to disk.
#include "recipe/quantize_steps.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "checkpoint/formats.h"
#include "core/console.h"
#include "core/error.h"
#include "quantize/by_hessians.h"
#include "quantize/transform.h"
#include "recipe/steps.h"
#include "text/gguf_tokenizer.h"
#include "text/model_files.h"

namespace qad::recipe {
namespace {

// Before scales are chosen: says who was not reached, and lends them their maxima.
std::vector<quantize::UnreachedExperts> lend_maxima(const models::Model& model,
                                                    std::vector<float>& input_amax) {
  auto unreached = quantize::lend_maxima(model, input_amax);
  if (!unreached.empty())
    note(
        "experts     that calibration did not reach have the largest input scale of their layer: "
        "{}",
        quantize::to_text(unreached));
  return unreached;
}

// What scales are chosen by, if the policy needs anything: largest(progress, cache) gives the
// linears' maxima, and tells `progress` how many of `count` are done.
template <class Largest>
Calibration calibrated(const models::Model& model, const quantize::Policy& policy,
                       const std::vector<models::Tokens>& batches, std::size_t count,
                       std::string_view unit, Largest&& largest) {
  Calibration out;
  if (!policy.needs_maxima()) return out;
  check(!batches.empty(), "calibrate", "scales need calibration data; none was given");
  Progress progress("calibrate ");
  const auto show = [&](std::size_t done) {
    progress.show(fmt::format("{}/{} {}", done, count, unit), done == count);
  };
  out.input_amax = largest(show, &out.cache);
  if (policy.activations) out.unreached = lend_maxima(model, out.input_amax);
  return out;
}

// Of the walk by Hessians, which goes on from layer to layer; says what they take.
std::function<void(std::size_t)> layer_progress(const models::Model& model,
                                                const quantize::Policy& policy) {
  note("hessians    {} for the largest layer", human_bytes(quantize::hessian_bytes(model, policy)));
  return [progress = std::make_shared<Progress>("round     "),
          layers = model.layers.size()](std::size_t done) {
    progress->show(fmt::format("{}/{} layers", done, layers), done == layers);
  };
}

void say_plain(const std::vector<quantize::UnreachedExperts>& plain) {
  if (!plain.empty())
    note("experts     with too few tokens for a Hessian are rounded to nearest by the rule: {}",
         quantize::to_text(plain));
}

std::string scale_channels(models::Model& model, const Recipe& recipe,
                           const quantize::Policy& policy, const std::string& word,
                           const std::vector<models::Tokens>& batches) {
  Progress progress(fmt::format("{:<10}", word));
  const auto rule = word == "awq" ? quantize::ScaleRule::awq : quantize::ScaleRule::smoothquant;
  const auto sites = quantize::scale_channels(
      model, policy, rule, recipe.quantize.smoothing, batches, [&](std::size_t done) {
        progress.show(fmt::format("{}/{} layers", done, model.layers.size()),
                      done == model.layers.size());
      });
  if (word == "smoothquant")
    return fmt::format("smoothquant scaled the inputs of {} norms' readers, alpha {}", sites.size(),
                       recipe.quantize.smoothing);
  if (sites.empty()) return "awq found nothing to scale: no reader of a site is quantised";
  std::size_t scaled = 0;
  double before = 0, after = 0, alphas = 0, logs = 0;
  for (const quantize::SiteScales& s : sites) {
    scaled += s.alpha > 0;
    alphas += s.alpha;
    if (s.error_before > 0) logs += std::log(s.error_after / s.error_before);
    before += s.error_before;
    after += s.error_after;
  }
  return fmt::format(
      "awq scaled {} of {} sites, mean alpha {:.2f}; the error of quantised outputs is {:.2f} of "
      "what it was (mean of sites; {:.2f} of their sum)",
      scaled, sites.size(), alphas / static_cast<double>(sites.size()),
      std::exp(logs / static_cast<double>(sites.size())), after / before);
}

}  // namespace

bool untie_head_for(const Recipe& recipe, models::Model& model) {
  const auto& words = recipe.quantize.transform;
  return std::ranges::find(words, "hadamard") != words.end() && quantize::untie_head(model);
}

std::vector<std::string> transform(models::Model& model, const Recipe& recipe,
                                   const quantize::Policy& policy,
                                   const std::vector<models::Tokens>& batches) {
  std::vector<std::string> done;
  for (const std::string& word : recipe.quantize.transform) {
    if (word == "hadamard") {
      quantize::rotate(model, static_cast<std::uint64_t>(recipe.seed));
      done.push_back(fmt::format("hadamard rotated the residual stream ({}) and each head's values",
                                 model.config.hidden));
    } else {
      done.push_back(scale_channels(model, recipe, policy, word, batches));
    }
    note("transform   {}", done.back());
  }
  return done;
}

namespace {

// Of a recipe, as YAML on one line.
std::string as_yaml(const std::vector<quantize::Rule>& rules) {
  std::string text;
  for (const quantize::Rule& rule : rules)
    text +=
        fmt::format("{}{{pattern: '{}', quantize: {}{}}}", text.empty() ? "" : ", ", rule.pattern,
                    rule.quantize, rule.precision == ops::Precision::fp8 ? ", format: fp8" : "");
  return "[" + text + "]";
}

}  // namespace

MixedPrecision choose_precision(models::Model& model, const Recipe& recipe,
                                const quantize::Policy& policy, const Calibration& calibration,
                                const std::vector<models::Tokens>& batches) {
  if (recipe.quantize.bits == 0) return {};
  MixedPrecision chosen;
  const bool experts_on_gpu =
      recipe.device != "cpu" && std::ranges::any_of(model.layers, [](const models::Layer& layer) {
        return layer.experts.has_value();
      });
  const bool fp8 = policy.activations && format_has_fp8(recipe) && !experts_on_gpu;
  if (!fp8)
    note("bits        of NVFP4 and BF16 alone: {}",
         !policy.activations ? "FP8 quantises inputs too, which this policy does not"
         : experts_on_gpu    ? "a GPU computes no experts in FP8"
                             : recipe.format + " has no weights in FP8");
  {
    Progress progress("sensitivity ");
    chosen.groups = quantize::sensitivities(
        model, policy, fp8, calibration.input_amax,
        first_tokens(batches, recipe.quantize.sensitivity_tokens),
        [&](std::size_t done, std::size_t all) {
          progress.show(fmt::format("{}/{} groups of linears", done, all), done == all);
        });
  }
  chosen.bits = quantize::choose(chosen.groups, recipe.quantize.bits);
  const auto rules = quantize::rules_of(chosen.groups);
  note(
      "sensitivity KL to the unquantised model, nats a token, of each group alone in the policy's "
      "precision; * stays BF16, + becomes FP8\n{}",
      quantize::sensitivity_table(chosen.groups));
  note("bits        {:.3f} a weight of at most {}; the same as quantize.rules: {}", chosen.bits,
       recipe.quantize.bits, as_yaml(rules));
  return chosen;
}

Calibration calibrate(const models::Model& model, const quantize::Policy& policy,
                      const std::vector<models::Tokens>& batches) {
  return calibrated(model, policy, batches, batches.size(), "batches",
                    [&](const auto& progress, auto* cache) {
                      return quantize::calibrate(model, batches, progress, cache);
                    });
}

std::vector<at::Tensor> quantize_in_memory(models::Model& model, const quantize::Policy& policy,
                                           const Calibration& calibration,
                                           const std::vector<models::Tokens>& batches) {
  std::vector<at::Tensor> masters;
  if (policy.fp8_cache) quantize::quantize_cache(model, policy.global, calibration.cache);
  if (policy.by_hessians()) {
    auto rounded = quantize::quantize_by_hessians(model, policy, calibration.input_amax, batches,
                                                  layer_progress(model, policy));
    say_plain(rounded.plain);
    masters = std::move(rounded.masters);
    clipped_share(model);  // the count starts anew
  } else {
    masters = values_of(model);
    quantize::quantize(model, policy, calibration.input_amax);
  }
  if (!policy.activations) return masters;
  const at::NoGradGuard no_grad;
  for (const models::Tokens& batch : batches) models::forward(model, batch);
  note("activations {:.2g} % clipped on the calibration data", 100 * clipped_share(model));
  return masters;
}

namespace {

void write_as(const fs::path& out, checkpoint::OutModel m, const checkpoint::Checkpoint& source,
              const std::string& format, const std::string& about) {
  const checkpoint::Format& chosen = checkpoint::format_named(format);
  m.files = text::companion_files(source);
  m.name = checkpoint::model_name(source.path);
  m.about = about;
  if (chosen.name.starts_with("gguf")) m.tokenizer = text::gguf_tokenizer(source);
  for (const std::string& change : chosen.write(out, m)) note("{}      {}", chosen.name, change);
}

}  // namespace

void check_format(const fs::path& out, const checkpoint::Checkpoint& source,
                  const models::Model& model, const quantize::Policy& policy,
                  const std::string& format) {
  const checkpoint::Format& chosen = checkpoint::format_named(format);
  checkpoint::OutModel m = quantize::outline(source, model, policy);
  if (chosen.name.starts_with("gguf")) m.tokenizer = text::gguf_tokenizer(source);
  checkpoint::check_format(chosen, out, m);
}

void quantize_on_disk(const fs::path& out, const checkpoint::Checkpoint& source,
                      models::Model& model, const quantize::Policy& policy,
                      const std::vector<models::Tokens>& batches, const std::string& format,
                      const std::string& about) {
  const bool by_hessians = policy.by_hessians();
  if (by_hessians) model.placement.packs_weights = false;  // it changes them
  const Calibration calibration =
      calibrated(model, policy, batches, model.layers.size(), "layers",
                 [&](const auto& progress, auto* cache) {
                   return quantize::calibrate(source, model, batches, progress, cache);
                 });
  quantize::choose_quantised(model, policy, calibration.input_amax);
  if (policy.fp8_cache) quantize::quantize_cache(model, policy.global, calibration.cache);
  quantize::CodesByHessians rounded;
  if (by_hessians) {
    rounded = quantize::quantize_by_hessians(source, model, policy, batches,
                                             layer_progress(model, policy));
    say_plain(rounded.plain);
  }
  const bool scales_first = checkpoint::format_named(format).scales_first;
  checkpoint::OutModel m =
      quantize::export_from(source, model, policy.global, rounded.weights, scales_first);
  Progress progress("quantise  ");
  m.progress = [&](std::int64_t done, std::int64_t all) {
    progress.show(fmt::format("{} of {}", human_bytes(static_cast<double>(done)),
                              human_bytes(static_cast<double>(all))),
                  done == all);
  };
  write_as(out, std::move(m), source, format, about);
}

void write_checkpoint(const fs::path& out, const models::Model& model,
                      const std::vector<at::Tensor>& masters, const checkpoint::Checkpoint& source,
                      const std::string& format, const std::string& about) {
  write_as(out, quantize::export_model(model, masters, source), source, format, about);
}

}  // namespace qad::recipe
