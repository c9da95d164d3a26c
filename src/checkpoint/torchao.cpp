#include "checkpoint/torchao.h"

#include <algorithm>
#include <cstring>

#include "checkpoint/dtype.h"
#include "checkpoint/nvfp4_tensors.h"
#include "core/error.h"
#include "nvfp4/nvfp4.h"

namespace qad::checkpoint {
namespace {

constexpr std::string_view kOpen = "open", kWrite = "write_torchao";
constexpr std::string_view kCodes = "._weight_qdata", kScales = "._weight_scale",
                           kGlobal = "._weight_per_tensor_scale",
                           kInput = "._weight_act_per_tensor_scale";

// Tiles of 128 x 4 scales; rows r, r + 32, r + 64 and r + 96 of a tile lie side by side.
constexpr std::int64_t kTileRows = 128, kTileCols = 4;

std::int64_t tiles(std::int64_t n, std::int64_t of) {
  return (n + of - 1) / of;
}

std::int64_t swizzled_at(std::int64_t row, std::int64_t col, std::int64_t cols) {
  const std::int64_t tile = row / kTileRows * tiles(cols, kTileCols) + col / kTileCols;
  return (tile * 32 + row % 32) * 16 + row % kTileRows / 32 * kTileCols + col % kTileCols;
}

// What Transformers calls a tensor in memory, and so in the metadata, where files call it
// otherwise.
std::string name_in_memory(const std::string& name) {
  constexpr std::string_view kFile = "backbone.", kMemory = "model.";
  return name.starts_with(kFile) ? std::string(kMemory) + name.substr(kFile.size()) : name;
}

// --- reading ---

Json member(const Json& object, const char* key) {
  if (!object.is_object()) return {};
  const auto it = object.find(key);
  return it == object.end() ? Json() : *it;
}

// What the metadata says of an NVFP4 weight.
struct Described {
  bool swizzled = false, inputs = false;
};

Described described(const Checkpoint& c, const std::string& linear,
                    const std::map<std::string, std::string>& metadata) {
  auto entry = metadata.find(linear + ".weight");
  if (entry == metadata.end()) entry = metadata.find(name_in_memory(linear) + ".weight");
  check(entry != metadata.end(), kOpen,
        "{}: {}{}: the files' __metadata__ has no entry {}.weight, which says what it is",
        c.path.string(), linear, kCodes, linear);
  const Json json = parse_json(entry->second, "__metadata__ of " + linear + ".weight");
  const Json type = member(json, "_type"), data = member(json, "_data");
  check(type == "NVFP4Tensor" && data.is_object(), kOpen,
        "{}: {}.weight: expected torchao's NVFP4Tensor, found {}", c.path.string(), linear,
        type.dump());
  check(member(data, "block_size") == nvfp4::kBlock, kOpen,
        "{}: {}.weight: expected block_size 16, found {}", c.path.string(), linear,
        member(data, "block_size").dump());
  Described d;
  d.swizzled = member(data, "is_swizzled_scales") == true;
  const Json inputs = member(data, "act_quant_kwargs");
  d.inputs = !inputs.is_null();
  check(!d.inputs || member(member(inputs, "_data"), "use_dynamic_per_tensor_scale") == false,
        kOpen,
        "{}: {}.weight: inputs whose scale is taken from each of them as it comes are not "
        "supported; expected use_dynamic_per_tensor_scale false",
        c.path.string(), linear);
  return d;
}

Tensor take(Checkpoint& c, const std::string& name) {
  auto node = c.tensors.extract(name);
  check(!node.empty(), kOpen, "{}: {} is missing", c.path.string(), name);
  return std::move(node.mapped());
}

void put(Checkpoint& c, Tensor t, std::string name) {
  t.name = name;
  check(c.tensors.emplace(name, std::move(t)).second, kOpen, "{}: {} is there twice",
        c.path.string(), name);
}

// Scales of a matrix with `rows` rows and `cols` blocks a row, in the order of rows.
Tensor in_rows(const Checkpoint& c, Tensor t, std::int64_t rows, std::int64_t cols) {
  const std::vector<std::int64_t> expected{tiles(rows, kTileRows) * 32,
                                           tiles(cols, kTileCols) * 16};
  check(t.dtype == DType::f8_e4m3 && t.shape == expected, kOpen,
        "{}: {}: expected F8_E4M3 {} in tiles of 128 x 4, found {} {}", c.path.string(), t.name,
        shape_text(expected), name_of(t.dtype), shape_text(t.shape));
  t.shape = {rows, cols};
  t.make = std::make_shared<const std::function<void(std::byte*)>>(
      [from = std::exchange(t.raw, {}), rows, cols](std::byte* out) {
        unswizzle_scales(reinterpret_cast<const std::uint8_t*>(from.data()), rows, cols,
                         reinterpret_cast<std::uint8_t*>(out));
      });
  return t;
}

// A scale where the file has one, else 1, which is what its absence means.
Tensor scalar_or_one(Checkpoint& c, const std::string& name) {
  if (c.has(name)) return take(c, name);
  Tensor one;
  one.read = std::make_shared<const std::function<void(float*)>>([](float* out) { *out = 1; });
  return one;
}

// --- writing ---

Json dtype_of(const Json& config) {
  for (const char* key : {"dtype", "torch_dtype"})
    if (const auto it = config.find(key); it != config.end() && it->is_string()) return *it;
  return "bfloat16";
}

Json typed(const char* type, const Json& data) {
  return {{"_type", type}, {"_data", data}};
}

std::string description(const OutNvfp4& w, const Json& dtype) {
  Json data = {{"block_size", nvfp4::kBlock},
               {"orig_dtype", typed("torch.dtype", dtype)},
               {"is_swizzled_scales", true},
               {"use_triton_kernel", false},
               {"act_quant_kwargs", nullptr}};
  Json names = {"per_tensor_scale", "qdata", "scale"};
  if (w.input_scale) {
    data["act_quant_kwargs"] =
        typed("QuantizeTensorToNVFP4Kwargs", {{"block_size", nvfp4::kBlock},
                                              {"is_swizzled_scales", true},
                                              {"use_triton_kernel", false},
                                              {"use_dynamic_per_tensor_scale", false}});
    names.push_back("act_per_tensor_scale");
  }
  Json entry = typed("NVFP4Tensor", data);
  entry["_tensor_data_names"] = names;
  return entry.dump();
}

void append(std::vector<OutTensor>& out, const OutWeight& w) {
  const std::string linear = w.linear();
  const std::int64_t rows = w.shape[0], blocks = w.shape[1] / nvfp4::kBlock;
  append_codes_and_scales(out, linear + std::string(kCodes), linear + std::string(kScales), rows,
                          w.shape[1], w.nvfp4->fill);
  OutTensor& scales = out.back();
  scales.shape = {tiles(rows, kTileRows) * 32, tiles(blocks, kTileCols) * 16};
  scales.fill = [plain = scales.fill, rows, blocks](std::byte* bytes) {
    std::vector<std::uint8_t> in_order(static_cast<std::size_t>(rows * blocks));
    plain(reinterpret_cast<std::byte*>(in_order.data()));
    swizzle_scales(in_order.data(), rows, blocks, reinterpret_cast<std::uint8_t*>(bytes));
  };
  out.push_back(late_scalar_tensor(linear + std::string(kGlobal), {},
                                   [nvfp4 = *w.nvfp4] { return nvfp4.global(); }));
  if (const auto scale = w.nvfp4->input_scale)
    out.push_back(scalar_tensor(linear + std::string(kInput), {}, {*scale}));
}

// As TorchAoConfig.to_dict gives it. The types of tensors are in the metadata; of this, loaders of
// a quantised checkpoint use the method alone.
Json config_of(const OutModel& m, bool inputs) {
  const Json recipe = inputs ? Json{{"_type", "NVFP4DynamicActivationNVFP4WeightConfig"},
                                    {"_version", 1},
                                    {"_data",
                                     {{"use_triton_kernel", false},
                                      {"use_dynamic_per_tensor_scale", false},
                                      {"step", nullptr}}}}
                             : Json{{"_type", "NVFP4WeightOnlyConfig"},
                                    {"_version", 1},
                                    {"_data", {{"use_dynamic_per_tensor_scale", true}}}};
  std::vector<std::string> ignored;
  for (const std::string& name : left_alone(m)) ignored.push_back(name_in_memory(name));
  std::sort(ignored.begin(), ignored.end());
  return {{"quant_method", "torchao"},
          {"quant_type", {{"default", recipe}}},
          {"modules_to_not_convert", ignored},
          {"include_input_output_embeddings", false},
          {"untie_embedding_weights", false}};
}

}  // namespace

std::int64_t swizzled_bytes(std::int64_t rows, std::int64_t cols) {
  return tiles(rows, kTileRows) * tiles(cols, kTileCols) * kTileRows * kTileCols;
}

void swizzle_scales(const std::uint8_t* scales, std::int64_t rows, std::int64_t cols,
                    std::uint8_t* out) {
  std::fill_n(out, swizzled_bytes(rows, cols), std::uint8_t{0});
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t k = 0; k < cols; ++k) out[swizzled_at(r, k, cols)] = scales[r * cols + k];
}

void unswizzle_scales(const std::uint8_t* swizzled, std::int64_t rows, std::int64_t cols,
                      std::uint8_t* out) {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t k = 0; k < cols; ++k) out[r * cols + k] = swizzled[swizzled_at(r, k, cols)];
}

void adopt_torchao(Checkpoint& c, const Json& config,
                   const std::map<std::string, std::string>& metadata) {
  if (member(config, "quant_method") != "torchao") return;
  std::vector<std::string> linears;
  for (const auto& [name, t] : c.tensors) {
    const std::string_view leaf = std::string_view(name).substr(name.rfind('.') + 1);
    if (name.ends_with(kCodes))
      linears.push_back(name.substr(0, name.size() - kCodes.size()));
    else
      check(!leaf.ends_with("_qdata") || !leaf.starts_with('_'), kOpen,
            "{}: {}: of torchao's tensors only matrices called weight are read, no stacked experts",
            c.path.string(), name);
  }
  std::map<std::string, std::string> algos;
  for (const std::string& linear : linears) {
    const Described d = described(c, linear, metadata);
    Tensor codes = take(c, linear + std::string(kCodes));
    check(codes.dtype == DType::u8 && codes.shape.size() == 2 && codes.shape[0] > 0 &&
              codes.shape[1] > 0 && codes.shape[1] % (nvfp4::kBlock / 2) == 0,
          kOpen, "{}: {}: expected U8 [rows, columns/2] in blocks of 16 values, found {} {}",
          c.path.string(), codes.name, name_of(codes.dtype), shape_text(codes.shape));
    const std::int64_t rows = codes.shape[0], blocks = codes.shape[1] / (nvfp4::kBlock / 2);
    Tensor scales = take(c, linear + std::string(kScales));
    if (d.swizzled) scales = in_rows(c, std::move(scales), rows, blocks);
    Tensor global = scalar_or_one(c, linear + std::string(kGlobal));
    const std::string input = linear + std::string(kInput);
    check(d.inputs || !c.has(input), kOpen, "{}: {} is there, but act_quant_kwargs is null",
          c.path.string(), input);
    if (d.inputs) put(c, scalar_or_one(c, input), linear + ".input_scale");
    put(c, std::move(codes), linear + ".weight");
    put(c, std::move(scales), linear + ".weight_scale");
    put(c, std::move(global), linear + ".weight_scale_2");
    algos[linear] = d.inputs ? "NVFP4" : "W4A16_NVFP4";
  }
  check(!algos.empty(), kOpen,
        "{}: quant_method torchao, but no tensor is torchao's NVFP4Tensor; others are not read",
        c.path.string());
  c.quantization = quantization_of(c, algos, "torchao");
}

OutFolder torchao_folder(const OutModel& m, std::vector<std::string>& changes) {
  refuse_low_rank(m, "torchao");
  OutFolder folder = bare_folder(m);
  const Json dtype = dtype_of(m.config);
  std::int64_t kept = 0, inputs = 0, decoded = 0;
  Json names = Json::array();
  for (const OutWeight& w : m.weights) {
    check(!w.is_quantized() || w.name.find(".experts.") == w.name.npos, kWrite,
          "{}: torchao keeps a layer's experts stacked in one tensor, which is not written; choose "
          "modelopt or compressed-tensors",
          w.name);
    const std::string name = name_in_memory(w.name);
    names.push_back(name);
    folder.metadata[name] =
        w.nvfp4 ? description(*w.nvfp4, dtype) : Json{{"_type", "Tensor"}}.dump();
    if (w.nvfp4) {
      ++kept;
      inputs += w.nvfp4->input_scale.has_value();
      append(folder.tensors, w);
    } else {
      decoded += w.is_quantized();
      folder.tensors.push_back(plain_tensor(w));
    }
  }
  if (decoded > 0)
    changes.push_back(fmt::format("{} FP8 weights are BF16 values, rounded to nearest", decoded));
  if (!m.kv_cache_algo.empty())
    changes.emplace_back("scales of an FP8 cache are dropped: torchao has no place for them");
  if (kept == 0) {
    folder.metadata.clear();
    return folder;
  }
  folder.metadata["tensor_names"] = names.dump();
  folder.config["quantization_config"] = config_of(m, inputs > 0);
  changes.push_back(fmt::format(
      "{} NVFP4 weights: block scales change places; codes and scales are unchanged", kept));
  if (inputs > 0)
    changes.push_back(fmt::format(
        "{} of them have an input scale: torchao reads it, Transformers 5.23 does not load such "
        "weights (quantise with the policy nvfp4-weight-only for it)",
        inputs));
  return folder;
}

}  // namespace qad::checkpoint
