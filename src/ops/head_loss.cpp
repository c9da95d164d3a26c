// Distillation head and loss.
#include "ops/head_loss.h"

#include <cmath>

#include "ops/dispatch.h"

namespace qad::ops {

using at::Tensor;

HeadOutputs head_loss(const HeadInputs& in, const LossWeights& loss, double normalizer,
                      std::int64_t) {
  check_floats(in.student_hidden, 2, "head_loss", "student_hidden");
  const Tensor s = at::mm(in.student_hidden, in.student_weight.t());
  const Tensor kept = in.weights.ne(0).to(at::kFloat);
  HeadOutputs out;
  const Tensor ls = s.log_softmax(-1);
  const Tensor ce = ls.gather(1, in.labels.unsqueeze(1)).squeeze(1).neg();
  out.ce = ce.detach() * kept;
  Tensor per_token = ce * loss.cross_entropy;
  if (in.teacher_hidden.defined()) {
    const Tensor t = at::mm(in.teacher_hidden, in.teacher_weight.t());
    const Tensor lt = t.log_softmax(-1);
    out.kl = ((lt.exp() * (lt - ls)).sum(-1) * kept).detach();
    out.teacher_ce = lt.gather(1, in.labels.unsqueeze(1)).squeeze(1).neg().mul(kept).detach();
    out.agree = s.argmax(-1).eq(t.argmax(-1)).to(at::kFloat) * kept;
    const double tau = loss.temperature;
    const Tensor q = (s / tau).log_softmax(-1), p = (t / tau).log_softmax(-1);
    const Tensor m = at::logaddexp(q, p) - std::log(2.0);
    const auto kl = [](const Tensor& a, const Tensor& b) { return (a.exp() * (a - b)).sum(-1); };
    per_token = per_token + kl(p, q) * (loss.forward_kl * tau * tau) +
                kl(q, p) * (loss.reverse_kl * tau * tau) +
                (kl(p, m) + kl(q, m)) * (loss.jensen_shannon * 0.5 * tau * tau) +
                (s - t).square().mean(-1) * loss.mse;
  }
  out.loss = (per_token * in.weights).sum() / normalizer;
  return out;
}

}  // namespace qad::ops
