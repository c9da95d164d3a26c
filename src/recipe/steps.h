// The steps that several commands share, each a call into the rooms: load a model, make calibration
// batches (quantise and write: quantize_steps.h). What a recipe's words mean in those rooms' types
// is said here and nowhere else.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "data/dataset.h"
#include "distill/trainer.h"
#include "models/model.h"
#include "quantize/policy.h"
#include "recipe/recipe.h"
#include "text/tokenizer.h"

namespace qad::recipe {

struct LoadedModel {
  checkpoint::Checkpoint source;
  models::Model model;
  text::Tokenizer tokenizer;

  bool quantized() const { return !source.quantization.is_null(); }
};
// The configuration of a model, of which there may be nothing else: a checkpoint, a folder with a
// config.json, or that file.
models::ModelConfig config_of(const fs::path& path);
LoadedModel load_model(const fs::path& path, const models::Placement& placement);
// The same without the model's values (models::open_model).
LoadedModel open_model(const fs::path& path, const models::Placement& placement);
// The values alone; of a checkpoint from 1 GB on, for which one waits, says on stderr how fast.
models::Model load_values(const checkpoint::Checkpoint& source, const models::Placement& placement);

// Throws Error "[operation] ..." unless both models have the same tokens.
void check_same_vocabulary(std::string_view operation, const LoadedModel& teacher,
                           const LoadedModel& student);

distill::StateType state_type_of(const std::string& word);  // fp32, bf16 or int8
quantize::Policy policy_of(const Recipe& recipe);
quantize::Policy policy_named(const std::string& name);  // a preset, or that of a .yaml recipe
distill::TrainConfig train_config_of(const Recipe& recipe);
data::RenderOptions render_options_of(const Recipe& recipe);

// What a recipe calibrates on: the first calibration.sequences documents of calibration.data (or of
// the first training file), each cut to calibration.seq_len tokens (or train.seq_len), a few a
// batch. Empty where nothing needs it (needs_calibration).
std::vector<models::Tokens> calibration_batches(const Recipe& recipe,
                                                const text::Tokenizer& tokenizer);

// The first documents, of `most` tokens in all; the last is cut.
std::vector<models::Tokens> first_tokens(const std::vector<models::Tokens>& batches,
                                         std::int64_t most);

// The share of quantised activations beyond their scale since the last call, which starts the count
// anew.
double clipped_share(models::Model& model);

// Every parameter's value, in the order of models::parameters(). quantize::quantize() puts new
// tensors in their place, so what is taken before it stays unquantised.
std::vector<at::Tensor> values_of(models::Model& model);

}  // namespace qad::recipe
