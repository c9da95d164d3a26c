// GGUF to Checkpoint: names, and the reading of values in Hugging Face's row order.
#include "checkpoint/gguf.h"

#include "checkpoint/gguf_model.h"
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

}  // namespace

Checkpoint gguf_checkpoint(GgufFile file, const MappedFile& owner) {
  Checkpoint c;
  c.path = file.where;
  c.format = "gguf";
  c.config = gguf_config(file);
  for (const GgufTensor& t : file.tensors) {
    if (t.name == "rope_freqs.weight") continue;  // became rope_scaling
    auto name = gguf_to_hf_name(t.name);
    check(name.has_value(), "open_gguf", "{}: tensor {} is unknown to architecture {}", file.where,
          t.name, c.config["model_type"].get<std::string>());
    Tensor mapped = map_tensor(file, t, *name, c.config, owner);
    check(c.tensors.emplace(*name, std::move(mapped)).second, "open_gguf", "{}: two tensors are {}",
          file.where, *name);
  }
  c.metadata = std::move(file.metadata);
  c.files.push_back(owner);
  return c;
}

Checkpoint open_gguf(const fs::path& path) {
  const MappedFile file(path);
  return gguf_checkpoint(parse_gguf(file.bytes(), path.string()), file);
}

}  // namespace qad::checkpoint
