// recomputed: what is kept, what runs when, and that gradients are those of the plain computation.
#include "ops/recompute.h"

#include "core/error.h"
#include "reference.h"

namespace qad::ops {
namespace {

using at::Tensor;

TEST(Recompute, GradientsArriveWhereTheyBelong) {
  // (x, w) -> (x, x w, w^2); d/dx of a x + b x w + c w^2 is a + b w, d/dw is b x + 2 c w.
  for (const bool a : {false, true})
    for (const bool b : {false, true})
      for (const bool c : {false, true}) {
        if (!a && !b && !c) continue;
        const Tensor x = reference::leaf(at::full({2}, 3.0f)),
                     w = reference::leaf(at::full({2}, 5.0f)), doubled = x.mul(2);
        std::vector<bool> runs;
        const Tensors out =
            recomputed("three", {doubled, Tensor()}, {w}, [&](const Tensors& in, bool again) {
              runs.push_back(again);
              EXPECT_FALSE(in.at(1).defined());
              EXPECT_EQ(at::GradMode::is_enabled(), again);
              return Tensors{in[0], in[0].mul(w), w.mul(w)};
            });
        EXPECT_TRUE(at::equal(out.at(0), doubled));
        EXPECT_FALSE(out[0].is_same(doubled));
        Tensor sum = at::zeros({2});
        if (a) sum = sum + out[0] * 7;
        if (b) sum = sum + out[1] * 11;
        if (c) sum = sum + out[2] * 13;
        sum.backward(at::ones({2}));
        EXPECT_EQ(runs, (std::vector<bool>{false, true}));
        EXPECT_TRUE(at::equal(a || b ? x.grad() : at::zeros({2}),
                              at::full({2}, 2.0f * ((a ? 7 : 0) + (b ? 11 * 5 : 0)))));
        EXPECT_TRUE(at::equal(b || c ? w.grad() : at::zeros({2}),
                              at::full({2}, (b ? 11.0f * 6 : 0) + (c ? 13.0f * 2 * 5 : 0))));
      }
}

TEST(Recompute, OnlyInputsAreKeptAndTheGraphIsSpent) {
  const Tensor x = reference::leaf(at::full({2}, 3.0f));
  std::optional<c10::weak_intrusive_ptr<c10::StorageImpl>> inner;
  const Tensors out = recomputed("exp", {x}, {}, [&](const Tensors& in, bool) {
    const Tensor y = in.at(0).exp();
    inner.emplace(y.storage().getWeakStorageImpl());
    return Tensors{y.mul(y)};
  });
  EXPECT_TRUE(inner->expired());
  const Tensor sum = out[0].sum();
  sum.backward();
  EXPECT_TRUE(inner->expired()) << "after the way back";
  const Tensor y = x.detach().exp();
  EXPECT_TRUE(at::equal(x.grad(), (y + y) * y));
  EXPECT_THROW(sum.backward(), std::exception);
}

TEST(Recompute, WithoutGradientsItRunsOnce) {
  const Tensor x = at::ones({2});
  int runs = 0;
  const Make make = [&](const Tensors& in, bool) {
    ++runs;
    return Tensors{in.at(0).mul(2)};
  };
  EXPECT_FALSE(recomputed("twice", {x}, {}, make)[0].requires_grad());
  const at::NoGradGuard guard;
  EXPECT_FALSE(recomputed("twice", {reference::leaf(x)}, {}, make)[0].requires_grad());
  EXPECT_EQ(runs, 2);
}

}  // namespace
}  // namespace qad::ops
