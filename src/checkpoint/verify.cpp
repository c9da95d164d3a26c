// Each check is one function that appends its findings; problems() runs them all, so that one run
// shows everything.
#include "checkpoint/verify.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <set>

#include "checkpoint/dtype.h"
#include "checkpoint/hf_folder.h"
#include "checkpoint/nvfp4_tensors.h"
#include "core/error.h"

namespace qad::checkpoint {
namespace {

using Problems = std::vector<std::string>;
using Linears = std::map<std::string, Nvfp4Weight>;

template <class... Args>
void add(Problems& problems, fmt::format_string<Args...> format, Args&&... args) {
  problems.push_back(fmt::format(format, std::forward<Args>(args)...));
}

// Counts values whose exponent bits are all ones, in the stored type: no conversion, so this runs
// at memory speed.
template <class Bits>
std::int64_t count_with(std::span<const std::byte> raw, Bits mask, Bits pattern) {
  std::int64_t count = 0;
  for (std::size_t i = 0; i + sizeof(Bits) <= raw.size(); i += sizeof(Bits)) {
    Bits bits;
    std::memcpy(&bits, raw.data() + i, sizeof(Bits));
    count += (bits & mask) == pattern;
  }
  return count;
}

std::int64_t count_non_finite(const Tensor& t) {
  if (t.read) {
    std::vector<float> values(static_cast<std::size_t>(t.elements()));
    read_f32(t, values.data());
    return std::count_if(values.begin(), values.end(), [](float x) { return !std::isfinite(x); });
  }
  const auto with = [&]<class Bits>(Bits mask) { return count_with<Bits>(t.raw, mask, mask); };
  switch (t.dtype) {
    case DType::f64:
      return with(std::uint64_t{0x7FF0'0000'0000'0000});
    case DType::f32:
      return with(std::uint32_t{0x7F80'0000});
    case DType::f16:
      return with(std::uint16_t{0x7C00});
    case DType::bf16:
      return with(std::uint16_t{0x7F80});
    case DType::f8_e4m3:
      return with(std::uint8_t{0x7F});  // no infinities: only this code, of either sign, is NaN
    case DType::f8_e5m2:
      return with(std::uint8_t{0x7C});
    default:
      return 0;
  }
}

void check_finite(const Checkpoint& c, Problems& problems) {
  for (const auto& [name, tensor] : c.tensors)
    if (const std::int64_t bad = count_non_finite(tensor); bad > 0)
      add(problems, "{}: {} of {} values are infinite or NaN", name, bad, tensor.elements());
}

// A block scale of 0 decodes to zeros whatever the codes say: weights were lost.
void check_erased_blocks(const Nvfp4Weight& w, Problems& problems) {
  std::int64_t erased = 0;
  const TensorBytes stored_codes = w.codes(), stored_scales = w.scales();
  const std::span<const std::byte> all_codes = stored_codes, scales = stored_scales;
  for (std::size_t block = 0; block < scales.size(); ++block) {
    if (scales[block] != std::byte{0}) continue;
    const auto codes = all_codes.subspan(block * 8, 8);
    erased += std::any_of(codes.begin(), codes.end(),
                          [](std::byte b) { return (b & std::byte{0x77}) != std::byte{0}; });
  }
  if (erased > 0)
    add(problems, "{}.weight_scale: {} of {} blocks have scale 0 over codes that are not 0", w.name,
        erased, scales.size());
}

Linears find_linears(const Checkpoint& c, const Quantization& q, Problems& problems) {
  Linears linears;
  std::set<std::string> names;
  for (const auto& [name, tensor] : c.tensors)
    for (const std::string_view suffix : {".weight", ".weight_scale_2"})
      if (name.ends_with(suffix)) names.insert(name.substr(0, name.size() - suffix.size()));
  for (const std::string& name : names) {
    const bool has_weight = c.has(name + ".weight");
    if (!c.has(name + ".weight_scale_2") &&
        (!has_weight || c.at(name + ".weight").dtype != DType::u8))
      continue;
    const std::string algo = q.algo_of(name);
    if (!algo.empty() && algo != "NVFP4" && algo != "W4A16_NVFP4") continue;  // not ours to judge
    try {
      if (auto weight = find_nvfp4(c, name)) {
        check_erased_blocks(*weight, problems);
        linears.emplace(name, *weight);
      }
    } catch (const Error& e) {
      problems.push_back(e.what());
    }
  }
  return linears;
}

// Engines make one matrix of the parts of each group; all but TensorRT-LLM, which refuses, then
// take the largest of the parts' scales for all of them, and the other parts come out wrong without
// a word.
void check_fused(const Checkpoint& c, const Linears& linears, Problems& problems) {
  static const std::vector<std::vector<std::string>> kGroups{
      {"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}, {"w1", "w3"}};
  const auto same = [](float a, float b) {
    return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
  };
  for (const auto& [name, first] : linears) {
    const auto dot = name.rfind('.') + 1;  // 0 when there is none
    const std::string parent = name.substr(0, dot), leaf = name.substr(dot);
    for (const auto& group : kGroups) {
      if (std::find(group.begin(), group.end(), leaf) == group.end()) continue;
      for (const std::string& other : group) {
        const std::string sibling = parent + other;
        const auto it = linears.find(sibling);
        if (it == linears.end()) {
          if (c.has(sibling + ".weight"))
            add(problems, "{} is NVFP4 and {} is not: engines fuse them and need both alike", name,
                sibling);
          continue;
        }
        if (name >= sibling) continue;  // each pair once
        if (!same(first.global_scale, it->second.global_scale))
          add(problems,
              "{0}.weight_scale_2 is {2}, {1}.weight_scale_2 is {3}: engines fuse them and need "
              "equal bits",
              name, sibling, first.global_scale, it->second.global_scale);
        if (!same(first.input_scale.value_or(0), it->second.input_scale.value_or(0)))
          add(problems,
              "{0}.input_scale is {2}, {1}.input_scale is {3}: both read the same activations",
              name, sibling, first.input_scale.value_or(0), it->second.input_scale.value_or(0));
      }
    }
  }
}

void check_config(const Checkpoint& c, const Quantization& q, const Linears& linears,
                  Problems& problems) {
  for (const auto& [name, weight] : linears) {
    if (q.algo.empty()) {
      add(problems,
          "{}: NVFP4, but neither config.json nor hf_quant_config.json says that anything is "
          "quantised",
          name);
    } else if (q.algo_of(name).empty()) {
      add(problems, "{}: NVFP4, but the quantisation metadata excludes it", name);
    }
  }
  if (q.algo.empty()) return;
  for (const auto& [tensor_name, tensor] : c.tensors) {
    if (!tensor_name.ends_with(".weight") || tensor.shape.size() != 2) continue;
    const std::string name = tensor_name.substr(0, tensor_name.size() - std::strlen(".weight"));
    const std::string algo = q.algo_of(name);
    // ModelOpt's targets are linears: whether an embedding is listed among the excluded depends on
    // the version.
    const bool is_embedding = name.find("embed", name.rfind('.') + 1) != name.npos;
    const bool is_plain =
        tensor.stored_as.empty() &&
        (tensor.dtype == DType::f32 || tensor.dtype == DType::bf16 || tensor.dtype == DType::f16);
    if (is_plain && !algo.empty() && !is_embedding)
      add(problems,
          "{}: stored as {}, but the quantisation metadata says {} and does not exclude it", name,
          name_of(tensor.dtype), algo);
  }
}

Json read_if_present(const fs::path& path) {
  return fs::exists(path) ? read_json(path) : Json();
}

void check_files(const Checkpoint& c, Problems& problems) {
  if (c.format != "safetensors") return;
  const Json nested = read_if_present(c.path / "hf_quant_config.json");
  const Json flat = read_json(c.path / "config.json").value("quantization_config", Json());
  if (!nested.is_null() && !flat.is_null()) {
    const Json a = normalised_quantization(nested, {}), b = normalised_quantization({}, flat);
    for (const char* key : {"quant_algo", "group_size", "kv_cache_quant_algo", "exclude_modules",
                            "quantized_layers"}) {
      // Of a mixture each NVFP4 layer has its own; at the top it may stand in one file alone.
      if (key == std::string_view("group_size") &&
          a.value("quant_algo", Json()) == "MIXED_PRECISION")
        continue;
      Json x = a.value(key, Json()), y = b.value(key, Json());
      for (Json* list : {&x, &y})
        if (list->is_array()) std::sort(list->begin(), list->end());
      // [] and {} say the same as nothing.
      if (x != y && !(x.empty() && y.empty()))
        add(problems, "hf_quant_config.json and config.json disagree on {}: {} and {}", key,
            x.dump(), y.dump());
    }
  }
  const Json index = read_if_present(c.path / "model.safetensors.index.json");
  if (!index.is_object() || fs::exists(c.path / "model.safetensors")) return;
  const Json total = index.value("metadata", Json::object()).value("total_size", Json());
  std::int64_t found = 0;
  for (const auto& [name, tensor] : c.tensors) found += tensor.stored_bytes;
  if (!total.is_null() && total != found)
    add(problems, "model.safetensors.index.json: total_size is {}, the tensors have {} bytes",
        total.dump(), found);
}

}  // namespace

std::vector<std::string> problems(const Checkpoint& c) {
  Problems problems;
  check_finite(c, problems);
  try {
    check_files(c, problems);
    const Quantization q = read_quantization(c.quantization);
    const Linears linears = find_linears(c, q, problems);
    check_fused(c, linears, problems);
    check_config(c, q, linears, problems);
  } catch (const std::exception&
               e) {  // malformed JSON files: ours, or a wrong type met by nlohmann::json
    problems.push_back(e.what());
  }
  return problems;
}

}  // namespace qad::checkpoint
