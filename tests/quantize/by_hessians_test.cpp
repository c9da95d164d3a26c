// Rounding by Hessians: GPTQ against its definition in double, and whole models.
#include "quantize/by_hessians.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "checkpoint/formats.h"
#include "core/error.h"
#include "models/verify.h"
#include "nvfp4/plain.h"
#include "quantize/gptq.h"

namespace qad::quantize {
namespace {

using ::testing::HasSubstr;

// Inputs of which neighbours go together and some are much larger than others.
at::Tensor inputs(std::int64_t tokens, std::int64_t cols) {
  const at::Tensor mix =
      at::eye(cols) + 0.6 * at::eye(cols).roll(1, 0) + 0.1 * at::randn({cols, cols});
  return at::randn({tokens, cols}).mm(mix) * at::rand({cols}).mul(3).exp();
}

struct Problem {
  Problem(std::int64_t rows, std::int64_t cols, unsigned seed) {
    at::manual_seed(seed);
    x = inputs(3 * cols, cols);
    h = x.t().mm(x).contiguous();
    w = (0.05 * at::randn({rows, cols})).to(at::kBFloat16).to(at::kFloat);
    global = nvfp4::global_scale(w.abs().max().item<float>(), nvfp4::GlobalScale::pow2,
                                 nvfp4::BlockScale::max);
  }
  at::Tensor scales(const Policy& policy) const {
    return block_scales(w, diagonal_blocks(h), global, policy);
  }
  at::Tensor value(const at::Tensor& master, const at::Tensor& s) const {
    const at::Tensor y = at::empty_like(master);
    nvfp4::fake_quantize_with_scales(master.const_data_ptr<float>(), w.size(0), w.size(1), global,
                                     s.const_data_ptr<std::uint8_t>(), y.data_ptr<float>());
    return y;
  }
  // |X (W - Q)^T|^2
  double error(const at::Tensor& q) const {
    const at::Tensor e = (w - q).to(at::kDouble);
    return e.mm(h.to(at::kDouble)).mul(e).sum().item<double>();
  }
  at::Tensor x, h, w;
  float global = 1;
};

Policy with_scales(nvfp4::BlockScale rule, bool hessian = false) {
  Policy p;
  p.weights = rule;
  p.hessian_scales = hessian;
  return p;
}

const Policy kScaleRules[] = {
    with_scales(nvfp4::BlockScale::max), with_scales(nvfp4::BlockScale::mse),
    with_scales(nvfp4::BlockScale::four_over_six), with_scales(nvfp4::BlockScale::max, true)};

// As Frantar et al. derive it, in double: after each column the inverse of what is left of the
// Hessian follows by Gaussian elimination, without any Cholesky factor.
at::Tensor defined_gptq(const Problem& p, const at::Tensor& scales) {
  at::Tensor h = p.h.to(at::kDouble).clone();
  h.diagonal().add_(0.01 * h.diagonal().mean());
  at::Tensor inverse = at::linalg_inv(h);
  const at::Tensor w = p.w.to(at::kDouble).clone(), q = at::empty_like(w);
  for (std::int64_t j = 0; j < w.size(1); ++j) {
    for (std::int64_t row = 0; row < w.size(0); ++row) {
      const double d = plain::e4m3(scales[row][j / 16].item<int>()) * static_cast<double>(p.global);
      const double r = w[row][j].item<double>() / d;
      q[row][j] = (r < 0 ? -1 : 1) * plain::e2m1(plain::nearest(std::abs(r), 7, plain::e2m1)) * d;
    }
    const at::Tensor error = (w.select(1, j) - q.select(1, j)) / inverse[j][j];
    w.sub_(error.unsqueeze(1) * inverse[j].unsqueeze(0));
    inverse = inverse - inverse.select(1, j).unsqueeze(1) * inverse[j].unsqueeze(0) / inverse[j][j];
  }
  return q;
}

TEST(Gptq, IsItsDefinition) {
  for (const std::int64_t cols : {32, 160}) {  // within a block of columns, and beyond it
    const Problem p(4, cols, 5);
    for (const Policy& rule : kScaleRules) {
      const at::Tensor scales = p.scales(rule);
      const Rounded r = gptq(p.w, p.h, p.global, scales);
      EXPECT_TRUE(at::equal(p.value(r.master, r.scales).to(at::kDouble), defined_gptq(p, scales)))
          << cols;
      EXPECT_TRUE(at::equal(r.master, r.master.to(at::kBFloat16).to(at::kFloat)));
    }
  }
}

TEST(Gptq, ChangesTheResultsLessThanRoundingToNearest) {
  for (const unsigned seed : {1u, 2u, 3u}) {
    const Problem p(48, 256, seed);
    for (const Policy& rule : kScaleRules) {
      const at::Tensor scales = p.scales(rule);
      const double nearest = p.error(p.value(p.w, scales));
      const double better = p.error(p.value(gptq(p.w, p.h, p.global, scales).master, scales));
      EXPECT_LT(better, 0.8 * nearest);
    }
    // The local Hessian's scales are the best of all for rounding to nearest.
    const auto error = [&](const Policy& rule) { return p.error(p.value(p.w, p.scales(rule))); };
    EXPECT_LT(error(kScaleRules[3]), error(kScaleRules[1]));
  }
}

at::Tensor from_hex(const Json& hex, at::ScalarType type, at::IntArrayRef shape) {
  const auto text = hex.get<std::string>();
  const at::Tensor bytes = at::empty({static_cast<std::int64_t>(text.size() / 2)}, at::kByte);
  for (std::int64_t i = 0; i < bytes.numel(); ++i)
    bytes.data_ptr<std::uint8_t>()[i] = static_cast<std::uint8_t>(
        std::stoi(text.substr(2 * static_cast<std::size_t>(i), 2), nullptr, 16));
  return bytes.view(type).view(shape);
}

// tests/golden/hessian_modelopt.py
TEST(ByHessians, ScalesAndCodesAreModelOpts) {
  const Json golden = read_json(fs::path(QAD_SOURCE_DIR) / "tests/golden/hessian_modelopt.json");
  const auto rows = golden.at("rows").get<std::int64_t>(),
             cols = golden.at("cols").get<std::int64_t>();
  Problem p(rows, cols, 1);
  p.w = from_hex(golden.at("w"), at::kFloat, {rows, cols});
  const at::Tensor x = from_hex(golden.at("x"), at::kChar, {-1, cols}).to(at::kFloat);
  p.h = x.t().mm(x).contiguous();
  for (const Json& item : golden.at("cases")) {
    SCOPED_TRACE(item.at("name").get<std::string>());
    p.global = from_hex(item.at("global"), at::kFloat, {1}).item<float>();
    const at::Tensor scales = from_hex(item.at("scales"), at::kByte, {rows, cols / 16});
    const bool hessian = item.at("name") == "local_hessian";
    EXPECT_TRUE(at::equal(p.scales(kScaleRules[hessian ? 3 : 1]), scales));
    const at::Tensor values = p.value(gptq(p.w, p.h, p.global, scales).master, scales);
    EXPECT_TRUE(at::equal(values, from_hex(item.at("gptq"), at::kFloat, {rows, cols})));
  }
}

// Inputs that do not go together leave nothing to make good.
TEST(Gptq, OfIndependentInputsIsRoundingToNearest) {
  const Problem p(8, 64, 9);
  const at::Tensor scales = p.scales(kScaleRules[1]), h = at::diag(at::rand({64}) + 0.1);
  EXPECT_TRUE(
      at::equal(p.value(gptq(p.w, h, p.global, scales).master, scales), p.value(p.w, scales)));
}

const fs::path kModels = fs::path(QAD_SOURCE_DIR) / "tests/golden/models";

// Enough for every linear of the tiny models but the experts'.
std::vector<models::Tokens> batches(std::int64_t vocabulary = 96, std::size_t documents = 24) {
  std::vector<models::Tokens> all;
  for (std::size_t b = 0; b < 2; ++b) {
    std::vector<std::vector<std::int32_t>> some(documents / 2);
    for (std::size_t d = 0; d < some.size(); ++d)
      for (std::size_t t = 0; t < 16; ++t)
        some[d].push_back(static_cast<std::int32_t>((31 * (d + b) + t * t * (d + 3) + 7 * t) %
                                                    static_cast<std::size_t>(vocabulary)));
    all.push_back(models::tokens_of(some));
  }
  return all;
}

struct Case {
  const char* name;
  const char* model;
  bool hessian;
  Rounding rounding;
  const char* preset = "nvfp4";
  nvfp4::GlobalScale global = nvfp4::GlobalScale::pow2;
  nvfp4::BlockScale weights = nvfp4::BlockScale::max;
  bool head = false;
};

Policy policy_of(const Case& c) {
  Policy p = preset(c.preset);
  p.hessian_scales = c.hessian;
  p.rounding = c.rounding;
  p.global = c.global;
  p.weights = c.weights;
  if (c.head) p.rules.push_back({"lm_head", true, ""});
  return p;
}

const Case kCases[] = {
    {"Hessian", "llama", true, Rounding::nearest},
    {"Gptq", "llama", false, Rounding::gptq},
    {"GptqFourOverSix", "llama", false, Rounding::gptq, "nvfp4", nvfp4::GlobalScale::pow2,
     nvfp4::BlockScale::four_over_six},
    {"Both", "qwen2", true, Rounding::gptq},
    {"Head", "llama", true, Rounding::gptq, "nvfp4", nvfp4::GlobalScale::pow2,
     nvfp4::BlockScale::max, true},
    {"WeightOnlyAmax", "llama_bias_tied", true, Rounding::gptq, "nvfp4-weight-only",
     nvfp4::GlobalScale::amax},
    {"Hybrid", "nemotron_h_all", true, Rounding::gptq},
    {"Experts", "nemotron_h_experts", false, Rounding::gptq},
    {"ExpertsHessian", "nemotron_h_experts", true, Rounding::nearest},
};

class Walks : public ::testing::TestWithParam<Case> {};

struct Folder {
  fs::path path = fs::temp_directory_path() / fmt::format("qad_by_hessians_{}", ::getpid());
  ~Folder() { fs::remove_all(path); }
};

std::map<std::string, std::vector<std::byte>> bytes_of(checkpoint::OutModel model) {
  std::vector<std::string> changes;
  std::map<std::string, std::vector<std::byte>> out;
  for (const checkpoint::OutTensor& t :
       checkpoint::modelopt_folder(std::move(model), changes).tensors) {
    std::size_t n = checkpoint::bytes_per_element(t.dtype);
    for (const std::int64_t d : t.shape) n *= static_cast<std::size_t>(d);
    out[t.name].resize(n);
    t.fill(out[t.name].data());
  }
  return out;
}

// A model in memory and the same on disk; what is written reads back as what was computed with.
TEST_P(Walks, MemoryAndDiskGiveTheSameBytes) {
  const at::NoGradGuard no_grad;
  const Policy policy = policy_of(GetParam());
  const auto c = checkpoint::open(kModels / GetParam().model);
  models::Model model = models::load(c);
  std::vector<float> amax;
  if (policy.activations) {
    amax = calibrate(model, batches());
    lend_maxima(model, amax);
  }
  const ByHessians made = quantize_by_hessians(model, policy, amax, batches());
  const auto ours = bytes_of(export_model(model, made.masters, c));

  models::Model opened = models::open_model(c, {});
  choose_quantised(opened, policy, amax);
  const CodesByHessians codes = quantize_by_hessians(c, opened, policy, batches());
  EXPECT_EQ(to_text(codes.plain), to_text(made.plain));
  EXPECT_EQ(bytes_of(export_from(c, opened, policy.global, codes.weights)), ours);

  models::Model by_rule = models::load(c);
  const auto masters = [&] {
    std::vector<at::Tensor> all;
    for (const models::Parameter* p : models::parameters(by_rule)) all.push_back(p->value);
    return all;
  }();
  Policy plain = policy;
  plain.hessian_scales = false;
  plain.rounding = Rounding::nearest;
  quantize(by_rule, plain, amax);
  EXPECT_NE(bytes_of(export_model(by_rule, masters, c)), ours);

  const Folder folder;
  std::vector<std::string> changes;
  checkpoint::write_folder(
      folder.path, checkpoint::modelopt_folder(export_model(model, made.masters, c), changes));
  const auto written = checkpoint::open(folder.path);
  EXPECT_THAT(models::problems(written), ::testing::IsEmpty());
  const models::Model read = models::load(written);
  const auto values = models::parameters(model);
  const auto theirs = models::parameters(read);
  for (std::size_t i = 0; i < values.size(); ++i)
    EXPECT_TRUE(at::equal(values[i]->value, theirs[i]->value)) << values[i]->parts[0].name;
}
INSTANTIATE_TEST_SUITE_P(ByHessians, Walks, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

// The second layer's moments are of what the quantised first leaves, quantised itself.
TEST(ByHessians, LaterLayersSeeTheQuantisedOnesBefore) {
  const at::NoGradGuard no_grad;
  models::Model model = models::load(checkpoint::open(kModels / "llama"));
  Policy policy = preset("nvfp4");
  policy.rounding = Rounding::gptq;
  const auto amax = calibrate(model, batches());
  const ByHessians made = quantize_by_hessians(model, policy, amax, batches());
  // Of the last layer's o_proj: through the model as it now is, but for that layer's own weights.
  models::Model before = models::load(checkpoint::open(kModels / "llama"));
  const models::Linear& o = model.layers[1].attention->output;
  const auto here = models::parameters(model), fresh = models::parameters(before);
  const auto last = models::parameters(model.layers[1]);
  choose_quantised(before, policy, amax);
  for (std::size_t i = 0; i < here.size(); ++i)
    if (std::find(last.begin(), last.end(), here[i]) == last.end())
      fresh[i]->value = here[i]->value;
  at::Tensor h = at::zeros({o.weight.value.size(1), o.weight.value.size(1)}, at::kDouble);
  for (const models::Tokens& b : batches())
    models::forward(before, b, [&](const models::Linear& l, const at::Tensor& input) {
      if (&l != &before.layers[1].attention->output) return;
      const at::Tensor x = at::empty_like(input);
      nvfp4::fake_quantize(input.contiguous().const_data_ptr<float>(), x.size(0), x.size(1),
                           *l.quant->input_global, nvfp4::BlockScale::max, x.data_ptr<float>());
      h += x.to(at::kDouble).t().mm(x.to(at::kDouble));
    });
  const at::Tensor w = before.layers[1].attention->output.weight.value;
  Policy rule;
  const at::Tensor scales = block_scales(w, {}, o.quant->weight_global, rule);
  EXPECT_TRUE(at::equal(scales, o.quant->weight_scales));
  const Rounded expected = gptq(w, h.to(at::kFloat), o.quant->weight_global, scales);
  const at::Tensor value = at::empty_like(w);
  nvfp4::fake_quantize_with_scales(expected.master.const_data_ptr<float>(), w.size(0), w.size(1),
                                   o.quant->weight_global, scales.const_data_ptr<std::uint8_t>(),
                                   value.data_ptr<float>());
  // H in another order of sums may turn a code at a tie, and columns after it.
  EXPECT_GE(value.eq(o.weight.value).to(at::kDouble).mean().item<double>(), 0.98);
}

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "none";
}

TEST(ByHessians, TooFewTokensAreAnErrorButForExperts) {
  Policy policy = preset("nvfp4");
  policy.rounding = Rounding::gptq;
  models::Model model = models::load(checkpoint::open(kModels / "llama"));
  const std::vector<models::Tokens> few = {models::tokens_of({{1, 5, 9}})};
  const auto amax = calibrate(model, few);
  EXPECT_THAT(
      error_of([&] { quantize_by_hessians(model, policy, amax, few); }),
      HasSubstr("model.layers.0.self_attn.q_proj: expected at least 32 calibration tokens"));

  models::Model mixture = models::load(checkpoint::open(kModels / "nemotron_h_experts"));
  auto maxima = calibrate(mixture, batches());
  lend_maxima(mixture, maxima);
  const ByHessians made = quantize_by_hessians(mixture, policy, maxima, batches());
  ASSERT_FALSE(made.plain.empty());
  const UnreachedExperts& found = made.plain.front();
  const auto& routed = mixture.layers[static_cast<std::size_t>(found.layer)].experts->routed;
  EXPECT_EQ(found.of, routed.size());
  EXPECT_FALSE(routed[found.experts.front()].gate_up.quant->weight_scales.defined());
  EXPECT_TRUE(mixture.layers[static_cast<std::size_t>(found.layer)]
                  .experts->shared->down.quant->weight_scales.defined());
}

TEST(ByHessians, InputsOfZerosOrNanAreErrors) {
  Policy policy = preset("nvfp4-weight-only");
  policy.hessian_scales = true;
  for (const float norm : {0.0f, NAN}) {
    models::Model model = models::load(checkpoint::open(kModels / "llama"));
    model.layers[0].mixer_norm->value.fill_(norm);
    EXPECT_THAT(error_of([&] { quantize_by_hessians(model, policy, {}, batches()); }),
                HasSubstr("input of model.layers.0.self_attn.q_proj: expected"))
        << norm;
  }
}

// Of a layer that reads 32, 64, 32 and 48 columns, in FP32.
TEST(ByHessians, BytesAreThoseOfALayer) {
  const models::Model model =
      models::load(checkpoint::open(fs::path(QAD_SOURCE_DIR) / "tests/golden/models/llama"));
  Policy policy = preset("nvfp4");
  policy.hessian_scales = true;
  EXPECT_EQ(hessian_bytes(model, policy), 4.0 * 16 * (2 * 32 + 64 + 48));
  policy.rounding = Rounding::gptq;
  EXPECT_EQ(hessian_bytes(model, policy), 4.0 * (2 * 32 * 32 + 64 * 64 + 48 * 48));
  policy.rules.push_back({"*.down_proj", false, ""});
  EXPECT_EQ(hessian_bytes(model, policy), 4.0 * (2 * 32 * 32 + 64 * 64));
}

TEST(ByHessians, WithoutTokensIsAnError) {
  Policy policy = preset("nvfp4-weight-only");
  policy.hessian_scales = true;
  models::Model model = models::load(checkpoint::open(kModels / "llama"));
  EXPECT_THAT(error_of([&] { quantize(model, policy, {}); }), HasSubstr("need calibration tokens"));
  EXPECT_THAT(error_of([&] { quantize_by_hessians(model, policy, {}, {}); }),
              HasSubstr("need calibration data"));
}

TEST(FixScales, ChangesNoValue) {
  models::Model model = models::load(checkpoint::open(kModels / "llama"));
  std::vector<at::Tensor> masters, values;
  for (const models::Parameter* p : models::parameters(model)) masters.push_back(p->value);
  Policy policy = preset("nvfp4-weight-only");
  policy.weights = nvfp4::BlockScale::mse;
  quantize(model, policy, {});
  fix_scales(model, policy, masters);
  const auto parameters = models::parameters(model);
  for (models::Linear* l : models::linears(model)) {
    if (!l->quant) continue;
    const auto i = std::find(parameters.begin(), parameters.end(), &l->weight) - parameters.begin();
    at::Tensor again = at::empty_like(l->weight.value);
    shipped_value("w", masters[static_cast<std::size_t>(i)], l->quant.get(), policy.global, again);
    EXPECT_TRUE(at::equal(again, l->weight.value));
  }
}

}  // namespace
}  // namespace qad::quantize
