// From an opened checkpoint to what can be written. Plain values pass through FP32, which holds
// every BF16, F16, FP8 and GGUF block value exactly.
#include "checkpoint/out_model.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "checkpoint/dtype.h"
#include "checkpoint/nvfp4_tensors.h"
#include "core/error.h"
#include "nvfp4/nvfp4.h"

namespace qad::checkpoint {
namespace {

std::int64_t elements(const OutWeight& w) {
  const auto n = count_elements(w.shape);
  check(n.has_value(), "convert", "{}: shape {} has too many elements", w.name,
        shape_text(w.shape));
  return *n;
}

void store_f32(const float* values, std::int64_t count, DType dtype, std::byte* out) {
  const auto n = static_cast<std::size_t>(count);
  check(dtype == DType::f32 || dtype == DType::bf16, "convert", "cannot store values as {}",
        name_of(dtype));
  if (dtype == DType::f32) {
    if (n > 0) std::memcpy(out, values, n * sizeof(float));
    return;
  }
  for (std::size_t i = 0; i < n; ++i) {
    const auto bits = static_cast<std::uint16_t>(
        std::bit_cast<std::uint32_t>(nvfp4::round_to_bf16(values[i])) >> 16);
    std::memcpy(out + 2 * i, &bits, sizeof bits);
  }
}

// What a tensor that must pass through FP32 becomes by default: F16 has no exact home but FP32.
DType type_for(const Tensor& tensor) {
  const bool exact = tensor.stored_as.empty() || tensor.stored_as == "F32" ||
                     tensor.stored_as == "F16" || tensor.stored_as == "BF16";
  return exact && tensor.dtype != DType::bf16 ? DType::f32 : DType::bf16;
}

OutWeight plain_weight(const Tensor& t, std::optional<DType> dtype) {
  const bool as_it_is = !t.read && !t.make && (!dtype || *dtype == t.dtype);
  const DType type = as_it_is ? t.dtype : dtype.value_or(type_for(t));
  OutWeight w{t.name, t.shape, type, {}, {}, {}};
  if (t.fp8) {
    w.fp8 = {t.fp8->scales, t.fp8->input_scale, [codes = t.fp8->codes](std::uint8_t* out) {
               std::memcpy(out, codes.data(), codes.size());
             }};
    return w;
  }
  w.fill = [&t, as_it_is, type](std::byte* out) {
    if (as_it_is) {
      if (!t.raw.empty()) std::memcpy(out, t.raw.data(), t.raw.size());
      return;
    }
    std::vector<float> values(static_cast<std::size_t>(t.elements()));
    read_f32(t, values.data());
    store_f32(values.data(), t.elements(), type, out);
  };
  return w;
}

OutWeight nvfp4_weight(const Nvfp4Weight& found) {
  OutWeight w{found.name + ".weight", {found.rows, found.cols}, DType::bf16, {}, {}, {}};
  const auto copy = [](std::span<const std::byte> from, std::uint8_t* to) {
    std::memcpy(to, from.data(), from.size());
  };
  w.nvfp4 = {found.global_scale,
             found.input_scale,
             [found, copy](std::uint8_t* codes, std::uint8_t* scales) {
               copy(found.codes(), codes);
               copy(found.scales(), scales);
             },
             {}};
  return w;
}

bool ends_with_any(const std::string& name, std::initializer_list<std::string_view> suffixes) {
  for (const std::string_view suffix : suffixes)
    if (name.ends_with(suffix)) return true;
  return false;
}

}  // namespace

std::string OutWeight::linear() const {
  return name.ends_with(".weight") ? name.substr(0, name.size() - std::strlen(".weight")) : name;
}

std::string algo_of(const OutWeight& w) {
  if (w.nvfp4) return w.nvfp4->input_scale ? "NVFP4" : "W4A16_NVFP4";
  if (!w.fp8) return {};
  return w.fp8->scales.size() == 1 ? "FP8" : "FP8_PER_CHANNEL_PER_TOKEN";
}

void values_of(const OutWeight& w, float* out) {
  const std::int64_t n = elements(w);
  if (w.nvfp4) {
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(n / 2)),
        scales(static_cast<std::size_t>(n / nvfp4::kBlock));
    w.nvfp4->fill(codes.data(), scales.data());
    nvfp4::dequantize(codes.data(), scales.data(), w.shape[0], w.shape[1], w.nvfp4->global(), out);
    return;
  }
  if (w.fp8) {
    if (n == 0) return;
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(n));
    w.fp8->fill(codes.data());
    const std::vector<float> scales =
        w.fp8->late_scale ? std::vector{w.fp8->late_scale()} : w.fp8->scales;
    const std::int64_t of_scale = n / static_cast<std::int64_t>(scales.size());
    for (std::int64_t i = 0; i < n; ++i)
      out[i] = nvfp4::e4m3_decode(codes[static_cast<std::size_t>(i)]) *
               scales[static_cast<std::size_t>(i / of_scale)];
    return;
  }
  std::vector<std::byte> bytes(static_cast<std::size_t>(n) * bytes_per_element(w.dtype));
  w.fill(bytes.data());
  Tensor t;
  t.name = w.name;
  t.dtype = w.dtype;
  t.shape = w.shape;
  t.raw = bytes;
  read_f32(t, out);
}

OutTensor plain_tensor(const OutWeight& w, std::optional<DType> dtype) {
  if (!w.is_quantized() && (!dtype || *dtype == w.dtype)) return {w.name, w.dtype, w.shape, w.fill};
  const DType type = dtype.value_or(w.dtype);
  return {w.name, type, w.shape, [w, type](std::byte* out) {
            const std::int64_t n = elements(w);
            std::vector<float> values(static_cast<std::size_t>(n));
            values_of(w, values.data());
            store_f32(values.data(), n, type, out);
          }};
}

OutTensor scalar_tensor(std::string name, std::vector<std::int64_t> shape,
                        std::vector<float> values) {
  return {std::move(name), DType::f32, std::move(shape),
          [values = std::move(values)](std::byte* out) {
            std::memcpy(out, values.data(), values.size() * sizeof(float));
          }};
}

OutTensor late_scalar_tensor(std::string name, std::vector<std::int64_t> shape,
                             std::function<float()> value) {
  return {std::move(name), DType::f32, std::move(shape),
          [value = std::move(value)](std::byte* out) {
            const float x = value();
            std::memcpy(out, &x, sizeof x);
          }};
}

void append_fp8(std::vector<OutTensor>& out, const OutWeight& w, const Fp8Shapes& shapes) {
  out.push_back({w.name, DType::f8_e4m3, w.shape, [fill = w.fp8->fill](std::byte* bytes) {
                   fill(reinterpret_cast<std::uint8_t*>(bytes));
                 }});
  std::vector<std::int64_t> shape = shapes.scalar;
  if (w.fp8->scales.size() > 1) {
    shape = {w.shape[0]};
    if (shapes.column) shape.push_back(1);
  }
  if (w.fp8->late_scale)
    out.push_back(late_scalar_tensor(w.name + "_scale", shape, w.fp8->late_scale));
  else
    out.push_back(scalar_tensor(w.name + "_scale", shape, w.fp8->scales));
  if (w.fp8->input_scale)
    out.push_back(scalar_tensor(w.linear() + ".input_scale", shapes.scalar, {*w.fp8->input_scale}));
}

std::string model_name(const fs::path& path) {
  const fs::path name = path.has_filename() ? path.filename() : path.parent_path().filename();
  const bool file = name.extension() == ".gguf" || name.extension() == ".bin";
  return (file ? name.stem() : name).string();
}

std::int64_t low_rank_of(const OutModel& m) {
  for (const OutWeight& w : m.weights)
    if (w.name.ends_with(".svdquant_lora_a")) return w.shape.at(0);
  return 0;
}

void refuse_low_rank(const OutModel& m, std::string_view format) {
  check(low_rank_of(m) == 0, "format",
        "{}: has no place for low-rank corrections (NVFP4_SVD), without which the products are "
        "others; write modelopt, or quantise without quantize.low_rank",
        format);
}

std::vector<std::string> left_alone(const OutModel& m) {
  std::vector<std::string> names;
  bool head = false;
  for (const OutWeight& w : m.weights) {
    if (w.linear() == "lm_head") head = w.is_quantized();
    if (!w.is_quantized() && w.shape.size() > 1 && w.name.ends_with(".weight"))
      names.push_back(w.linear());
  }
  if (!head && std::ranges::find(names, "lm_head") == names.end()) names.push_back("lm_head");
  return names;
}

OutModel out_model(const Checkpoint& source, std::optional<DType> dtype) {
  OutModel m;
  m.config = source.config;
  m.generation_config = source.generation_config;
  m.kv_cache_algo = read_quantization(source.quantization).kv_cache_algo;
  check(m.kv_cache_algo.empty() || m.kv_cache_algo == "FP8", "convert",
        "{}: keys and values in {}: expected FP8 or none", source.path.string(), m.kv_cache_algo);
  for (const auto& [name, t] : source.tensors) {
    if (ends_with_any(name, {".k_scale", ".v_scale"})) {
      check(t.elements() == 1, "convert", "{}: {}: expected one number, found {}",
            source.path.string(), name, shape_text(t.shape));
      read_f32(t, &m.kv_scales[name]);
      continue;
    }
    if (name.ends_with(".weight")) {
      const std::string linear = name.substr(0, name.size() - std::strlen(".weight"));
      if (const auto found = find_nvfp4(source, linear)) {
        m.weights.push_back(nvfp4_weight(*found));
        continue;
      }
    }
    const auto dot = name.rfind('.');
    const std::string owner = name.substr(0, dot == name.npos ? 0 : dot) + ".weight";
    const bool part = ends_with_any(name, {".weight_scale", ".weight_scale_2", ".input_scale"});
    if (part && source.has(owner) && source.at(owner).dtype == DType::u8) continue;  // found above
    check(t.read || t.make || (t.stored_as.empty() && bytes_per_element(t.dtype) > 0), "convert",
          "{}: {} {}: of a type that cannot be converted", source.path.string(), name, t.stored_as);
    const bool is_float = t.read || t.dtype == DType::f32 || t.dtype == DType::bf16 ||
                          t.dtype == DType::f16 || t.dtype == DType::f64;
    check(is_float || !name.ends_with(".weight"), "convert",
          "{}: {}: {} is quantised in a way that is not understood", source.path.string(), name,
          name_of(t.dtype));
    m.weights.push_back(plain_weight(t, is_float ? dtype : std::nullopt));
  }
  for (const OutWeight& w : m.weights)
    if (w.shape.size() > 1 && !w.is_quantized()) {
      const char* type = w.dtype == DType::f32   ? "float32"
                         : w.dtype == DType::f16 ? "float16"
                                                 : "bfloat16";
      for (const char* key : {"torch_dtype", "dtype"})
        if (m.config.contains(key) ||
            (key == std::string_view("torch_dtype") && !m.config.contains("dtype")))
          m.config[key] = type;
      break;
    }
  return m;
}

OutFolder bare_folder(const OutModel& m) {
  OutFolder folder;
  folder.config = m.config;
  folder.config.erase("quantization_config");
  folder.generation_config = m.generation_config;
  folder.files = m.files;
  folder.progress = m.progress;
  folder.max_shard_bytes = m.max_shard_bytes;
  return folder;
}

}  // namespace qad::checkpoint
