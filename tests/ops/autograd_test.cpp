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

TEST(Autograd, RefusesSecondDerivatives) {
  const Tensor x = reference::leaf(at::ones({2}));
  const bool fails = false;
  EXPECT_THROW(triple(x, fails).sum().backward({}, true, true), Error);
}

TEST(Autograd, AnOutputSavedForItselfIsFreed) {
  const Tensor x = reference::leaf(at::full({2}, 3.0f));
  const auto square = [&] {
    const at::NoGradGuard guard;
    const Tensor y = x.exp();
    record("exp", y, {x}, {y},
           [](const Tensor& grad, Tensors saved) -> Tensors { return {grad.mul(saved.at(0))}; });
    return y;
  };
  c10::weak_intrusive_ptr<c10::StorageImpl> memory = [&] {
    const Tensor y = square();
    return c10::weak_intrusive_ptr<c10::StorageImpl>(y.storage().getWeakStorageImpl());
  }();
  EXPECT_TRUE(memory.expired()) << "without a backward pass";
  const Tensor y = square();
  y.sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), y));
}

TEST(Autograd, OfSeveralOutputsAnyMayGoUnused) {
  const auto gradient = [](bool first, bool second) {
    const Tensor x = reference::leaf(at::ones({2}));
    Tensor doubled, tripled;
    {
      const at::NoGradGuard guard;
      doubled = x.mul(2), tripled = x.mul(3);
      record("both", Tensors{doubled, tripled}, {x}, {},
             [=](const Tensors& grads, Tensors) -> Tensors {
               EXPECT_EQ(grads.at(0).defined(), first);
               EXPECT_EQ(grads.at(1).defined(), second);
               Tensor sum = at::zeros({2});
               if (first) sum += grads[0] * 2;
               if (second) sum += grads[1] * 3;
               return {sum};
             });
    }
    (first && second ? doubled + tripled : first ? doubled : tripled).sum().backward();
    return x.grad();
  };
  EXPECT_TRUE(at::equal(gradient(true, true), at::full({2}, 5.0f)));
  EXPECT_TRUE(at::equal(gradient(true, false), at::full({2}, 2.0f)));
  EXPECT_TRUE(at::equal(gradient(false, true), at::full({2}, 3.0f)));
}

}  // namespace
}  // namespace qad::ops
