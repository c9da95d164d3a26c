// Glue between rooms; every function here reads as the sentence that names it.
#include "recipe/steps.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "checkpoint/formats.h"
#include "core/console.h"
#include "core/error.h"
#include "quantize/by_hessians.h"
#include "quantize/quantize.h"
#include "text/gguf_tokenizer.h"
#include "text/model_files.h"

namespace qad::recipe {
namespace {

// Documents a calibration batch holds: enough to keep the cores busy, few enough to keep
// activations small.
constexpr std::size_t kCalibrationTokens = 4096;

nvfp4::BlockScale block_scale_of(const std::string& word) {
  if (word == "mse") return nvfp4::BlockScale::mse;
  if (word == "four_over_six") return nvfp4::BlockScale::four_over_six;
  return nvfp4::BlockScale::max;
}

}  // namespace

models::Model load_values(const checkpoint::Checkpoint& source,
                          const models::Placement& placement) {
  const auto start = std::chrono::steady_clock::now();
  models::Model model = models::load(source, placement);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  double bytes = 0;
  for (const auto& [name, tensor] : source.tensors)
    bytes += static_cast<double>(tensor.stored_bytes);
  if (bytes >= 1e9)
    note("loaded      {} in {:.2f} s, {}/s", human_bytes(bytes), took.count(),
         human_bytes(bytes / took.count()));
  return model;
}

namespace {

// With the tokenizer that belongs to it.
LoadedModel with_tokenizer(checkpoint::Checkpoint source, models::Model model) {
  text::Tokenizer tokenizer = text::tokenizer_of(source);
  check(tokenizer.vocab_size() <= model.config.vocabulary, "load_model",
        "{}: the tokenizer has {} ids, the model's vocabulary {}; is the tokenizer from this "
        "checkpoint?",
        source.path.string(), tokenizer.vocab_size(), model.config.vocabulary);
  return {std::move(source), std::move(model), std::move(tokenizer)};
}

}  // namespace

LoadedModel load_model(const fs::path& path, const models::Placement& placement) {
  checkpoint::Checkpoint source = checkpoint::open(path);
  models::Model model = load_values(source, placement);
  for (const MappedFile& file : source.files) file.release_pages();  // the model has its own copy
  return with_tokenizer(std::move(source), std::move(model));
}

LoadedModel open_model(const fs::path& path, const models::Placement& placement) {
  checkpoint::Checkpoint source = checkpoint::open(path);
  models::Model model = models::open_model(source, placement);
  return with_tokenizer(std::move(source), std::move(model));
}

void check_same_vocabulary(std::string_view operation, const LoadedModel& teacher,
                           const LoadedModel& student) {
  check(
      teacher.tokenizer.fingerprint() == student.tokenizer.fingerprint() &&
          teacher.model.config.vocabulary == student.model.config.vocabulary,
      operation,
      "{}: the teacher's vocabulary ({} ids) is not the student's ({} ids); distributions can only "
      "be compared over the same tokens",
      teacher.source.path.string(), teacher.model.config.vocabulary,
      student.model.config.vocabulary);
}

double clipped_share(models::Model& model) {
  double clipped = 0, seen = 0;
  for (models::Linear* linear : models::linears(model)) {
    if (!linear->quant) continue;
    if (const at::Tensor count = std::exchange(linear->quant->clipped, {}); count.defined())
      clipped += static_cast<double>(count.item<std::int64_t>());
    seen += static_cast<double>(std::exchange(linear->quant->seen, 0));
  }
  return seen > 0 ? clipped / seen : 0;
}

distill::StateType state_type_of(const std::string& word) {
  if (word == "bf16") return distill::StateType::bf16;
  if (word == "int8") return distill::StateType::int8;
  return distill::StateType::fp32;
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
  policy.hessian_scales = q.weight_scales == "hessian";
  policy.rounding = q.rounding == "gptq" ? quantize::Rounding::gptq : quantize::Rounding::nearest;
  policy.inputs = block_scale_of(q.input_scales);
  policy.input_headroom = q.input_headroom;
  return policy;
}

quantize::Policy policy_named(const std::string& name) {
  const bool is_file = name.ends_with(".yaml") || name.ends_with(".yml");
  return is_file ? policy_of(load_recipe(name)) : quantize::preset(name);
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
  c.cache_folder = t.cache_folder;
  c.split_masters = t.masters == "split";
  c.optimizer_states = state_type_of(t.optimizer_states);
  c.bf16_gradients = t.gradients == "bf16";
  c.cuda_graphs = t.cuda_graphs;
  c.learn_scales = t.learn_scales;
  c.bf16_logits = t.logits == "bf16";
  c.seed = static_cast<std::uint64_t>(recipe.seed);
  c.state_folder = fs::path(recipe.output) / "state";
  c.loss = recipe.loss;
  if (recipe.method == "qat") c.loss = {.forward_kl = 0, .cross_entropy = 1};
  return c;
}

data::RenderOptions render_options_of(const Recipe& recipe) {
  data::RenderOptions options;
  options.mask = recipe.data.mask == "assistant" ? data::Mask::assistant : data::Mask::all;
  options.eos = recipe.data.eos;
  return options;
}

std::vector<models::Tokens> calibration_batches(const Recipe& recipe,
                                                const text::Tokenizer& tokenizer) {
  const quantize::Policy policy = policy_of(recipe);
  if (!policy.activations && !quantize::by_hessians(policy)) return {};
  const auto& c = recipe.calibration;
  check(!c.data.empty() || !recipe.data.train.empty(), "calibrate",
        "input scales and Hessians need data: give calibration.data (qad quantize: --calib); the "
        "policy nvfp4-weight-only with scales by rule and rounding to nearest needs none");
  data::RenderOptions options = render_options_of(recipe);
  options.max_documents = c.sequences;
  const std::string file = c.data.empty() ? recipe.data.train.front().file : c.data;
  const auto longest = static_cast<std::size_t>(c.seq_len > 0 ? c.seq_len : recipe.train.seq_len);

  std::vector<models::Tokens> batches;
  std::vector<std::vector<std::int32_t>> batch;
  std::size_t tokens = 0;
  const auto flush = [&] {
    if (!batch.empty()) batches.push_back(models::tokens_of(batch));
    batch.clear();
    tokens = 0;
  };
  for (auto& document : data::read_documents(file, tokenizer, options)) {
    if (document.ids.empty()) continue;
    document.ids.resize(std::min(document.ids.size(), longest));
    if (tokens + document.ids.size() > kCalibrationTokens) flush();
    tokens += document.ids.size();
    batch.push_back(std::move(document.ids));
  }
  flush();
  return batches;
}

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

// Of the walk by Hessians, which goes on from layer to layer.
std::function<void(std::size_t)> layer_progress(const models::Model& model) {
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

}  // namespace

Quantised calibrate_and_quantize(models::Model& model, const quantize::Policy& policy,
                                 const std::vector<models::Tokens>& batches) {
  std::vector<float> input_amax;
  Quantised out;
  if (policy.activations) {
    check(!batches.empty(), "calibrate", "input scales need calibration data; none was given");
    Progress progress("calibrate ");
    input_amax = quantize::calibrate(model, batches, [&](std::size_t done) {
      progress.show(fmt::format("{}/{} batches", done, batches.size()), done == batches.size());
    });
    out.unreached = lend_maxima(model, input_amax);
  }
  if (quantize::by_hessians(policy)) {
    auto rounded =
        quantize::quantize_by_hessians(model, policy, input_amax, batches, layer_progress(model));
    say_plain(rounded.plain);
    out.masters = std::move(rounded.masters);
    clipped_share(model);  // the count starts anew
  } else {
    out.masters = values_of(model);
    quantize::quantize(model, policy, input_amax);
  }
  if (!policy.activations) return out;
  const at::NoGradGuard no_grad;
  for (const models::Tokens& batch : batches) models::forward(model, batch);
  note("activations {:.2g} % clipped on the calibration data", 100 * clipped_share(model));
  return out;
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

void quantize_on_disk(const fs::path& out, const checkpoint::Checkpoint& source,
                      models::Model& model, const quantize::Policy& policy,
                      const std::vector<models::Tokens>& batches, const std::string& format,
                      const std::string& about) {
  const bool by_hessians = quantize::by_hessians(policy);
  if (by_hessians) model.placement.packs_weights = false;  // it changes them
  std::vector<float> input_amax;
  if (policy.activations) {
    check(!batches.empty(), "calibrate", "input scales need calibration data; none was given");
    Progress progress("calibrate ");
    const std::size_t layers = model.layers.size();
    input_amax = quantize::calibrate(source, model, batches, [&](std::size_t done) {
      progress.show(fmt::format("{}/{} layers", done, layers), done == layers);
    });
    lend_maxima(model, input_amax);
  }
  quantize::choose_quantised(model, policy, input_amax);
  quantize::CodesByHessians rounded;
  if (by_hessians) {
    rounded = quantize::quantize_by_hessians(source, model, policy, batches, layer_progress(model));
    say_plain(rounded.plain);
  }
  Progress progress("quantise  ");
  checkpoint::OutModel m = quantize::export_from(source, model, policy.global, rounded.weights);
  m.progress = [&](std::int64_t done, std::int64_t all) {
    progress.show(fmt::format("{} of {}", human_bytes(static_cast<double>(done)),
                              human_bytes(static_cast<double>(all))),
                  done == all);
  };
  write_as(out, std::move(m), source, format, about);
}

std::vector<at::Tensor> values_of(models::Model& model) {
  std::vector<at::Tensor> values;
  for (const models::Parameter* p : models::parameters(model)) values.push_back(p->value);
  return values;
}

void write_checkpoint(const fs::path& out, const models::Model& model,
                      const std::vector<at::Tensor>& masters, const checkpoint::Checkpoint& source,
                      const std::string& format, const std::string& about) {
  write_as(out, quantize::export_model(model, masters, source), source, format, about);
}

}  // namespace qad::recipe
