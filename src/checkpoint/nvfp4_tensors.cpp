// Reading checks everything that a consumer would silently get wrong: a NaN block scale or a global
// scale of zero turns a whole matrix into NaN at the first product.
#include "checkpoint/nvfp4_tensors.h"

#include <algorithm>
#include <cmath>

#include "checkpoint/dtype.h"
#include "checkpoint/out_model.h"
#include "core/error.h"
#include "nvfp4/nvfp4.h"

namespace qad::checkpoint {
namespace {

constexpr std::string_view kRead = "load_nvfp4";
constexpr std::int64_t kGroup = nvfp4::kBlock;

std::string describe(const Tensor& t) {
  return fmt::format("{} {}", t.stored_as.empty() ? name_of(t.dtype) : t.stored_as,
                     shape_text(t.shape));
}

const Tensor& part(const Checkpoint& c, const std::string& linear, const char* suffix) {
  const auto it = c.tensors.find(linear + suffix);
  check(it != c.tensors.end(), kRead, "{}: {}.weight is NVFP4, but {}{} is missing",
        c.path.string(), linear, linear, suffix);
  return it->second;
}

float read_scale(const Checkpoint& c, const std::string& linear, const char* suffix) {
  const Tensor& t = part(c, linear, suffix);
  check(t.shape.empty() || (t.shape.size() == 1 && t.shape[0] == 1), kRead,
        "{}: expected one number, found {}", t.name, describe(t));
  float value = 0;
  read_f32(t, &value);
  check(std::isfinite(value) && value > 0, kRead, "{}: expected a finite positive scale, found {}",
        t.name, value);
  return value;
}

bool is_float(DType type) {
  return type == DType::f32 || type == DType::bf16 || type == DType::f16 || type == DType::f64;
}

void check_scale(const std::string& name, float scale) {
  check(std::isfinite(scale) && scale > 0, "write_nvfp4",
        "{}: expected finite positive scales, found {}", name, scale);
}

[[noreturn]] void fail_unsupported(const std::string& name, const std::string& algo) {
  fail(kRead,
       "{}: quantised as {}; expected NVFP4 or W4A16_NVFP4 in ModelOpt's layout, or an unquantised "
       "weight",
       name, algo);
}

std::optional<std::string> unsupported_algo(const Checkpoint& c, const Quantization& q,
                                            const std::string& name) {
  if (c.has(name + ".weight_packed")) return "compressed-tensors";
  const std::string algo = q.algo_of(name);
  if (algo.empty() || algo == "NVFP4" || algo == "W4A16_NVFP4") return std::nullopt;
  if (algo == "NVFP4_SVD") {
    if (c.has(name + ".pre_quant_scale")) return algo + " with a pre_quant_scale";
    for (const char* factor : {".svdquant_lora_a", ".svdquant_lora_b"})
      if (!c.has(name + factor)) return algo + " without its " + (factor + 1);
    return std::nullopt;
  }
  return algo;
}

}  // namespace

std::optional<Nvfp4Weight> find_nvfp4(const Checkpoint& c, const std::string& name) {
  if (c.quantization.is_null() && !c.has(name + ".weight_scale") && !c.has(name + ".weight_packed"))
    return std::nullopt;
  const Quantization q = read_quantization(c.quantization);
  const auto other = unsupported_algo(c, q, name);
  if (!c.has(name + ".weight") && other) fail_unsupported(name, *other);
  const Tensor& weight = c.at(name + ".weight");
  if (is_float(weight.dtype) && !c.has(name + ".weight_scale")) return std::nullopt;
  if (other) fail_unsupported(name, *other);
  if (weight.dtype != DType::u8) fail_unsupported(name, describe(weight) + " with a weight_scale");

  check(weight.shape.size() == 2, kRead, "{}: expected U8 [rows, columns/2], found {}", weight.name,
        describe(weight));
  Nvfp4Weight w;
  w.name = name;
  w.rows = weight.shape[0];
  check(weight.shape[1] % (kGroup / 2) == 0 && weight.shape[1] > 0, kRead,
        "{}: expected columns in blocks of 16 (8 bytes), found {}", weight.name, describe(weight));
  w.cols = weight.shape[1] * 2;
  check(q.group_size == 0 || q.group_size == kGroup || q.algo == "MIXED_PRECISION", kRead,
        "{}: expected group_size 16, found {}", c.path.string(), q.group_size);

  const Tensor& scales = part(c, name, ".weight_scale");
  const std::vector<std::int64_t> expected{w.rows, w.cols / kGroup};
  check(scales.dtype == DType::f8_e4m3 && scales.shape == expected, kRead,
        "{}: expected F8_E4M3 {}, found {}", scales.name, shape_text(expected), describe(scales));
  w.codes_tensor = &weight;
  w.scales_tensor = &scales;
  const TensorBytes stored = w.scales();
  const std::span<const std::byte> bytes = stored;
  // 0x7F is NaN; the sign bit is always 0 (other formats use it as a selector).
  const auto bad =
      std::find_if(bytes.begin(), bytes.end(), [](std::byte b) { return b >= std::byte{0x7F}; });
  check(bad == bytes.end(), kRead,
        "{}: expected finite scales without sign, found byte 0x{:02X} at {}", scales.name,
        bad == bytes.end() ? 0 : std::to_integer<int>(*bad), bad - bytes.begin());

  w.global_scale = read_scale(c, name, ".weight_scale_2");
  const std::string algo = q.algo_of(name);
  if (algo == "NVFP4" || algo == "NVFP4_SVD" || (algo.empty() && c.has(name + ".input_scale")))
    w.input_scale = read_scale(c, name, ".input_scale");
  return w;
}

void append_codes_and_scales(std::vector<OutTensor>& out, const std::string& codes_name,
                             const std::string& scales_name, std::int64_t rows, std::int64_t cols,
                             std::function<void(std::uint8_t* codes, std::uint8_t* scales)> fill) {
  check(cols % kGroup == 0, "write_nvfp4",
        "{}: expected columns in blocks of 16, found [{}, {}]; leave it unquantised", codes_name,
        rows, cols);
  // One call makes codes and scales, which are written one after the other: the first to be asked
  // for makes both.
  struct Parts {
    std::vector<std::uint8_t> codes, scales;
  };
  const auto parts = std::make_shared<Parts>();
  const auto give = [parts, fill = std::move(fill), rows,
                     cols](std::vector<std::uint8_t> Parts::*which) {
    return [=](std::byte* bytes) {
      if (parts->codes.empty() && parts->scales.empty()) {
        parts->codes.resize(static_cast<std::size_t>(rows * cols / 2));
        parts->scales.resize(static_cast<std::size_t>(rows * cols / kGroup));
        fill(parts->codes.data(), parts->scales.data());
      }
      const std::vector<std::uint8_t> wanted = std::exchange((*parts).*which, {});
      std::copy(wanted.begin(), wanted.end(), reinterpret_cast<std::uint8_t*>(bytes));
    };
  };
  out.push_back({codes_name, DType::u8, {rows, cols / 2}, give(&Parts::codes)});
  out.push_back({scales_name, DType::f8_e4m3, {rows, cols / kGroup}, give(&Parts::scales)});
}

void append_nvfp4(std::vector<OutTensor>& out, const std::string& name, std::int64_t rows,
                  std::int64_t cols, const std::function<float()>& global_scale,
                  std::optional<float> input_scale,
                  std::function<void(std::uint8_t* codes, std::uint8_t* scales)> fill) {
  if (input_scale) check_scale(name, *input_scale);
  append_codes_and_scales(out, name + ".weight", name + ".weight_scale", rows, cols,
                          std::move(fill));
  out.push_back(late_scalar_tensor(name + ".weight_scale_2", {}, [name, global_scale] {
    const float scale = global_scale();
    check_scale(name, scale);
    return scale;
  }));
  if (input_scale) out.push_back(scalar_tensor(name + ".input_scale", {}, {*input_scale}));
}

void append_nvfp4(std::vector<OutTensor>& out, const std::string& name, std::int64_t rows,
                  std::int64_t cols, float global_scale, std::optional<float> input_scale,
                  std::function<void(std::uint8_t* codes, std::uint8_t* scales)> fill) {
  check_scale(name, global_scale);
  append_nvfp4(
      out, name, rows, cols, [global_scale] { return global_scale; }, input_scale, std::move(fill));
}

}  // namespace qad::checkpoint
