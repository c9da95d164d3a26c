// Cases of the distillation head: every loss, temperatures, no teacher, a teacher of another width,
// masked positions with labels out of range, chunks that divide the tokens and ones that do not,
// rows that a block keeps whole and longer ones, more rows than blocks; logits in BF16.
#include <ATen/ATen.h>

#include <cmath>

#include "cuda/harness.h"
#include "ops/head_loss.h"

namespace qad::cuda::test {
namespace {

using at::Tensor;

struct Loss {
  const char* name;
  ops::LossWeights weights;
  bool teacher = true;
};
const std::vector<Loss> kLosses = {
    {"forward KL", {}},
    {"forward KL, warm", {.temperature = 2.5}},
    {"reverse KL", {.forward_kl = 0, .reverse_kl = 1}},
    {"Jensen-Shannon", {.forward_kl = 0, .jensen_shannon = 1}},
    {"squared error", {.forward_kl = 0, .mse = 1}},
    {"cross-entropy", {.forward_kl = 0, .cross_entropy = 1}},
    {"cross-entropy, no teacher", {.forward_kl = 0, .cross_entropy = 1}, false},
    {"KL and cross-entropy", {.forward_kl = 0.7, .cross_entropy = 0.3}},
    {"everything", {0.5, 0.4, 0.3, 0.2, 0.1, 1.5}},
};

struct Shape {
  std::int64_t tokens, hidden, teacher_hidden, vocabulary, chunk;
};
std::vector<Shape> shapes() {
  return sizes<Shape>({{1, 3, 3, 2, 0},
                       {7, 16, 24, 33, 3},
                       {40, 64, 64, 512, 8},
                       {700, 16, 24, 301, 0},
                       {33, 32, 48, 2501, 0},
                       {64, 128, 128, 9000, 48},
                       {5, 16, 24, 20003, 0},
                       {3, 16, 24, 65537, 2},
                       {2, 16, 16, 151936, 0},
                       {2, 8, 8, 262149, 0}},
                      {{7, 16, 24, 33, 3}, {700, 16, 24, 301, 0}, {2, 8, 8, 70001, 0}});
}

// Rows with a single 1: the logits of such states are weights, which BF16 holds exactly. So logits
// rounded to BF16 have nothing to lose and are held to the same tolerance as FP32 ones.
Tensor one_hot(std::int64_t rows, std::int64_t width) {
  return at::zeros({rows, width}).scatter_(1, at::randint(0, width, {rows, 1}, at::kLong), 1);
}

}  // namespace

std::vector<Case> head_cases() {
  std::vector<Case> cases;
  for (const Shape& s : shapes())
    for (const Loss& loss : sizes<Loss>(kLosses, {kLosses[0], kLosses[6], kLosses[8]}))
      for (const auto& [masked, bf16_logits] :
           {std::pair(false, false), {true, false}, {false, true}, {true, true}}) {
        const auto arguments = [=, masked = masked, bf16_logits = bf16_logits] {
          Tensor labels = at::randint(0, s.vocabulary, {s.tokens}, at::kLong);
          Tensor weights = at::rand({s.tokens}).add(0.1).div(static_cast<double>(s.tokens));
          if (masked)
            for (std::int64_t t = 0; t < s.tokens; t += 2) {
              weights[t] = 0;
              labels[t] = -100;
            }
          const auto matrix = [&](std::int64_t width) {
            return values(random({s.vocabulary, width}, bf16_logits ? 2 : 2 / std::sqrt(width)));
          };
          const auto states = [&](std::int64_t width) {
            return values(bf16_logits ? one_hot(s.tokens, width) : random({s.tokens, width}));
          };
          c10::List<double> list;
          ops::for_each_loss(loss.weights, [&](const char*, double w) { list.push_back(w); });
          const Argument none{at::IValue()};
          return std::vector<Argument>{states(s.hidden),
                                       matrix(s.hidden),
                                       loss.teacher ? states(s.teacher_hidden) : none,
                                       loss.teacher ? matrix(s.teacher_hidden) : none,
                                       fixed(labels),
                                       fixed(weights),
                                       {list},
                                       {s.chunk},
                                       {true},
                                       {true},
                                       {.value = false, .on_gpu = bf16_logits}};
        };
        // Logits sum over the hidden size; losses are differences of logits that reach 8 or so.
        const double logits = 8.0 * static_cast<double>(s.hidden + s.teacher_hidden) + 64;
        // Gradients sum over the vocabulary or the tokens; in BF16 each logit's gradient is rounded
        // once, which a sum of either sign keeps below two roundings of its largest result.
        const double sums = logits + static_cast<double>(s.vocabulary + s.tokens);
        const Tolerance metric{logits, 0, 1}, gradient{sums, 2};
        cases.push_back({std::string("head_loss ") + loss.name + (masked ? ", masked" : "") +
                             (bf16_logits ? ", BF16 logits" : "") + " of " +
                             std::to_string(s.tokens) + " " + std::to_string(s.vocabulary),
                         "qad::head_loss",
                         arguments,
                         {metric, metric, metric, metric, {}, gradient, gradient},
                         {},
                         !bf16_logits});
      }
  return cases;
}

}  // namespace qad::cuda::test
