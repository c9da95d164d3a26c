// YAML in and out of a Recipe, driven by the key table in recipe.h.
#include "recipe/recipe.h"

#include <algorithm>

#include "core/yaml_keys.h"

namespace qad::recipe {

Recipe parse_recipe(const std::string& yaml, const std::string& where) {
  return yaml::parse<Recipe>(yaml, {"recipe", where});
}

Recipe load_recipe(const fs::path& file) {
  return parse_recipe(read_text(file), file.string());
}

void set_key(Recipe& recipe, const std::string& key, const std::string& value,
             const std::string& where) {
  yaml::set(recipe, key, value, {"recipe", where});
}

void set_assignment(Recipe& recipe, const std::string& assignment) {
  const auto [key, value] = yaml::split_assignment(assignment, "recipe");
  set_key(recipe, key, value, "--set " + assignment);
}

bool is_data_free(const Recipe& r) {
  return r.method == "qad" && r.data.train.empty();
}

namespace {

bool by_hessians(const Recipe& r) {
  return r.quantize.weight_scales == "hessian" || r.quantize.rounding == "gptq";
}

}  // namespace

bool format_has_fp8(const Recipe& r) {
  return r.format != "gguf" && r.format != "gguf-q8_0" && r.format != "mlx" &&
         r.format != "torchao";
}

void check_precisions(const Recipe& r) {
  for (const PolicyRule& rule : r.quantize.rules) {
    if (rule.format != "fp8") continue;
    check(rule.quantize, "recipe",
          "quantize.rules: {}: format: fp8 is for quantize: true; BF16 has no format",
          rule.pattern);
    check(format_has_fp8(r), "recipe",
          "quantize.rules: {}: {} has no weights in FP8: what was trained would be shipped as "
          "something else; write modelopt, compressed-tensors, hf-bf16 or gguf-bf16",
          rule.pattern, r.format);
  }
}

bool needs_calibration(const Recipe& r) {
  return r.quantize.policy != "nvfp4-weight-only" || r.quantize.kv_cache == "fp8" ||
         by_hessians(r) || r.quantize.bits > 0 ||
         std::ranges::any_of(r.quantize.transform,
                             [](const std::string& word) { return word != "hadamard"; });
}

bool quantizes_in_fp32(const Recipe& r) {
  return r.device == "cpu" || !r.quantize.transform.empty() || r.quantize.low_rank > 0 ||
         r.quantize.bits > 0;
}

void validate(const Recipe& r) {
  const auto require = [](bool ok, const char* key, const char* what) {
    check(ok, "recipe", "{}: {}", key, what);
  };
  require(!r.model.empty(), "model", "is missing: name the checkpoint to distil");
  require(!r.output.empty(), "output", "is empty");
  require(!r.data.test.empty() || is_data_free(r), "data.test",
          "is missing: the table BF16 | PTQ | QAD is measured on it");
  require(r.method != "qat" || !r.data.train.empty(), "data.train", "is missing");
  require(r.data.synthesize_tokens == 0 || is_data_free(r), "data.synthesize_tokens",
          "is for runs without data.train");
  require(!r.data.train.empty() || is_data_free(r) || !r.calibration.data.empty() ||
              !needs_calibration(r),
          "calibration.data",
          "is missing: scales of inputs, keys and values, scalings and Hessians need data (or "
          "quantize.policy: nvfp4-weight-only)");
  require(r.train.seq_len > 1, "train.seq_len", "must be at least 2");
  require(r.train.batch_sequences > 0, "train.batch_sequences", "must be at least 1");
  require(r.train.micro_sequences == 0 || r.train.batch_sequences % r.train.micro_sequences == 0,
          "train.micro_sequences", "must divide train.batch_sequences");
  require(r.method == "ptq" || r.train.steps > 0, "train.steps", "must be at least 1");
  require(r.method == "ptq" || r.train.learning_rate > 0, "train.learning_rate",
          "must be more than 0");
  require(r.train.beta1 < 1 && r.train.beta2 < 1, "train.beta1, train.beta2",
          "must be less than 1");
  require(r.train.epsilon > 0, "train.epsilon", "must be more than 0");
  require(r.train.final_fraction <= 1, "train.final_fraction", "must be at most 1");
  require(r.calibration.sequences > 0, "calibration.sequences", "must be at least 1");
  require(r.train.cache_folder.empty() || r.train.cache_teacher, "train.cache_folder",
          "is for train.cache_teacher: true");
  require(r.device != "cpu" || r.train.gradients == "fp32", "train.gradients",
          "bf16 is for device: cuda");
  require(r.device != "cpu" || r.train.logits == "fp32", "train.logits",
          "bf16 is for device: cuda");
  require(r.train.scales_rate >= 0, "train.scales_rate", "must not be negative");
  require(r.train.scales_rate == Recipe().train.scales_rate || r.train.learn_scales,
          "train.scales_rate", "is for train.learn_scales: true");
  require(r.method != "ptq" || !r.train.learn_scales, "train.learn_scales",
          "is for training; method: ptq has none");
  require(r.loss.temperature > 0, "loss.temperature", "must be more than 0");
  require(r.quantize.input_headroom >= 1, "quantize.input_headroom",
          "must be at least 1 (clipping is ruinous)");
  for (const std::string& word : r.quantize.transform)
    require(word == "awq" || word == "smoothquant" || word == "hadamard", "quantize.transform",
            "expected awq, smoothquant or hadamard");
  const auto& words = r.quantize.transform;
  require(
      words.empty() || std::ranges::find(words.begin() + 1, words.end(), "hadamard") == words.end(),
      "quantize.transform",
      "hadamard must come first: it takes norms' weights, and with them what was scaled before");
  require(r.quantize.low_rank >= 0, "quantize.low_rank", "must not be negative");
  require(r.quantize.low_rank == 0 || r.quantize.policy != "nvfp4-weight-only", "quantize.low_rank",
          "NVFP4_SVD quantises inputs; take another quantize.policy");
  require(r.quantize.low_rank == 0 || r.quantize.bits == 0, "quantize.low_rank, quantize.bits",
          "cannot be both: a budget of bits knows no corrections");
  require(r.quantize.smoothing >= 0 && r.quantize.smoothing <= 1, "quantize.smoothing",
          "must be 0 to 1");
  check_precisions(r);
  require(r.quantize.bits == 0 || (r.quantize.bits >= 4.5 && r.quantize.bits <= 16),
          "quantize.bits", "must be 4.5 (all NVFP4) to 16 (all BF16), or 0");
  require(r.method != "qat" || r.loss == ops::LossWeights{}, "loss",
          "method: qat is cross-entropy alone; leave the weights of losses out");
  require(r.loss.divergences() + r.loss.cross_entropy > 0, "loss",
          "all weights are 0: nothing would be learned");
}

std::vector<KeyInfo> keys() {
  std::vector<KeyInfo> all;
  const Recipe defaults;
  for_each_key(defaults,
               [&](const char* key, const auto& field, const char* words, const char* help) {
                 all.push_back({key, yaml::as_json(field).dump(), words, help});
               });
  return all;
}

Json to_json(const Recipe& recipe) {
  return yaml::to_json(recipe);
}

std::string to_yaml(const Recipe& recipe) {
  return yaml::to_yaml(recipe);
}

}  // namespace qad::recipe
