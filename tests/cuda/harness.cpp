#include "cuda/harness.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "core/error.h"

namespace qad::cuda::test {
namespace {

// The results, and those of a list one after another.
std::vector<at::Tensor> call(const std::string& name, std::vector<at::IValue> stack) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "").callBoxed(&stack);
  std::vector<at::Tensor> outputs;
  for (const at::IValue& v : stack)
    if (v.isTensorList())
      for (const at::Tensor& t : v.toTensorVector()) outputs.push_back(t);
    else
      outputs.push_back(v.toTensor());
  return outputs;
}

at::IValue on_gpu(const Argument& a, at::ScalarType type) {
  if (!a.on_gpu.isNone()) return a.on_gpu;
  if (a.value.isTensorList()) {
    std::vector<at::Tensor> list;
    for (const at::Tensor& t : a.value.toTensorVector()) list.push_back(t.to(at::kCUDA, type));
    return list;
  }
  if (!a.value.isTensor() || a.stays || !a.value.toTensor().defined()) return a.value;
  const at::Tensor t = a.value.toTensor();
  return a.values ? t.to(at::kCUDA, type) : t.to(at::kCUDA);
}

// As integers, so that signed zeros and NaN count.
bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const auto bits = [](const at::Tensor& t) {
    return t.scalar_type() == at::kBFloat16 ? t.view(at::kShort)
           : t.scalar_type() == at::kFloat  ? t.view(at::kInt)
                                            : t;
  };
  return at::equal(bits(a.contiguous()), bits(b.contiguous()));
}

void compare(const at::Tensor& cpu, const at::Tensor& gpu, const Tolerance& t, bool bf16,
             const std::string& what) {
  ASSERT_EQ(cpu.defined(), gpu.defined()) << what;
  if (!cpu.defined()) return;
  ASSERT_EQ(cpu.sizes(), gpu.sizes()) << what;
  ASSERT_TRUE(gpu.is_cuda()) << what;
  if (cpu.numel() == 0) return;
  const at::Tensor actual = gpu.cpu();
  if (t.fp32 == 0 && t.bf16 == 0) {
    EXPECT_TRUE(same_bits(actual, cpu.to(actual.scalar_type()))) << what << ": not the same bits";
    return;
  }
  const at::Tensor e = cpu.to(at::kDouble), a = actual.to(at::kDouble);
  ASSERT_TRUE(a.isfinite().all().item<bool>()) << what << ": not finite";
  const double scale = std::max(t.least, e.abs().max().item<double>());
  const double own = actual.scalar_type() == at::kBFloat16 ? 0x1p-8 : 0;
  const double common = t.fp32 * 0x1p-24 + (bf16 ? t.bf16 * 0x1p-8 : 0);
  const at::Tensor error = (a - e).abs(), bound = e.abs() * own + common * scale;
  EXPECT_TRUE((error <= bound).all().item<bool>())
      << what << ": error " << error.max().item<double>() << ", largest value " << scale
      << ", worst error over its bound " << (error / bound).max().item<double>();
}

}  // namespace

Argument values(const at::Tensor& t) {
  return {t, true};
}
Argument fixed(const at::Tensor& t) {
  return {t};
}
Argument values(const std::vector<at::Tensor>& list) {
  return {list, true};
}
Argument changed(const at::Tensor& t) {
  return {t, false, false, true};
}
Argument changed_values(const at::Tensor& t) {
  return {t, true, false, true};
}
Argument on_cpu(const at::Tensor& t) {
  return {t, false, true};
}

bool few_sizes() {
  static const bool few = [] {
    const char* wanted = std::getenv("QAD_TEST_SIZES");
    check(!wanted || std::string(wanted) == "few", "test_cuda",
          "QAD_TEST_SIZES: expected few or nothing, found {}", wanted ? wanted : "");
    return wanted != nullptr;
  }();
  return few;
}

at::Tensor random(at::IntArrayRef shape, double scale) {
  return at::randn(shape, at::kFloat).mul(scale).to(at::kBFloat16).to(at::kFloat);
}

void run(const Case& c, at::ScalarType type) {
  at::manual_seed(std::hash<std::string>()(c.name));
  const std::vector<Argument> arguments = c.arguments();
  std::vector<at::IValue> cpu, gpu;
  for (const Argument& a : arguments) {
    cpu.push_back(a.value);
    gpu.push_back(on_gpu(a, type));
  }
  const std::string what = c.name + " in " + c10::toString(type);
  try {
    std::vector<at::Tensor> expected = call(c.op, cpu), actual = call(c.op, gpu);
    ASSERT_EQ(expected.size(), actual.size()) << what;
    ASSERT_LE(expected.size(), c.outputs.size()) << what;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
      if (!arguments[i].changes) continue;
      expected.push_back(cpu[i].toTensor());
      actual.push_back(gpu[i].toTensor());
    }
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double factor = i < c.factors.size() ? c.factors[i] : 1;
      const Tolerance tolerance = i < c.outputs.size() ? c.outputs[i] : Tolerance{};
      compare(factor == 1 ? expected[i] : expected[i] * factor, actual[i], tolerance,
              type == at::kBFloat16, what + ", result " + std::to_string(i));
    }
  } catch (const std::exception& error) {
    ADD_FAILURE() << what << ": " << error.what();
  }
}

}  // namespace qad::cuda::test
