// Fake quantisation against memcpy of the same array on one core, in cache (256 KiB) and out of it
// (64 MiB). Bytes per second count the FP32 array once. Run: build/bench_nvfp4
#include <benchmark/benchmark.h>

#include <cstring>
#include <random>
#include <vector>

#include "nvfp4/nvfp4.h"

namespace {

using namespace qad::nvfp4;

constexpr std::int64_t kCols = 4096;

struct Matrix {
  explicit Matrix(const benchmark::State& state)
      : rows(state.range(0) / (kCols * 4)), x(rows * kCols) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0f, 0.02f);
    for (float& v : x) v = normal(random);
    y.resize(x.size());
    codes.resize(x.size() / 2);
    scales.resize(x.size() / kBlock);
  }
  float global(BlockScale rule) const {
    return global_scale(amax(x, "x"), GlobalScale::pow2, rule);
  }
  void done(benchmark::State& state) const {
    benchmark::ClobberMemory();
    state.SetBytesProcessed(state.iterations() *
                            static_cast<std::int64_t>(x.size() * sizeof(float)));
  }

  std::int64_t rows;
  std::vector<float> x, y;
  std::vector<std::uint8_t> codes, scales;
};

void copy(benchmark::State& state) {
  Matrix m(state);
  for (auto _ : state) {
    std::memcpy(m.y.data(), m.x.data(), m.x.size() * sizeof(float));
    benchmark::ClobberMemory();
  }
  m.done(state);
}

void fake(benchmark::State& state, BlockScale rule) {
  Matrix m(state);
  const float global = m.global(rule);
  for (auto _ : state)
    benchmark::DoNotOptimize(fake_quantize(m.x.data(), m.rows, kCols, global, rule, m.y.data()));
  m.done(state);
}

void to_codes(benchmark::State& state) {
  Matrix m(state);
  const float global = m.global(BlockScale::max);
  for (auto _ : state)
    quantize(m.x.data(), m.rows, kCols, global, BlockScale::max, m.codes.data(), m.scales.data());
  m.done(state);
}

void from_codes(benchmark::State& state) {
  Matrix m(state);
  const float global = m.global(BlockScale::max);
  quantize(m.x.data(), m.rows, kCols, global, BlockScale::max, m.codes.data(), m.scales.data());
  for (auto _ : state)
    dequantize(m.codes.data(), m.scales.data(), m.rows, kCols, global, m.y.data());
  m.done(state);
}

void sizes(benchmark::internal::Benchmark* b) {
  b->Arg(256 << 10)->Arg(64 << 20);
}

BENCHMARK(copy)->Apply(sizes);
BENCHMARK_CAPTURE(fake, max, BlockScale::max)->Apply(sizes);
BENCHMARK_CAPTURE(fake, mse, BlockScale::mse)->Arg(256 << 10);
BENCHMARK_CAPTURE(fake, four_over_six, BlockScale::four_over_six)->Apply(sizes);
BENCHMARK(to_codes)->Name("quantize/max")->Apply(sizes);
BENCHMARK(from_codes)->Name("dequantize")->Apply(sizes);

}  // namespace

BENCHMARK_MAIN();
