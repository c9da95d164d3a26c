// Quantised values into codes and scales and back (nvfp4/pack.cpp says how and why it is exact).
// Threads have 16 bytes of values each, so that codes, too, are read and written side by side.
#include "cuda/nvfp4_block.cuh"
#include "cuda/vector.cuh"

namespace qad::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPackVectors = 2, kUnpackVectors = 4;  // that a thread has on their way at once

// Rounding to a code is adding half of its last bit.
constexpr unsigned kHalf = 1u << (kCodeShift - 1), kCodeBits = ~0u << kCodeShift;

// 0 if y, rounded to T, has the bits of |x|.
template <class T, int N>
__device__ unsigned difference(const float (&y)[N], const float (&x)[N]) {
  unsigned different = 0;
  if constexpr (sizeof(T) == 2 && N % 2 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(y[i], y[i + 1]);
      unsigned bits;
      memcpy(&bits, &pair, sizeof bits);
      const unsigned expected =
          __byte_perm(__float_as_uint(x[i]), __float_as_uint(x[i + 1]), 0x7632);
      different |= (expected & 0x7FFF7FFF) ^ bits;
    }
  } else {
    float rounded[N];
#pragma unroll
    for (int i = 0; i < N; ++i) rounded[i] = y[i];
    round_to<T>(rounded);
#pragma unroll
    for (int i = 0; i < N; ++i)
      different |= (__float_as_uint(x[i]) & 0x7FFFFFFF) ^ __float_as_uint(rounded[i]);
  }
  return different;
}

struct Found {
  unsigned codes;  // 4 bits each
  int scale;
};

// Quotients by reciprocals of 2^-21 or so do: of the right scale and the right codes they are
// within 2^-8, and what is found is tried.
template <class T, int N>
__device__ Found find(const float (&x)[N], float global, float inverse_global) {
  const Block<N> block{x};
  const float largest = block.amax() * inverse_global;
  for (unsigned k = 7; k >= 1; --k) {
    const float scale = round_block_scale(largest * __fdividef(1.0f, decode_e2m1(k)));
    const float d = __fmul_rn(scale, global), inverse = __fdividef(1.0f, d);
    unsigned codes = 0;
    float y[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float q = fminf(fabsf(x[i]) * inverse, nvfp4::kE2M1Max) * kToCodes;
      const unsigned rounded = (__float_as_uint(q) + kHalf) & kCodeBits;
      y[i] = __fmul_rn(__uint_as_float(rounded) * kFromCodes, d);
      const unsigned sign = __float_as_uint(x[i]) & 0x80000000;
      codes |= (rounded >> kCodeShift << (4 * i)) | sign >> (28 - 4 * i);
    }
    unsigned different = difference<T>(y, x);
    // Shuffles: votes of groups of a warp would be taken one group after another.
#pragma unroll
    for (int step = Block<N>::kLanes / 2; step > 0; step /= 2)
      different |= __shfl_xor_sync(block.mask, different, step);
    if (different == 0) return {codes, encode_e4m3(scale)};
  }
  return {0, nvfp4::kE4M3NaN};
}

template <int N>
using Codes = typename RawOf<N / 2>::Type;

// Whole blocks one after another at aligned addresses.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pack_kernel(const T* x, std::int64_t vectors, float global, float inverse_global,
                std::uint8_t* codes, std::uint8_t* scales) {
  constexpr int N = kWide<T>, V = kPackVectors, kLanes = Block<N>::kLanes;
  const std::int64_t first = blockIdx.x * std::int64_t{kThreads * V} + threadIdx.x;
  float v[V][N];
#pragma unroll
  for (int j = 0; j < V; ++j)
    if (first + j * kThreads < vectors) load(x + (first + j * kThreads) * N, v[j]);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const std::int64_t at = first + j * kThreads;
    if (at >= vectors) continue;
    const Found f = find<T>(v[j], global, inverse_global);
    reinterpret_cast<Codes<N>*>(codes)[at] = static_cast<Codes<N>>(f.codes);
    if (at % kLanes == 0) scales[at / kLanes] = static_cast<std::uint8_t>(f.scale);
  }
}

// Any rows: a value a thread, and zeros behind a row's end.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pack_tails_kernel(const T* x, std::int64_t rows, std::int64_t cols, float global,
                      float inverse_global, std::uint8_t* codes, std::uint8_t* scales) {
  const std::int64_t per_row = (cols + nvfp4::kBlock - 1) / nvfp4::kBlock * nvfp4::kBlock;
  const std::int64_t index = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
  if (index >= rows * per_row) return;  // the 16 threads of a block together
  const std::int64_t row = index / per_row, col = index % per_row;
  const float v[1] = {col < cols ? to_float(x[row * cols + col]) : 0.0f};
  const Found f = find<T>(v, global, inverse_global);
  const unsigned next = __shfl_down_sync(Block<1>{v}.mask, f.codes, 1);
  if (index % 2 == 0) codes[index / 2] = static_cast<std::uint8_t>(f.codes | next << 4);
  if (index % nvfp4::kBlock == 0)
    scales[index / nvfp4::kBlock] = static_cast<std::uint8_t>(f.scale);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    unpack_kernel(const std::uint8_t* codes, const std::uint8_t* scales, std::int64_t vectors,
                  float global, T* y) {
  constexpr int N = kWide<T>, V = kUnpackVectors;
  const std::int64_t first = blockIdx.x * std::int64_t{kThreads * V} + threadIdx.x;
  unsigned code[V];
  int scale[V];
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const std::int64_t at = first + j * kThreads;
    if (at >= vectors) continue;
    code[j] = reinterpret_cast<const Codes<N>*>(codes)[at];
    scale[j] = scales[at * N / nvfp4::kBlock];
  }
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const std::int64_t at = first + j * kThreads;
    if (at >= vectors) continue;
    const float d = __fmul_rn(decode_scale(scale[j]), global);
    float v[N];
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = __fmul_rn(decode_e2m1(code[j] >> (4 * i) & 15), d);
    store(y + at * N, v);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    unpack_tails_kernel(const std::uint8_t* codes, const std::uint8_t* scales, std::int64_t rows,
                        std::int64_t cols, float global, T* y) {
  const std::int64_t blocks = (cols + nvfp4::kBlock - 1) / nvfp4::kBlock;
  const std::int64_t index = blockIdx.x * std::int64_t{kThreads} + threadIdx.x;
  if (index >= rows * cols) return;
  const std::int64_t row = index / cols, col = index % cols,
                     at = row * blocks * nvfp4::kBlock + col;
  const unsigned code = codes[at / 2] >> (col % 2 * 4) & 15;
  const float d = __fmul_rn(decode_scale(scales[at / nvfp4::kBlock]), global);
  store(y + index, __fmul_rn(decode_e2m1(code), d));
}

bool aligned(const void* p) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}

unsigned grid(std::int64_t items, std::int64_t per_block) {
  return static_cast<unsigned>(blocks_for(items, per_block));
}

}  // namespace

void pack(Type type, const void* x, std::int64_t rows, std::int64_t cols, float global,
          std::uint8_t* codes, std::uint8_t* scales, cudaStream_t stream) {
  if (rows * cols == 0) return;
  for_type(type, [&]<class T>() {
    const T* from = static_cast<const T*>(x);
    if (cols % nvfp4::kBlock == 0 && aligned(x) && aligned(codes)) {
      const std::int64_t vectors = rows * cols / kWide<T>;
      pack_kernel<T><<<grid(vectors, kThreads * kPackVectors), kThreads, 0, stream>>>(
          from, vectors, global, 1 / global, codes, scales);
    } else {
      const std::int64_t threads = rows * nvfp4::blocks_per_row(cols) * nvfp4::kBlock;
      pack_tails_kernel<T><<<grid(threads, kThreads), kThreads, 0, stream>>>(
          from, rows, cols, global, 1 / global, codes, scales);
    }
  });
}

void unpack(Type type, const std::uint8_t* codes, const std::uint8_t* scales, std::int64_t rows,
            std::int64_t cols, float global, void* y, cudaStream_t stream) {
  if (rows * cols == 0) return;
  for_type(type, [&]<class T>() {
    T* to = static_cast<T*>(y);
    if (cols % nvfp4::kBlock == 0 && aligned(y) && aligned(codes)) {
      const std::int64_t vectors = rows * cols / kWide<T>;
      unpack_kernel<T><<<grid(vectors, kThreads * kUnpackVectors), kThreads, 0, stream>>>(
          codes, scales, vectors, global, to);
    } else {
      unpack_tails_kernel<T><<<grid(rows * cols, kThreads), kThreads, 0, stream>>>(
          codes, scales, rows, cols, global, to);
    }
  });
}

}  // namespace qad::cuda
