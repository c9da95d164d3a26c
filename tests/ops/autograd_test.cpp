// record: what autograd is told, and what it is spared.
#include "ops/autograd.h"

#include "core/error.h"
#include "reference.h"

namespace qad::ops {
namespace {

using at::Tensor;

// y = 3 x, whose gradient may be made to fail.
Tensor triple(const Tensor& x, const bool& fails) {
  const at::NoGradGuard guard;
  const Tensor y = x.mul(3);
  record("triple", y, {x, Tensor()}, {x}, [&fails](const Tensor& grad, Tensors saved) -> Tensors {
    check(!fails, "triple", "fails as told");
    EXPECT_EQ(saved.at(0).numel(), 2);
    return {grad.mul(3), Tensor()};
  });
  return y;
}

TEST(Autograd, GradientReachesTheInputAndGraphsAreSpent) {
  const Tensor x = reference::leaf(at::ones({2}));
  const bool fails = false;
  const Tensor y = triple(x, fails).sum();
  y.backward({}, true);
  y.backward();
  EXPECT_TRUE(at::equal(x.grad(), at::full({2}, 6.0f)));
  EXPECT_THROW(y.backward(), std::exception);
}

TEST(Autograd, AfterAFailureNothingIsReadThatIsGone) {
  const Tensor x = reference::leaf(at::ones({2}));
  const bool fails = true;
  const Tensor y = triple(x, fails);
  EXPECT_THROW(y.backward(at::ones({2})), Error);
  EXPECT_THROW(y.backward(at::ones({2})), Error);
  EXPECT_FALSE(x.grad().defined());
}

TEST(Autograd, RefusesSecondDerivativesAndCycles) {
  const Tensor x = reference::leaf(at::ones({2}));
  const bool fails = false;
  EXPECT_THROW(triple(x, fails).sum().backward({}, true, true), Error);
  const Tensor y = at::ones({2});
  EXPECT_THROW(record("self", y, {x}, {y}, {}), Error);
}

}  // namespace
}  // namespace qad::ops
