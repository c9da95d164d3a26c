#include "checkpoint/nvfp4_tensors.h"

#include <gmock/gmock.h>

#include <bit>
#include <numeric>

#include "checkpoint/modelopt.h"
#include "checkpoint/verify.h"
#include "files.h"

namespace qad::checkpoint {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::int32_t bits_of(float x) {
  return std::bit_cast<std::int32_t>(x);
}

std::int64_t sum(std::span<const std::byte> bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0},
                         [](std::int64_t s, std::byte b) { return s + std::to_integer<int>(b); });
}

std::vector<int> row(std::span<const std::byte> bytes, std::int64_t index, std::int64_t width) {
  std::vector<int> out;
  for (const std::byte b : bytes.subspan(index * width, width))
    out.push_back(std::to_integer<int>(b));
  return out;
}

class ModelOptExport : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Both, ModelOptExport,
                         testing::Values("modelopt_nvfp4", "modelopt_w4a16_nvfp4"));

TEST_P(ModelOptExport, IsRead) {
  const Checkpoint c = open(golden(GetParam()));
  const Json expected = read_json(golden(GetParam()) / "expected.json");
  ASSERT_EQ(expected.size(), 7u);
  for (const auto& [name, want] : expected.items()) {
    const auto w = find_nvfp4(c, name);
    ASSERT_TRUE(w.has_value()) << name;
    EXPECT_EQ(w->rows, want["rows"]);
    EXPECT_EQ(w->cols, want["cols"]);
    EXPECT_EQ(bits_of(w->global_scale), want["global_bits"]);
    EXPECT_EQ(w->input_scale ? Json(bits_of(*w->input_scale)) : Json(), want["input_bits"]);
    EXPECT_EQ(sum(w->codes()), want["codes_sum"]);
    EXPECT_EQ(sum(w->scales()), want["scales_sum"]);
    EXPECT_EQ(Json(row(w->codes(), 1, w->cols / 2)), want["codes_row1"]);
    EXPECT_EQ(Json(row(w->scales(), 1, w->cols / 16)), want["scales_row1"]);
  }
  EXPECT_FALSE(find_nvfp4(c, "lm_head").has_value());
  EXPECT_FALSE(find_nvfp4(c, "model.embed_tokens").has_value());
  EXPECT_THAT(error_of([&] { find_nvfp4(c, "model.layers.0.mlp.upproj"); }),
              HasSubstr("the nearest name is model.layers.0.mlp.up_proj.weight"));
  EXPECT_THAT(problems(c), IsEmpty());
}

TEST_P(ModelOptExport, HasTheMetadataThatWeWrite) {
  const bool weight_only = std::string(GetParam()) == "modelopt_w4a16_nvfp4";
  const QuantConfigs ours = quant_configs({{"x", weight_only ? "W4A16_NVFP4" : "NVFP4"}},
                                          {"model.embed_tokens", "lm_head"}, "");
  EXPECT_EQ(ours.hf_quant_config, read_json(golden(GetParam()) / "hf_quant_config.json"));
  Json flat = read_json(golden(GetParam()) / "config.json")["quantization_config"];
  flat["group_size"] = 16;                                                    // our one addition
  EXPECT_EQ(nlohmann::json(ours.quantization_config), nlohmann::json(flat));  // in any order
}

// Written again through our own code, the tensors have the same bytes.
TEST_P(ModelOptExport, IsWrittenAgainToTheSameBytes) {
  const Checkpoint c = open(golden(GetParam()));
  OutFolder out;
  out.config = c.config;
  std::vector<std::string> excluded;
  int fills = 0;
  for (const auto& [name, t] : c.tensors) {
    if (!name.ends_with(".weight") || name.find("norm") != name.npos) continue;
    const std::string linear = name.substr(0, name.size() - 7);
    if (const auto w = find_nvfp4(c, linear)) {
      append_nvfp4(out.tensors, linear, w->rows, w->cols, w->global_scale, w->input_scale,
                   [w = *w, &fills](std::uint8_t* codes, std::uint8_t* scales) {
                     ++fills;
                     const std::span<const std::byte> c = w.codes_tensor->raw;
                     const std::span<const std::byte> s = w.scales_tensor->raw;
                     std::memcpy(codes, c.data(), c.size());
                     std::memcpy(scales, s.data(), s.size());
                   });
    } else {
      excluded.push_back(linear);
      out.tensors.push_back({name, t.dtype, t.shape, [raw = t.raw](std::byte* bytes) {
                               std::memcpy(bytes, raw.data(), raw.size());
                             }});
    }
  }
  const bool weight_only = std::string(GetParam()) == "modelopt_w4a16_nvfp4";
  const auto configs = quant_configs({{"x", weight_only ? "W4A16_NVFP4" : "NVFP4"}}, excluded, "");
  out.config["quantization_config"] = configs.quantization_config;
  out.hf_quant_config = configs.hf_quant_config;
  out.max_shard_bytes = 4000;

  const ScratchFolder scratch;
  write_folder(scratch / "m", out);
  EXPECT_EQ(fills, 7);
  const Checkpoint again = open(scratch / "m");
  EXPECT_GT(again.files.size(), 1u);
  EXPECT_EQ(again.tensors.size(), c.tensors.size() - 3) << "all but the norms";
  for (const auto& [name, t] : again.tensors) {
    EXPECT_EQ(t.dtype, c.at(name).dtype) << name;
    EXPECT_EQ(t.shape, c.at(name).shape) << name;
    EXPECT_TRUE(
        std::equal(t.raw.begin(), t.raw.end(), c.at(name).raw.begin(), c.at(name).raw.end()))
        << name;
  }
  EXPECT_THAT(problems(again), IsEmpty());
}

TEST(AppendNvfp4, RefusesWhatCannotBeStored) {
  std::vector<OutTensor> out;
  EXPECT_THROW(append_nvfp4(out, "x", 2, 24, 1, {}, {}), Error);
  EXPECT_THROW(append_nvfp4(out, "x", 2, 32, 0, {}, {}), Error);
  EXPECT_THROW(append_nvfp4(out, "x", 2, 32, 1, NAN, {}), Error);
  EXPECT_THAT(out, IsEmpty());
}

// A checkpoint in memory: two linears, q_proj and k_proj of [2, 32], and an excluded head.
struct Memory {
  Checkpoint c;
  std::map<std::string, std::vector<std::byte>> bytes;

  Memory() {
    c.format = "memory";
    c.path = "m";
    c.quantization = {
        {"quant_algo", "NVFP4"}, {"group_size", 16}, {"exclude_modules", {"lm_head"}}};
    for (const std::string name : {"a.q_proj", "a.k_proj"}) {
      set(name + ".weight", DType::u8, {2, 16}, std::vector<std::byte>(32, std::byte{0x21}));
      set(name + ".weight_scale", DType::f8_e4m3, {2, 2},
          std::vector<std::byte>(4, std::byte{0x38}));
      set_f32(name + ".weight_scale_2", {}, {0.5f});
      set_f32(name + ".input_scale", {}, {0.25f});
    }
    set_f32("lm_head.weight", {1, 2}, {1, 2});
    set_f32("norm.weight", {2}, {1, 2});
  }
  void set(const std::string& name, DType type, std::vector<std::int64_t> shape,
           std::vector<std::byte> value) {
    auto& stored = bytes[name] = std::move(value);
    c.tensors[name] = tensor_over(name, type, std::move(shape), stored);
  }
  void set_f32(const std::string& name, std::vector<std::int64_t> shape,
               std::vector<float> values) {
    const auto raw = std::as_bytes(std::span(values));
    set(name, DType::f32, std::move(shape), {raw.begin(), raw.end()});
  }
};

TEST(FindNvfp4, RefusesPartsThatDoNotFit) {
  const struct {
    const char* what;
    std::function<void(Memory&)> change;
    const char* error;
  } cases[] = {
      {"no scales", [](Memory& m) { m.c.tensors.erase("a.q_proj.weight_scale"); },
       "a.q_proj.weight_scale is missing"},
      {"no global", [](Memory& m) { m.c.tensors.erase("a.q_proj.weight_scale_2"); },
       "weight_scale_2 is missing"},
      {"no input", [](Memory& m) { m.c.tensors.erase("a.q_proj.input_scale"); },
       "input_scale is missing"},
      {"no weight", [](Memory& m) { m.c.tensors.erase("a.q_proj.weight"); },
       "expected a tensor a.q_proj.weight"},
      {"half a block",
       [](Memory& m) {
         m.set("a.q_proj.weight", DType::u8, {2, 12}, std::vector<std::byte>(24));
       },
       "expected columns in blocks of 16"},
      {"one dimension",
       [](Memory& m) { m.set("a.q_proj.weight", DType::u8, {16}, std::vector<std::byte>(16)); },
       "expected U8 [rows, columns/2], found U8 [16]"},
      {"scales of another shape",
       [](Memory& m) {
         m.set("a.q_proj.weight_scale", DType::f8_e4m3, {2, 1}, std::vector<std::byte>(2));
       },
       "expected F8_E4M3 [2, 2], found F8_E4M3 [2, 1]"},
      {"scales of another type",
       [](Memory& m) {
         m.set("a.q_proj.weight_scale", DType::u8, {2, 2}, std::vector<std::byte>(4));
       },
       "expected F8_E4M3 [2, 2], found U8 [2, 2]"},
      {"NaN scale", [](Memory& m) { m.bytes["a.q_proj.weight_scale"][3] = std::byte{0x7F}; },
       "byte 0x7F at 3"},
      {"negative scale", [](Memory& m) { m.bytes["a.q_proj.weight_scale"][1] = std::byte{0x80}; },
       "byte 0x80 at 1"},
      {"global of zero", [](Memory& m) { m.set_f32("a.q_proj.weight_scale_2", {}, {0}); },
       "found 0"},
      {"negative global", [](Memory& m) { m.set_f32("a.q_proj.weight_scale_2", {}, {-1}); },
       "found -1"},
      {"infinite input", [](Memory& m) { m.set_f32("a.q_proj.input_scale", {}, {INFINITY}); },
       "found inf"},
      {"two globals",
       [](Memory& m) {
         m.set_f32("a.q_proj.weight_scale_2", {2}, {1, 1});
       },
       "expected one number, found F32 [2]"},
      {"group of 32", [](Memory& m) { m.c.quantization["group_size"] = 32; },
       "expected group_size 16, found 32"},
      {"FP8",
       [](Memory& m) {
         m.set("a.q_proj.weight", DType::f8_e4m3, {2, 32}, std::vector<std::byte>(64));
       },
       "quantised as F8_E4M3 [2, 32] with a weight_scale; expected NVFP4"},
      {"AWQ", [](Memory& m) { m.c.quantization["quant_algo"] = "NVFP4_AWQ"; },
       "quantised as NVFP4_AWQ"},
      {"compressed-tensors",
       [](Memory& m) {
         m.c.quantization = {{"quant_method", "compressed-tensors"}};
         m.c.tensors.erase("a.q_proj.weight");
         m.set("a.q_proj.weight_packed", DType::u8, {2, 16}, std::vector<std::byte>(32));
       },
       "quantised as compressed-tensors"},
  };
  for (const auto& [what, change, error] : cases) {
    Memory m;
    EXPECT_EQ(error_of([&] { find_nvfp4(m.c, "a.q_proj"); }), "");
    change(m);
    EXPECT_THAT(error_of([&] { find_nvfp4(m.c, "a.q_proj"); }), HasSubstr(error)) << what;
  }
}

TEST(FindNvfp4, TakesScalarsOfAnyFloatTypeAndOneElement) {
  Memory m;
  m.set("a.q_proj.weight_scale_2", DType::bf16, {1}, {std::byte{0x00}, std::byte{0x3F}});
  EXPECT_EQ(find_nvfp4(m.c, "a.q_proj")->global_scale, 0.5f);
}

TEST(FindNvfp4, TheAlgorithmSaysWhetherActivationsAreQuantised) {
  Memory m;
  EXPECT_EQ(find_nvfp4(m.c, "a.q_proj")->input_scale, 0.25f);
  m.c.quantization["quant_algo"] = "W4A16_NVFP4";
  EXPECT_EQ(find_nvfp4(m.c, "a.q_proj")->input_scale, std::nullopt);
  m.c.quantization = {};
  EXPECT_EQ(find_nvfp4(m.c, "a.q_proj")->input_scale, 0.25f);
  EXPECT_EQ(find_nvfp4(m.c, "lm_head"), std::nullopt);
}

TEST(Problems, AreFound) {
  const struct {
    const char* what;
    std::function<void(Memory&)> change;
    const char* problem;
  } cases[] = {
      {"NaN weight",
       [](Memory& m) {
         m.set_f32("norm.weight", {3}, {1, NAN, -INFINITY});
       },
       "norm.weight: 2 of 3 values are infinite or NaN"},
      {"NaN in BF16",
       [](Memory& m) {
         m.set("x", DType::bf16, {2},
               {std::byte{0}, std::byte{0x3F}, std::byte{0x81}, std::byte{0xFF}});
       },
       "x: 1 of 2 values"},
      {"NaN block scale", [](Memory& m) { m.bytes["a.q_proj.weight_scale"][3] = std::byte{0x7F}; },
       "byte 0x7F at 3"},
      {"missing part", [](Memory& m) { m.c.tensors.erase("a.q_proj.input_scale"); },
       "input_scale is missing"},
      {"orphaned part", [](Memory& m) { m.c.tensors.erase("a.q_proj.weight"); },
       "expected a tensor a.q_proj.weight"},
      {"erased block", [](Memory& m) { m.bytes["a.k_proj.weight_scale"][2] = std::byte{0}; },
       "a.k_proj.weight_scale: 1 of 4 blocks have scale 0 over codes"},
      {"globals of a fused group",
       [](Memory& m) { m.set_f32("a.k_proj.weight_scale_2", {}, {0.50000006f}); },
       "a.k_proj.weight_scale_2 is 0.50000006, a.q_proj.weight_scale_2 is 0.5: engines fuse"},
      {"inputs of a fused group", [](Memory& m) { m.set_f32("a.k_proj.input_scale", {}, {0.5}); },
       "both read the same activations"},
      {"half a fused group",
       [](Memory& m) {
         m.set_f32("a.v_proj.weight", {1, 2}, {1, 2});
         m.c.quantization["exclude_modules"].push_back("a.v_proj");
       },
       "a.k_proj is NVFP4 and a.v_proj is not"},
      {"excluded yet quantised",
       [](Memory& m) { m.c.quantization["exclude_modules"].push_back("a.q*"); },
       "a.q_proj: NVFP4, but the quantisation metadata excludes it"},
      {"no metadata", [](Memory& m) { m.c.quantization = {}; },
       "neither config.json nor hf_quant_config.json"},
      {"not excluded yet plain",
       [](Memory& m) { m.c.quantization["exclude_modules"] = Json::array(); },
       "lm_head: stored as F32, but the quantisation metadata says NVFP4"},
      {"malformed metadata", [](Memory& m) { m.c.quantization["group_size"] = "x"; },
       "under \"group_size\""},
  };
  for (const auto& [what, change, problem] : cases) {
    Memory m;
    EXPECT_THAT(problems(m.c), IsEmpty());
    change(m);
    EXPECT_THAT(problems(m.c), Contains(HasSubstr(problem))) << what;
  }
}

// Copies the golden export and changes one of its files.
TEST(Problems, ComparesTheFilesOfAFolder) {
  const ScratchFolder scratch;
  for (const auto& entry : fs::directory_iterator(golden("modelopt_nvfp4")))
    write_file(scratch / entry.path().filename(), read_text(entry.path()));
  Json hf = read_json(scratch / "hf_quant_config.json");
  hf["quantization"]["exclude_modules"] = {"model.embed_tokens", "lm_head"};
  write_file(scratch / "hf_quant_config.json", to_text(hf));
  EXPECT_THAT(problems(open(scratch.path())), IsEmpty())
      << "the order of the excluded says nothing";
  hf["quantization"]["kv_cache_quant_algo"] = "FP8";
  write_file(scratch / "hf_quant_config.json", to_text(hf));
  EXPECT_THAT(problems(open(scratch.path())),
              ElementsAre("hf_quant_config.json and config.json disagree on kv_cache_quant_algo: "
                          "\"FP8\" and null"));
}

}  // namespace
}  // namespace qad::checkpoint
