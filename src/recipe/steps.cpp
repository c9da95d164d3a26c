// Glue between rooms; every function here reads as the sentence that names it.
#include "recipe/steps.h"

#include <algorithm>

#include "checkpoint/write.h"
#include "core/console.h"
#include "core/error.h"
#include "quantize/quantize.h"
#include "text/model_files.h"

namespace qad::recipe {
namespace {

// Documents a calibration batch holds: enough to keep the cores busy, few enough to keep
// activations small.
constexpr std::int64_t kCalibrationTokens = 4096;

nvfp4::BlockScale block_scale_of(const std::string& word) {
  if (word == "mse") return nvfp4::BlockScale::mse;
  if (word == "four_over_six") return nvfp4::BlockScale::four_over_six;
  return nvfp4::BlockScale::max;
}

}  // namespace

LoadedModel load_model(const fs::path& path) {
  checkpoint::Checkpoint source = checkpoint::open(path);
  models::Model model = models::load(source);
  text::Tokenizer tokenizer = text::tokenizer_of(source);
  check(tokenizer.vocab_size() <= model.config.vocabulary, "load_model",
        "{}: the tokenizer has {} ids, the model's vocabulary {}; is the tokenizer from this "
        "checkpoint?",
        path.string(), tokenizer.vocab_size(), model.config.vocabulary);
  return {std::move(source), std::move(model), std::move(tokenizer)};
}

quantize::Policy policy_of(const Recipe& recipe) {
  const auto& q = recipe.quantize;
  quantize::Policy policy = quantize::preset(q.policy);
  for (const PolicyRule& rule : q.rules)
    policy.rules.push_back({rule.pattern, rule.quantize, "rule " + rule.pattern});
  policy.keep_first = static_cast<int>(q.keep_first);
  policy.keep_last = static_cast<int>(q.keep_last);
  policy.global = q.global_scale == "amax" ? nvfp4::GlobalScale::amax : nvfp4::GlobalScale::pow2;
  policy.weights = block_scale_of(q.weight_scales);
  policy.inputs = block_scale_of(q.input_scales);
  policy.input_headroom = q.input_headroom;
  return policy;
}

distill::TrainConfig train_config_of(const Recipe& recipe) {
  const auto& t = recipe.train;
  distill::TrainConfig c;
  c.steps = t.steps;
  c.seq_len = t.seq_len;
  c.batch_sequences = t.batch_sequences;
  c.micro_sequences = t.micro_sequences;
  c.learning_rate = t.learning_rate;
  c.final_fraction = t.final_fraction;
  c.warmup_steps = t.warmup_steps;
  c.schedule = t.schedule == "linear"     ? distill::Schedule::linear
               : t.schedule == "constant" ? distill::Schedule::constant
                                          : distill::Schedule::cosine;
  c.beta1 = t.beta1;
  c.beta2 = t.beta2;
  c.epsilon = t.epsilon;
  c.weight_decay = t.weight_decay;
  c.clip_norm = t.clip_norm;
  c.validate_every =
      t.validate_every > 0 ? t.validate_every : std::max<std::int64_t>(1, t.steps / 10);
  c.keep_best = t.keep_best;
  c.save_every = t.save_every;
  c.cache_teacher = t.cache_teacher;
  c.seed = static_cast<std::uint64_t>(recipe.seed);
  const auto& l = recipe.loss;
  c.loss = {l.forward_kl, l.reverse_kl, l.jensen_shannon, l.mse, l.cross_entropy, l.temperature};
  if (recipe.method == "qat") c.loss = {0, 0, 0, 0, 1, 1};
  return c;
}

data::RenderOptions render_options_of(const Recipe& recipe) {
  data::RenderOptions options;
  options.mask = recipe.data.mask == "assistant" ? data::Mask::assistant : data::Mask::all;
  options.eos = recipe.data.eos;
  return options;
}

std::vector<models::Tokens> calibration_batches(const std::vector<data::Document>& documents,
                                                std::int64_t sequences, std::int64_t seq_len) {
  std::vector<models::Tokens> batches;
  std::vector<std::vector<std::int32_t>> batch;
  std::int64_t tokens = 0;
  const auto flush = [&] {
    if (!batch.empty()) batches.push_back(models::tokens_of(batch));
    batch.clear();
    tokens = 0;
  };
  for (const auto& document : documents) {
    if (sequences-- <= 0) break;
    const auto length =
        std::min<std::size_t>(document.ids.size(), static_cast<std::size_t>(seq_len));
    if (length == 0) continue;
    if (tokens + static_cast<std::int64_t>(length) > kCalibrationTokens) flush();
    batch.emplace_back(document.ids.begin(),
                       document.ids.begin() + static_cast<std::ptrdiff_t>(length));
    tokens += static_cast<std::int64_t>(length);
  }
  flush();
  return batches;
}

std::vector<float> calibrate_and_quantize(models::Model& model, const quantize::Policy& policy,
                                          const std::vector<models::Tokens>& batches) {
  std::vector<float> input_amax;
  if (policy.activations) {
    check(!batches.empty(), "calibrate", "input scales need calibration data; none was given");
    Progress progress("calibrate ");
    input_amax = quantize::calibrate(model, batches, [&](std::size_t done) {
      progress.show(fmt::format("{}/{} batches", done, batches.size()), done == batches.size());
    });
  }
  quantize::quantize(model, policy, input_amax);
  return input_amax;
}

std::vector<at::Tensor> values_of(models::Model& model) {
  std::vector<at::Tensor> values;
  for (const models::Parameter* p : models::parameters(model)) values.push_back(p->value);
  return values;
}

void write_checkpoint(const fs::path& out, const models::Model& model,
                      const std::vector<at::Tensor>& masters,
                      const checkpoint::Checkpoint& source) {
  checkpoint::OutFolder folder = quantize::export_folder(model, masters, source);
  folder.files = text::companion_files(source);
  checkpoint::write_folder(out, folder);
}

}  // namespace qad::recipe
