// What of Mamba-2's chunked scan is no matrix product (mamba_scan.cpp has those): where chunks lie,
// decays, values into chunks and back, states handed on, the masked matrix, and sums of the way
// back. Sums c are double: a difference of two large ones is small.
#include "cuda/documents.cuh"
#include "cuda/mamba.h"
#include "cuda/reduce.cuh"
#include "cuda/vector.cuh"

namespace qad::cuda {
namespace {

constexpr int kThreads = 256, kWarp = 32;
constexpr std::int64_t kQ = kScanChunk, kSquare = kScanChunk * kScanChunk;

struct Chunk {
  std::int64_t first, tokens;  // no tokens: room that nothing needs
};
__device__ Chunk chunk_at(const ScanSizes& s, std::int64_t i) {
  if (i >= s.firsts[s.in.documents]) return {0, 0};
  const std::int64_t document = part_of(s.firsts, s.in.documents, i);
  const std::int64_t first = s.in.starts[document] + (i - s.firsts[document]) * kQ;
  return {first, min(kQ, s.in.starts[document + 1] - first)};
}

__global__ void chunks_kernel(PackedTokens in, std::int64_t most, std::int32_t* firsts) {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < in.documents; ++i) {
    firsts[i] = static_cast<std::int32_t>(count);
    count = min(most, count + blocks_for(max(0, in.starts[i + 1] - in.starts[i]), kQ));
  }
  firsts[in.documents] = static_cast<std::int32_t>(count);
}

// As PyTorch's: beyond 20 log(1 + e^x) is x in FP32.
__device__ float softplus(float x) {
  return x > 20 ? x : log1pf(expf(x));
}

// dt with its bias, and the step it makes.
template <class T>
__device__ float raw_step(const ScanInputs& in, std::int64_t heads, std::int64_t token,
                          std::int64_t head) {
  return to_float(static_cast<const T*>(in.dt)[token * heads + head]) + in.dt_bias[head];
}
__device__ float step_of(const ScanInputs& in, float raw) {
  return fminf(fmaxf(softplus(raw), in.least), in.most);
}

template <class T>
__global__ void decays_kernel(ScanSizes s, ScanInputs in, Decays out) {
  const std::int64_t task = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (task >= s.chunks * s.heads) return;
  const std::int64_t head = task % s.heads, at = task * kQ;
  const Chunk chunk = chunk_at(s, task / s.heads);
  double sum = 0;
  for (std::int64_t l = 0; l < kQ; ++l) {
    const float step =
        l < chunk.tokens ? step_of(in, raw_step<T>(in, s.heads, chunk.first + l, head)) : 0.0f;
    sum += static_cast<double>(step) * static_cast<double>(in.a[head]);
    out.steps[at + l] = step;
    out.sums[at + l] = sum;
    out.since[at + l] = expf(static_cast<float>(sum));
  }
  for (std::int64_t l = 0; l < kQ; ++l)
    out.left[at + l] = expf(static_cast<float>(sum - out.sums[at + l]));
  out.whole[task] = expf(static_cast<float>(sum));
}

// A block has a token's row of a chunk. Columns count in 32 bits, whose division is short.
template <class T>
__global__ void spread_kernel(ScanSizes s, Spread what) {
  const std::int64_t i = blockIdx.x / kQ, l = blockIdx.x % kQ;
  const Chunk chunk = chunk_at(s, i);
  const T* row = static_cast<const T*>(what.from.data) + (chunk.first + l) * what.from.stride;
  const auto dim = static_cast<unsigned>(what.dim), heads = static_cast<unsigned>(what.heads);
  const unsigned of_group = heads / static_cast<unsigned>(what.groups), wide = of_group * dim;
  for (unsigned col = threadIdx.x; col < heads * dim; col += blockDim.x) {
    const float x = l < chunk.tokens ? to_float(row[col]) : 0.0f;
    const unsigned head = col / dim, group = head / of_group;
    const std::int64_t token = (i * heads + head) * kQ + l;
    if (what.by_heads) what.by_heads[token * dim + (col - head * dim)] = x;
    if (!what.by_groups) continue;
    const float by = what.factor[token] * (what.second ? what.second[token] : 1.0f);
    what.by_groups[((i * what.groups + group) * kQ + l) * wide + (col - group * wide)] = x * by;
  }
}

template <class T>
__global__ void collect_kernel(ScanSizes s, const float* by_heads, std::int64_t heads,
                               std::int64_t dim, T* to, std::int64_t stride) {
  const std::int64_t i = blockIdx.x / kQ, l = blockIdx.x % kQ;
  const Chunk chunk = chunk_at(s, i);
  if (l >= chunk.tokens) return;
  T* row = to + (chunk.first + l) * stride;
  const auto width = static_cast<unsigned>(dim);
  for (unsigned col = threadIdx.x; col < heads * dim; col += blockDim.x) {
    const unsigned head = col / width;
    store(row + col, by_heads[((i * heads + head) * kQ + l) * dim + (col - head * width)]);
  }
}

// A thread has one value of the states and goes along a document's chunks.
__global__ void hand_on_kernel(ScanSizes s, const float* whole, bool back, float* states) {
  const std::int64_t of_chunk = s.heads * s.dim * s.state;
  const std::int64_t at = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (at >= of_chunk) return;
  const std::int64_t head = at / (s.dim * s.state);
  const std::int64_t first = s.firsts[blockIdx.y], count = s.firsts[blockIdx.y + 1] - first;
  float carried = 0;
  for (std::int64_t j = 0; j < count; ++j) {
    const std::int64_t i = back ? first + count - 1 - j : first + j;
    float* state = states + i * of_chunk + at;
    const float added = *state;
    *state = carried;
    carried = fmaf(whole[i * s.heads + head], carried, added);
  }
}

// A block has a chunk and a group.
__global__ void matrix_kernel(ScanSizes s, const float* pairs, Decays decays, float* m) {
  const std::int64_t i = blockIdx.x, group = blockIdx.y, of_group = s.heads / s.groups;
  const float* pair = pairs + (i * s.groups + group) * kSquare;
  for (std::int64_t h = 0; h < of_group; ++h) {
    const std::int64_t head = i * s.heads + group * of_group + h;
    const double* sums = decays.sums + head * kQ;
    const float* steps = decays.steps + head * kQ;
    for (std::int64_t e = threadIdx.x; e < kSquare; e += blockDim.x) {
      const std::int64_t row = e / kQ, col = e % kQ;
      m[head * kSquare + e] =
          col <= row ? pair[e] * expf(static_cast<float>(sums[row] - sums[col])) * steps[col]
                     : 0.0f;
    }
  }
}

template <class T>
__global__ void output_kernel(ScanSizes s, Decays decays, ScanOutput o) {
  const std::int64_t i = blockIdx.x / kQ, l = blockIdx.x % kQ;
  const Chunk chunk = chunk_at(s, i);
  if (l >= chunk.tokens) return;
  const std::int64_t inner = s.heads * s.dim, wide = inner / s.groups;
  const T* x = static_cast<const T*>(o.x.data) + (chunk.first + l) * o.x.stride;
  T* y = static_cast<T*>(o.y) + (chunk.first + l) * inner;
  const auto dim = static_cast<unsigned>(s.dim), of_group = static_cast<unsigned>(wide);
  for (unsigned col = threadIdx.x; col < inner; col += blockDim.x) {
    const unsigned head = col / dim, group = col / of_group;
    const std::int64_t token = (i * s.heads + head) * kQ + l;
    const std::int64_t in_group =
        ((i * s.groups + group) * kQ + l) * wide + (col - group * of_group);
    const float entered = o.from_state[in_group];
    float sum = o.d[head] * to_float(x[col]);
    sum = fmaf(decays.since[token], entered, sum);
    store(y + col, sum + o.mx[token * dim + (col - head * dim)]);
  }
}

// e = (dy x^T) dt_s exp(c_l - c_s) is C B^T's gradient; z = e C B^T is what c_l has of the pair,
// and c_s has less. Of l = s nothing is left.
__global__ void __launch_bounds__(kThreads)
    matrix_backward_kernel(ScanSizes s, const float* pairs, const float* products, Decays decays,
                           float* m, float* dpairs, double* dsums) {
  __shared__ float z[kQ][kQ + 1];
  const std::int64_t i = blockIdx.x, group = blockIdx.y, of_group = s.heads / s.groups;
  const float* pair = pairs + (i * s.groups + group) * kSquare;
  float* dpair = dpairs + (i * s.groups + group) * kSquare;
  for (std::int64_t h = 0; h < of_group; ++h) {
    const std::int64_t head = i * s.heads + group * of_group + h;
    const double* sums = decays.sums + head * kQ;
    const float* steps = decays.steps + head * kQ;
    for (std::int64_t at = threadIdx.x; at < kSquare; at += blockDim.x) {
      const std::int64_t row = at / kQ, col = at % kQ;
      const float factor = col <= row ? expf(static_cast<float>(sums[row] - sums[col])) : 0.0f;
      const float e = products[head * kSquare + at] * steps[col] * factor;
      m[head * kSquare + at] = pair[at] * factor;
      dpair[at] = h == 0 ? e : dpair[at] + e;  // this thread's alone
      z[row][col] = col < row ? e * pair[at] : 0.0f;
    }
    __syncthreads();
    for (std::int64_t l = threadIdx.x; l < kQ; l += blockDim.x) {
      double total = 0;
      for (std::int64_t k = 0; k < kQ; ++k)
        total += static_cast<double>(z[l][k]) - static_cast<double>(z[k][l]);
      dsums[head * kQ + l] = total;
    }
    __syncthreads();
  }
}

// A block has a chunk and a head. Warps take tokens' sums over the head's columns; then one thread
// adds up along the chunk what later c have of each step.
template <class T>
__global__ void __launch_bounds__(kThreads)
    finish_backward_kernel(ScanSizes s, ScanInputs in, Decays decays, ScanBackward b) {
  __shared__ float scratch[kWarp];
  __shared__ double of_sums[kQ];  // c's gradient
  __shared__ float of_step[kQ], ends[kQ], skips[kQ];
  const std::int64_t i = blockIdx.x, head = blockIdx.y, h = i * s.heads + head;
  const Chunk chunk = chunk_at(s, i);
  const std::int64_t of_group = s.heads / s.groups, wide = of_group * s.dim;
  const std::int64_t group = head / of_group, of_head = s.dim * s.state;
  float dots = 0;
  for (std::int64_t e = threadIdx.x; e < of_head; e += blockDim.x)
    dots = fmaf(b.leaving[h * of_head + e], b.entering[h * of_head + e], dots);
  const float handed = block_sum(dots, scratch);
  const int lane = threadIdx.x % kWarp;
  for (std::int64_t l = threadIdx.x / kWarp; l < chunk.tokens; l += blockDim.x / kWarp) {
    const std::int64_t token = h * kQ + l, row = token * s.dim;
    const std::int64_t in_group =
        ((i * s.groups + group) * kQ + l) * wide + (head % of_group) * s.dim;
    const float step = decays.steps[token], left = decays.left[token];
    T* dx = static_cast<T*>(b.dx) + (chunk.first + l) * b.stride + head * s.dim;
    float to_end = 0, from_start = 0, along = 0, skip = 0;
    for (std::int64_t p = lane; p < s.dim; p += kWarp) {
      const float x = b.x[row + p], dy = b.dy[row + p], gb = b.to_state[in_group + p];
      const float du = fmaf(left, gb, b.du[row + p]);
      to_end = fmaf(x, gb, to_end);
      from_start = fmaf(dy, b.from_state[in_group + p], from_start);
      along = fmaf(du, x, along);
      skip = fmaf(dy, x, skip);
      store(dx + p, fmaf(in.d[head], dy, du * step));
    }
    to_end = warp_sum(to_end), from_start = warp_sum(from_start);
    along = warp_sum(along), skip = warp_sum(skip);
    if (lane == 0) {
      ends[l] = left * step * to_end;
      of_sums[l] = b.dsums[token] + static_cast<double>(decays.since[token] * from_start) -
                   static_cast<double>(ends[l]);
      of_step[l] = along;
      skips[l] = skip;
    }
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  double da = 0, tail = static_cast<double>(decays.whole[h]) * static_cast<double>(handed);
  float dd = 0;
  for (std::int64_t l = 0; l < chunk.tokens; ++l) tail += static_cast<double>(ends[l]);
  for (std::int64_t l = chunk.tokens - 1; l >= 0; --l) {
    tail += of_sums[l];
    const float raw = raw_step<T>(in, s.heads, chunk.first + l, head), plain = softplus(raw);
    const float dstep = of_step[l] + in.a[head] * static_cast<float>(tail);
    const bool limited = plain < in.least || plain > in.most;
    b.ddt[(chunk.first + l) * s.heads + head] = limited ? 0.0f : dstep / (1.0f + expf(-raw));
    da += static_cast<double>(decays.steps[h * kQ + l]) * tail;
    dd += skips[l];
  }
  b.da[h] = static_cast<float>(da);
  b.dd[h] = dd;
}

// A warp has a row of a head's state in registers, and walks along its document's tokens.
template <class T>
__global__ void steps_kernel(ScanSteps s, ScanInputs in, Slots slots) {
  constexpr int kEach = kMostState / kWarp;
  const std::int64_t task = (blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x) / kWarp;
  if (task >= s.heads * s.dim) return;
  const std::int64_t head = task / s.dim, p = task % s.dim, document = blockIdx.y;
  const std::int64_t begin = s.in.starts[document], end = s.in.starts[document + 1];
  const std::int64_t slot = slots.slots[document], inner = s.heads * s.dim;
  const int lane = threadIdx.x % kWarp;
  T* y = static_cast<T*>(s.y) + head * s.dim + p;
  if (slot < 0 || slot >= slots.count) {
    for (std::int64_t t = begin + lane; t < end; t += kWarp) store(y + t * inner, NAN);
    return;
  }
  float* kept = s.states + ((slot * s.heads + head) * s.dim + p) * s.state;
  const bool fresh = slots.lengths[document] == end - begin;
  float state[kEach];
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    const std::int64_t n = lane + k * kWarp;
    state[k] = n < s.state && !fresh ? kept[n] : 0.0f;
  }
  const std::int64_t group = head / (s.heads / s.groups);
  for (std::int64_t t = begin; t < end; ++t) {
    const T* row = static_cast<const T*>(s.xbc.data) + t * s.xbc.stride;
    const T *b = row + inner + group * s.state, *c = b + s.groups * s.state;
    const float step = step_of(in, raw_step<T>(in, s.heads, t, head));
    const float decay = expf(step * in.a[head]), x = to_float(row[head * s.dim + p]);
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const std::int64_t n = lane + k * kWarp;
      if (n >= s.state) continue;
      state[k] = fmaf(step * x, to_float(b[n]), decay * state[k]);
      sum = fmaf(state[k], to_float(c[n]), sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) store(y + t * inner, fmaf(in.d[head], x, sum));
  }
#pragma unroll
  for (int k = 0; k < kEach; ++k)
    if (const std::int64_t n = lane + k * kWarp; n < s.state) kept[n] = state[k];
}

unsigned tokens_of(const ScanSizes& s) {
  return static_cast<unsigned>(s.chunks * kQ);
}
dim3 groups_of(const ScanSizes& s) {
  return dim3(static_cast<unsigned>(s.chunks), static_cast<unsigned>(s.groups));
}

}  // namespace

void scan_chunks(const PackedTokens& in, std::int64_t most, std::int32_t* firsts,
                 cudaStream_t stream) {
  chunks_kernel<<<1, 1, 0, stream>>>(in, most, firsts);
}

void scan_decays(const ScanSizes& s, const ScanInputs& in, const Decays& out, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(blocks_for(s.chunks * s.heads, kThreads / 4));
  for_type(in.type,
           [&]<class T>() { decays_kernel<T><<<blocks, kThreads / 4, 0, stream>>>(s, in, out); });
}

void scan_spread(const ScanSizes& s, const Spread& what, cudaStream_t stream) {
  for_type(what.type,
           [&]<class T>() { spread_kernel<T><<<tokens_of(s), kThreads, 0, stream>>>(s, what); });
}

void scan_collect(const ScanSizes& s, const float* by_heads, std::int64_t heads, std::int64_t dim,
                  Type type, void* to, std::int64_t stride, cudaStream_t stream) {
  for_type(type, [&]<class T>() {
    collect_kernel<T><<<tokens_of(s), kThreads, 0, stream>>>(s, by_heads, heads, dim,
                                                             static_cast<T*>(to), stride);
  });
}

void scan_hand_on(const ScanSizes& s, const float* whole, bool back, float* states,
                  cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(blocks_for(s.heads * s.dim * s.state, kThreads)),
                  static_cast<unsigned>(s.in.documents));
  hand_on_kernel<<<grid, kThreads, 0, stream>>>(s, whole, back, states);
}

void scan_matrix(const ScanSizes& s, const float* pairs, const Decays& decays, float* m,
                 cudaStream_t stream) {
  matrix_kernel<<<groups_of(s), kThreads, 0, stream>>>(s, pairs, decays, m);
}

void scan_output(const ScanSizes& s, const Decays& decays, const ScanOutput& o,
                 cudaStream_t stream) {
  for_type(o.type, [&]<class T>() {
    output_kernel<T><<<tokens_of(s), kThreads, 0, stream>>>(s, decays, o);
  });
}

void scan_matrix_backward(const ScanSizes& s, const float* pairs, const float* products,
                          const Decays& decays, float* m, float* dpairs, double* dsums,
                          cudaStream_t stream) {
  matrix_backward_kernel<<<groups_of(s), kThreads, 0, stream>>>(s, pairs, products, decays, m,
                                                                dpairs, dsums);
}

void scan_finish_backward(const ScanSizes& s, const ScanInputs& in, const Decays& decays,
                          const ScanBackward& b, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(s.chunks), static_cast<unsigned>(s.heads));
  for_type(b.type, [&]<class T>() {
    finish_backward_kernel<T><<<grid, kThreads, 0, stream>>>(s, in, decays, b);
  });
}

void scan_steps(const ScanSteps& s, const ScanInputs& in, const Slots& slots, cudaStream_t stream) {
  if (s.in.documents == 0) return;
  const dim3 grid(static_cast<unsigned>(blocks_for(s.heads * s.dim, kThreads / kWarp)),
                  static_cast<unsigned>(s.in.documents));
  for_type(s.type,
           [&]<class T>() { steps_kernel<T><<<grid, kThreads, 0, stream>>>(s, in, slots); });
}

}  // namespace qad::cuda
