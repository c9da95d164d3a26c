// Mamba's short convolution with its SiLU: a thread has a channel and walks along tokens with the
// inputs that its taps meet in registers, so each value is read once a share of tokens.
#include <cmath>

#include "cuda/documents.cuh"
#include "cuda/mamba.h"
#include "cuda/vector.cuh"

namespace qad::cuda {
namespace {

constexpr int kThreads = 128;
constexpr std::int64_t kForward = 64, kBackward = 128;  // tokens a thread

__device__ float sigmoid_of(float x) {
  return 1.0f / (1.0f + expf(-x));
}

// Of a channel: tap k meets the input k tokens before, and values[k] is that input.
struct Window {
  float taps[kMostTaps], values[kMostTaps], bias;

  template <class T>
  __device__ void load(const Convolution& c, std::int64_t channel) {
    const T* weight = static_cast<const T*>(c.weight) + channel * c.taps;
#pragma unroll
    for (int k = 0; k < kMostTaps; ++k) {
      taps[k] = k < c.taps ? to_float(weight[c.taps - 1 - k]) : 0.0f;
      values[k] = 0;
    }
    bias = c.bias ? to_float(static_cast<const T*>(c.bias)[channel]) : 0.0f;
  }
  __device__ void push(float x) {
#pragma unroll
    for (int k = kMostTaps - 1; k > 0; --k) values[k] = values[k - 1];
    values[0] = x;
  }
  __device__ void clear() {
#pragma unroll
    for (int k = 0; k < kMostTaps; ++k) values[k] = 0;
  }
  // Inputs before the document are 0 here, and add nothing.
  __device__ float sum() const {
    float sum = bias;
#pragma unroll
    for (int k = kMostTaps - 1; k >= 0; --k) sum = fmaf(taps[k], values[k], sum);
    return sum;
  }
};

// Walks over tokens, and says where a document begins.
struct Walk {
  const std::int32_t* starts;
  std::int64_t documents, document;

  __device__ Walk(const PackedTokens& in, std::int64_t token)
      : starts(in.starts), documents(in.documents), document(part_of(starts, documents, token)) {}
  __device__ std::int64_t start() const { return starts[document]; }
  __device__ bool enters(std::int64_t token) {
    if (document + 1 >= documents || token < starts[document + 1]) return false;
    document = part_of(starts, documents, token);
    return true;
  }
};

template <class T>
__device__ float at(const Rows& x, std::int64_t row, std::int64_t col) {
  return to_float(static_cast<const T*>(x.data)[row * x.stride + col]);
}

template <class T>
__device__ void look_back(const Convolution& c, std::int64_t begin, std::int64_t start,
                          std::int64_t channel, Window& window) {
  for (std::int64_t t = max(start, begin - (c.taps - 1)); t < begin; ++t)
    window.push(at<T>(c.x, t, channel));
}

template <class T>
__global__ void conv_kernel(Convolution c, T* y) {
  const std::int64_t channel = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (channel >= c.channels) return;
  const std::int64_t begin = blockIdx.y * kForward, end = min(begin + kForward, c.in.tokens);
  Window window;
  window.load<T>(c, channel);
  Walk walk(c.in, begin);
  look_back<T>(c, begin, walk.start(), channel, window);
  for (std::int64_t t = begin; t < end; ++t) {
    if (walk.enters(t)) window.clear();
    window.push(at<T>(c.x, t, channel));
    const float sum = window.sum();
    store(y + t * c.channels + channel, sum * sigmoid_of(sum));
  }
}

// With s = sigmoid(sum): d sum = dy s (1 + sum (1 - s)); an input has it of each token whose taps
// meet it, so the walk goes on for those behind the share's last.
template <class T>
__global__ void conv_backward_kernel(Convolution c, const T* grad, T* dx, float* partial) {
  const std::int64_t channel = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (channel >= c.channels) return;
  const std::int64_t begin = blockIdx.y * kBackward, end = min(begin + kBackward, c.in.tokens);
  const int past = static_cast<int>(c.taps) - 1;
  Window window;
  window.load<T>(c, channel);
  Walk walk(c.in, begin);
  look_back<T>(c, begin, walk.start(), channel, window);
  float dtaps[kMostTaps] = {}, dbias = 0;
  float dinputs[kMostTaps] = {};  // of the input k tokens before
  for (std::int64_t t = begin; t < end + past; ++t) {
#pragma unroll
    for (int k = kMostTaps - 1; k > 0; --k) dinputs[k] = dinputs[k - 1];
    dinputs[0] = 0;
    if (t < c.in.tokens) {
      if (walk.enters(t)) window.clear();
      window.push(at<T>(c.x, t, channel));
      const float sum = window.sum(), s = sigmoid_of(sum);
      const float dsum = to_float(grad[t * c.channels + channel]) * (s * fmaf(sum, 1.0f - s, 1.0f));
      const std::int64_t start = walk.start();
#pragma unroll
      for (int k = 0; k < kMostTaps; ++k) {
        if (t - k >= start) dinputs[k] = fmaf(window.taps[k], dsum, dinputs[k]);
        if (t < end) dtaps[k] = fmaf(dsum, window.values[k], dtaps[k]);
      }
      if (t < end) dbias += dsum;
    }
    const std::int64_t done = t - past;
    float ready = 0;
#pragma unroll
    for (int k = 0; k < kMostTaps; ++k)
      if (k == past) ready = dinputs[k];
    if (done >= begin) store(dx + done * c.channels + channel, ready);
  }
  float* to = partial + blockIdx.y * (c.taps + 1) * c.channels + channel;
#pragma unroll
  for (int k = 0; k < kMostTaps; ++k)
    if (k < c.taps) to[(past - k) * c.channels] = dtaps[k];
  to[c.taps * c.channels] = dbias;
}

// A document's tokens one after another, from the inputs that its slot holds.
template <class T>
__global__ void conv_cached_kernel(Convolution c, Slots slots, T* state, T* y) {
  const std::int64_t channel = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (channel >= c.channels) return;
  const std::int64_t document = blockIdx.y;
  const std::int64_t begin = c.in.starts[document], end = c.in.starts[document + 1];
  const std::int64_t slot = slots.slots[document], past = c.taps - 1;
  if (slot < 0 || slot >= slots.count) {
    for (std::int64_t t = begin; t < end; ++t) store(y + t * c.channels + channel, NAN);
    return;
  }
  T* kept = state + slot * past * c.channels + channel;
  const std::int64_t before = slots.lengths[document] - (end - begin);
  Window window;
  window.load<T>(c, channel);
  for (std::int64_t k = past; k > 0; --k)  // the input k tokens before
    window.push(k <= before ? to_float(kept[(past - k) * c.channels]) : 0.0f);
  for (std::int64_t t = begin; t < end; ++t) {
    window.push(at<T>(c.x, t, channel));
    const float sum = window.sum();
    store(y + t * c.channels + channel, sum * sigmoid_of(sum));
  }
#pragma unroll
  for (int k = 0; k < kMostTaps; ++k)
    if (k < past) store(kept + (past - 1 - k) * c.channels, window.values[k]);
}

dim3 grid(const Convolution& c, std::int64_t shares) {
  return dim3(static_cast<unsigned>(blocks_for(c.channels, kThreads)),
              static_cast<unsigned>(shares));
}

}  // namespace

void causal_conv(const Convolution& c, void* y, cudaStream_t stream) {
  if (c.in.tokens * c.channels == 0) return;
  for_type(c.type, [&]<class T>() {
    conv_kernel<T><<<grid(c, blocks_for(c.in.tokens, kForward)), kThreads, 0, stream>>>(
        c, static_cast<T*>(y));
  });
}

std::int64_t causal_conv_partials(std::int64_t tokens) {
  return blocks_for(tokens, kBackward);
}

void causal_conv_backward(const Convolution& c, const void* grad, void* dx, float* partial,
                          cudaStream_t stream) {
  if (c.in.tokens * c.channels == 0) return;
  for_type(c.type, [&]<class T>() {
    conv_backward_kernel<T><<<grid(c, causal_conv_partials(c.in.tokens)), kThreads, 0, stream>>>(
        c, static_cast<const T*>(grad), static_cast<T*>(dx), partial);
  });
}

void causal_conv_cached(const Convolution& c, const Slots& slots, void* state, void* y,
                        cudaStream_t stream) {
  if (c.in.documents * c.channels == 0) return;
  for_type(c.type, [&]<class T>() {
    conv_cached_kernel<T><<<grid(c, c.in.documents), kThreads, 0, stream>>>(
        c, slots, static_cast<T*>(state), static_cast<T*>(y));
  });
}

}  // namespace qad::cuda
