#include "checkpoint/modelopt.h"

#include <algorithm>
#include <set>

#include "checkpoint/nvfp4_tensors.h"
#include "core/error.h"
#include "nvfp4/nvfp4.h"

namespace qad::checkpoint {
namespace {

constexpr const char* kLowRank = "NVFP4_SVD";

// The name is part of the format, not a claim of authorship: TensorRT-LLM takes the flat form
// only from producer "modelopt" (or a quant_method that starts so), and vLLM and SGLang choose
// their loader by it. The version is that of the layout we write.
Json producer() {
  return {{"name", "modelopt"}, {"version", "0.47.0"}};
}

Json operand(int bits) {
  Json out = {{"dynamic", false}, {"num_bits", bits}, {"type", "float"}};
  if (bits == 4) out["group_size"] = nvfp4::kBlock;
  return out;
}

bool is_nvfp4(const std::string& algo) {
  return algo.find("NVFP4") != algo.npos;
}

Json correction_of(std::int64_t low_rank) {
  return {{"has_zero_point", false}, {"pre_quant_scale", false}, {"lora_rank", low_rank}};
}

// How a linear, or all of them, is quantised.
Json entry_of(const std::string& algo, std::int64_t low_rank) {
  Json entry = {{"quant_algo", algo}};
  if (is_nvfp4(algo)) entry["group_size"] = nvfp4::kBlock;
  if (algo == kLowRank) entry.update(correction_of(low_rank));
  return entry;
}

Json group_of(const std::string& algo, const std::vector<std::string>& targets,
              std::int64_t low_rank) {
  const bool nvfp4 = is_nvfp4(algo);
  Json group;
  if (algo != "W4A16_NVFP4") group["input_activations"] = operand(nvfp4 ? 4 : 8);
  if (algo == "FP8_PER_CHANNEL_PER_TOKEN") group["input_activations"]["dynamic"] = true;
  group["weights"] = operand(nvfp4 ? 4 : 8);
  if (algo == kLowRank) group.update(correction_of(low_rank));
  group["targets"] = targets;
  return group;
}

}  // namespace

QuantConfigs quant_configs(const std::map<std::string, std::string>& algos,
                           const std::vector<std::string>& excluded, const std::string& kv_cache,
                           std::int64_t low_rank) {
  const std::set<std::string> ignored(excluded.begin(), excluded.end());
  const Json names(ignored);
  std::map<std::string, std::vector<std::string>> linears_of;
  for (const auto& [linear, algo] : algos) linears_of[algo].push_back(linear);
  check(!linears_of.empty(), "write_modelopt", "nothing is quantised");
  const bool uniform = linears_of.size() == 1;
  const std::string algo = uniform ? linears_of.begin()->first : "MIXED_PRECISION";
  const Json kv = kv_cache.empty() ? Json() : Json(kv_cache);

  QuantConfigs configs;
  configs.hf_quant_config["producer"] = producer();
  Json& nested = configs.hf_quant_config["quantization"];
  nested["quant_algo"] = algo;
  nested["kv_cache_quant_algo"] = kv;
  Json& flat = configs.quantization_config;
  if (uniform) {
    nested.update(entry_of(algo, low_rank));
    nested["exclude_modules"] = names;
    flat["config_groups"]["group_0"] = group_of(algo, {"Linear"}, low_rank);
    flat["ignore"] = names;
    flat.update(entry_of(algo, low_rank));
  } else {
    Json layers = Json::object();
    for (const auto& [linear, its] : algos) layers[linear] = entry_of(its, low_rank);
    nested["quantized_layers"] = layers;
    int i = 0;
    for (const auto& [its, linears] : linears_of)
      flat["config_groups"][fmt::format("group_{}", i++)] = group_of(its, linears, low_rank);
    flat["ignore"] = Json::array();
    flat["quantized_layers"] = layers;
  }
  flat["quant_algo"] = algo;
  // Not ModelOpt's: SGLang and TensorRT-LLM look here first.
  if (algo.find("FP8") == algo.npos) flat["group_size"] = nvfp4::kBlock;
  if (!kv_cache.empty()) flat["kv_cache_scheme"] = operand(8);
  flat["producer"] = producer();
  flat["quant_method"] = "modelopt";
  return configs;
}

OutFolder modelopt_folder(const OutModel& m, std::vector<std::string>&) {
  OutFolder folder = bare_folder(m);
  std::map<std::string, std::string> algos;
  std::vector<std::string> corrected;
  constexpr std::string_view kDown = ".svdquant_lora_a";
  for (const OutWeight& w : m.weights) {
    const std::string name = w.linear();
    if (w.is_quantized()) algos[name] = algo_of(w);
    if (w.nvfp4) {
      append_nvfp4(
          folder.tensors, name, w.shape[0], w.shape[1],
          [nvfp4 = *w.nvfp4] { return nvfp4.global(); }, w.nvfp4->input_scale, w.nvfp4->fill);
    } else if (w.fp8) {
      append_fp8(folder.tensors, w, {});
    } else {
      if (name.ends_with(kDown)) {
        corrected.push_back(name.substr(0, name.size() - kDown.size()));
        check(w.shape.at(0) == low_rank_of(m), "write_modelopt",
              "{}: expected the rank of the other low-rank corrections, {}, found {}", name,
              low_rank_of(m), w.shape.at(0));
      }
      folder.tensors.push_back(plain_tensor(w));
    }
    for (const char* which : {".k_scale", ".v_scale"})
      if (const auto kv = m.kv_scales.find(name + which); kv != m.kv_scales.end())
        folder.tensors.push_back(scalar_tensor(kv->first, {}, {kv->second}));
  }
  for (const std::string& linear : corrected) {
    check(algos[linear] == "NVFP4", "write_modelopt",
          "{}: a low-rank correction is for NVFP4 with quantised inputs, found {}", linear,
          algos[linear].empty() ? "an unquantised weight" : algos[linear]);
    algos[linear] = kLowRank;
  }
  if (algos.empty()) return folder;
  QuantConfigs configs = quant_configs(algos, left_alone(m), m.kv_cache_algo, low_rank_of(m));
  folder.hf_quant_config = std::move(configs.hf_quant_config);
  folder.config["quantization_config"] = std::move(configs.quantization_config);
  return folder;
}

}  // namespace qad::checkpoint
