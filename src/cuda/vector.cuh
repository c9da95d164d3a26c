// Values of either type as floats in registers, 16 bytes of a row at a time where rows allow it:
// what every elementwise kernel reads and writes with.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <cstring>

#include "cuda/launch.h"

namespace qad::cuda {

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ inline void store(float* p, float x) {
  *p = x;
}
__device__ inline void store(__nv_bfloat16* p, float x) {
  *p = __float2bfloat16_rn(x);
}

// What moves in one access; as a struct of N values the compiler may take it apart.
template <int kBytes>
struct RawOf;
template <>
struct RawOf<16> {
  using Type = uint4;
};
template <>
struct RawOf<8> {
  using Type = uint2;
};
template <>
struct RawOf<4> {
  using Type = unsigned;
};
template <>
struct RawOf<2> {
  using Type = unsigned short;
};
template <>
struct RawOf<1> {
  using Type = unsigned char;
};
template <class T, int N>
using Raw = typename RawOf<sizeof(T) * N>::Type;

// By value: of a reference into memory the compiler makes loads of single bytes.
template <class T, int N>
__device__ inline void unpack(Raw<T, N> raw, float (&x)[N]) {
  T values[N];
  memcpy(values, &raw, sizeof raw);
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = to_float(values[i]);
}

template <int N, class T>
__device__ inline void load(const T* p, float (&x)[N]) {
  const Raw<T, N> raw = *reinterpret_cast<const Raw<T, N>*>(p);
  unpack<T>(raw, x);
}

template <int N, class T>
__device__ inline void store(T* p, const float (&x)[N]) {
  T values[N];
#pragma unroll
  for (int i = 0; i < N; ++i) store(&values[i], x[i]);
  Raw<T, N> raw;
  memcpy(&raw, values, sizeof raw);
  __stwb(reinterpret_cast<Raw<T, N>*>(p),
         raw);  // a plain store may be merged into a tail's scalars
}

// What memory would give back: as if x had been stored as T and loaded again.
template <class T, int N>
__device__ inline void round_to(float (&x)[N]) {
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = to_float(__float2bfloat16_rn(x[i]));
  }
}

template <class T>
constexpr int kWide = 16 / sizeof(T);

// Any multiple of 16 bytes.
template <int N, class T>
__device__ inline void load_pieces(const T* p, float (&x)[N]) {
#pragma unroll
  for (int i = 0; i < N; i += kWide<T>) {
    float part[kWide<T>];
    load(p + i, part);
#pragma unroll
    for (int k = 0; k < kWide<T>; ++k) x[i + k] = part[k];
  }
}

// Calls f<T>() for the type of the values in memory.
template <class F>
void for_type(Type type, F&& f) {
  if (type == Type::f32)
    f.template operator()<float>();
  else
    f.template operator()<__nv_bfloat16>();
}

// Calls f<T, N>(): N values fill 16 bytes if rows of `cols` values at all these addresses can be
// read so, else N is 1.
template <class F, class... Pointers>
void for_vectors(Type type, std::int64_t cols, F&& f, const Pointers*... pointers) {
  const bool aligned = ((reinterpret_cast<std::uintptr_t>(pointers) % 16 == 0) && ...);
  for_type(type, [&]<class T>() {
    if (aligned && cols % kWide<T> == 0)
      f.template operator()<T, kWide<T>>();
    else
      f.template operator()<T, 1>();
  });
}

__host__ __device__ inline std::int64_t blocks_for(std::int64_t items, std::int64_t per_block) {
  return (items + per_block - 1) / per_block;
}

inline int processors_of_device() {
  int device = 0, processors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  return processors;
}

// As many blocks as the device runs at once, or fewer if they have nothing to do: for kernels whose
// blocks take turns.
template <auto kKernel>
unsigned fill_device(std::int64_t blocks, int threads) {
  static const int each = [&] {
    int fit = 0;
    cudaOccupancyMaxActiveBlocksPerMultiprocessor(&fit, kKernel, threads, 0);
    return fit;
  }();
  const std::int64_t most = std::int64_t{processors_of_device()} * each;
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

}  // namespace qad::cuda
