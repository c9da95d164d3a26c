// Linears in FP8 beside NVFP4: what is shipped, written and read again, and what of PTQ's methods
// concerns them.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <set>

#include "checkpoint/formats.h"
#include "checkpoint/nvfp4_tensors.h"
#include "core/error.h"
#include "models/verify.h"
#include "quantize/by_hessians.h"
#include "quantize/quantize.h"
#include "quantize/transform.h"

namespace qad::quantize {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

checkpoint::Checkpoint source(const std::string& name) {
  return checkpoint::open(fs::path(QAD_SOURCE_DIR) / "tests/golden/models" / name);
}

std::vector<models::Tokens> batches() {
  return {models::tokens_of({{1, 5, 9, 70, 33, 2}, {4, 4, 8}}), models::tokens_of({{95, 3, 17}})};
}

// Enough for Hessians of a linear.
std::vector<models::Tokens> many_batches() {
  std::vector<std::vector<std::int32_t>> texts(6);
  for (std::size_t t = 0; t < texts.size(); ++t)
    for (int i = 0; i < 32; ++i) texts[t].push_back(static_cast<int>((t * 37 + i * i * 11) % 96));
  std::vector<models::Tokens> all;
  for (const auto& text : texts) all.push_back(models::tokens_of({text}));
  return all;
}

Rule fp8(const std::string& pattern) {
  return {pattern, true, "", ops::Precision::fp8};
}

// Attention and experts in FP8, the rest in NVFP4.
Policy mixed(nvfp4::GlobalScale global = nvfp4::GlobalScale::pow2) {
  Policy policy = preset("nvfp4");
  policy.global = global;
  policy.rules.push_back(fp8("*.[qkvo]_proj"));
  return policy;
}

std::vector<float> maxima(const models::Model& model) {
  auto amax = calibrate(model, batches());
  lend_maxima(model, amax);
  return amax;
}

std::vector<at::Tensor> values_of(const models::Model& model) {
  std::vector<at::Tensor> out;
  for (const models::Parameter* p : models::parameters(model)) out.push_back(p->value.clone());
  return out;
}

at::Tensor logits(const models::Model& model) {
  const at::NoGradGuard no_grad;
  return models::logits(model, models::forward(model, batches()[0]));
}

struct Folder {
  fs::path path = fs::temp_directory_path() / fmt::format("qad_fp8_{}", ::getpid());
  ~Folder() { fs::remove_all(path); }
};

std::map<std::string, std::vector<std::byte>> bytes_of(const checkpoint::OutFolder& folder) {
  std::map<std::string, std::vector<std::byte>> out;
  for (const checkpoint::OutTensor& t : folder.tensors) {
    auto& bytes = out[t.name];
    bytes.resize(static_cast<std::size_t>(checkpoint::bytes_of(t)));
    t.fill(bytes.data());
  }
  return out;
}

std::size_t fp8_linears(const models::Model& model) {
  std::size_t n = 0;
  for (const models::Linear* l : models::linears(model))
    n += l->quant && l->quant->precision == ops::Precision::fp8;
  return n;
}

struct Case {
  const char* model;
  Policy policy;
  std::size_t fp8;  // linears
};
const Case kCases[] = {{"llama", mixed(), 4},
                       {"llama", mixed(nvfp4::GlobalScale::amax), 4},
                       {"qwen2", mixed(), 4},
                       {"nemotron_h_experts",
                        [] {
                          Policy policy = preset("nvfp4");
                          policy.rules.push_back(fp8("*.experts.*"));
                          return policy;
                        }(),
                        0}};

class Fp8Models : public ::testing::TestWithParam<Case> {};

// Written in both layouts, read again: the same values, scales and logits; from the disk the same
// bytes as from memory.
TEST_P(Fp8Models, AreReadAsTheyWereWritten) {
  const Case& c = GetParam();
  const auto from = source(c.model);
  models::Model model = models::load(from);
  const auto masters = values_of(model);
  const auto amax = maxima(model);
  const at::Tensor plain = logits(model);
  quantize(model, c.policy, amax);
  EXPECT_GT(fp8_linears(model), 0u);
  if (c.fp8 > 0) {
    EXPECT_EQ(fp8_linears(model), c.fp8);
  }

  std::size_t i = 0;
  for (const models::Linear* l : models::linears(model)) {
    const std::size_t at = i++;
    if (!l->quant || l->quant->precision != ops::Precision::fp8) continue;
    EXPECT_EQ(*l->quant->input_global, ops::fp8_scale(amax[at], c.policy.global));
    const auto parameters = models::parameters(model);
    const auto which = std::ranges::find(parameters, &l->weight) - parameters.begin();
    const at::Tensor w = masters[static_cast<std::size_t>(which)].to(at::kBFloat16).to(at::kFloat);
    EXPECT_EQ(l->quant->weight_global,
              ops::fp8_scale(w.abs().max().item<float>(), c.policy.global));
    EXPECT_TRUE(
        at::equal(l->weight.value, ops::through_e4m3(w, at::tensor(l->quant->weight_global))));
    if (c.policy.global == nvfp4::GlobalScale::pow2) {  // so a BF16 product is this product
      EXPECT_TRUE(at::equal(l->weight.value, l->weight.value.to(at::kBFloat16).to(at::kFloat)));
    }
  }

  const at::Tensor want = logits(model);
  EXPECT_FALSE(at::equal(want, plain));
  const auto out = export_model(model, masters, from);
  std::vector<std::string> changes;
  const auto in_memory = checkpoint::modelopt_folder(out, changes);
  for (const auto layout : {checkpoint::modelopt_folder, checkpoint::compressed_tensors_folder}) {
    const Folder folder;
    checkpoint::write_folder(folder.path, layout(out, changes));
    const auto read = checkpoint::open(folder.path);
    EXPECT_FALSE(read.quantization.is_null());
    EXPECT_THAT(models::problems(read), IsEmpty());
    const models::Model again = models::load(read);
    EXPECT_EQ(fp8_linears(again), fp8_linears(model));
    const models::Model& made = model;
    const auto a = models::parameters(made), b = models::parameters(again);
    ASSERT_EQ(a.size(), b.size());
    // Reciprocals of NVFP4's scales are exact for powers of two; FP8's are none.
    const bool exact =
        c.policy.global == nvfp4::GlobalScale::pow2 || layout == checkpoint::modelopt_folder;
    for (std::size_t p = 0; p < a.size() && exact; ++p)
      EXPECT_TRUE(at::equal(a[p]->value, b[p]->value)) << a[p]->parts.front().name;
    if (exact) {
      EXPECT_TRUE(at::equal(logits(again), want));
      // What writes texts keeps the weights packed, in BF16 where that holds them.
      models::Placement packs;
      packs.packs_weights = true;
      EXPECT_TRUE(at::equal(logits(models::load(read, packs)), want));
    }
    // Back in ModelOpt's layout: the same bytes of FP8, and of all where nothing was inverted.
    const auto back =
        bytes_of(checkpoint::modelopt_folder(checkpoint::out_model(read, {}), changes));
    const auto written = bytes_of(in_memory);
    ASSERT_EQ(back.size(), written.size());
    for (const auto& [name, bytes] : written) {
      const std::string linear = name.substr(0, name.rfind('.'));
      const bool of_nvfp4 = written.contains(linear + ".weight_scale_2");
      if (exact || !of_nvfp4) {
        EXPECT_TRUE(back.at(name) == bytes) << name;
      }
    }
  }

  models::Model opened = models::open_model(from, {});
  choose_quantised(opened, c.policy, amax);
  const auto from_disk =
      bytes_of(checkpoint::modelopt_folder(export_from(from, opened, c.policy.global), changes));
  EXPECT_TRUE(from_disk == bytes_of(in_memory));
}
INSTANTIATE_TEST_SUITE_P(Quantize, Fp8Models, ::testing::ValuesIn(kCases), [](const auto& info) {
  return std::string(info.param.model) +
         (info.param.policy.global == nvfp4::GlobalScale::amax ? "_amax" : "");
});

TEST(Fp8Models, MetadataNamesEachLayersAlgorithm) {
  const auto from = source("llama");
  models::Model model = models::load(from);
  const auto masters = values_of(model);
  quantize(model, mixed(), maxima(model));
  const auto out = export_model(model, masters, from);
  std::vector<std::string> changes;
  const auto folder = checkpoint::modelopt_folder(out, changes);
  const Json& q = folder.hf_quant_config["quantization"];
  EXPECT_EQ(q["quant_algo"], "MIXED_PRECISION");
  EXPECT_EQ(q["quantized_layers"]["model.layers.0.self_attn.q_proj"]["quant_algo"], "FP8");
  EXPECT_EQ(q["quantized_layers"]["model.layers.0.mlp.up_proj"]["quant_algo"], "NVFP4");
  const auto ct = checkpoint::compressed_tensors_folder(out, changes);
  const Json groups = ct.config["quantization_config"]["config_groups"];
  ASSERT_EQ(groups.size(), 2u);
  std::set<std::string> targets;
  std::size_t count = 0;
  for (const auto& [name, group] : groups.items())
    for (const Json& target : group["targets"]) {
      targets.insert(target.get<std::string>());
      ++count;
    }
  EXPECT_EQ(count, targets.size());  // no module twice
  EXPECT_EQ(count, 14u);
}

// FP8 has one scale for q, k and v where it reads: with several inputs' scales it is plain values.
TEST(Fp8Models, WithSeveralInputScalesAreValues) {
  const auto from = source("llama");
  models::Model model = models::load(from);
  const auto masters = values_of(model);
  quantize(model, mixed(), maxima(model));
  auto out = export_model(model, masters, from);
  for (auto& w : out.weights)
    if (w.name == "model.layers.0.self_attn.k_proj.weight") *w.fp8->input_scale *= 2;
  std::vector<std::string> changes;
  const Folder folder;
  checkpoint::write_folder(folder.path, checkpoint::modelopt_folder(out, changes));
  const models::Model again = models::load(checkpoint::open(folder.path));
  EXPECT_EQ(fp8_linears(again), 3u);
  EXPECT_TRUE(at::equal(again.layers[0].attention->qkv.weight.value,
                        model.layers[0].attention->qkv.weight.value));
}

TEST(Fp8Models, BesideRoundingByHessians) {
  const auto from = source("llama");
  for (const bool gptq : {false, true}) {
    models::Model model = models::load(from), opened = models::open_model(from, {});
    Policy policy = mixed();
    policy.hessian_scales = true;
    if (gptq) policy.rounding = Rounding::gptq;
    const auto amax = calibrate(model, many_batches());
    const auto before = values_of(model);
    const auto made = quantize_by_hessians(model, policy, amax, many_batches());
    EXPECT_THAT(made.plain, IsEmpty());
    EXPECT_EQ(fp8_linears(model), 4u);
    const auto parameters = models::parameters(model);
    for (const models::Linear* l : models::linears(model)) {
      if (!l->quant) continue;
      const auto at =
          static_cast<std::size_t>(std::ranges::find(parameters, &l->weight) - parameters.begin());
      const bool is_fp8 = l->quant->precision == ops::Precision::fp8;
      EXPECT_EQ(l->quant->weight_scales.defined(), !is_fp8);
      if (!is_fp8) continue;  // rounded to nearest
      const at::Tensor w = before[at].to(at::kBFloat16).to(at::kFloat);
      EXPECT_TRUE(at::equal(made.masters[at], w));
      EXPECT_TRUE(
          at::equal(l->weight.value, ops::through_e4m3(w, at::tensor(l->quant->weight_global))));
    }
    std::vector<std::string> changes;
    const auto in_memory =
        bytes_of(checkpoint::modelopt_folder(export_model(model, made.masters, from), changes));
    choose_quantised(opened, policy, amax);
    const auto codes = quantize_by_hessians(from, opened, policy, many_batches());
    EXPECT_TRUE(bytes_of(checkpoint::modelopt_folder(
                    export_from(from, opened, policy.global, codes.weights), changes)) ==
                in_memory);
  }
}

// AWQ judges by the reader's own precision: what FP8 hardly rounds is hardly worth scaling.
TEST(Fp8Models, AwqSeesTheirOwnError) {
  const auto errors = [](const Policy& policy) {
    models::Model model = models::load(source("llama"));
    double sum = 0;
    for (const SiteScales& s : scale_channels(model, policy, ScaleRule::awq, 0.5, many_batches()))
      sum += s.error_before;
    return sum;
  };
  Policy all = preset("nvfp4");
  const double nvfp4 = errors(all);
  all.rules.push_back(fp8("*_proj"));
  EXPECT_LT(errors(all), 0.25 * nvfp4);  // half the error, squared, at least
}

TEST(Fp8Models, ScalesAreFixedForBlocksAlone) {
  models::Model model = models::load(source("llama"));
  const auto masters = values_of(model);
  const Policy policy = mixed();
  quantize(model, policy, maxima(model));
  const auto before = values_of(model);
  fix_scales(model, policy, masters);
  for (const models::Linear* l : models::linears(model))
    if (l->quant) {
      EXPECT_EQ(l->quant->weight_scales.defined(), l->quant->precision == ops::Precision::nvfp4);
    }
  const auto after = values_of(model);
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(at::equal(before[i], after[i]));
}

TEST(Fp8Models, PoliciesThatCannotBeAreErrors) {
  const models::Model model = models::load(source("llama"));
  const auto error = [&](Policy policy, const models::Model& of) -> std::string {
    try {
      coverage(of, policy);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  Policy weights = preset("nvfp4-weight-only");
  weights.rules.push_back(fp8("*.o_proj"));
  EXPECT_THAT(error(weights, model), HasSubstr("FP8 quantises inputs too"));
  Policy part = preset("nvfp4");
  part.rules.push_back(fp8("*.k_proj"));
  EXPECT_THAT(error(part, model), HasSubstr("(quantised as NVFP4) and"));
  EXPECT_THAT(error(part, model), HasSubstr("k_proj (quantised as FP8)"));
  Policy expert = preset("nvfp4");
  expert.rules.push_back(fp8("*.experts.1.*"));
  EXPECT_THAT(error(expert, models::load(source("nemotron_h_experts"))),
              HasSubstr("experts of a layer must be quantised together"));
  Policy nothing_left = preset("nvfp4");
  nothing_left.rules.push_back(fp8("*_proj"));
  nothing_left.rounding = Rounding::gptq;
  EXPECT_THAT(error(nothing_left, model), HasSubstr("every quantised linear is FP8"));
}

TEST(Fp8Models, ExpertsInFp8AreForACpu) {
  const models::Model mixture = models::load(source("nemotron_h_experts"));
  Policy experts = preset("nvfp4");
  experts.rules.push_back(fp8("*.experts.*"));
  EXPECT_NO_THROW(check_device(mixture, experts, at::kCPU));
  EXPECT_NO_THROW(check_device(mixture, preset("nvfp4"), at::kCUDA));
  try {
    check_device(mixture, experts, at::kCUDA);
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("experts in FP8 are computed on a CPU alone, found cuda"));
  }
}

TEST(Fp8Models, CoverageCountsAByteAWeightAndTwoScales) {
  const models::Model model = models::load(source("llama"));
  std::int64_t fp8_parameters = 0;
  for (const CoverageRow& row : coverage(model, mixed())) {
    if (row.kind != "qkv" && row.kind != "o") continue;
    EXPECT_EQ(format_of(row), "FP8");
    EXPECT_EQ(row.bytes_after, row.parameters + 8 * row.tensors);
    fp8_parameters += row.parameters;
  }
  EXPECT_GT(fp8_parameters, 0);
  EXPECT_THAT(coverage_table(coverage(model, mixed())), HasSubstr("% in FP8"));
}

}  // namespace
}  // namespace qad::quantize
