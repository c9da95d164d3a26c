// One pass over the held-out tokens: per-token figures from the head-and-loss operator, summed by
// document, then means with standard errors.
#include "evaluate/evaluate.h"

#include <cmath>
#include <limits>
#include <map>

#include "core/error.h"
#include "evaluate/ratio.h"
#include "ops/head_loss.h"

namespace qad::evaluate {

Value ratio(std::span<const double> sums, std::span<const double> counts) {
  double sum = 0, count = 0;
  for (double y : sums) sum += y;
  for (double n : counts) count += n;
  Value value;
  value.mean = sum / count;
  double squares = 0;
  for (std::size_t i = 0; i < sums.size(); ++i) {
    const double residual = sums[i] - value.mean * counts[i];
    squares += residual * residual;
  }
  const double documents = static_cast<double>(sums.size());
  value.se = documents > 1 ? std::sqrt(squares * documents / (documents - 1)) / count
                           : std::numeric_limits<double>::quiet_NaN();
  return value;
}

namespace {

// Sums over the target tokens of one document.
struct Sums {
  double tokens = 0, ce = 0, kl = 0, agree = 0;
};

void add(std::map<std::int64_t, Sums>& documents, const data::Batch& batch,
         const ops::HeadOutputs& out) {
  const float* weights = batch.weights.const_data_ptr<float>();
  const auto here = [](const at::Tensor& t) { return t.defined() ? t.to(at::kCPU) : t; };
  const at::Tensor ces = here(out.ce), kls = here(out.kl), agrees = here(out.agree);
  const float* ce = ces.const_data_ptr<float>();
  const float* kl = kls.defined() ? kls.const_data_ptr<float>() : nullptr;
  const float* agree = agrees.defined() ? agrees.const_data_ptr<float>() : nullptr;
  for (std::size_t i = 0; i < batch.document.size(); ++i) {
    if (weights[i] == 0) continue;
    Sums& s = documents[batch.document[i]];
    s.tokens += 1;
    s.ce += ce[i];
    if (kl != nullptr) s.kl += kl[i];
    if (agree != nullptr) s.agree += agree[i];
  }
}

}  // namespace

Metrics evaluate(const models::Model& model, const models::Model* teacher,
                 const std::vector<data::Batch>& batches,
                 const std::function<void(std::size_t done)>& progress) {
  check(teacher == nullptr || teacher->config.vocabulary == model.config.vocabulary, "evaluate",
        "the teacher has {} tokens, the model {}; a divergence needs one vocabulary",
        teacher == nullptr ? 0 : teacher->config.vocabulary, model.config.vocabulary);
  const at::NoGradGuard guard;
  const bool itself = teacher == &model;
  const auto hidden = [](const models::Model& m, const models::Tokens& tokens) {
    return models::head_input(m, models::forward(m, tokens));
  };
  ops::LossWeights loss;  // only the per-token figures are wanted, which every loss brings
  loss.forward_kl = 0;
  loss.cross_entropy = 1;
  std::map<std::int64_t, Sums> documents;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const data::Batch& batch = batches[i];
    ops::HeadInputs in;
    in.student_hidden = hidden(model, batch.tokens);
    in.student_weight = model.head_weight();
    if (teacher != nullptr && !itself) {
      in.teacher_hidden = hidden(*teacher, batch.tokens);
      in.teacher_weight = teacher->head_weight();
    }
    in.labels = batch.labels;
    in.weights = batch.weights;
    add(documents, batch, ops::head_loss(in, loss));
    if (progress) progress(i + 1);
  }
  check(!documents.empty(), "evaluate", "the data has no token to predict");

  std::vector<double> tokens, ce, kl, agree;
  for (const auto& [document, s] : documents) {
    tokens.push_back(s.tokens);
    ce.push_back(s.ce);
    kl.push_back(s.kl);
    agree.push_back(itself ? s.tokens : s.agree);
  }
  Metrics m;
  m.documents = static_cast<std::int64_t>(documents.size());
  for (double n : tokens) m.tokens += static_cast<std::int64_t>(n);
  m.ce = ratio(ce, tokens);
  m.ppl = {std::exp(m.ce.mean), std::exp(m.ce.mean) * m.ce.se};
  if (teacher != nullptr) {
    m.kl = ratio(kl, tokens);
    m.top1 = ratio(agree, tokens);
  }
  return m;
}

std::vector<data::Batch> evaluation_batches(const std::vector<data::Document>& documents,
                                            std::int64_t seq_len, std::int64_t tokens_per_batch) {
  const std::vector<data::Sequence> sequences = data::pack(documents, seq_len, false);
  std::vector<data::Batch> batches;
  std::vector<const data::Sequence*> group;
  std::int64_t tokens = 0;
  const auto flush = [&] {
    if (!group.empty()) batches.push_back(data::make_batch(documents, group));
    group.clear();
    tokens = 0;
  };
  for (const data::Sequence& s : sequences) {
    const std::int64_t length = s.front().length;  // unpacked: one piece
    if (tokens + length > tokens_per_batch) flush();
    group.push_back(&s);
    tokens += length;
  }
  flush();
  return batches;
}

}  // namespace qad::evaluate
