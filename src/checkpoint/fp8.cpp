// Scales are found by the shapes of the tensors, whatever the metadata says: ModelOpt, DeepSeek and
// compressed-tensors spell the same few layouts differently.
#include "checkpoint/fp8.h"

#include <algorithm>
#include <cmath>

#include "checkpoint/dtype.h"
#include "core/error.h"
#include "nvfp4/nvfp4.h"

namespace qad::checkpoint {
namespace {

constexpr std::string_view kOperation = "open";
constexpr std::int64_t kTile = 128;  // of block scales, both ways

std::vector<float> read_scales(const Checkpoint& c, const Tensor& t) {
  std::vector<float> scales(static_cast<std::size_t>(t.elements()));
  read_f32(t, scales.data());
  const auto bad =
      std::ranges::find_if(scales, [](float s) { return !std::isfinite(s) || s <= 0; });
  check(bad == scales.end(), kOperation, "{}: {}: expected finite positive scales, found {}",
        c.path.string(), t.name, bad == scales.end() ? 0 : *bad);
  return scales;
}

enum class Scales { one, rows, tiles };

std::function<void(float*)> reader(std::span<const std::byte> codes, Scales kind,
                                   std::vector<float> scales, std::int64_t rows,
                                   std::int64_t cols) {
  return [=, scales = std::move(scales)](float* out) {
    float value_of[256];
    for (int code = 0; code < 256; ++code)
      value_of[code] = nvfp4::e4m3_decode(static_cast<std::uint8_t>(code));
    const std::int64_t tiles_in_row = (cols + kTile - 1) / kTile;
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::byte* const from = codes.data() + row * cols;
      float* const to = out + row * cols;
      for (std::int64_t col = 0; col < cols; ++col) {
        const std::int64_t at = kind == Scales::tiles  ? row / kTile * tiles_in_row + col / kTile
                                : kind == Scales::rows ? row
                                                       : 0;
        to[col] = value_of[std::to_integer<int>(from[col])] * scales[static_cast<std::size_t>(at)];
      }
    }
  };
}

// The scale tensor of an FP8 weight, or null.
const Tensor* find_scale(const Checkpoint& c, const std::string& linear) {
  for (const char* suffix : {".weight_scale", ".weight_scale_inv"})
    if (const auto it = c.tensors.find(linear + suffix); it != c.tensors.end()) return &it->second;
  return nullptr;
}

// What the shape of a scale tensor says, for a matrix of this shape.
std::optional<Scales> kind_of(const Tensor& scale, std::int64_t rows, std::int64_t cols) {
  const auto& s = scale.shape;
  const auto tiles = [](std::int64_t n) { return (n + kTile - 1) / kTile; };
  if (s.empty() || s == std::vector{std::int64_t{1}}) return Scales::one;
  if (s == std::vector{rows} || s == std::vector{rows, std::int64_t{1}}) return Scales::rows;
  if (s == std::vector{tiles(rows), tiles(cols)}) return Scales::tiles;
  return std::nullopt;
}

}  // namespace

void adopt_fp8(Checkpoint& c) {
  std::vector<std::string> linears;
  for (const auto& [name, t] : c.tensors)
    if (t.dtype == DType::f8_e4m3 && t.stored_as.empty() && name.ends_with(".weight"))
      linears.push_back(name.substr(0, name.size() - std::string_view(".weight").size()));
  for (const std::string& linear : linears) {
    Tensor& weight = c.tensors.at(linear + ".weight");
    const Tensor* scale = find_scale(c, linear);
    check(scale != nullptr, kOperation,
          "{}: {} is FP8, but {}.weight_scale (or .weight_scale_inv) is missing", c.path.string(),
          weight.name, linear);
    check(weight.shape.size() == 2, kOperation, "{}: {}: expected a matrix in FP8, found {}",
          c.path.string(), weight.name, shape_text(weight.shape));
    const std::int64_t rows = weight.shape[0], cols = weight.shape[1];
    const auto kind = kind_of(*scale, rows, cols);
    check(kind.has_value(), kOperation,
          "{}: {}: expected one scale, one a row or one for each 128 x 128 of {}, found {}",
          c.path.string(), scale->name, shape_text(weight.shape), shape_text(scale->shape));
    std::vector<float> scales = read_scales(c, *scale);
    const std::string scale_name = scale->name;
    const auto input = c.tensors.find(linear + ".input_scale");
    if (*kind != Scales::tiles) {
      auto fp8 = std::make_shared<Fp8Weight>();
      fp8->codes = weight.raw;
      fp8->scales = scales;
      if (input != c.tensors.end()) {
        const std::vector<float> value = read_scales(c, input->second);
        check(value.size() == 1, kOperation, "{}: {}: expected one number, found {}",
              c.path.string(), input->first, shape_text(input->second.shape));
        fp8->input_scale = value[0];
      }
      weight.fp8 = std::move(fp8);
    }
    weight.read = std::make_shared<const std::function<void(float*)>>(
        reader(weight.raw, *kind, std::move(scales), rows, cols));
    weight.raw = {};
    weight.dtype = DType::f32;
    weight.stored_as = "F8_E4M3";
    weight.stored_bytes += scale->stored_bytes;
    if (input != c.tensors.end()) weight.stored_bytes += input->second.stored_bytes;
    c.tensors.erase(scale_name);
    if (input != c.tensors.end()) c.tensors.erase(input);
  }
}

void adopt_mxfp4(Checkpoint& c) {
  constexpr std::int64_t kGroup = 32;
  std::vector<std::string> linears;
  for (const auto& [name, scale] : c.tensors) {
    if (!name.ends_with(".weight_scale") || scale.shape.size() != 2) continue;
    if (scale.dtype != DType::u8 && scale.stored_as != "F8_E8M0") continue;
    const std::string linear = name.substr(0, name.size() - std::string_view("_scale").size());
    for (const std::string& codes : {linear + "_packed", linear})
      if (const auto it = c.tensors.find(codes);
          it != c.tensors.end() && it->second.dtype == DType::u8 && it->second.shape.size() == 2 &&
          it->second.shape[0] == scale.shape[0] &&
          it->second.shape[1] * 2 == scale.shape[1] * kGroup)
        linears.push_back(codes);
  }
  for (const std::string& name : linears) {
    const bool packed = name.ends_with("_packed");
    const std::string weight_name =
        packed ? name.substr(0, name.size() - std::string_view("_packed").size()) : name;
    const Tensor codes = c.tensors.at(name), scale = c.tensors.at(weight_name + "_scale");
    Tensor t;
    t.name = weight_name;
    t.shape = {codes.shape[0], codes.shape[1] * 2};
    t.stored_as = "MXFP4";
    t.stored_bytes = codes.stored_bytes + scale.stored_bytes;
    t.read = std::make_shared<const std::function<void(float*)>>(
        [codes = codes.raw, scales = scale.raw](float* out) {
          float value_of[16];
          for (int i = 0; i < 16; ++i)
            value_of[i] = nvfp4::e2m1_decode(static_cast<std::uint8_t>(i));
          for (std::size_t i = 0; i < codes.size(); ++i) {
            const int e8m0 = std::to_integer<int>(scales[i / (kGroup / 2)]);  // 255: NaN
            const float scale = e8m0 == 255 ? NAN : std::ldexp(1.0f, e8m0 - 127);
            const int byte = std::to_integer<int>(codes[i]);
            out[2 * i] = value_of[byte & 15] * scale;
            out[2 * i + 1] = value_of[byte >> 4] * scale;
          }
        });
    c.tensors.erase(name);
    c.tensors.erase(scale.name);
    check(c.tensors.emplace(weight_name, std::move(t)).second, kOperation,
          "{}: {} is there twice, as MXFP4 and otherwise", c.path.string(), weight_name);
  }
}

}  // namespace qad::checkpoint
