// Losses, metrics and gradient of rows of logits: a block a row. The formulas are those
// of ops/head_row.cpp. Forward KL and cross-entropy at temperature 1, the usual case, walk a row
// twice: maxima and sums of exponentials in one pass, then the gradient. Threads sum in float, some
// hundred terms each at most; threads are summed in double.
#include <math_constants.h>

#include <algorithm>

#include "cuda/head_general.cuh"
#include "cuda/head_row.cuh"
#include "cuda/head_softmax.cuh"

namespace qad::cuda {
namespace {

// Blocks to a multiprocessor: one computes while another waits for memory.
constexpr int kRowBlocks = 2;

bool usual(const HeadRows& rows) {
  const ops::LossWeights& w = rows.w;
  return !rows.teacher ||
         (w.reverse_kl == 0 && w.jensen_shannon == 0 && w.mse == 0 && w.temperature == 1);
}

template <class T, class G>
__device__ void usual_gradient(Row<T>& row, const ops::LossWeights& w, const Softmaxes& cold,
                               const Gradient<G>& gradient) {
  const double scale = gradient.scale, kl_weight = row.t ? w.forward_kl : 0.0;
  const float a = static_cast<float>(scale * (kl_weight + w.cross_entropy) / cold.s_sum);
  const float b = static_cast<float>(scale * kl_weight / cold.t_sum);
  const float one_hot = static_cast<float>(scale * w.cross_entropy);
  write_gradient(row, gradient, one_hot, [&](float s, float t) {
    const float q = a * exponential(s - cold.s_max);
    return row.t ? q - b * exponential(t - cold.t_max) : q;
  });
}

// What a row gives, written by one thread. A label out of range makes everything NaN that depends
// on it; a row of weight 0 gives zeros.
__device__ void write_row(const HeadRows& in, std::int64_t r, float weight, const Part& row,
                          double s_label, double t_label, bool usual, double divergence) {
  const Softmaxes& cold = row.of;
  double kl = 0, ce = 0, teacher_ce = 0, loss = 0;
  bool agree = false;
  if (weight != 0) {
    ce = cold.log_s() - s_label;
    loss = in.w.cross_entropy * ce;
    if (in.teacher) {
      kl = cold.cross / cold.t_sum + cold.log_s() - cold.log_t();
      teacher_ce = cold.log_t() - t_label;
      agree = row.both;
    }
    loss += usual ? in.w.forward_kl * kl : divergence;
  }
  in.loss[r] = weight * loss;
  in.kl[r] = static_cast<float>(kl);
  in.ce[r] = static_cast<float>(ce);
  in.teacher_ce[r] = static_cast<float>(teacher_ce);
  in.agree[r] = agree ? 1.0f : 0.0f;
}

// Blocks take rows in turns.
template <bool kUsual, class T, class G>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks) head_kernel(HeadRows in, int keep) {
  extern __shared__ uint4 shared[];
  __shared__ Scratch scratch;
  const std::int64_t start = blockIdx.x, stride = in.stride;
  const auto logits = [&](const void* of) {
    return of ? static_cast<const T*>(of) + start * stride : nullptr;
  };
  Row<T> row(logits(in.student), logits(in.teacher), static_cast<int>(in.vocabulary), shared, keep);
  row.fetch();
  const bool leader = threadIdx.x == 0;
  int turn = 0;
  for (std::int64_t r = start; r < in.rows; r += gridDim.x) {
    const float weight = in.weights[r];
    const std::int64_t place = in.labels[r];
    const bool known = place >= 0 && place < row.n;
    const Gradient<G> gradient{in.gradient ? static_cast<G*>(in.gradient) + r * stride : nullptr,
                               known ? static_cast<int>(place) : -1,
                               known ? weight : CUDART_NAN, gridDim.x * stride,
                               r + gridDim.x < in.rows};
    Part all{};
    double s_label = CUDART_NAN, t_label = CUDART_NAN, divergence = 0;
    if (leader && known) {
      s_label = to_float(row.s[place]);
      if (row.t) t_label = to_float(row.t[place]);
    }
    if (weight != 0) {
      Online part;
      row.read([&](int, const auto& s, const auto& t) { part.add(s, t); });
      all = combine(part, scratch, turn);
      turn ^= 1;
      if constexpr (!kUsual)
        divergence = general(row, in.w, all.of, gradient, scratch);
      else if (gradient.to)
        usual_gradient(row, in.w, all.of, gradient);
    } else {
      __pipeline_wait_prior(0);
      if (gradient.to)  // left out, and its logits may be anything
        row.places([&](int first, int width) {
          for (int k = 0; k < width; ++k) store(gradient.to + first + k, 0.0f);
        });
    }
    if (weight == 0 || !gradient.to) {  // else the last pass did this
      row.advance(gradient.advance);
      if (gradient.more) row.fetch();
    }
    if (leader) write_row(in, r, weight, all, s_label, t_label, kUsual, divergence);
  }
}

int attribute(cudaDeviceAttr which) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, which, device);
  return value;
}

// As many blocks as run at once, kRowBlocks to a multiprocessor, whose shared memory they divide.
template <bool kUsual, class T, class G>
void launch(const HeadRows& rows, cudaStream_t stream) {
  const auto kernel = head_kernel<kUsual, T, G>;
  cudaFuncAttributes own{};
  cudaFuncGetAttributes(&own, kernel);
  const int room = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / kRowBlocks -
                   attribute(cudaDevAttrReservedSharedMemoryPerBlock) -
                   static_cast<int>(own.sharedSizeBytes);
  constexpr int kGroup = kRowThreads * 2 * static_cast<int>(sizeof(uint4));
  const int groups = static_cast<int>(blocks_for(rows.vocabulary / kWide<T>, kRowThreads));
  const int keep = std::min(groups, room / kGroup), bytes = keep * kGroup;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  const std::int64_t blocks = kRowBlocks * attribute(cudaDevAttrMultiProcessorCount);
  const auto grid = static_cast<unsigned>(std::min(rows.rows, blocks));
  kernel<<<grid, kRowThreads, static_cast<std::size_t>(bytes), stream>>>(rows, keep);
}

}  // namespace

void head_rows(const HeadRows& rows, cudaStream_t stream) {
  if (rows.rows == 0) return;
  const auto run = [&]<class T, class G>() {
    usual(rows) ? launch<true, T, G>(rows, stream) : launch<false, T, G>(rows, stream);
  };
  for_type(rows.gradient_type, [&]<class G>() {
    if (rows.type == Type::f32)
      run.template operator()<float, G>();
    else
      run.template operator()<__nv_bfloat16, __nv_bfloat16>();
  });
}

}  // namespace qad::cuda
