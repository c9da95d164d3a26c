// The optimiser against torch.optim.AdamW, and the schedule by hand.
#include "distill/adamw.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/json.h"
#include "distill/trainer.h"

namespace qad::distill {
namespace {

TEST(AdamW, EqualsTorch) {
  for (const Json& c : read_json(fs::path(QAD_SOURCE_DIR) / "tests/golden/adamw.json")) {
    auto master = c["start"].get<std::vector<float>>();
    const auto end = c["end"].get<std::vector<float>>();
    std::vector<float> m(master.size()), v(master.size());
    AdamW a{c["learning_rate"], c["beta1"], c["beta2"], c["epsilon"], c["weight_decay"], 0, 0.5};
    for (const Json& g : c["gradients"]) {
      auto gradient = g.get<std::vector<float>>();
      for (float& x : gradient) x *= 2;  // undone by `scale`, exactly
      ++a.step;
      adamw_update(a, gradient.data(), m.data(), v.data(), master.data(),
                   static_cast<std::int64_t>(master.size()));
    }
    // Five updates of at most some 0.03 each, a few roundings of 2^-24 relative in every one, on
    // values below 4: ulps of 2^-22.
    for (std::size_t i = 0; i < end.size(); ++i) EXPECT_NEAR(master[i], end[i], 5 * 0x1p-22) << i;
  }
}

TEST(AdamW, SumOfSquaresIsExactAcrossChunks) {
  std::vector<float> x(100003, 0.5f);
  EXPECT_EQ(sum_of_squares(x), 0.25 * 100003);
  EXPECT_EQ(sum_of_squares({}), 0);
  std::vector<float> large(16, 1e30f);  // beyond FP32 when squared
  EXPECT_NEAR(sum_of_squares(large) / 16e60, 1, 1e-6);
}

TEST(Schedule, ByHand) {
  TrainConfig c;
  c.steps = 12;
  c.warmup_steps = 2;
  c.learning_rate = 8;
  c.final_fraction = 0.25;
  const auto at = [&](std::int64_t step) { return learning_rate_at(c, step); };
  for (const Schedule s : {Schedule::constant, Schedule::linear, Schedule::cosine}) {
    c.schedule = s;
    EXPECT_DOUBLE_EQ(at(0), 4);
    EXPECT_DOUBLE_EQ(at(1), 8);
    EXPECT_DOUBLE_EQ(at(2), 8);
    EXPECT_DOUBLE_EQ(at(11), s == Schedule::constant ? 8 : 2);
  }
  c.schedule = Schedule::linear;
  EXPECT_DOUBLE_EQ(at(5), 8 - 6 * 3 / 9.0);
  c.schedule = Schedule::cosine;
  EXPECT_DOUBLE_EQ(at(5), 2 + 6 * 0.75);  // cos(pi / 3) = 1/2
  c.warmup_steps = 0;
  EXPECT_DOUBLE_EQ(at(0), 8);
}

}  // namespace
}  // namespace qad::distill
