// The export against ModelOpt's own bytes (tests/golden/quantize_modelopt.py), and the promise that
// what the forward pass reads is what is shipped.
#include "quantize/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "checkpoint/formats.h"
#include "checkpoint/nvfp4_tensors.h"
#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "models/verify.h"

namespace qad::quantize {
namespace {

using ::testing::HasSubstr;

const fs::path kTests = fs::path(QAD_SOURCE_DIR) / "tests/golden";

checkpoint::Checkpoint source(const char* name = "llama") {
  return checkpoint::open(kTests / "models" / name);
}

std::vector<at::Tensor> masters_of(models::Model& model) {
  std::vector<at::Tensor> out;
  for (const models::Parameter* p : models::parameters(model)) out.push_back(p->value.clone());
  return out;
}

std::vector<models::Tokens> batches() {
  return {models::tokens_of({{1, 5, 9, 70, 33, 2}, {4, 4, 8}}), models::tokens_of({{95, 3, 17}})};
}

struct Folder {
  fs::path path =
      fs::temp_directory_path() / fmt::format("qad_quantize_{}_{}", ::getpid(),
                                              ::testing::UnitTest::GetInstance()->random_seed());
  ~Folder() { fs::remove_all(path); }
};

checkpoint::OutFolder export_folder(const models::Model& model,
                                    const std::vector<at::Tensor>& masters,
                                    const checkpoint::Checkpoint& source) {
  std::vector<std::string> changes;
  return checkpoint::modelopt_folder(export_model(model, masters, source), changes);
}

checkpoint::OutFolder folder_from(const checkpoint::Checkpoint& source, const models::Model& model,
                                  nvfp4::GlobalScale rule, bool scales_first = false) {
  std::vector<std::string> changes;
  return checkpoint::modelopt_folder(export_from(source, model, rule, {}, scales_first), changes);
}

// The bytes of each tensor that would be written.
std::map<std::string, std::vector<std::byte>> bytes_of(const checkpoint::OutFolder& folder) {
  std::map<std::string, std::vector<std::byte>> out;
  for (const checkpoint::OutTensor& t : folder.tensors) {
    std::size_t n = checkpoint::bytes_per_element(t.dtype);
    for (const std::int64_t d : t.shape) n *= static_cast<std::size_t>(d);
    auto& bytes = out[t.name];
    bytes.resize(n);
    t.fill(bytes.data());
  }
  return out;
}

class ModelOpt : public ::testing::TestWithParam<const char*> {};

TEST_P(ModelOpt, ExportIsTheSameBytes) {
  const auto c = source();
  models::Model model = models::load(c);
  const auto masters = masters_of(model);
  Policy policy = preset(GetParam());
  policy.global = nvfp4::GlobalScale::amax;
  // ModelOpt has one maximum a matrix and unites those that are fused.
  const Json maxima = read_json(kTests / "quantize/input_amax.json");
  std::vector<float> amax;
  for (const models::Linear* l : models::linears(model)) {
    amax.push_back(0);
    for (const models::Part& part : l->weight.parts)
      amax.back() = std::max(amax.back(), maxima.value(linear_name(part), 0.0f));
  }
  quantize(model, policy, amax);
  const auto folder = export_folder(model, masters, c);
  const auto ours = bytes_of(folder);

  const auto theirs =
      checkpoint::read_safetensors(kTests / "quantize" / GetParam() / "model.safetensors");
  EXPECT_EQ(ours.size(), theirs.tensors.size());
  for (const checkpoint::Tensor& t : theirs.tensors) {
    ASSERT_TRUE(ours.contains(t.name)) << t.name;
    EXPECT_TRUE(std::ranges::equal(ours.at(t.name), t.raw)) << t.name;
  }
  const Json config = read_json(kTests / "quantize" / GetParam() / "hf_quant_config.json");
  for (const char* key : {"quant_algo", "group_size", "kv_cache_quant_algo", "exclude_modules"})
    EXPECT_EQ(folder.hf_quant_config["quantization"][key], config["quantization"][key]) << key;
}
INSTANTIATE_TEST_SUITE_P(Quantize, ModelOpt, ::testing::Values("nvfp4", "nvfp4-weight-only"),
                         [](const auto& info) {
                           return std::string(info.param) == "nvfp4" ? "W4A4" : "W4A16";
                         });

struct Case {
  const char* name;
  const char* model;
  Policy policy;
};

class RoundTrip : public ::testing::TestWithParam<Case> {};

TEST_P(RoundTrip, LoadsToTheSameValuesAndLogits) {
  const at::NoGradGuard no_grad;
  const auto c = source(GetParam().model);
  models::Model model = models::load(c);
  const auto masters = masters_of(model);
  std::vector<CacheMaxima> cache;
  auto amax = calibrate(model, batches(), {}, &cache);
  lend_maxima(model, amax);
  quantize(model, GetParam().policy, amax);
  if (GetParam().policy.fp8_cache) quantize_cache(model, GetParam().policy.global, cache);

  const Folder folder;
  checkpoint::write_folder(folder.path, export_folder(model, masters, c));
  const auto written = checkpoint::open(folder.path);
  EXPECT_THAT(models::problems(written), ::testing::IsEmpty());
  models::Model read = models::load(written);

  const auto ours = models::parameters(model), theirs = models::parameters(read);
  ASSERT_EQ(ours.size(), theirs.size());
  for (std::size_t i = 0; i < ours.size(); ++i)
    EXPECT_TRUE(at::equal(ours[i]->value, theirs[i]->value)) << ours[i]->parts[0].name;
  const auto run = [](const models::Model& m) {
    return models::logits(m, models::forward(m, batches()[0]));
  };
  models::Model plain = models::load(c);
  EXPECT_TRUE(at::equal(run(model), run(read)));
  EXPECT_FALSE(at::equal(run(model), run(plain)));
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    if (!model.layers[i].attention) continue;
    const auto& kv = model.layers[i].attention->kv_scales;
    const auto& read_kv = read.layers[i].attention->kv_scales;
    ASSERT_EQ(kv.has_value(), GetParam().policy.fp8_cache);
    ASSERT_EQ(read_kv.has_value(), kv.has_value());
    if (!kv) continue;
    EXPECT_EQ(read_kv->key, kv->key);
    EXPECT_EQ(read_kv->value, kv->value);
  }

  // What decodes texts holds the file's own bytes, and gives the same bits.
  const models::Model packed = models::load(written, {.packs_weights = true});
  EXPECT_TRUE(at::equal(run(model), run(packed)));
  for (const models::Linear* l : models::linears(packed)) {
    // Rows lie sixteen side by side.
    const std::int64_t values = (l->weight.value.size(0) + 15) / 16 * 16 * l->weight.value.size(1);
    ASSERT_TRUE(l->weight.value.is_meta());
    EXPECT_EQ(l->weight.packed->nbytes() * 8, l->quant ? values * 9 / 2 : values * 16)
        << l->weight.parts[0].name;
  }
  EXPECT_EQ(packed.embedding.packed->nbytes(), packed.embedding.value.numel() * 2);
}

Policy with(std::string name, auto&& change) {
  Policy p = preset(name);
  change(p);
  return p;
}

const Case kCases[] = {
    {"Default", "llama", preset("nvfp4")},
    {"WeightOnly", "qwen2", preset("nvfp4-weight-only")},
    {"MlpOnly", "qwen3_yarn", preset("nvfp4-mlp-only")},
    {"Amax", "llama_bias_tied",
     with("nvfp4", [](Policy& p) { p.global = nvfp4::GlobalScale::amax; })},
    {"Mse", "llama", with("nvfp4", [](Policy& p) { p.weights = nvfp4::BlockScale::mse; })},
    {"FourOverSix", "llama",
     with("nvfp4", [](Policy& p) { p.weights = nvfp4::BlockScale::four_over_six; })},
    {"Hybrid", "nemotron_h_all", preset("nvfp4")},
    {"KeepFirst", "mistral", with("nvfp4", [](Policy& p) { p.keep_first = 1; })},
    {"Cache", "llama", with("nvfp4", [](Policy& p) { p.fp8_cache = true; })},
    {"CacheAmax", "qwen3_yarn",
     with("nvfp4-weight-only",
          [](Policy& p) {
            p.fp8_cache = true;
            p.global = nvfp4::GlobalScale::amax;
          })},
    {"CacheHybrid", "nemotron_h_all", with("nvfp4", [](Policy& p) { p.fp8_cache = true; })},
    {"Experts", "nemotron_h_experts", preset("nvfp4")},
    {"GatedExperts", "qwen3_moe", preset("nvfp4")},
    {"GatedExpertsCache", "qwen3_moe_normed",
     with("nvfp4-mlp-only", [](Policy& p) { p.fp8_cache = true; })},
    {"ExpertsWeightOnly", "nemotron_h_experts", preset("nvfp4-weight-only")},
};
INSTANTIATE_TEST_SUITE_P(Quantize, RoundTrip, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(Calibrate, IsTheLargestInput) {
  const models::Model model = models::load(source());
  const auto amax = calibrate(model, batches());
  ASSERT_EQ(amax.size(), 2u * 4 + 1);
  // The head reads the final norm's output.
  float largest = 0;
  for (const auto& b : batches())
    largest = std::max(largest, models::forward(model, b).abs().max().item<float>());
  EXPECT_EQ(amax.back(), largest);
}

TEST(Calibrate, FindsTheLargestKeysAndValues) {
  const models::Model model = models::load(source("nemotron_h_all"));
  std::vector<CacheMaxima> cache;
  calibrate(model, batches(), {}, &cache);
  ASSERT_EQ(cache.size(), model.layers.size());
  // Its attention does not rotate: keys and values are what the product gives.
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const auto& a = model.layers[i].attention;
    float key = 0, value = 0;
    for (const auto& b : batches())
      models::forward(model, b, [&](const models::Linear& l, const at::Tensor& x) {
        if (!a || &l != &a->qkv) return;
        const auto qkv = x.mm(l.weight.value.t())
                             .abs()
                             .split_with_sizes({a->config.heads * a->config.head_dim,
                                                a->config.kv_heads * a->config.head_dim,
                                                a->config.kv_heads * a->config.head_dim},
                                               1);
        key = std::max(key, qkv[1].max().item<float>());
        value = std::max(value, qkv[2].max().item<float>());
      });
    EXPECT_NEAR(cache[i].key, key, 1e-5f * key) << i;
    EXPECT_NEAR(cache[i].value, value, 1e-5f * value) << i;
    EXPECT_EQ(key > 0, a.has_value());
  }
}

TEST(Quantize, ScalesOfTheCache) {
  models::Model model = models::load(source());
  using nvfp4::GlobalScale;
  const auto scales = [&](GlobalScale rule, CacheMaxima one) {
    quantize_cache(model, rule, {one, one});
    const auto& kv = *model.layers[1].attention->kv_scales;
    return std::pair{kv.key, kv.value};
  };
  EXPECT_EQ(scales(GlobalScale::amax, {5.5f, 0}), std::pair(5.5f / 448, 1.0f));
  EXPECT_EQ(scales(GlobalScale::pow2, {448, 449}), std::pair(1.0f, 2.0f));
  EXPECT_EQ(scales(GlobalScale::pow2, {3.5f, 3.4f}), std::pair(0x1p-7f, 0x1p-7f));
  EXPECT_EQ(scales(GlobalScale::pow2, {std::nextafter(448.0f, 500.0f), 224}),
            std::pair(2.0f, 0.5f));
  EXPECT_THROW(scales(GlobalScale::pow2, {INFINITY, 1}), Error);
  EXPECT_THROW(quantize_cache(model, GlobalScale::pow2, {{1, 1}}), Error);  // of another model
}

TEST(Quantize, CalibratedInputsAreNotClipped) {
  models::Model model = models::load(source());
  quantize(model, preset("nvfp4"), calibrate(model, batches()));
  for (const models::Linear* l : models::linears(model))
    if (l->quant) l->quant->input_global = *l->quant->input_global;
  models::forward(model, batches()[0]);
  for (const models::Linear* l : models::linears(model)) {
    if (!l->quant) continue;
    EXPECT_GT(l->quant->seen, 0);
    const float g = *l->quant->input_global;
    EXPECT_EQ(std::exp2(std::round(std::log2(g))), g);  // a power of two
  }
  // The first linear reads unquantised values that calibration saw.
  EXPECT_EQ(models::linears(model)[0]->quant->clipped.item<std::int64_t>(), 0);
}

TEST(Quantize, WeightScaleFollowsAGrowingWeightOnly) {
  models::LinearQuant quant;
  quant.weight_global = 0x1p-10f;
  at::Tensor value = at::empty({2, 16}, at::kFloat);
  const auto rule = nvfp4::GlobalScale::pow2;
  shipped_value("w", at::full({2, 16}, 0.01, at::kFloat), &quant, rule, value);
  EXPECT_EQ(quant.weight_global, 0x1p-10f);
  shipped_value("w", at::full({2, 16}, 2688.0, at::kFloat), &quant, rule, value);
  EXPECT_EQ(quant.weight_global, 1.0f);
  EXPECT_TRUE(at::equal(value, at::full({2, 16}, 2688.0, at::kFloat)));
  // Unquantised: the nearest BF16 (8 significand bits).
  shipped_value("w", at::full({2, 16}, 1 + 0x1p-8 + 0x1p-20, at::kFloat), nullptr, rule, value);
  EXPECT_EQ(value.data_ptr<float>()[0], 1 + 0x1p-7f);
}

TEST(Quantize, AnUnshippableWeightIsNamed) {
  models::LinearQuant quant;
  at::Tensor value = at::empty({2, 16}, at::kFloat);
  const auto error_of = [&](float weight) -> std::string {
    try {
      shipped_value("model.layers.3.mlp.down_proj.weight", at::full({2, 16}, weight, at::kFloat),
                    &quant, nvfp4::GlobalScale::pow2, value);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(error_of(1), "");
  for (const float bad : {INFINITY, NAN})
    EXPECT_THAT(error_of(bad), HasSubstr("model.layers.3.mlp.down_proj.weight"));
}

// A model whose layer 3 sends every token to experts 0, 1 and 2.
models::Model one_sided() {
  models::Model model = models::load(source("nemotron_h_experts"));
  const at::Tensor correction = at::zeros({8});
  correction.narrow(0, 0, 3).copy_(at::tensor({9.0f, 8.0f, 7.0f}));
  model.layers[3].experts->correction->value = correction;
  return model;
}

TEST(Calibrate, ExpertsThatAreNotReachedBorrowFromTheirLayer) {
  models::Model model = one_sided();
  auto amax = calibrate(model, batches());
  const auto linears = models::linears(model);
  std::map<const models::Linear*, float> before, after;
  for (std::size_t i = 0; i < linears.size(); ++i) before[linears[i]] = amax[i];
  const auto unreached = lend_maxima(model, amax);
  for (std::size_t i = 0; i < linears.size(); ++i) after[linears[i]] = amax[i];
  ASSERT_FALSE(unreached.empty());
  EXPECT_EQ(unreached.back().layer, 3);
  EXPECT_THAT(unreached.back().experts, ::testing::ElementsAre(3, 4, 5, 6, 7));
  EXPECT_THAT(to_text(unreached), HasSubstr("5 of 8 experts in layer 3 (3, 4, 5, 6, 7)"));
  const auto& routed = model.layers[3].experts->routed;
  for (const auto which : {&models::Mlp::gate_up, &models::Mlp::down}) {
    float most = 0;
    for (std::size_t e = 0; e < 3; ++e) most = std::max(most, before.at(&(routed[e].*which)));
    for (std::size_t e = 0; e < routed.size(); ++e) {
      const models::Linear* l = &(routed[e].*which);
      EXPECT_EQ(before.at(l) == 0, e >= 3);
      EXPECT_EQ(after.at(l), e < 3 ? before.at(l) : most);
    }
  }
  quantize(model, preset("nvfp4"), amax);
  for (const models::Linear* l : models::linears(model))
    if (l->quant) {
      EXPECT_GT(*l->quant->input_global, 0);
    }

  auto none = calibrate(one_sided(), {});
  EXPECT_THAT([&] { lend_maxima(model, none); },
              ::testing::Throws<Error>(::testing::Property(
                  &Error::what, HasSubstr("layer 0: calibration reached none of its 8 experts"))));
}

TEST(Quantize, ExpertsOfALayerGoTogether) {
  const models::Model model = models::load(source("nemotron_h_experts"));
  const auto error_of = [&](const char* pattern) -> std::string {
    try {
      check_rules(model, with("nvfp4", [&](Policy& p) {
                    p.rules.push_back({pattern, false, ""});
                  }));
    } catch (const Error& e) {
      return e.what();
    }
    return "none";
  };
  EXPECT_THAT(error_of("*.layers.3.mixer.experts.5.down_proj"),
              HasSubstr("backbone.layers.3.mixer.experts.5.down_proj (rule *.layers.3"));
  EXPECT_THAT(error_of("*.experts.0.*"), HasSubstr("the experts of a layer"));
  EXPECT_EQ(error_of("*.layers.3.mixer.experts.*"), "none");
  EXPECT_EQ(error_of("*.shared_experts.*"), "none");
}

// An NVFP4 checkpoint with experts, less what `drop` names: what loading it says.
std::string error_without(const char* drop) {
  const auto c = source("nemotron_h_experts");
  models::Model model = models::load(c);
  const auto masters = masters_of(model);
  auto amax = calibrate(model, batches());
  lend_maxima(model, amax);
  quantize(model, preset("nvfp4"), amax);
  auto out = export_folder(model, masters, c);
  EXPECT_EQ(std::erase_if(out.tensors, [&](const auto& t) { return t.name.ends_with(drop); }), 1);
  const Folder folder;
  checkpoint::write_folder(folder.path, out);
  try {
    models::load(checkpoint::open(folder.path));
  } catch (const Error& e) {
    return e.what();
  }
  return "none";
}

TEST(Verify, ExpertsWithoutScalesAreNamed) {
  const std::string expert = "backbone.layers.3.mixer.experts.5.up_proj";
  for (const char* scale : {".weight_scale", ".weight_scale_2", ".input_scale"})
    EXPECT_THAT(error_without(("layers.3.mixer.experts.5.up_proj" + std::string(scale)).c_str()),
                HasSubstr(expert + scale + " is missing"));
}

TEST(Quantize, BetterBlockScalesHaveLessError) {
  const auto error = [](nvfp4::BlockScale rule) {
    models::Model model = models::load(source());
    const auto originals = masters_of(model);
    quantize(model, with("nvfp4-weight-only", [&](Policy& p) { p.weights = rule; }), {});
    const auto errors = weight_errors(model, originals);
    EXPECT_EQ(errors.size(), 2u * 7);
    double sum = 0;
    for (const LayerError& e : errors) sum += e.sqnr_db;
    return sum / static_cast<double>(errors.size());
  };
  const double max = error(nvfp4::BlockScale::max);
  EXPECT_GT(max, 15);  // random normal weights: about 20 dB
  EXPECT_GT(error(nvfp4::BlockScale::four_over_six), max);
  EXPECT_GT(error(nvfp4::BlockScale::mse), max);
}

// Layer by layer from the disk, to the bytes of the model that was in memory whole.
TEST_P(RoundTrip, FromTheDiskIsTheSameBytes) {
  const auto c = source(GetParam().model);
  const Policy& policy = GetParam().policy;
  models::Model whole = models::load(c);
  const auto masters = masters_of(whole);
  std::vector<CacheMaxima> cache, from_layers;
  auto amax = calibrate(whole, batches(), {}, &cache);
  for (const bool packs : {false, true}) {
    models::Model model = models::open_model(c, {.packs_weights = packs});
    EXPECT_EQ(calibrate(c, model, batches(), {}, &from_layers), amax);
    for (const models::Parameter* p : models::parameters(model)) {
      EXPECT_TRUE(p->value.is_meta() && !p->packed) << p->parts.front().name;
    }
  }
  lend_maxima(whole, amax);
  quantize(whole, policy, amax);
  models::Model model = models::open_model(c, {});
  choose_quantised(model, policy, amax);
  if (policy.fp8_cache) {
    quantize_cache(whole, policy.global, cache);
    quantize_cache(model, policy.global, from_layers);
  }
  const auto from_disk = folder_from(c, model, policy.global);
  const auto from_memory = export_folder(whole, masters, c);
  EXPECT_EQ(from_disk.config, from_memory.config);
  EXPECT_EQ(from_disk.hf_quant_config, from_memory.hf_quant_config);
  EXPECT_EQ(bytes_of(from_disk), bytes_of(from_memory));
  EXPECT_EQ(bytes_of(folder_from(c, model, policy.global, true)), bytes_of(from_memory));
}

// What can be said of a model before it is quantised is what is then written.
TEST_P(RoundTrip, AnOutlineIsTheModelWithoutItsValues) {
  const auto c = source(GetParam().model);
  const Policy& policy = GetParam().policy;
  models::Model model = models::load(c);
  const checkpoint::OutModel before = outline(c, models::open_model(c, {}), policy);
  const auto masters = masters_of(model);
  std::vector<CacheMaxima> cache;
  auto amax = calibrate(model, batches(), {}, &cache);
  lend_maxima(model, amax);
  quantize(model, policy, amax);
  if (policy.fp8_cache) quantize_cache(model, policy.global, cache);
  const checkpoint::OutModel after = export_model(model, masters, c);
  EXPECT_EQ(before.config, after.config);
  EXPECT_EQ(before.kv_cache_algo, after.kv_cache_algo);
  ASSERT_EQ(before.weights.size(), after.weights.size());
  for (std::size_t i = 0; i < after.weights.size(); ++i) {
    const checkpoint::OutWeight &x = before.weights[i], &y = after.weights[i];
    EXPECT_EQ(x.name, y.name);
    EXPECT_EQ(x.shape, y.shape) << y.name;
    EXPECT_EQ(x.dtype, y.dtype) << y.name;
    EXPECT_EQ(algo_of(x), algo_of(y)) << y.name;
  }
}

TEST(Export, UnquantisedModelIsPlainBf16) {
  const auto c = source("llama_bias_tied");  // F32
  models::Model model = models::load(c);
  const auto folder = export_folder(model, masters_of(model), c);
  EXPECT_TRUE(folder.hf_quant_config.is_null());
  EXPECT_FALSE(folder.config.contains("quantization_config"));
  EXPECT_EQ(folder.config["dtype"], "bfloat16");
  for (const auto& t : folder.tensors) EXPECT_EQ(t.dtype, checkpoint::DType::bf16);
  EXPECT_EQ(folder.tensors.size(), c.tensors.size());
}

TEST(Export, AHybridIsWrittenBackUnderItsNames) {
  const auto c = source("nemotron_h");
  models::Model model = models::load(c);
  const auto folder = export_folder(model, masters_of(model), c);
  EXPECT_EQ(folder.config, c.config);
  EXPECT_EQ(folder.tensors.size(), c.tensors.size());
  const auto bytes = bytes_of(folder);
  for (const auto& t : folder.tensors) {
    ASSERT_TRUE(c.has(t.name)) << t.name;
    EXPECT_EQ(t.shape, c.at(t.name).shape) << t.name;
    EXPECT_TRUE(std::ranges::equal(bytes.at(t.name), c.at(t.name).raw)) << t.name;
  }
}

TEST(Quantize, RefusesWhatItCannotDo) {
  models::Model model = models::load(source());
  EXPECT_THROW(quantize(model, preset("nvfp4"), {}), Error);  // no calibration
  EXPECT_THROW(quantize(model, preset("nvfp4"), std::vector<float>(9, 0.0f)), Error);
  quantize(model, preset("nvfp4-weight-only"), {});
  EXPECT_THROW(quantize(model, preset("nvfp4-weight-only"), {}), Error);  // twice
  EXPECT_THROW(calibrate(model, batches()), Error);
}

TEST(Verify, CacheScalesAreOnePositiveNumberBoth) {
  const auto c = source();
  models::Model model = models::load(c);
  const auto masters = masters_of(model);
  quantize(model, preset("nvfp4-weight-only"), {});
  quantize_cache(model, nvfp4::GlobalScale::pow2, {{1, 2}, {3, 4}});
  const auto problems_with = [&](auto&& change) {
    auto out = export_folder(model, masters, c);
    change(out);
    const Folder folder;
    checkpoint::write_folder(folder.path, out);
    return models::problems(checkpoint::open(folder.path));
  };
  const std::string key = "model.layers.1.self_attn.k_proj.k_scale";
  EXPECT_THAT(problems_with([](checkpoint::OutFolder&) {}), ::testing::IsEmpty());
  EXPECT_THAT(problems_with([&](checkpoint::OutFolder& out) {
                std::erase_if(out.tensors, [&](const auto& t) { return t.name == key; });
              }),
              ::testing::ElementsAre(HasSubstr("k_proj.k_scale beside it, found none")));
  EXPECT_THAT(problems_with([&](checkpoint::OutFolder& out) {
                for (auto& t : out.tensors)
                  if (t.name == key)
                    t.fill = [](std::byte* bytes) {
                      const float scale = -1;
                      std::memcpy(bytes, &scale, sizeof(scale));
                    };
              }),
              ::testing::ElementsAre(HasSubstr("expected one positive number, found -1")));
  EXPECT_THAT(problems_with([&](checkpoint::OutFolder& out) {
                out.hf_quant_config["quantization"]["kv_cache_quant_algo"] = nullptr;
                out.config["quantization_config"].erase("kv_cache_scheme");
              }),
              ::testing::Each(HasSubstr("nothing says that keys and values are FP8")));
}

TEST(Verify, FusedPartsMustShareScales) {
  const auto c = source();
  models::Model model = models::load(c);
  const auto masters = masters_of(model);
  quantize(model, preset("nvfp4-weight-only"), {});
  auto out = export_folder(model, masters, c);
  for (auto& t : out.tensors)
    if (t.name == "model.layers.1.mlp.up_proj.weight_scale_2")
      t.fill = [](std::byte* bytes) {
        const float scale = 3;
        std::memcpy(bytes, &scale, sizeof(scale));
      };
  const Folder folder;
  checkpoint::write_folder(folder.path, out);
  const auto written = checkpoint::open(folder.path);
  EXPECT_THAT(models::problems(written),
              ::testing::ElementsAre(HasSubstr("model.layers.1.mlp.gate_proj.weight: expected one "
                                               "weight_scale_2")));
  EXPECT_THROW(models::load(written), Error);
}

}  // namespace
}  // namespace qad::quantize
