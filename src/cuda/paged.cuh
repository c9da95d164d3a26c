// What the kernels of attention over a paged cache share.
#pragma once

#include <cuda_fp8.h>

#include <cfloat>
#include <type_traits>

#include "cuda/vector.cuh"

namespace qad::cuda {

constexpr int kMostPagedRows = 8;  // queries of heads that share a key-value head, in one block
constexpr float kLog2E = 1.44269504089f;
// Where no key was seen yet. Finite, so that 2^(kLowest - kLowest) is 1.
constexpr float kLowest = -FLT_MAX;

// An element of a cache of codes: value / scale, read without the scale, which the query (keys) or
// the result (values) is multiplied by.
struct E4M3 {
  __nv_fp8_storage_t code;
};
__device__ inline float to_float(E4M3 x) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(x.code, __NV_E4M3)));
}

// A new key's or value's element as a cache of C holds it.
template <class C, class T>
__device__ C to_cache(T x, float scale) {
  if constexpr (std::is_same_v<C, T>)
    return x;
  else
    return {__nv_cvt_float_to_fp8(__fdiv_rn(to_float(x), scale), __NV_SATFINITE, __NV_E4M3)};
}

// Calls f<C>() for the type of the cache's elements; T: of all others.
template <class T, class F>
auto for_cache(const PagedShape& s, F&& f) {
  return s.codes ? f.template operator()<E4M3>() : f.template operator()<T>();
}

// The page of a token and its place there, in tokens from the cache's beginning; -1: no such page.
__device__ inline std::int64_t place_of(const PagedShape& s, std::int64_t sequence,
                                        std::int64_t token) {
  const auto size = static_cast<unsigned>(s.page_tokens);  // a division of 64 bits takes its time
  const unsigned index = static_cast<unsigned>(token) / size;
  if (token < 0 || index >= s.pages_each) return -1;
  const std::int64_t page = s.pages[sequence * s.pages_each + index];
  return page < 0 || page >= s.pages_held
             ? -1
             : page * s.page_tokens + static_cast<unsigned>(token) % size;
}

// The paged attention of launch.h where every sequence has one new token, whose key and value it
// stores; of `splits` parts of a context, mixes and sums. False: not of this shape, nothing done.
bool decode_attention(Type type, const PagedShape& shape, const void* qkv, void* keys, void* values,
                      int splits, float* mixes, float2* sums, void* out, cudaStream_t stream);

}  // namespace qad::cuda
