// The losses a run may mix, without LibTorch, so that kernels of every device read the same struct.
#pragma once

namespace qad::ops {

// A weighted sum of losses per target token, p = teacher, q = student, both softmax(logits /
// temperature). Divergences are multiplied by temperature^2 (Hinton et al. 2015); mse is the mean
// over the vocabulary of the squared logit difference; cross_entropy is on the labels at
// temperature 1 (QAT).
struct LossWeights {
  double forward_kl = 1;      // KL(p || q), the report's loss
  double reverse_kl = 0;      // KL(q || p)
  double jensen_shannon = 0;  // (KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2
  double mse = 0;
  double cross_entropy = 0;
  double temperature = 1;

  // The part that needs a teacher.
  double divergences() const { return forward_kl + reverse_kl + jensen_shannon + mse; }
  bool operator==(const LossWeights&) const = default;
};

// Calls f(name, member) for each of the above: the one list of them.
template <class W, class F>
void for_each_loss(W& w, F&& f) {
  f("forward_kl", w.forward_kl);
  f("reverse_kl", w.reverse_kl);
  f("jensen_shannon", w.jensen_shannon);
  f("mse", w.mse);
  f("cross_entropy", w.cross_entropy);
  f("temperature", w.temperature);
}

}  // namespace qad::ops
