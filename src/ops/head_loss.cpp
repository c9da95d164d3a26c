// The distillation head: chunks of tokens go through both output matrices, head_row, and back.
// Gradients are made in the forward pass, while a chunk's logits are there: the loss is a scalar,
// so the backward pass has only to multiply them.
#include "ops/head_loss.h"

#include "ops/autograd.h"
#include "ops/dispatch.h"
#include "ops/head_row.h"
#include "ops/product.h"
#include "ops/unpack_losses.h"

namespace qad::ops {
namespace {

using at::Tensor;
using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Logits of a chunk stay below this, and a chunk below this many tokens, since logits that stay in
// a cache need not come back from memory.
constexpr std::int64_t kLogitBytes = 64 << 20;
constexpr std::int64_t kMaxChunk = 1024;

std::int64_t default_chunk(std::int64_t vocabulary, int models) {
  const std::int64_t fit = kLogitBytes / (4 * vocabulary * models);
  return std::clamp<std::int64_t>(fit / 16 * 16, 16, kMaxChunk);
}

std::vector<double> pack(const LossWeights& w) {
  std::vector<double> values;
  for_each_loss(w, [&](const char*, double member) { values.push_back(member); });
  return values;
}

void check_inputs(const HeadInputs& in) {
  check_floats(in.student_hidden, 2, "head_loss", "student_hidden");
  check_floats(in.student_weight, 2, "head_loss", "student_weight");
  const std::int64_t tokens = in.student_hidden.size(0);
  check_size(in.student_weight.size(1), in.student_hidden.size(1), "head_loss",
             "columns of student_weight");
  check_ints(in.labels, at::kLong, "head_loss", "labels");
  check_size(in.labels.size(0), tokens, "head_loss", "number of labels");
  check_floats(in.weights, 1, "head_loss", "weights");
  check_size(in.weights.size(0), tokens, "head_loss", "number of weights");
  if (!in.teacher_hidden.defined()) return;
  check_floats(in.teacher_hidden, 2, "head_loss", "teacher_hidden");
  check_floats(in.teacher_weight, 2, "head_loss", "teacher_weight");
  check_size(in.teacher_hidden.size(0), tokens, "head_loss", "rows of teacher_hidden");
  check_size(in.teacher_weight.size(1), in.teacher_hidden.size(1), "head_loss",
             "columns of teacher_weight");
  check_size(in.teacher_weight.size(0), in.student_weight.size(0), "head_loss",
             "the teacher's vocabulary");
}

// Positions that count; undefined when all do.
Tensor kept_rows(const Tensor& weights, const Tensor& labels, std::int64_t vocabulary) {
  const float* w = weights.const_data_ptr<float>();
  const std::int64_t* label = labels.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> kept;
  for (std::int64_t t = 0; t < weights.numel(); ++t) {
    if (w[t] == 0) continue;
    check(label[t] >= 0 && label[t] < vocabulary, "head_loss",
          "position {} has label {}: expected 0 to {}", t, label[t], vocabulary - 1);
    kept.push_back(t);
  }
  if (static_cast<std::int64_t>(kept.size()) == weights.numel()) return {};
  return at::tensor(kept, at::kLong);
}

Outputs head_loss_cpu(const Tensor& student_hidden, const Tensor& student_weight,
                      const std::optional<Tensor>& teacher_hidden,
                      const std::optional<Tensor>& teacher_weight, const Tensor& labels,
                      const Tensor& weights, at::ArrayRef<double> loss_weights,
                      std::int64_t chunk_tokens, bool hidden_grad, bool weight_grad,
                      bool bf16_logits) {
  check(!bf16_logits, "head_loss",
        "bf16_logits: a CPU keeps logits in float32; expected false, found true");
  HeadInputs in{student_hidden.contiguous(),
                student_weight.contiguous(),
                teacher_hidden.value_or(Tensor()),
                teacher_weight.value_or(Tensor()),
                labels.contiguous(),
                weights.contiguous()};
  check_inputs(in);
  const std::int64_t all = in.student_hidden.size(0), vocabulary = in.student_weight.size(0);
  const bool teacher = in.teacher_hidden.defined(), gradient = hidden_grad || weight_grad;
  const LossWeights w = unpack_losses(loss_weights, teacher);
  const Tensor kept = kept_rows(in.weights, in.labels, vocabulary);
  const auto compact = [&](const Tensor& t) {
    return kept.defined() && t.defined() ? t.index_select(0, kept) : t;
  };
  const auto expand = [&](const Tensor& t) {
    if (!kept.defined() || !t.defined()) return t;
    std::vector<std::int64_t> shape = t.sizes().vec();
    shape[0] = all;
    return at::zeros(shape, t.options()).index_copy_(0, kept, t);
  };
  in.student_hidden = compact(in.student_hidden);
  in.teacher_hidden = compact(in.teacher_hidden);
  in.labels = compact(in.labels);
  in.weights = compact(in.weights);

  const std::int64_t tokens = in.student_hidden.size(0);
  const std::int64_t chunk = std::clamp<std::int64_t>(
      chunk_tokens > 0 ? chunk_tokens : default_chunk(vocabulary, teacher ? 2 : 1), 1,
      std::max<std::int64_t>(tokens, 1));
  const auto options = in.student_hidden.options();
  Tensor metrics = at::empty({4, tokens}, options);  // kl, ce, teacher's ce, agree
  Tensor s_logits = at::empty({chunk, vocabulary}, options);
  Tensor t_logits = teacher ? at::empty({chunk, vocabulary}, options) : Tensor();
  Tensor d_hidden = hidden_grad ? at::empty_like(in.student_hidden) : Tensor();
  Tensor d_weight = weight_grad ? at::zeros_like(in.student_weight) : Tensor();
  std::vector<double> losses(tokens);
  const std::int64_t* label = in.labels.const_data_ptr<std::int64_t>();
  const float* weight = in.weights.const_data_ptr<float>();
  float* m = metrics.data_ptr<float>();

  for (std::int64_t begin = 0; begin < tokens; begin += chunk) {
    const std::int64_t n = std::min(chunk, tokens - begin);
    const Tensor hidden = in.student_hidden.narrow(0, begin, n);
    Tensor s = s_logits.narrow(0, 0, n), t = teacher ? t_logits.narrow(0, 0, n) : Tensor();
    product_into(s, hidden, in.student_weight.t());
    if (teacher) product_into(t, in.teacher_hidden.narrow(0, begin, n), in.teacher_weight.t());
    float *sp = s.data_ptr<float>(), *tp = teacher ? t.data_ptr<float>() : nullptr;
    parallel_for(0, n, row_grain(vocabulary), [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r) {
        const std::int64_t i = begin + r;
        const RowResult row = head_row(sp + r * vocabulary, teacher ? tp + r * vocabulary : nullptr,
                                       vocabulary, label[i], w, gradient, weight[i]);
        losses[i] = weight[i] * row.loss;
        m[i] = static_cast<float>(row.kl);
        m[tokens + i] = static_cast<float>(row.ce);
        m[2 * tokens + i] = static_cast<float>(row.teacher_ce);
        m[3 * tokens + i] = row.agree ? 1.0f : 0.0f;
      }
    });
    if (hidden_grad) product_into(d_hidden.narrow(0, begin, n), s, in.student_weight);
    if (weight_grad) product_into(d_weight, s.t(), hidden, true);
  }
  double total = 0;
  for (const double l : losses) total += l;
  const auto metric = [&](int i) { return expand(metrics[i]); };
  return {at::scalar_tensor(total, options),
          teacher ? metric(0) : Tensor(),
          metric(1),
          teacher ? metric(2) : Tensor(),
          teacher ? metric(3) : Tensor(),
          expand(d_hidden),
          d_weight};
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def(
      "head_loss(Tensor student_hidden, Tensor student_weight, Tensor? teacher_hidden, Tensor? "
      "teacher_weight, Tensor labels, Tensor weights, float[] loss_weights, int "
      "chunk_tokens, bool hidden_grad, bool weight_grad, bool bf16_logits) -> (Tensor loss, Tensor "
      "kl, Tensor ce, "
      "Tensor teacher_ce, Tensor agree, Tensor d_hidden, Tensor d_weight)");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("head_loss", head_loss_cpu);
}

Outputs forward(const HeadInputs& in, const LossWeights& loss, std::int64_t chunk_tokens,
                bool hidden_grad, bool weight_grad, bool bf16_logits) {
  static const auto op = find_op<decltype(head_loss_cpu)>("qad::head_loss");
  const auto optional = [](const Tensor& t) {
    return t.defined() ? std::optional(t) : std::nullopt;
  };
  const at::Device device = in.student_hidden.device();
  return call_kernel(op, in.student_hidden, in.student_weight, optional(in.teacher_hidden),
                     optional(in.teacher_weight), in.labels.to(device), in.weights.to(device),
                     pack(loss), chunk_tokens, hidden_grad, weight_grad, bf16_logits);
}

}  // namespace

HeadOutputs head_loss(const HeadInputs& in, const LossWeights& loss, std::int64_t chunk_tokens,
                      bool bf16_logits) {
  const bool record_it = recording({&in.student_hidden, &in.student_weight});
  auto [value, kl, ce, teacher_ce, agree, d_hidden, d_weight] =
      forward(in, loss, chunk_tokens, record_it && in.student_hidden.requires_grad(),
              record_it && in.student_weight.requires_grad(), bf16_logits);
  if (record_it)
    record("head_loss", value, {in.student_hidden, in.student_weight}, {d_hidden, d_weight},
           [](const Tensor& grad, Tensors gradients) {
             // On a GPU nobody waits to see that it is 1.
             if (grad.is_cpu() && grad.item<float>() == 1) return gradients;
             for (Tensor& g : gradients)
               if (g.defined()) g = g.mul(grad);
             return gradients;
           });
  return {value, kl, ce, teacher_ce, agree};
}

}  // namespace qad::ops
