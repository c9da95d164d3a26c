// GGUF to Checkpoint: names, and the reading of values in Hugging Face's row order.
#include "checkpoint/gguf.h"

#include <algorithm>

#include "checkpoint/gguf_keys.h"
#include "checkpoint/gguf_model.h"
#include "checkpoint/nvfp4_tensors.h"
#include "checkpoint/rope_rows.h"
#include "core/error.h"

namespace qad::checkpoint {
namespace {

DType plain_dtype(const GgmlFormat& format) {
  return format.name == "F16" ? DType::f16 : format.name == "BF16" ? DType::bf16 : DType::f32;
}

Tensor map_tensor(const GgufFile& file, const GgufTensor& t, std::string hf_name,
                  const Json& config, const MappedFile& owner) {
  Tensor out;
  out.name = std::move(hf_name);
  out.shape = t.shape;
  out.dtype = plain_dtype(*t.format);
  out.stored_bytes = static_cast<std::int64_t>(t.data.size());
  const bool blocks = t.format->values > 1;
  if (blocks) out.stored_as = t.format->name;
  const std::int64_t heads = interleaved_heads(t.name, config);
  if (!blocks && heads == 0) {
    out.raw = t.data;
    return out;
  }
  // A bias is a column here: one value a row.
  const std::int64_t rows = t.shape.size() == 1 ? t.shape[0] : t.rows();
  const std::int64_t blocks_in_row = out.elements() / rows / t.format->values;
  const std::int64_t head_dim = config.at("head_dim").get<std::int64_t>();
  check(heads == 0 || (rows == heads * head_dim && blocks_in_row > 0), "open_gguf",
        "{}: {}: expected {} rows ({} heads of {}), found {}", file.where, t.name, heads * head_dim,
        heads, head_dim, rows);
  out.read = std::make_shared<const std::function<void(float*)>>(
      [owner, format = t.format, data = t.data, heads, head_dim, rows,
       blocks_in_row](float* values) {
        if (heads == 0) {
          format->dequantize(data.data(), static_cast<std::int64_t>(data.size()) / format->bytes,
                             values);
          return;
        }
        for (std::int64_t row = 0; row < rows; ++row) {
          const std::byte* from =
              data.data() + interleaved_row(row, head_dim) * blocks_in_row * format->bytes;
          format->dequantize(from, blocks_in_row, values + row * blocks_in_row * format->values);
        }
      });
  return out;
}

Tensor single_value(std::string name, const GgufTensor* t) {
  Tensor out;
  out.name = std::move(name);
  out.stored_bytes = t == nullptr ? 0 : static_cast<std::int64_t>(t->data.size());
  float value = 1;
  if (t != nullptr) t->format->dequantize(t->data.data(), 1, &value);
  out.read =
      std::make_shared<const std::function<void(float*)>>([value](float* to) { *to = value; });
  return out;
}

// The number beside an NVFP4 weight, or null.
const GgufTensor* side_tensor(const GgufFile& file, const std::string& stem, const char* suffix) {
  const GgufTensor* t = find_tensor(file, stem + suffix);
  const std::vector<std::int64_t> one{1};
  check(t == nullptr || (t->shape == one && t->format->name == "F32"), "open_gguf",
        "{}: {}{}: expected one number in F32", file.where, stem, suffix);
  return t;
}

// Blocks of NVFP4 as the tensors of ModelOpt's layout, in Hugging Face's order of rows. Returns the
// algorithm.
std::string add_nvfp4(Checkpoint& c, const GgufFile& file, const GgufTensor& t,
                      const std::string& linear, const MappedFile& owner) {
  const std::int64_t rows = t.rows(), cols = t.shape.back();
  const std::int64_t heads = interleaved_heads(t.name, c.config),
                     head_dim = c.config.at("head_dim").get<std::int64_t>();
  check(t.shape.size() == 2 && (heads == 0 || rows == heads * head_dim), "open_gguf",
        "{}: {}: expected a matrix{}, found {} rows", file.where, t.name,
        heads == 0 ? "" : fmt::format(" of {} heads of {} rows", heads, head_dim), rows);
  const auto each_block = [owner, t, heads, head_dim, rows, cols](auto&& use) {
    const std::int64_t blocks = cols / t.format->values;
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t from = heads == 0 ? row : interleaved_row(row, head_dim);
      for (std::int64_t b = 0; b < blocks; ++b)
        use(t.data.data() + (from * blocks + b) * t.format->bytes, row * blocks + b);
    }
  };
  using Make = const std::function<void(std::byte*)>;
  Tensor codes, scales;
  codes.name = linear + ".weight";
  codes.dtype = DType::u8;
  codes.shape = {rows, cols / 2};
  codes.stored_bytes = static_cast<std::int64_t>(t.data.size());
  codes.make = std::make_shared<Make>([each_block](std::byte* out) {
    each_block([&](const std::byte* block, std::int64_t i) {
      std::uint8_t unused[4];
      nvfp4_block_to(block, reinterpret_cast<std::uint8_t*>(out) + 32 * i, unused);
    });
  });
  scales.name = linear + ".weight_scale";
  scales.dtype = DType::f8_e4m3;
  scales.shape = {rows, cols / 16};
  scales.make = std::make_shared<Make>([each_block](std::byte* out) {
    each_block([&](const std::byte* block, std::int64_t i) { std::copy_n(block, 4, out + 4 * i); });
  });
  const std::string stem = t.name.substr(0, t.name.rfind('.'));
  const GgufTensor* input = side_tensor(file, stem, ".input_scale");
  std::vector<Tensor> parts{
      codes, scales, single_value(linear + ".weight_scale_2", side_tensor(file, stem, ".scale"))};
  if (input != nullptr) parts.push_back(single_value(linear + ".input_scale", input));
  for (Tensor& part : parts) {
    const std::string name = part.name;
    check(c.tensors.emplace(name, std::move(part)).second, "open_gguf", "{}: two tensors are {}",
          file.where, name);
  }
  return input != nullptr ? "NVFP4" : "W4A16_NVFP4";
}

// What belongs to an NVFP4 weight, and was added with it.
bool is_side_tensor(const GgufFile& file, const std::string& name) {
  for (const std::string_view suffix : {".scale", ".input_scale"}) {
    if (!name.ends_with(suffix)) continue;
    const GgufTensor* weight =
        find_tensor(file, name.substr(0, name.size() - suffix.size()) + ".weight");
    return weight != nullptr && weight->format->name == "NVFP4";
  }
  return false;
}

}  // namespace

Checkpoint gguf_checkpoint(GgufFile file, const MappedFile& owner) {
  Checkpoint c;
  c.path = file.where;
  c.format = "gguf";
  c.config = gguf_config(file);
  std::map<std::string, std::string> algos;
  for (const GgufTensor& t : file.tensors) {
    if (t.name == "rope_freqs.weight") continue;  // became rope_scaling
    if (is_side_tensor(file, t.name)) continue;
    auto name = gguf_to_hf_name(t.name);
    check(name.has_value(), "open_gguf", "{}: tensor {} is unknown to architecture {}", file.where,
          t.name, c.config["model_type"].get<std::string>());
    if (t.format->name == "NVFP4" && t.name != "token_embd.weight" && name->ends_with(".weight")) {
      const std::string linear = name->substr(0, name->rfind('.'));
      algos[linear] = add_nvfp4(c, file, t, linear, owner);
      continue;
    }
    Tensor mapped = map_tensor(file, t, *name, c.config, owner);
    check(c.tensors.emplace(*name, std::move(mapped)).second, "open_gguf", "{}: two tensors are {}",
          file.where, *name);
  }
  c.quantization = quantization_of(c, algos, "gguf");
  c.metadata = std::move(file.metadata);
  c.files.push_back(owner);
  return c;
}

Checkpoint open_gguf(const fs::path& path) {
  const MappedFile file(path);
  return gguf_checkpoint(parse_gguf(file.bytes(), path.string()), file);
}

}  // namespace qad::checkpoint
