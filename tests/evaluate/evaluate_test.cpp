// Metrics: a model against itself, standard errors by hand, and independence of batching.
#include "evaluate/evaluate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "distill/tiny_model.h"
#include "evaluate/ratio.h"

namespace qad::evaluate {
namespace {

TEST(Ratio, ByHand) {
  // R = 12 / 6 = 2; residuals 1 - 2, 5 - 4, 6 - 6 = -1, 1, 0; se^2 = 3/2 * 2 / 36 = 1/12.
  const double sums[] = {1, 5, 6}, counts[] = {1, 2, 3};
  const Value v = ratio(sums, counts);
  EXPECT_DOUBLE_EQ(v.mean, 2);
  EXPECT_DOUBLE_EQ(v.se, std::sqrt(1.0 / 12));
  EXPECT_TRUE(std::isnan(ratio(std::span(sums, 1), std::span(counts, 1)).se));
}

TEST(Evaluate, AgainstItselfAndAgainstACopy) {
  const models::Model model = distill::random_model(distill::tiny_config());
  const models::Model copy = distill::random_model(distill::tiny_config());
  const auto batches = evaluation_batches(distill::random_documents(12, 4), 16, 64);
  for (const models::Model* teacher : {&model, &copy}) {
    const Metrics m = evaluate(model, teacher, batches);
    EXPECT_NEAR(m.kl->mean, 0, 1e-7);
    EXPECT_EQ(m.top1->mean, 1);
    EXPECT_EQ(m.top1->se, 0);
    EXPECT_EQ(m.documents, 12);
  }
  EXPECT_FALSE(evaluate(model, nullptr, batches).kl.has_value());
}

TEST(Evaluate, CrossEntropyOfAUniformModelIsLogOfTheVocabulary) {
  models::Model model = distill::random_model(distill::tiny_config());
  model.head->weight.value.zero_();
  const auto documents = distill::random_documents(5, 4);
  const Metrics m = evaluate(model, nullptr, evaluation_batches(documents, 16));
  EXPECT_NEAR(m.ce.mean, std::log(48), 1e-6);
  EXPECT_NEAR(m.ppl.mean, 48, 1e-4);
  EXPECT_NEAR(m.ce.se, 0, 1e-6);
  std::int64_t targets = 0;
  for (const auto& d : documents) targets += static_cast<std::int64_t>(d.ids.size()) - 1;
  EXPECT_EQ(m.tokens, targets);
}

TEST(Evaluate, DoesNotDependOnBatching) {
  const models::Model model = distill::random_model(distill::tiny_config());
  const models::Model teacher = distill::random_model(distill::tiny_config(), 9);
  const auto documents = distill::random_documents(12, 4);
  const Metrics one = evaluate(model, &teacher, evaluation_batches(documents, 16, 1));
  const Metrics all = evaluate(model, &teacher, evaluation_batches(documents, 16, 100000));
  EXPECT_NEAR(one.ce.mean, all.ce.mean, 1e-5);
  EXPECT_NEAR(one.ce.se, all.ce.se, 1e-5);
  EXPECT_NEAR(one.kl->mean, all.kl->mean, 1e-5);
  EXPECT_GT(one.kl->mean, 0);
  EXPECT_EQ(one.tokens, all.tokens);
}

TEST(Evaluate, RefusesAnotherVocabulary) {
  const models::Model model = distill::random_model(distill::tiny_config());
  auto config = distill::tiny_config();
  config.vocabulary = 50;
  const models::Model teacher = distill::random_model(config);
  EXPECT_THROW(evaluate(model, &teacher, evaluation_batches(distill::random_documents(2, 4), 16)),
               Error);
}

}  // namespace
}  // namespace qad::evaluate
