// The steps that several commands share, each a call into the rooms: load a model, make calibration
// batches, quantise, write a checkpoint. What a recipe's words mean in those rooms' types is said
// here and nowhere else.
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
LoadedModel load_model(const fs::path& path);

quantize::Policy policy_of(const Recipe& recipe);
distill::TrainConfig train_config_of(const Recipe& recipe);
data::RenderOptions render_options_of(const Recipe& recipe);

// The first `sequences` documents, each cut to seq_len tokens, a few documents a batch.
std::vector<models::Tokens> calibration_batches(const std::vector<data::Document>& documents,
                                                std::int64_t sequences, std::int64_t seq_len);

// Calibrates on `batches` (none for a weight-only policy) and quantises `model` in place; says what
// it does on stderr. Returns the largest input magnitudes found.
std::vector<float> calibrate_and_quantize(models::Model& model, const quantize::Policy& policy,
                                          const std::vector<models::Tokens>& batches);

// Every parameter's value, in the order of models::parameters(). quantize::quantize() puts new
// tensors in their place, so what is taken before it stays unquantised.
std::vector<at::Tensor> values_of(models::Model& model);

// The quantised model as a folder that serving engines load, with the source's tokenizer and
// configuration files.
void write_checkpoint(const fs::path& out, const models::Model& model,
                      const std::vector<at::Tensor>& masters, const checkpoint::Checkpoint& source);

}  // namespace qad::recipe
