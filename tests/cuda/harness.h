// One operator, run by name through PyTorch's dispatcher on the CPU and on the GPU with the same
// values, and the comparison of what comes back.
#pragma once

#include <ATen/core/ivalue.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace qad::cuda::test {

// An argument of an operator. `values` are tensors that come in the type under test: on the GPU in
// that type, on the CPU as float32 with values that the type holds exactly.
struct Argument {
  at::IValue value;
  bool values = false;
  bool stays = false;  // on the CPU, also for the GPU's call
  // In place: compared afterwards, as a result behind those that are returned; to the bit where
  // the case gives it no tolerance.
  bool changes = false;
  at::IValue on_gpu = {};  // there instead of `value`: what only a GPU takes
};
Argument values(const at::Tensor& t);
Argument values(const std::vector<at::Tensor>& list);
Argument changed(const at::Tensor& t);         // fixed, and changes
Argument changed_values(const at::Tensor& t);  // values, and changes
Argument fixed(const at::Tensor& t);           // its type is part of the schema
Argument on_cpu(const at::Tensor& t);

// How far a result may be from the CPU's: |a - e| <= own * 2^-8 |e| + (fp32 * 2^-24 + bf16 * 2^-8)
// max|e|. 2^-24 and 2^-8 are the relative errors of one rounding to FP32 and BF16. `own`: roundings
// of a result itself to BF16 (only where it is BF16). `fp32`, `bf16`: roundings of intermediate
// values that are no larger than the largest result, one after another; the bound is for the worst.
struct Tolerance {
  double fp32 = 0;   // 0 and bf16 0: equal, or equal after the rounding to the result's type
  double bf16 = 0;   // counted only when the case runs in BF16
  double least = 0;  // intermediate values are this large where results are smaller
};

struct Case {
  std::string name;  // operator and shape
  std::string op;    // "qad::..."
  std::function<std::vector<Argument>()> arguments;
  std::vector<Tolerance> outputs;
  std::vector<double> factors = {};  // of the CPU's outputs before the comparison; default 1
  bool fp32 = true, bf16 = true;     // the types it runs in
};

// Fails the current test where they differ.
void run(const Case& c, at::ScalarType type);

// QAD_TEST_SIZES=few asks for these alone: under a sanitizer (scripts/cuda-sanitize) a run takes a
// hundred times as long. They are the least that reaches every kernel of ours with whole and cut
// accesses, several blocks, and blocks that take turns; values matter less there.
bool few_sizes();
template <class T>
std::vector<T> sizes(std::vector<T> all, std::vector<T> few) {
  return few_sizes() ? few : all;
}

// Random numbers that both types hold exactly.
at::Tensor random(at::IntArrayRef shape, double scale = 1);

std::vector<Case> pointwise_cases();
std::vector<Case> format_cases();
std::vector<Case> attention_cases();
std::vector<Case> paged_attention_cases();
std::vector<Case> head_cases();
std::vector<Case> optimizer_cases();
std::vector<Case> mamba_cases();
std::vector<Case> expert_cases();
std::vector<Case> expert_product_cases();

}  // namespace qad::cuda::test
