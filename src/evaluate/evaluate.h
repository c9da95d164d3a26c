// How good a model is, and how near to its teacher: cross-entropy, perplexity, KL and top-1
// agreement over held-out tokens, with standard errors over documents.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "data/batches.h"
#include "models/model.h"

namespace qad::evaluate {

struct Value {
  double mean = 0,
         se = 0;  // se: standard error over documents (ratio estimator: documents differ in length)
};

struct Metrics {
  Value ce, ppl;                  // nats a token; ppl = exp(ce), its se by the delta method
  std::optional<Value> kl, top1;  // against the teacher
  std::int64_t tokens = 0, documents = 0;
};

// A model scored against itself as teacher gives kl 0 and top1 1 without running it twice.
Metrics evaluate(const models::Model& model, const models::Model* teacher,
                 const std::vector<data::Batch>& batches,
                 const std::function<void(std::size_t done)>& progress = {});

// Documents cut to seq_len tokens and batched, `tokens_per_batch` a batch: the same for every model
// compared.
std::vector<data::Batch> evaluation_batches(const std::vector<data::Document>& documents,
                                            std::int64_t seq_len,
                                            std::int64_t tokens_per_batch = 4096);

}  // namespace qad::evaluate
