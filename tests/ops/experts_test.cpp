// The operators of a mixture of experts against double formulas that ask every expert about every
// token, under routings that are even, uneven and all to one.
#include "ops/experts.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "reference.h"

namespace qad::ops {
namespace {

using reference::double_leaf;
using reference::expect_near;
using reference::expect_same;
using reference::leaf;
using reference::random;
using Tensor = at::Tensor;

// models.md 2.5 word by word, with PyTorch's own selection. Experts int64 [T, k].
struct ReferenceRoutes {
  Tensor experts, weights;
};
ReferenceRoutes reference_route(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                const RouterConfig& c) {
  const Tensor logits = at::mm(x, weight.t());
  const Tensor s = c.softmax ? logits.softmax(-1) : logits.sigmoid();
  Tensor choice = s.detach();
  if (bias.defined()) choice = choice + bias.to(at::kDouble);
  if (c.groups > 1) {
    const Tensor grouped = choice.view({x.size(0), c.groups, -1});
    const Tensor best = std::get<0>(grouped.topk(2, -1)).sum(-1);
    const Tensor kept = std::get<1>(best.topk(c.top_groups, -1));
    const Tensor mask = at::ones_like(best).scatter(1, kept, 0).to(at::kBool).unsqueeze(-1);
    choice = grouped.masked_fill(mask, -INFINITY).view(choice.sizes());
  }
  const Tensor experts = std::get<1>(choice.topk(c.top_k, -1));
  Tensor w = s.gather(1, experts);
  if (c.normalize) w = w / (w.sum(-1, true) + 1e-20);
  return {experts, w * c.scale};
}

struct RouterCase {
  const char* name;
  std::int64_t experts;
  RouterConfig config;
};
const RouterCase kRouters[] = {
    {"OneOfOne", 1, {.top_k = 1}},
    {"TwoOfFour", 4, {.top_k = 2, .scale = 2.5}},
    {"SixOf128", 128, {.top_k = 6, .scale = 2.5}},
    {"TwoOfOneGroup", 8, {.top_k = 2, .groups = 2, .top_groups = 1}},
    {"AllOfTwoGroups", 9, {.top_k = 6, .groups = 3, .top_groups = 2, .scale = 0.5}},
    {"SoftmaxTwoOfSix", 6, {.top_k = 2, .normalize = false, .softmax = true}},
    {"SoftmaxEightOf128", 128, {.top_k = 8, .scale = 2, .softmax = true}},
    {"SoftmaxAll", 3, {.top_k = 3, .normalize = false, .softmax = true}},
    {"AsTheyAre", 8, {.top_k = 3, .groups = 4, .top_groups = 2, .normalize = false, .scale = 3}},
};

class Router : public ::testing::TestWithParam<RouterCase> {};

TEST_P(Router, ChoosesAndWeighsAsTheFormula) {
  const auto& [name, experts, config] = GetParam();
  for (const std::int64_t tokens : {1, 7, 300}) {
    const Tensor x = leaf(random({tokens, 24})), w = leaf(random({experts, 24}, 0.3));
    const Tensor bias = config.softmax ? Tensor() : random({experts}, 0.2), xd = double_leaf(x),
                 wd = double_leaf(w);
    const Routes routes = route(x, w, bias, config);
    const ReferenceRoutes expected = reference_route(xd, wd, bias, config);
    ASSERT_TRUE(at::equal(routes.experts.to(at::kLong), expected.experts)) << name;
    // A logit of 24 products, its exponential, the sum of k, two divisions.
    expect_near(routes.weights, expected.weights, 48, "weights");
    const Tensor g = random({tokens, config.top_k});
    routes.weights.backward(g);
    expected.weights.backward(g.to(at::kDouble));
    // The same again; of a sum that is divided by, differences of gradients remain.
    expect_near(x.grad(), xd.grad(), 256, "dx", 0.1);
    expect_near(w.grad(), wd.grad(), 256 + tokens, "dweight", 0.1);
  }
}
INSTANTIATE_TEST_SUITE_P(Experts, Router, ::testing::ValuesIn(kRouters),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Router, EqualScoresChooseTheFirst) {
  const Routes r = route(at::zeros({2, 3}), random({6, 3}), at::zeros({6}), {.top_k = 3});
  EXPECT_TRUE(at::equal(r.experts, at::tensor({0, 1, 2, 0, 1, 2}, at::kInt).view({2, 3})));
  expect_near(r.weights, at::full({2, 3}, 1 / 3.0), 4, "weights");
}

// Beyond what FP32 holds, the choice is still one of experts.
TEST(Router, NotANumberChoosesSomeExperts) {
  for (const std::int64_t groups : {1, 4}) {
    const Routes r = route(at::full({1, 2}, NAN), random({8, 2}), at::zeros({8}),
                           {.top_k = 3, .groups = groups, .top_groups = (groups + 1) / 2});
    EXPECT_NO_THROW(sort_by_expert(r.experts, 8));
    EXPECT_TRUE(r.weights.isnan().all().item<bool>());
  }
}

TEST(Router, RefusesWhatLeavesTooFewExperts) {
  const Tensor x = random({2, 4}), w = random({6, 4}), b = at::zeros({6});
  const auto with = [&](RouterConfig c) { return [=] { route(x, w, b, c); }; };
  EXPECT_THROW(with({.top_k = 7})(), Error);
  EXPECT_THROW(with({.top_k = 0})(), Error);
  EXPECT_THROW(with({.top_k = 1, .groups = 4, .top_groups = 1})(), Error);
  EXPECT_THROW(with({.top_k = 1, .groups = 6, .top_groups = 6})(), Error);  // of one each
  EXPECT_THROW(with({.top_k = 4, .groups = 2, .top_groups = 1})(), Error);
  EXPECT_THROW(with({.top_k = 1, .groups = 2, .top_groups = 3})(), Error);
  EXPECT_THROW(route(x, w, at::zeros({5}), {}), Error);
  EXPECT_THROW(route(random({2, 5}), w, b, {}), Error);
}

TEST(SortByExpert, IsStableAndItsOwnInverse) {
  const Tensor experts = at::tensor({3, 1, 1, 3, 0, 3}, at::kInt).view({3, 2});
  const ExpertOrder order = sort_by_expert(experts, 5);
  EXPECT_TRUE(at::equal(order.offsets, at::tensor({0, 1, 3, 3, 6, 6}, at::kInt)));
  EXPECT_TRUE(at::equal(order.choices, at::tensor({4, 1, 2, 0, 3, 5}, at::kInt)));
  EXPECT_TRUE(at::equal(order.rows, at::tensor({3, 1, 2, 4, 0, 5}, at::kInt).view({3, 2})));
  EXPECT_THROW(sort_by_expert(experts, 3), Error);
  EXPECT_THROW(sort_by_expert(experts.neg(), 5), Error);
}

// Of each token and choice, which expert.
struct Routing {
  const char* name;
  std::int64_t tokens, top_k;
  std::function<std::int64_t(std::int64_t token, std::int64_t choice)> expert;
};
constexpr std::int64_t kExperts = 7;
const Routing kRoutings[] = {
    {"Even", 35, 3, [](auto t, auto j) { return (t * 3 + j) % kExperts; }},
    {"AllToOne", 64, 1, [](auto, auto) { return 4; }},
    {"AllToTheSameTwo", 50, 2, [](auto, auto j) { return 6 - j; }},
    {"OneToken", 1, 4, [](auto, auto j) { return 2 * j; }},
    {"Uneven", 90, 2, [](auto t, auto j) { return j == 0 ? t * t * t / 150000 : 1 + t % 6; }},
};

// A whole feed-forward: squared ReLU experts and what is added beside them.
struct FeedForward {
  Tensor x, weights, addend;
  std::vector<Tensor> up, down;

  FeedForward(const Routing& r, std::int64_t hidden, std::int64_t width)
      : x(random({r.tokens, hidden})),
        weights(random({r.tokens, r.top_k})),
        addend(random({r.tokens, hidden})) {
    for (std::int64_t e = 0; e < kExperts; ++e) {
      up.push_back(random({width, hidden}, 0.3));
      down.push_back(random({hidden, width}, 0.3));
    }
  }
  std::vector<Tensor*> all() {
    std::vector<Tensor*> out{&x, &weights, &addend};
    for (auto* list : {&up, &down})
      for (Tensor& t : *list) out.push_back(&t);
    return out;
  }
};

Tensor experts_of(const Routing& r) {
  std::vector<std::int32_t> of;
  for (std::int64_t t = 0; t < r.tokens; ++t)
    for (std::int64_t j = 0; j < r.top_k; ++j)
      of.push_back(static_cast<std::int32_t>(r.expert(t, j)));
  return at::tensor(of, at::kInt).view({r.tokens, r.top_k});
}

Tensor run(const FeedForward& f, const Tensor& experts) {
  const ExpertOrder order = sort_by_expert(experts, kExperts);
  const Tensor up = grouped_linear(gather_rows(f.x, order), f.up, order.offsets);
  const Tensor y = grouped_linear(relu2(up), f.down, order.offsets);
  return combine_rows(y, f.weights, order, f.addend);
}

Tensor run_reference(const FeedForward& f, const Tensor& experts) {
  Tensor out = f.addend;
  for (std::int64_t e = 0; e < kExperts; ++e) {
    const auto i = static_cast<std::size_t>(e);
    const Tensor y = at::mm(at::mm(f.x, f.up[i].t()).relu().square(), f.down[i].t());
    const Tensor share = (f.weights * experts.eq(e).to(at::kDouble)).sum(-1, true);
    out = out + share * y;
  }
  return out;
}

class Mixture : public ::testing::TestWithParam<Routing> {};

TEST_P(Mixture, ResultAndGradientsAreTheFormulas) {
  const Routing& r = GetParam();
  const Tensor experts = experts_of(r);
  for (const auto& [hidden, width] : {std::pair<std::int64_t, std::int64_t>{33, 20}, {64, 112}}) {
    FeedForward ours(r, hidden, width), theirs = ours;
    for (Tensor* t : theirs.all()) *t = double_leaf(*t);
    for (Tensor* t : ours.all()) *t = leaf(*t);
    const Tensor y = run(ours, experts), yd = run_reference(theirs, experts);
    const double terms = static_cast<double>(hidden + width + r.tokens);
    expect_near(y, yd, terms, "y");
    const Tensor g = random(y.sizes());
    y.backward(g);
    yd.backward(g.to(at::kDouble));
    const auto a = ours.all(), b = theirs.all();
    for (std::size_t i = 0; i < a.size(); ++i) {
      ASSERT_TRUE(a[i]->grad().defined()) << i;
      expect_near(a[i]->grad(), b[i]->grad(), terms, "gradient " + std::to_string(i));
      if (i < 3) continue;  // an expert without rows has gradients of zeros, to the bit
      const auto e = static_cast<std::int64_t>((i - 3) % kExperts);
      const bool reached = experts.eq(e).any().item<bool>();
      EXPECT_EQ(a[i]->grad().ne(0).any().item<bool>(), reached) << "expert " << e;
    }
  }
}

TEST_P(Mixture, ThreadsChangeNoBit) {
  const Tensor experts = experts_of(GetParam());
  const FeedForward given(GetParam(), 64, 112);
  const auto gradients = [&](int threads) {
    at::set_num_threads(threads);
    FeedForward f = given;
    for (Tensor* t : f.all()) *t = leaf(*t);
    const Tensor y = run(f, experts);
    y.backward(y.detach().cos());
    std::vector<Tensor> out{y};
    for (Tensor* t : f.all()) out.push_back(t->grad());
    return out;
  };
  const int threads = at::get_num_threads();
  const auto one = gradients(1), two = gradients(2);
  at::set_num_threads(threads);
  for (std::size_t i = 0; i < one.size(); ++i) expect_same(one[i], two[i], std::to_string(i));
}

// Each expert's rows are what fake_quantize makes of them alone, under its own scale, and what it
// clipped is counted for it; those without a scale stay.
TEST_P(Mixture, RowsAreQuantisedUnderTheirExpertsScale) {
  const Routing& r = GetParam();
  const ExpertOrder order = sort_by_expert(experts_of(r), kExperts);
  const Tensor x = random({r.tokens, 40}, 3), rows = gather_rows(x, order);
  GroupQuantizer q{{}, nvfp4::BlockScale::four_over_six, at::ones({kExperts}, at::kLong)};
  for (std::int64_t e = 0; e < kExperts; ++e)
    q.globals.push_back(e == 1 ? 0 : std::exp2(-static_cast<double>(9 + e)));
  const auto expected = [&](const Tensor& plain) {
    std::vector<Tensor> parts;
    Tensor counts = at::ones({kExperts}, at::kLong);
    for (std::int64_t e = 0; e < kExperts; ++e) {
      const auto first = order.offsets[e].item<std::int64_t>();
      const Tensor part = plain.narrow(0, first, order.offsets[e + 1].item<std::int64_t>() - first);
      const double global = q.globals[static_cast<std::size_t>(e)];
      parts.push_back(global == 0 ? part
                                  : fake_quantize(part, {global, q.rule, counts.select(0, e)}));
    }
    return std::pair(at::cat(parts), counts);
  };
  const auto compare = [&](const char* what, const Tensor& ours, const Tensor& plain) {
    const auto [values, counts] = expected(plain);
    expect_same(ours, values, what);
    expect_same(q.clipped, counts, what);
    EXPECT_GT(counts.sum().item<std::int64_t>(), kExperts) << what;
    q.clipped.fill_(1);
  };
  compare("gather_rows", gather_rows(x, order, &q), rows);
  compare("relu2", relu2(rows, order.offsets, &q), relu2(rows));
  const Tensor pairs = leaf(random({rows.size(0), 64}, 3)), apart = leaf(pairs.detach());
  compare("swiglu", swiglu(pairs, order.offsets, &q).detach(), swiglu(pairs.detach()));
  const Tensor g = random({rows.size(0), 32});
  swiglu(pairs, order.offsets, &q).backward(g);
  swiglu(apart).backward(g);
  expect_same(pairs.grad(), apart.grad(), "straight through");
}
INSTANTIATE_TEST_SUITE_P(Experts, Mixture, ::testing::ValuesIn(kRoutings),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Relu2, RowsGradientAndQuantisation) {
  for (const auto& [rows, cols] :
       {std::pair<std::int64_t, std::int64_t>{1, 1}, {3, 7}, {130, 64}}) {
    const Tensor x = leaf(random({rows, cols})), xd = double_leaf(x), g = random({rows, cols});
    const Tensor y = relu2(x), yd = xd.relu().square();
    expect_near(y, yd, 1, "y");
    y.backward(g);
    yd.backward(g.to(at::kDouble));
    expect_near(x.grad(), xd.grad(), 2, "dx");
    const Quantizer q{1.0 / 4096, nvfp4::BlockScale::max, at::zeros({}, at::kLong)};
    const Quantizer apart{q.global, q.rule, at::zeros({}, at::kLong)};
    const Tensor fused = leaf(x.detach()), quantised = relu2(fused, &q);
    expect_same(quantised, fake_quantize(y.detach(), apart), "quantised");
    expect_same(q.clipped, apart.clipped, "clipped");
    quantised.backward(g);
    expect_same(fused.grad(), x.grad(), "straight through");
  }
  EXPECT_TRUE(relu2(at::full({1, 3}, NAN)).isnan().all().item<bool>());
  EXPECT_THROW(relu2(at::zeros({3})), Error);
}

TEST(Mixture, RefusesWhatDoesNotFit) {
  const Tensor x = random({4, 8}), offsets = at::tensor({0, 1, 4}, at::kInt);
  const std::vector<Tensor> w{random({5, 8}), random({5, 8})};
  EXPECT_NO_THROW(grouped_linear(x, w, offsets));
  EXPECT_THROW(grouped_linear(x, {w[0]}, offsets), Error);
  EXPECT_THROW(grouped_linear(x, {w[0], random({5, 7})}, offsets), Error);
  EXPECT_THROW(grouped_linear(x, {w[0], random({6, 8})}, offsets), Error);
  EXPECT_THROW(grouped_linear(x, w, at::tensor({0, 1, 5}, at::kInt)), Error);
  EXPECT_THROW(grouped_linear(x, w, at::tensor({0, 5, 4}, at::kInt)), Error);
  EXPECT_THROW(grouped_linear(x, w, at::tensor({0, 1, 4}, at::kLong)), Error);
  const ExpertOrder order = sort_by_expert(at::tensor({0, 1, 1, 0}, at::kInt).view({2, 2}), 2);
  EXPECT_THROW(gather_rows(x, order), Error);  // four tokens, two routed
  EXPECT_THROW(combine_rows(random({3, 8}), random({2, 2}), order), Error);
  EXPECT_THROW(combine_rows(x, random({2, 3}), order), Error);
  EXPECT_THROW(combine_rows(x, random({2, 2}), order, random({2, 7})), Error);
  const GroupQuantizer one{{1.0}, nvfp4::BlockScale::max, at::zeros({1}, at::kLong)};
  EXPECT_THROW(relu2(x, offsets, &one), Error);  // two groups
}

}  // namespace
}  // namespace qad::ops
