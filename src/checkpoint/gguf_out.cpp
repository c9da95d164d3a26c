// A model as GGUF for llama.cpp: llama (and Mistral), qwen2, qwen3, nemotron_h. NVFP4 weights
// become blocks of type 40 with X.scale and X.input_scale beside them; a tied or quantised head and
// weights whose rows are no multiple of 64 are stored as other matrices are.
#include <algorithm>
#include <cstring>

#include "checkpoint/dtype.h"
#include "checkpoint/formats.h"
#include "checkpoint/gguf_hybrid.h"
#include "checkpoint/gguf_model.h"
#include "checkpoint/gguf_rope.h"
#include "checkpoint/gguf_write.h"
#include "checkpoint/model_card.h"
#include "checkpoint/rope_rows.h"
#include "core/error.h"
#include "nvfp4/nvfp4.h"

namespace qad::checkpoint {
namespace {

constexpr std::string_view kOperation = "write_gguf";

// llama.cpp's general.file_type.
constexpr std::uint32_t kFileF32 = 0, kFileQ8 = 7, kFileBf16 = 32, kFileNvfp4 = 39;

std::int64_t integer(const Json& config, const char* key) {
  const auto it = config.find(key);
  check(it != config.end() && it->is_number_integer(), kOperation,
        "config.json: expected a whole number under {}", key);
  return it->get<std::int64_t>();
}

std::string architecture_of(const Json& config) {
  const std::string type = config.value("model_type", "");
  check(type == "llama" || type == "mistral" || type == "qwen2" || type == "qwen3", kOperation,
        "model_type \"{}\": GGUF is written of llama, mistral, qwen2, qwen3 and nemotron_h", type);
  return type == "mistral" ? "llama" : type;
}

struct Heads {
  std::int64_t heads, kv_heads, head_dim;
};

Heads heads_of(const Json& config) {
  const std::int64_t heads = integer(config, "num_attention_heads");
  const auto or_else = [&](const char* key, std::int64_t otherwise) {
    return config.contains(key) && !config[key].is_null() ? integer(config, key) : otherwise;
  };
  check(heads > 0, kOperation, "config.json: num_attention_heads is {}", heads);
  return {heads, or_else("num_key_value_heads", heads),
          or_else("head_dim", integer(config, "hidden_size") / heads)};
}

// The keys of gguf_config (gguf_model.cpp), the other way round; `divisors` as rope_to_gguf has
// them.
Json keys_of(const OutModel& m, std::vector<float>& divisors) {
  const Json& config = m.config;
  const std::string arch = is_hybrid(m) ? hybrid_architecture(m) : architecture_of(config);
  Json keys;
  keys["general.architecture"] = arch;
  keys["general.type"] = "model";
  if (!m.name.empty()) keys["general.name"] = m.name;
  if (is_hybrid(m)) {
    add_hybrid_keys(m, keys);
    keys.update(m.tokenizer);
    return keys;
  }
  const Heads h = heads_of(config);
  const auto put = [&](const char* key, std::int64_t value) {
    keys[arch + "." + key] = static_cast<std::uint32_t>(value);
  };
  put("block_count", integer(config, "num_hidden_layers"));
  put("context_length", integer(config, "max_position_embeddings"));
  put("embedding_length", integer(config, "hidden_size"));
  put("feed_forward_length", integer(config, "intermediate_size"));
  put("attention.head_count", h.heads);
  put("attention.head_count_kv", h.kv_heads);
  put("attention.key_length", h.head_dim);
  put("attention.value_length", h.head_dim);
  put("rope.dimension_count", h.head_dim);
  put("vocab_size", integer(config, "vocab_size"));
  keys[arch + ".attention.layer_norm_rms_epsilon"] = config.value("rms_norm_eps", 1e-6);
  divisors = rope_to_gguf(config, arch, h.head_dim, keys);
  keys.update(m.tokenizer);
  return keys;
}

// Rows of `row_bytes` into ggml's order, where the tensor is Llama's q or k (heads > 0).
void put_rows(const std::vector<std::byte>& from, std::int64_t rows, std::int64_t heads,
              std::int64_t head_dim, std::byte* to) {
  const std::size_t row_bytes = from.size() / static_cast<std::size_t>(rows);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t at = heads == 0 ? row : interleaved_row(row, head_dim);
    std::copy_n(from.data() + static_cast<std::size_t>(row) * row_bytes, row_bytes,
                to + static_cast<std::size_t>(at) * row_bytes);
  }
}

// The tensors of a model without experts, by their names alone.
std::vector<GgufWeight> dense_weights(const OutModel& m) {
  std::vector<GgufWeight> all;
  for (const OutWeight& w : m.weights) {
    const auto name = hf_to_gguf_name(w.name);
    check(name.has_value(), kOperation, "{}: GGUF has no name for it in a {}", w.name,
          architecture_of(m.config));
    all.push_back({*name, {w}});
  }
  return all;
}

class Writer {
 public:
  Writer(const OutModel& m, bool plain_q8, bool decode)
      : m_(m),
        llama_(!is_hybrid(m) && architecture_of(m.config) == "llama"),
        qwen2_(m.config.value("model_type", "") == "qwen2"),
        q8_(plain_q8),
        decode_(decode) {
    if (llama_) heads_ = heads_of(m.config);
  }

  void add(const GgufWeight& g) {
    const OutWeight& w = g.parts.front();
    const bool head = g.name == "output.weight";
    if (head && m_.config.value("tie_word_embeddings", false)) return;
    if (!w.nvfp4) return add_plain(g);
    const auto count = static_cast<std::int64_t>(g.parts.size());
    if (decode_ || head || w.shape[1] % 64 != 0) {
      decoded += count;
      return add_plain(g);
    }
    nvfp4 += count;
    if (qwen2_ && g.name.find(".ffn_") != g.name.npos) unscaled += count;
    add_nvfp4(g);
  }

  void add_rope(const std::vector<float>& divisors) {
    if (!divisors.empty()) add_f32("rope_freqs.weight", divisors);
  }

  std::uint32_t file_type() const {
    return nvfp4 > 0 ? kFileNvfp4 : q8_ ? kFileQ8 : all_f32_ ? kFileF32 : kFileBf16;
  }

  std::vector<OutGgufTensor> tensors;
  std::int64_t nvfp4 = 0, decoded = 0, q8 = 0, fp8 = 0;
  std::int64_t unscaled = 0;  // of `nvfp4`: see qwen2-scales in engines.cpp

 private:
  void add_f32(std::string name, std::vector<float> values) {
    const auto count = static_cast<std::int64_t>(values.size());
    tensors.push_back({std::move(name),
                       {count},
                       &ggml_format("F32"),
                       [values = std::move(values)](std::byte* out) {
                         std::memcpy(out, values.data(), values.size() * sizeof(float));
                       }});
  }

  // Heads whose rows change places; 0 for none.
  std::int64_t interleaved(const std::string& name) const {
    if (!llama_) return 0;
    if (name.find(".attn_q.") != name.npos) return heads_.heads;
    return name.find(".attn_k.") != name.npos ? heads_.kv_heads : 0;
  }

  // `block_bytes(part)` one after the other, rows in ggml's order.
  template <class BytesOf>
  void add_parts(const GgufWeight& g, const GgmlFormat& format, BytesOf&& bytes_of_part) {
    const OutWeight& w = g.parts.front();
    std::vector<std::int64_t> shape = w.shape;
    if (g.stacked) shape.insert(shape.begin(), static_cast<std::int64_t>(g.parts.size()));
    const std::int64_t rows = w.shape.empty() ? 1 : w.shape[0];
    tensors.push_back({g.name, std::move(shape), &format,
                       [parts = g.parts, rows, bytes_of_part, heads = interleaved(g.name),
                        dim = heads_.head_dim](std::byte* out) {
                         for (const OutWeight& part : parts) {
                           const std::vector<std::byte> bytes = bytes_of_part(part);
                           put_rows(bytes, rows, heads, dim, out);
                           out += bytes.size();
                         }
                       }});
  }

  // A number a part, known when its tensor has been written.
  void add_scales(const std::string& name, std::vector<std::function<float()>> scales) {
    const auto count = static_cast<std::int64_t>(scales.size());
    tensors.push_back(
        {name, {count}, &ggml_format("F32"), [scales = std::move(scales)](std::byte* out) {
           for (const auto& scale : scales) {
             const float value = scale();
             std::memcpy(out, &value, sizeof value);
             out += sizeof value;
           }
         }});
  }

  void add_nvfp4(const GgufWeight& g) {
    add_parts(g, ggml_format("NVFP4"), [](const OutWeight& w) {
      const auto n = static_cast<std::size_t>(w.shape[0] * w.shape[1]);
      std::vector<std::uint8_t> codes(n / 2), scales(n / 16);
      w.nvfp4->fill(codes.data(), scales.data());
      std::vector<std::byte> blocks(n / 64 * 36);
      for (std::size_t i = 0; i < n / 64; ++i)
        nvfp4_block_from(codes.data() + 32 * i, scales.data() + 4 * i, blocks.data() + 36 * i);
      return blocks;
    });
    const std::string stem = g.name.substr(0, g.name.rfind('.'));
    std::vector<std::function<float()>> globals, inputs;
    for (const OutWeight& w : g.parts) {
      globals.emplace_back([nvfp4 = *w.nvfp4] { return nvfp4.global(); });
      if (const auto scale = w.nvfp4->input_scale) inputs.emplace_back([scale] { return *scale; });
    }
    add_scales(stem + ".scale", std::move(globals));
    if (!inputs.empty()) add_scales(stem + ".input_scale", std::move(inputs));
  }

  void add_plain(const GgufWeight& g) {
    const OutWeight& w = g.parts.front();
    fp8 += w.fp8 ? static_cast<std::int64_t>(g.parts.size()) : 0;
    const bool matrix = w.shape.size() > 1 && !g.f32;
    const bool f32 = !matrix || (!decode_ && !w.is_quantized() && w.dtype != DType::bf16);
    const bool as_q8 = matrix && q8_ && w.shape.back() % 32 == 0;
    q8 += as_q8 ? static_cast<std::int64_t>(g.parts.size()) : 0;
    if (matrix && (as_q8 || !f32)) all_f32_ = false;
    add_parts(g,
              ggml_format(as_q8 ? "Q8_0"
                          : f32 ? "F32"
                                : "BF16"),
              [as_q8, f32](const OutWeight& part) {
                const OutTensor plain = plain_tensor(part, f32 || as_q8 ? DType::f32 : DType::bf16);
                std::vector<std::byte> bytes(static_cast<std::size_t>(bytes_of(plain)));
                plain.fill(bytes.data());
                if (!as_q8) return bytes;
                const auto n = static_cast<std::int64_t>(bytes.size() / 4);
                std::vector<std::byte> blocks(static_cast<std::size_t>(n / 32 * 34));
                encode_q8_0(reinterpret_cast<const float*>(bytes.data()), n, blocks.data());
                return blocks;
              });
  }

  const OutModel& m_;
  bool llama_;  // whose q and k have rows in another order
  bool qwen2_;
  Heads heads_{};
  bool q8_, decode_, all_f32_ = true;
};

// Keys and tensors, not yet written.
struct LaidOut {
  Json keys;
  Writer writer;
};

LaidOut laid_out(const OutModel& m, bool q8, bool decode) {
  refuse_low_rank(m, "gguf");
  check(m.tokenizer.is_object() && !m.tokenizer.empty(), kOperation,
        "the model has no tokenizer, and a GGUF needs one");
  std::vector<float> divisors;
  LaidOut out{keys_of(m, divisors), Writer(m, q8, decode)};
  for (const GgufWeight& g : is_hybrid(m) ? hybrid_weights(m) : dense_weights(m)) out.writer.add(g);
  out.writer.add_rope(divisors);
  out.keys["general.file_type"] = out.writer.file_type();
  if (out.writer.nvfp4 + out.writer.q8 > 0)
    out.keys["general.quantization_version"] = std::uint32_t{2};
  return out;
}

std::vector<std::string> write(const fs::path& path, const OutModel& m, std::string_view format) {
  const bool q8 = format == "gguf-q8_0", decode = format == "gguf-bf16";
  const auto [keys, writer] = laid_out(m, q8, decode);
  std::vector<std::string> changes;
  if (writer.nvfp4 > 0)
    changes.push_back(fmt::format(
        "{} NVFP4 weights: codes change places within each 16, and rows of Llama's q and k; values "
        "are unchanged",
        writer.nvfp4));
  if (writer.unscaled > 0)
    changes.push_back(fmt::format(
        "{} of them are a qwen2's feed-forward: llama.cpp computes them without their global "
        "scales, so for it write gguf-bf16, or keep '*.mlp.*' out of the policy",
        writer.unscaled));
  if (writer.decoded > 0)
    changes.push_back(
        fmt::format("{} NVFP4 weights are {}: {}", writer.decoded, q8 ? "Q8_0" : "BF16",
                    decode ? "as asked for" : "the head, or rows that are no multiple of 64"));
  if (writer.fp8 > 0)
    changes.push_back(fmt::format(
        "{} FP8 weights are {}, and scales of their inputs dropped: GGUF has no such type",
        writer.fp8, q8 ? "Q8_0" : "BF16"));
  if (writer.q8 > 0) changes.push_back(fmt::format("{} matrices are rounded to Q8_0", writer.q8));
  if (!m.kv_cache_algo.empty() || !m.kv_scales.empty())
    changes.emplace_back("scales of an FP8 cache are dropped: llama.cpp has no place for them");
  if (path.extension() == ".gguf") {
    write_gguf(fs::absolute(path), keys, writer.tensors, m.progress);
  } else {
    AtomicFolder folder(path, kMark);
    write_file(folder.path() / kMark, mark_text());
    write_file(folder.path() / "README.md", model_card(m, format, changes));
    write_gguf(folder.path() / "model.gguf", keys, writer.tensors, m.progress);
    folder.commit();
  }
  return changes;
}

}  // namespace

void lay_out_gguf(const OutModel& m) {
  laid_out(m, false, false);
}

std::vector<std::string> write_gguf_nvfp4(const fs::path& path, const OutModel& m) {
  return write(path, m, "gguf");
}

std::vector<std::string> write_gguf_q8_0(const fs::path& path, const OutModel& m) {
  return write(path, m, "gguf-q8_0");
}

std::vector<std::string> write_gguf_bf16(const fs::path& path, const OutModel& m) {
  return write(path, m, "gguf-bf16");
}

}  // namespace qad::checkpoint
