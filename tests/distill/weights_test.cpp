// Split masters where values are BF16, as on a GPU: high halves are the values themselves.
#include "distill/weights.h"

#include <gtest/gtest.h>

#include "distill/candidates.h"
#include "distill/tiny_model.h"

namespace qad::distill {
namespace {

void expect_are(const std::vector<ops::Master>& split, const std::vector<at::Tensor>& fp32) {
  for (std::size_t i = 0; i < fp32.size(); ++i) {
    const at::Tensor high = split[i].high.view(at::kShort).to(at::kInt);
    EXPECT_TRUE(at::equal((high * 65536 + split[i].low.to(at::kInt)).view(at::kFloat), fp32[i]));
  }
}

TEST(Weights, AnUnquantisedBf16ValueIsItsMastersHighHalf) {
  models::Model model = random_model(tiny_config());
  const auto parameters = models::parameters(model);
  std::vector<at::Tensor> masters, plain;
  for (models::Parameter* p : parameters) {
    plain.push_back(p->value.clone());
    p->value = p->value.to(at::kBFloat16);
    masters.push_back(p->value.clone());
  }
  TrainConfig config = tiny_train();
  config.split_masters = true;
  Weights weights(model, masters, nvfp4::GlobalScale::pow2, config);
  weights.require_gradients(true);
  std::vector<at::Tensor> m, v;
  for (const at::Tensor& t : plain) m.push_back(at::zeros_like(t)), v.push_back(at::zeros_like(t));
  at::manual_seed(3);
  for (int step = 1; step <= 4; ++step) {
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const at::Tensor gradient = at::randn(plain[i].sizes());
      parameters[i]->value.mutable_grad() = gradient;
      ops::adamw_({1e-3, config.beta1, config.beta2, config.epsilon, 0, step}, plain[i], gradient,
                  m[i], v[i]);
    }
    weights.update(step, 1e-3, at::ones({}));
    weights.sync();
  }
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const ops::Master& master = weights.masters()[i];
    EXPECT_EQ(master.high.data_ptr(), parameters[i]->value.data_ptr());
  }
  expect_are(weights.masters(), plain);
  // A candidate comes back with both halves.
  Candidates candidates({}, 1);
  candidates.consider({4, 1.0}, weights);
  for (const auto& [name, tensor] : weights.master_state()) at::Tensor(tensor).fill_(7);
  candidates.restore(4, weights);
  expect_are(weights.masters(), plain);
}

}  // namespace
}  // namespace qad::distill
