// The steps between an unquantised model and a quantised checkpoint, each a call into the rooms.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "models/model.h"
#include "quantize/policy.h"
#include "quantize/quantize.h"
#include "quantize/sensitivity.h"
#include "recipe/recipe.h"

namespace qad::recipe {

// Before the work: throws Error when the model, once it is quantised by `policy`, cannot be written
// to `out` as `format` (checkpoint/formats.h). `model` may be models::open_model's.
void check_format(const fs::path& out, const checkpoint::Checkpoint& source,
                  const models::Model& model, const quantize::Policy& policy,
                  const std::string& format);

// Quantises the checkpoint `source` into `out`, layer by layer: it is never in memory whole. Says
// on stderr what it does. `format` and `about` as for write_checkpoint.
void quantize_on_disk(const fs::path& out, const checkpoint::Checkpoint& source,
                      models::Model& model, const quantize::Policy& policy,
                      const std::vector<models::Tokens>& batches, const std::string& format,
                      const std::string& about);

// Gives a model whose head is its embedding one of its own if quantize.transform asks for a
// rotation; whether it did. A model without values (models::build) will do.
bool untie_head_for(const Recipe& recipe, models::Model& model);
// quantize.transform on an unquantised model in memory. What each did, a sentence, which is also
// said on stderr.
std::vector<std::string> transform(models::Model& model, const Recipe& recipe,
                                   const quantize::Policy& policy,
                                   const std::vector<models::Tokens>& batches);

// What scales are chosen by: the largest inputs, keys and values on `batches`, of the unquantised
// model. Nothing for a policy that needs none. Says on stderr which experts were not reached.
struct Calibration {
  std::vector<float> input_amax;  // in the order of models::linears(); empty: not needed
  std::vector<quantize::CacheMaxima> cache;
  std::vector<quantize::UnreachedExperts> unreached;
};
Calibration calibrate(const models::Model& model, const quantize::Policy& policy,
                      const std::vector<models::Tokens>& batches);

// quantize.bits on an unquantised model: what each group costs, which become FP8 or stay BF16, and
// the mean bits. Says so on stderr, with the rules that say the same in a recipe. Nothing for bits:
// 0.
struct MixedPrecision {
  std::vector<quantize::Sensitivity> groups;
  double bits = 0;
};
MixedPrecision choose_precision(models::Model& model, const Recipe& recipe,
                                const quantize::Policy& policy, const Calibration& calibration,
                                const std::vector<models::Tokens>& batches);

// Quantises `model` in place, by `calibration` and, where Hessians are asked for, `batches`; says
// what it does on stderr. Returns the masters, in the order of models::parameters().
std::vector<at::Tensor> quantize_in_memory(models::Model& model, const quantize::Policy& policy,
                                           const Calibration& calibration,
                                           const std::vector<models::Tokens>& batches);

// The quantised model in a format that serving engines load (checkpoint/formats.h), with the
// source's tokenizer and configuration files and a model card, of which `about` is Markdown: what
// was done to it. What the format had to change is said on stderr.
void write_checkpoint(const fs::path& out, const models::Model& model,
                      const std::vector<at::Tensor>& masters, const checkpoint::Checkpoint& source,
                      const std::string& format, const std::string& about);

}  // namespace qad::recipe
