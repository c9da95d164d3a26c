// Losses, metrics and gradient of rows of logits: a block a row. The formulas are those of
// ops/head_row.cpp. Forward KL and cross-entropy at temperature 1, the usual case, read a row
// twice: maxima and sums of exponentials in one pass, then the gradient. Threads sum in float, some
// hundred terms each; threads are summed in double.
#include <math_constants.h>

#include "cuda/head_general.cuh"
#include "cuda/head_row.cuh"

namespace qad::cuda {
namespace {

bool usual(const HeadRows& rows) {
  const ops::LossWeights& w = rows.w;
  return !rows.teacher ||
         (w.reverse_kl == 0 && w.jensen_shannon == 0 && w.mse == 0 && w.temperature == 1);
}

template <class G>
__device__ void usual_gradient(const Row& row, const ops::LossWeights& w, const Softmaxes& cold,
                               std::int64_t label, double scale, G* gradient) {
  const double kl_weight = row.teacher ? w.forward_kl : 0.0;
  const float a = static_cast<float>(scale * (kl_weight + w.cross_entropy) / cold.s_sum);
  const float b = static_cast<float>(scale * kl_weight / cold.t_sum);
  const float one_hot = static_cast<float>(scale * w.cross_entropy);
  write_gradient(row, gradient, label, one_hot, [&](float s, float t) {
    const float q = a * expf(s - cold.s_max);
    return row.teacher ? q - b * expf(t - cold.t_max) : q;
  });
}

struct Result {
  double loss = 0, kl = 0, ce = 0, teacher_ce = 0;
  bool agree = false;
};

// A label out of range makes everything NaN that depends on it.
template <class G, bool kUsual>
__device__ Result compute(const HeadRows& in, const Row& row, std::int64_t label, float weight,
                          G* gradient) {
  __shared__ Scratch scratch;
  const bool known = label >= 0 && label < row.n;
  const double s_label = known ? row.s[label] : CUDART_NAN;
  const double t_label = known && row.teacher ? row.t[label] : 0.0;
  const double scale = known ? weight / in.normalizer : CUDART_NAN;
  Online part;
  row.each([&](int, const float* s, const float* t, int width) {
    for (int k = 0; k < width; ++k) part.add(s[k], t[k]);
  });
  Result out;
  const Softmaxes cold = combine(part, scratch, out.agree);
  out.ce = cold.log_s() - s_label;
  if (row.teacher) {
    out.kl = cold.cross / cold.t_sum + cold.log_s() - cold.log_t();
    out.teacher_ce = known ? cold.log_t() - t_label : CUDART_NAN;
  }
  out.loss = in.w.cross_entropy * out.ce;
  if constexpr (kUsual) {
    out.loss += in.w.forward_kl * out.kl;
    if (gradient) usual_gradient(row, in.w, cold, label, scale, gradient);
  } else {
    out.loss += general(row, in.w, cold, label, scale, gradient, scratch);
  }
  return out;
}

template <class G, bool kUsual>
__global__ void __launch_bounds__(kRowThreads, 2) head_kernel(HeadRows in) {
  const std::int64_t r = blockIdx.x;
  const bool teacher = in.teacher != nullptr;
  const Row row{in.student + r * in.stride, teacher ? in.teacher + r * in.stride : nullptr,
                static_cast<int>(in.vocabulary), teacher};
  G* gradient = in.gradient ? static_cast<G*>(in.gradient) + r * in.gradient_stride : nullptr;
  const float weight = in.weights[r];
  Result out;
  if (weight != 0)
    out = compute<G, kUsual>(in, row, in.labels[r], weight, gradient);
  else if (gradient)  // left out, and its logits may be anything
    row.each([&](int first, const float*, const float*, int width) {
      write(gradient + first, {0, 0, 0, 0}, width);
    });
  if (threadIdx.x > 0) return;
  in.loss[r] = weight * out.loss;
  in.kl[r] = static_cast<float>(out.kl);
  in.ce[r] = static_cast<float>(out.ce);
  in.teacher_ce[r] = static_cast<float>(out.teacher_ce);
  in.agree[r] = teacher && out.agree ? 1.0f : 0.0f;
}

}  // namespace

void head_rows(const HeadRows& rows, cudaStream_t stream) {
  if (rows.rows == 0) return;
  for_type(rows.gradient_type, [&]<class G>() {
    const auto run = usual(rows) ? head_kernel<G, true> : head_kernel<G, false>;
    run<<<static_cast<unsigned>(rows.rows), kRowThreads, 0, stream>>>(rows);
  });
}

}  // namespace qad::cuda
