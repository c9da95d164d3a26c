// Glue between rooms; every function here reads as the sentence that names it.
#include "recipe/steps.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/console.h"
#include "core/error.h"
#include "quantize/quantize.h"
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

models::ModelConfig config_of(const fs::path& path) {
  const bool folder = fs::exists(path / "config.json");
  if (!folder && path.extension() != ".json") {
    const checkpoint::Checkpoint c = checkpoint::open(path);
    return models::parse_config(c.config, c.generation_config);
  }
  return models::parse_config(read_json(folder ? path / "config.json" : path), Json());
}

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
    policy.rules.push_back({rule.pattern, rule.quantize, "rule " + rule.pattern,
                            rule.format == "fp8" ? ops::Precision::fp8 : ops::Precision::nvfp4});
  policy.keep_first = static_cast<int>(q.keep_first);
  policy.keep_last = static_cast<int>(q.keep_last);
  policy.global = q.global_scale == "amax" ? nvfp4::GlobalScale::amax : nvfp4::GlobalScale::pow2;
  policy.weights = block_scale_of(q.weight_scales);
  policy.hessian_scales = q.weight_scales == "hessian";
  policy.rounding = q.rounding == "gptq" ? quantize::Rounding::gptq : quantize::Rounding::nearest;
  policy.inputs = block_scale_of(q.input_scales);
  policy.input_headroom = q.input_headroom;
  policy.low_rank = q.low_rank;
  if (q.kv_cache != "preset") policy.fp8_cache = q.kv_cache == "fp8";
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
  c.scales_rate = t.scales_rate;
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
  if (!needs_calibration(recipe)) return {};
  const auto& c = recipe.calibration;
  check(!c.data.empty() || !recipe.data.train.empty(), "calibrate",
        "scales of inputs, keys and values, scalings and Hessians need data: give calibration.data "
        "(qad quantize: --calib); the policy nvfp4-weight-only with scales by rule and rounding to "
        "nearest needs none");
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

std::vector<models::Tokens> first_tokens(const std::vector<models::Tokens>& batches,
                                         std::int64_t most) {
  std::vector<models::Tokens> out;
  for (const models::Tokens& batch : batches) {
    std::vector<std::int64_t> ids;
    std::vector<std::int32_t> ends;
    const std::int64_t* from = batch.ids.const_data_ptr<std::int64_t>();
    const std::int32_t* offsets = batch.cu_seqlens.const_data_ptr<std::int32_t>();
    for (std::int64_t d = 0; d + 1 < batch.cu_seqlens.numel() && most > 0; ++d) {
      const std::int64_t n = std::min<std::int64_t>(most, offsets[d + 1] - offsets[d]);
      ids.insert(ids.end(), from + offsets[d], from + offsets[d] + n);
      ends.push_back(static_cast<std::int32_t>(ids.size()));
      most -= n;
    }
    if (!ids.empty()) out.push_back(models::make_tokens(ids, ends));
  }
  return out;
}

std::vector<at::Tensor> values_of(models::Model& model) {
  std::vector<at::Tensor> values;
  for (const models::Parameter* p : models::parameters(model)) values.push_back(p->value);
  return values;
}

}  // namespace qad::recipe
