// Cases of fake quantisation and of packing what it made, all of them equal to the bit: ties of the
// code and of the scale, tiny and huge values, subnormals, zero blocks, signed zeros, clipped
// values, rows with a tail.
#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "cuda/harness.h"
#include "ops/ops.h"
#include "ops/pack.h"

namespace qad::cuda::test {
namespace {

using at::Tensor;

Tensor exact_in_bf16(const Tensor& t) {
  return t.to(at::kBFloat16).to(at::kFloat);
}

// Values of the grid's midpoints times powers of two: every quotient is a tie or beside one.
Tensor ties(at::IntArrayRef shape) {
  const Tensor points =
      at::tensor({0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f, 6.0f, 0.0f, 7.0f});
  const Tensor pick = points.index({at::randint(0, 10, shape, at::kLong)});
  return pick * at::randint(0, 2, shape, at::kFloat).mul(2).sub(1) *
         at::randint(-2, 3, shape, at::kFloat).exp2();
}

// Magnitudes over many binades, some exact zeros of both signs.
Tensor spread(at::IntArrayRef shape, double low, double high) {
  const Tensor x = at::randn(shape) * at::rand(shape).mul(high - low).add(low).exp2();
  return exact_in_bf16(at::where(at::rand(shape) < 0.1, x * 0, x));
}

// Every significand of BF16 over every block scale that power-of-two global scales make of it: 16
// values whose first sets the scale to D / 8 or so, and the others X / 128 of its binades.
Tensor pairs() {
  std::vector<float> x;
  for (int d = 1; d < 16; ++d)
    for (const int binade : {-3, 0, 4})
      for (const float power : {2.0f, 1.0f, 0.5f, 0.25f, 0.125f, 0.0625f, 0.03125f, 0.015625f})
        for (int significand = 128; significand < 256; ++significand) {
          const float scale = std::ldexp(static_cast<float>(d), binade - 5);
          if (x.size() % 16 == 0) x.push_back(6 * scale);
          if (x.size() % 16 != 0 && x[x.size() / 16 * 16] != 6 * scale)
            x.resize((x.size() + 15) / 16 * 16), x.push_back(6 * scale);
          const float value = std::ldexp(static_cast<float>(significand), binade - 7) * power;
          if (value <= 6 * scale) x.push_back(significand % 2 != 0 ? -value : value);
        }
  x.resize((x.size() + 15) / 16 * 16);
  return at::tensor(x).view({-1, 16});
}

// Both signs of the numbers where E2M1's rounding turns: the grid's points, the middles between
// them and the neighbours of each in FP32, zeros and subnormals, in units of a block's scale d.
// Blocks of 16 whose first value, 6 d, sets the scale; in the last ones it is FP32's largest or
// infinite, d the largest there is, and others saturate. `tail` columns of zeros behind.
Tensor boundaries(double global, std::int64_t tail) {
  std::vector<float> units = {0.0f, 0x1p-149f, 0x1p-127f, 0x1p-126f, 1e-30f};
  for (const float x :
       {0.25f, 0.5f, 0.75f, 1.0f, 1.25f, 1.5f, 1.75f, 2.0f, 2.5f, 3.0f, 3.5f, 4.0f, 5.0f, 6.0f})
    units.insert(units.end(), {std::nextafter(x, 0.0f), x, std::nextafter(x, 7.0f)});
  std::vector<float> x;
  const auto add = [&](float first, float scale) {
    for (const float sign : {1.0f, -1.0f})
      for (const float unit : units) {
        if (x.size() % 16 == 0) x.push_back(first);
        x.push_back(sign * unit * scale);
      }
    while (x.size() % 16 != 0) x.push_back(0);
  };
  const float g = static_cast<float>(global);
  for (const float d : {g, 1.75f * g, 0x1p-6f * g, 448.0f * g}) add(6 * d, d);
  units.insert(units.end(), {7.0f, 1e6f, std::numeric_limits<float>::max() / (448.0f * g)});
  for (const float first :
       {std::numeric_limits<float>::max(), std::numeric_limits<float>::infinity()})
    add(first, 448.0f * g);
  const Tensor blocks = at::tensor(x).view({-1, 16});
  return at::cat({blocks, at::zeros({blocks.size(0), tail})}, 1);
}

struct Kind {
  const char* name;
  std::function<Tensor(at::IntArrayRef)> make;
};
const Kind kNormal{"normal", [](at::IntArrayRef s) { return random(s); }};
const std::vector<Kind> kKinds = {
    kNormal,
    {"ties", [](at::IntArrayRef s) { return ties(s); }},
    {"spread", [](at::IntArrayRef s) { return spread(s, -20, 12); }},
    {"subnormal", [](at::IntArrayRef s) { return spread(s, -140, -120); }},
    {"sparse",
     [](at::IntArrayRef s) { return at::where(at::rand(s) < 0.95, at::zeros(s), random(s)); }},
    {"zero", [](at::IntArrayRef s) { return at::zeros(s).mul(at::randn(s).sign()); }},
};

}  // namespace

std::vector<Case> format_cases() {
  using Shape = std::pair<std::int64_t, std::int64_t>;
  const auto shapes =
      sizes<Shape>({{1, 16}, {1, 1}, {3, 7}, {5, 24}, {7, 40}, {4, 896}, {64, 4864}, {2, 100}},
                   {{3, 7}, {20, 40}, {4, 896}});
  const std::vector<Kind> kinds = sizes<Kind>(kKinds, {kNormal});
  std::vector<Case> cases;
  // The last two are no powers of two: then a dequantised value may round once more to BF16.
  for (const double global :
       sizes<double>({1.0, 0x1p-10, 0x1p7, 0x1p-100, 0x1p-116, 3.1e-4, 0.7}, {0x1p-10}))
    for (const std::int64_t rule : {0, 1, 2})
      for (const Kind& kind : kinds)
        for (const auto& [rows, cols] : shapes) {
          const bool clips = global == 0x1p-10;
          cases.push_back({std::string("fake_quantize ") + kind.name + " rule " +
                               std::to_string(rule) + " global " +
                               std::to_string(std::log2(global)) + " of " + std::to_string(rows) +
                               " " + std::to_string(cols),
                           "qad::fake_quantize",
                           [=, make = kind.make] {
                             Tensor x = make({rows, cols}) * (clips ? 8.0 : 1.0);
                             return std::vector<Argument>{
                                 values(x), {global}, {rule}, changed(at::full({}, 3, at::kLong))};
                           },
                           {{}}});
        }
  // Packing what a rule made: the same codes and scales, and values again in either type. In BF16
  // with a global scale that is no power of two the CPU's FP32 values would not be on the grid;
  // what comes back there is tested on the GPU alone.
  for (const double global : sizes<double>({1.0, 0x1p-10, 0x1p-116, 3.1e-4}, {0x1p-10}))
    for (const std::int64_t rule : {0, 1, 2})
      for (const Kind& kind : kinds)
        for (const auto& [rows, cols] : shapes) {
          const std::string of = std::string(kind.name) + " rule " + std::to_string(rule) +
                                 " global " + std::to_string(std::log2(global)) + " of " +
                                 std::to_string(rows) + " " + std::to_string(cols);
          const auto made = [=, make = kind.make] {
            return ops::fake_quantize(
                make({rows, cols}),
                {global, static_cast<nvfp4::BlockScale>(rule), at::zeros({}, at::kLong)});
          };
          cases.push_back({"pack " + of,
                           "qad::pack",
                           [=] {
                             return std::vector<Argument>{values(made()), {global}};
                           },
                           {{}, {}},
                           {},
                           true,
                           global != 3.1e-4});
          for (const auto type : {at::kFloat, at::kBFloat16})
            cases.push_back({"unpack " + of,
                             "qad::unpack",
                             [=] {
                               const ops::Packed p = ops::pack(made(), global);
                               return std::vector<Argument>{fixed(p.codes),
                                                            fixed(p.scales),
                                                            {cols},
                                                            {global},
                                                            {static_cast<std::int64_t>(type)}};
                             },
                             {{}},
                             {},
                             true,
                             false});
        }
  for (const double global : sizes<double>({1.0, 0x1p-8, 0x1p-20}, {}))
    cases.push_back(
        {"fake_quantize of every pair of significands, global " + std::to_string(std::log2(global)),
         "qad::fake_quantize",
         [=] {
           return std::vector<Argument>{values(pairs() * (global * 256)),
                                        {global},
                                        {std::int64_t{0}},
                                        changed(at::zeros({}, at::kLong))};
         },
         {{}}});
  // Of an infinite block a search has no finite error to compare, so that it stays with rule 0.
  for (const double global : {1.0, 0x1p-20})
    for (const std::int64_t tail : {0, 1})
      cases.push_back({"fake_quantize of E2M1's boundaries, global " +
                           std::to_string(std::log2(global)) + ", tail " + std::to_string(tail),
                       "qad::fake_quantize",
                       [=] {
                         return std::vector<Argument>{values(boundaries(global, tail)),
                                                      {global},
                                                      {std::int64_t{0}},
                                                      changed(at::zeros({}, at::kLong))};
                       },
                       {{}},
                       {},
                       true,
                       false});
  return cases;
}

}  // namespace qad::cuda::test
