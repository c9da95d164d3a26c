#include "checkpoint/engines.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <set>

#include "checkpoint/formats.h"
#include "checkpoint/torchao.h"
#include "files.h"

namespace qad::checkpoint {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;

// A model of one layer in a folder of each layout: q, k, v and a router of [32, 64], an embedding.
struct Model {
  OutModel m;

  Model() {
    m.config = {{"model_type", "llama"}};
    m.kv_cache_algo = "FP8";
    for (const char which : {'k', 'v'})
      m.kv_scales[fmt::format("model.layers.0.self_attn.{0}_proj.{0}_scale", which)] = 0.5f;
    for (const char* leaf : {"q_proj", "k_proj", "v_proj"})
      add(std::string("model.layers.0.self_attn.") + leaf, 64);
    plain("model.embed_tokens.weight");
    plain("model.layers.0.mlp.gate.weight");
  }
  OutWeight& add(const std::string& name, std::int64_t cols) {
    m.weights.push_back({name + ".weight", {32, cols}, DType::bf16, {}, {}, {}});
    m.weights.back().nvfp4 = {0.5f, 0.25f, [cols](std::uint8_t* codes, std::uint8_t* scales) {
                                std::fill_n(codes, 32 * cols / 2, std::uint8_t{0x21});
                                std::fill_n(scales, 32 * cols / 16, std::uint8_t{0x38});
                              }};
    return m.weights.back();
  }
  // The weights from number `first` on in FP8; that one under another scale than 0.5.
  void as_fp8(float scale, std::size_t first) {
    for (std::size_t i = first == 1 ? 0 : first; i < m.weights.size(); ++i) {
      OutWeight& w = m.weights[i];
      if (!w.nvfp4) continue;
      const auto n = static_cast<std::size_t>(w.shape[0] * w.shape[1]);
      w.nvfp4.reset();
      w.fp8 = {{i == first ? scale : 0.5f}, 0.25f, [n](std::uint8_t* codes) {
                 std::fill_n(codes, n, std::uint8_t{0x38});
               }};
    }
  }
  void plain(const std::string& name) {
    m.weights.push_back({name, {32, 64}, DType::bf16, {}, {}, {}});
    m.weights.back().fill = [](std::byte* out) { std::fill_n(out, 32 * 64 * 2, std::byte{0}); };
  }
};

using Layout = OutFolder (*)(const OutModel&, std::vector<std::string>&);

std::vector<std::string> found(const OutFolder& folder, std::string_view engine) {
  const ScratchFolder scratch;
  write_folder(scratch / "m", folder);
  std::vector<std::string> lines;
  for (const Finding& f : findings(open(scratch / "m"), engine))
    lines.push_back(fmt::format("{}{}: {}", f.fatal ? "" : "note ", f.rule, f.text));
  return lines;
}

OutFolder folder_of(const Model& model, Layout layout) {
  std::vector<std::string> changes;
  return layout(model.m, changes);
}

TEST(Engines, TakeWhatWeWrite) {
  for (const auto& [layout, engines] :
       {std::pair<Layout, std::vector<std::string>>(modelopt_folder, {"vllm", "sglang", "trtllm"}),
        std::pair<Layout, std::vector<std::string>>(compressed_tensors_folder,
                                                    {"vllm", "sglang", "trtllm", "transformers"})})
    for (const std::string& engine : engines)
      for (const int mixture : {0, 1, 2}) {
        Model model;
        if (mixture == 1) model.add("model.layers.0.mlp.down_proj", 64);
        if (mixture > 0) model.as_fp8(0.5f, mixture == 1 ? 5 : 0);  // down_proj alone, or all
        EXPECT_THAT(found(folder_of(model, layout), engine), IsEmpty()) << engine << mixture;
      }
}

// Each rule, a change that breaks it, and what is then said to an engine that it is about.
struct Break {
  const char* rule;
  const char* engine;
  Layout layout;
  std::function<void(Model&)> model;
  std::function<void(OutFolder&)> folder;
  const char* text;
};

OutTensor* tensor(OutFolder& folder, std::string_view name) {
  const auto at = std::ranges::find(folder.tensors, name, &OutTensor::name);
  return at == folder.tensors.end() ? nullptr : &*at;
}

void drop(OutFolder& folder, std::string_view name) {
  std::erase_if(folder.tensors, [&](const OutTensor& t) { return t.name == name; });
}

const std::string kQ = "model.layers.0.self_attn.q_proj";

std::vector<Break> breaks() {
  const auto nothing = [](auto&) {};
  const auto quantization = [](OutFolder& f) -> Json& { return f.hf_quant_config["quantization"]; };
  const auto flat = [](OutFolder& f) -> Json& { return f.config["quantization_config"]; };
  return {
      {"format", "transformers", modelopt_folder, nothing, nothing, "NVFP4 by torchao, alone"},
      {"format", "transformers", torchao_folder, nothing, nothing,
       "torchao's act_per_tensor_scale"},
      {"format", "llama.cpp", modelopt_folder, nothing, nothing, "it reads GGUF"},
      {"algorithm", "vllm", modelopt_folder, nothing,
       [=](OutFolder& f) { quantization(f)["quant_algo"] = "NVFP4_AWQ"; }, "NVFP4_AWQ"},
      {"algorithm", "sglang", modelopt_folder, nothing,
       [=](OutFolder& f) { quantization(f)["quant_algo"] = "NVFP4_SVD"; }, "NVFP4_SVD"},
      {"algorithm", "trtllm", modelopt_folder, nothing,
       [=](OutFolder& f) { quantization(f)["quant_algo"] = "NVFP4_SVD"; }, "NVFP4_SVD"},
      {"fused-scales", "vllm", modelopt_folder,
       [](Model& m) { m.m.weights[1].nvfp4->global_scale = 1; }, nothing, "takes the largest"},
      {"fused-scales", "trtllm", compressed_tensors_folder,
       [](Model& m) { m.m.weights[1].nvfp4->global_scale = 1; }, nothing, "assertion fails"},
      {"fused-inputs", "sglang", modelopt_folder,
       [](Model& m) { m.m.weights[2].nvfp4->input_scale = 1.0f; }, nothing, "input_scale"},
      {"fused-scales", "vllm", modelopt_folder, [](Model& m) { m.as_fp8(1, 1); }, nothing,
       "rounded a second time"},
      {"fused-scales", "sglang", compressed_tensors_folder, [](Model& m) { m.as_fp8(1, 1); },
       nothing, "weight_scale 1 and 0.5"},
      {"fused-inputs", "trtllm", modelopt_folder,
       [](Model& m) {
         m.as_fp8(0.5f, 1);
         m.m.weights[2].fp8->input_scale = 1.0f;
       },
       nothing, "input_scale"},
      {"fused-algorithms", "vllm", modelopt_folder, [](Model& m) { m.as_fp8(0.5f, 2); }, nothing,
       "they are one matrix there"},
      {"fused-algorithms", "sglang", compressed_tensors_folder, [](Model& m) { m.as_fp8(0.5f, 2); },
       nothing, "is FP8 and"},
      {"input-scale", "vllm", modelopt_folder, [](Model& m) { m.as_fp8(0.5f, 0); },
       [](OutFolder& f) { drop(f, kQ + ".input_scale"); }, "input_scale is missing"},
      {"router", "vllm", modelopt_folder,
       [](Model& m) {
         m.add("model.layers.1.mlp.gate", 64);
         m.as_fp8(0.5f, 5);
       },
       nothing, "a router in FP8"},
      {"fused-algorithms", "vllm", modelopt_folder,
       [](Model& m) { m.m.weights[2].nvfp4->input_scale.reset(); }, nothing,
       "they are one matrix there"},
      {"columns-16", "vllm", modelopt_folder, nothing,
       [](OutFolder& f) {
         OutTensor& t = *tensor(f, kQ + ".weight");
         t.shape[1] = 36;
         t.fill = [](std::byte* out) { std::fill_n(out, 32 * 36, std::byte{0}); };
       },
       "72 columns"},
      {"columns-64", "llama.cpp", modelopt_folder,
       [](Model& m) { m.add("model.layers.0.mlp.down_proj", 48); }, nothing, "48 columns"},
      {"qwen2-scales", "llama.cpp", modelopt_folder,
       [](Model& m) {
         m.m.config["model_type"] = "qwen2";
         m.add("model.layers.0.mlp.down_proj", 64);
       },
       nothing, "without the global scale 0.5"},
      {"tiles-32", "vllm", modelopt_folder,
       [](Model& m) { m.add("model.layers.0.mlp.down_proj", 48); }, nothing, "[32, 48]"},
      {"router", "sglang", modelopt_folder, [](Model& m) { m.add("model.layers.1.mlp.gate", 64); },
       nothing, "layers.1.mlp.gate"},
      {"input-scale", "vllm", modelopt_folder, nothing,
       [](OutFolder& f) { drop(f, kQ + ".input_scale"); }, "input_scale is missing"},
      {"pre-quant-scale", "vllm", modelopt_folder, nothing,
       [](OutFolder& f) { f.tensors.push_back(scalar_tensor(kQ + ".pre_quant_scale", {1}, {1})); },
       "is not applied"},
      {"cache-scales", "vllm", modelopt_folder, [](Model& m) { m.m.kv_scales.clear(); }, nothing,
       "it takes 1"},
      {"group-size", "trtllm", modelopt_folder, nothing,
       [=](OutFolder& f) { quantization(f).erase("group_size"); }, "group_size is missing"},
      {"excluded-named", "sglang", modelopt_folder, nothing,
       [=](OutFolder& f) { quantization(f).erase("exclude_modules"); }, "exclude_modules"},
      {"cache-named", "vllm", modelopt_folder, nothing,
       [=](OutFolder& f) { quantization(f).erase("kv_cache_quant_algo"); }, "null says none"},
      {"files-agree", "trtllm", modelopt_folder, nothing,
       [=](OutFolder& f) { flat(f)["quant_algo"] = "FP8"; }, "one or the other"},
      {"groups-apart", "vllm", compressed_tensors_folder, nothing,
       [=](OutFolder& f) {
         flat(f)["config_groups"]["group_1"] = flat(f)["config_groups"]["group_0"];
       },
       "in another group too"},
      {"one-group", "llama.cpp", compressed_tensors_folder,
       [](Model& m) {
         for (int i = 0; i < 3; ++i) m.m.weights[i].nvfp4->input_scale.reset();
         m.add("model.layers.0.mlp.down_proj", 64);
       },
       nothing, "no mixed compressed-tensors"},
      {"group-keys", "transformers", compressed_tensors_folder, nothing,
       [=](OutFolder& f) { flat(f)["config_groups"]["group_0"]["weights"]["producer"] = "qad"; },
       "no key \"producer\""},
      {"metadata", "vllm", modelopt_folder, nothing,
       [=](OutFolder& f) { quantization(f)["group_size"] = "x"; }, "under \"group_size\""},
  };
}

TEST(Engines, EachRuleIsBrokenByOneChange) {
  std::set<std::string> broken;
  for (const Break& b : breaks()) {
    Model model;
    b.model(model);
    OutFolder folder = folder_of(model, b.layout);
    b.folder(folder);
    EXPECT_THAT(found(folder, b.engine),
                Contains(testing::AllOf(HasSubstr(b.rule), HasSubstr(b.text))))
        << b.rule << " for " << b.engine;
    broken.insert(b.rule);
  }
  for (const std::string_view rule : rule_names())
    EXPECT_TRUE(broken.contains(std::string(rule))) << rule << " is not broken by any test";
}

TEST(Engines, AreNamed) {
  EXPECT_THAT(error_of([] { findings({}, "vlm"); }), HasSubstr("did you mean \"vllm\""));
  EXPECT_THAT(findings({}, "vllm"), IsEmpty());
}

}  // namespace
}  // namespace qad::checkpoint
