// The distillation head on CUDA: chunks of tokens go through both output matrices (cuBLAS, FP32
// results), the rows' kernel and back. Logits are FP32, or BF16 if asked for (NUMERICS.md, 5), sums
// and formulas FP32 and more; with BF16 inputs the gradient of a chunk's logits is rounded to BF16,
// one by one, for the two products that take it back. Nothing waits for the device: positions of
// weight 0 are computed along and count nothing.
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>

#include "cuda/tensor.h"
#include "ops/unpack_losses.h"

namespace qad::cuda {
namespace {

using at::Tensor;
using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Buffers of a chunk stay below this. Each chunk adds to d_weight, reading and writing all of it,
// so chunks should be as tall as memory allows; beyond some 4000 tokens that no longer shows.
constexpr std::int64_t kChunkBytes = std::int64_t{4} << 30;

// Hidden states and output matrix of one model.
struct Side {
  Tensor hidden, weight;
  // logits = hidden[begin, begin + n) weight^T, summed in FP32.
  void logits(std::int64_t begin, std::int64_t n, Tensor to) const {
    const Tensor h = hidden.narrow(0, begin, n);
    named(
        "head_loss",
        [&] {
          if (h.scalar_type() == to.scalar_type())
            at::mm_out(to, h, weight.t());
          else
            at::mm_out(to, h, weight.t(), at::kFloat);
        },
        h, weight);
  }
};

Side side(const Tensor& hidden, const Tensor& weight, const char* name) {
  check_values(hidden, 2, "head_loss", name);
  check_size(weight.dim() == 2 ? weight.size(1) : 0, hidden.size(1), "head_loss",
             "columns of the weight");
  return {hidden.contiguous(),
          check_beside(weight, hidden.scalar_type(), hidden, "head_loss", name)};
}

// d_weight += gradient^T hidden, in FP32.
void add_weight_gradient(Tensor d_weight, const Tensor& gradient, const Tensor& hidden) {
  named(
      "head_loss",
      [&] {
        if (hidden.scalar_type() == at::kFloat)
          at::addmm_out(d_weight, d_weight, gradient.t(), hidden);
        else
          at::addmm_out(d_weight, d_weight, gradient.t(), hidden, at::kFloat);
      },
      gradient, hidden);
}

Outputs head_loss_cuda(const Tensor& student_hidden, const Tensor& student_weight,
                       const std::optional<Tensor>& teacher_hidden,
                       const std::optional<Tensor>& teacher_weight, const Tensor& labels,
                       const Tensor& weights, at::ArrayRef<double> loss_weights,
                       std::int64_t chunk_tokens, bool hidden_grad, bool weight_grad,
                       bool bf16_logits) {
  const Side student = side(student_hidden, student_weight, "student");
  const bool has_teacher = teacher_hidden.has_value();
  check(has_teacher == teacher_weight.has_value(), "head_loss",
        "expected the teacher's hidden states and weight together");
  const Side teacher = has_teacher ? side(*teacher_hidden, *teacher_weight, "teacher") : Side{};
  const std::int64_t tokens = student.hidden.size(0), vocabulary = student.weight.size(0);
  const ops::LossWeights w = ops::unpack_losses(loss_weights, has_teacher);
  if (has_teacher) {
    check_size(teacher.hidden.size(0), tokens, "head_loss", "rows of teacher_hidden");
    check_size(teacher.weight.size(0), vocabulary, "head_loss", "the teacher's vocabulary");
  }
  const Tensor label = check_beside(labels, at::kLong, student.hidden, "head_loss", "labels");
  const Tensor weight = check_beside(weights, at::kFloat, student.hidden, "head_loss", "weights");
  check_size(label.numel(), tokens, "head_loss", "number of labels");
  check_size(weight.numel(), tokens, "head_loss", "number of weights");

  const Launch launch(student.hidden, "head_loss");
  const auto is_bf16 = [](const Side& s) { return s.hidden.scalar_type() == at::kBFloat16; };
  const bool bf16 = is_bf16(student);
  check(!bf16_logits || (bf16 && (!has_teacher || is_bf16(teacher))), "head_loss",
        "bf16_logits: expected hidden states in bfloat16, found float32");
  const bool gradient = hidden_grad || weight_grad;
  const std::int64_t stride = (vocabulary + 7) / 8 * 8;  // rows start at 16 bytes in both types
  const bool apart = gradient && bf16 && !bf16_logits;   // else the gradient is made in place
  const std::int64_t bytes = (bf16_logits ? 2 : 4) * (has_teacher ? 2 : 1) + (apart ? 2 : 0);
  const std::int64_t fit = std::max<std::int64_t>(kChunkBytes / (bytes * stride) / 128 * 128, 128);
  const std::int64_t chunk = std::clamp<std::int64_t>(chunk_tokens > 0 ? chunk_tokens : fit, 1,
                                                      std::max<std::int64_t>(tokens, 1));
  const auto options = student.hidden.options(), floats = options.dtype(at::kFloat);
  const auto rows_of = [&](at::TensorOptions o) {
    return at::empty({chunk, stride}, o).narrow(1, 0, vocabulary);
  };
  const auto logits = bf16_logits ? options : floats;
  const Tensor s_logits = rows_of(logits), t_logits = has_teacher ? rows_of(logits) : Tensor();
  const Tensor d_logits = apart ? rows_of(options) : s_logits;
  const Tensor metrics = at::empty({4, tokens}, floats);
  const Tensor losses = at::empty({tokens}, options.dtype(at::kDouble));
  const Tensor d_hidden = hidden_grad ? at::empty_like(student.hidden) : Tensor();
  const Tensor d_weight = weight_grad ? at::zeros(student.weight.sizes(), floats) : Tensor();
  float* m = metrics.data_ptr<float>();

  for (std::int64_t begin = 0; begin < tokens; begin += chunk) {
    const std::int64_t n = std::min(chunk, tokens - begin);
    student.logits(begin, n, s_logits.narrow(0, 0, n));
    if (has_teacher) teacher.logits(begin, n, t_logits.narrow(0, 0, n));
    head_rows({.type = bf16_logits ? Type::bf16 : Type::f32,
               .student = s_logits.const_data_ptr(),
               .teacher = has_teacher ? t_logits.const_data_ptr() : nullptr,
               .rows = n,
               .vocabulary = vocabulary,
               .stride = stride,
               .labels = label.const_data_ptr<std::int64_t>() + begin,
               .weights = weight.const_data_ptr<float>() + begin,
               .w = w,
               .loss = losses.data_ptr<double>() + begin,
               .kl = m + begin,
               .ce = m + tokens + begin,
               .teacher_ce = m + 2 * tokens + begin,
               .agree = m + 3 * tokens + begin,
               .gradient = gradient ? d_logits.data_ptr() : nullptr,
               .gradient_type = bf16 ? Type::bf16 : Type::f32},
              launch.stream());
    launch.done(student.hidden, student.weight, teacher.hidden, teacher.weight);
    const Tensor d = d_logits.narrow(0, 0, n);
    if (hidden_grad) {
      Tensor to = d_hidden.narrow(0, begin, n);
      named(
          "head_loss", [&] { at::mm_out(to, d, student.weight); }, d, student.weight);
    }
    if (weight_grad) add_weight_gradient(d_weight, d, student.hidden.narrow(0, begin, n));
  }
  const Tensor loss = losses.sum().to(at::kFloat);
  const auto metric = [&](int i) { return has_teacher ? metrics[i] : Tensor(); };
  return {loss, metric(0), metrics[1], metric(2), metric(3), d_hidden, d_weight};
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("head_loss", head_loss_cuda);
}

}  // namespace
}  // namespace qad::cuda
