// llama2.c version 0: seven int32, then float32 matrices kind by kind (all layers' wq, all layers'
// wk, ...), then two rotary tables that nobody reads any more, then the classifier when it isn't
// tied. Source: run.c, memory_map_weights, and export.py, legacy_export.
#include "checkpoint/llama2c.h"

#include <cstring>

#include "checkpoint/rope_rows.h"
#include "core/error.h"

namespace qad::checkpoint {
namespace {

constexpr std::string_view kOp = "open_llama2c";
constexpr std::int64_t kPadding = 16;

struct Header {
  std::int32_t dim, hidden, layers, heads, kv_heads, vocab,
      context;  // vocab < 0: the classifier is not tied

  std::int64_t head_dim() const { return dim / heads; }
  std::int64_t kv_dim() const { return head_dim() * kv_heads; }
  std::int64_t padded_hidden() const {
    return (std::int64_t{hidden} + kPadding - 1) / kPadding * kPadding;
  }
};

Header read_header(std::span<const std::byte> bytes, const std::string& where) {
  Header h;
  check(bytes.size() >= sizeof(h), kOp, "{}: expected a header of {} bytes, found {} bytes", where,
        sizeof(h), bytes.size());
  std::memcpy(&h, bytes.data(), sizeof(h));
  check(h.dim != 0x616b3432, kOp,
        "{}: has format version {}; expected version 0 (export.py --version 0)", where, h.hidden);
  const bool ok = h.dim > 0 && h.hidden > 0 && h.layers > 0 && h.heads > 0 && h.kv_heads > 0 &&
                  h.vocab != 0 && h.vocab != INT32_MIN && h.context > 0 && h.dim % h.heads == 0 &&
                  h.head_dim() % 2 == 0 && h.heads % h.kv_heads == 0;
  check(ok, kOp,
        "{}: impossible header: dim {}, hidden {}, layers {}, heads {}, kv_heads {}, vocab {}, "
        "context {}; is this a "
        "llama2.c model?",
        where, h.dim, h.hidden, h.layers, h.heads, h.kv_heads, h.vocab, h.context);
  return h;
}

Json make_config(const Header& h) {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", h.dim},
          {"intermediate_size", h.padded_hidden()},
          {"num_hidden_layers", h.layers},
          {"num_attention_heads", h.heads},
          {"num_key_value_heads", h.kv_heads},
          {"head_dim", h.head_dim()},
          {"hidden_act", "silu"},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"rope_scaling", nullptr},
          {"max_position_embeddings", h.context},
          {"vocab_size", std::abs(h.vocab)},
          {"tie_word_embeddings", h.vocab > 0},
          {"attention_bias", false},
          {"mlp_bias", false},
          {"bos_token_id", 1},
          {"eos_token_id", 2},
          {"torch_dtype", "float32"}};
}

// Walks the file, giving each matrix its name.
class Reader {
 public:
  Reader(Checkpoint& c, const MappedFile& file)
      : c_(c), file_(file), left_(file.bytes().subspan(sizeof(Header))) {}

  std::span<const std::byte> take(std::int64_t rows, std::int64_t cols) {
    const auto elements =
        static_cast<std::uint64_t>(rows) * static_cast<std::uint64_t>(cols);  // below 2^62
    check(elements <= left_.size() / sizeof(float), kOp,
          "{}: is truncated: the header promises more than {} bytes", file_.path().string(),
          file_.bytes().size());
    const auto taken = left_.first(elements * sizeof(float));
    left_ = left_.subspan(taken.size());
    return taken;
  }

  std::span<const std::byte> take(Tensor& t, std::int64_t rows, std::int64_t cols) {
    const auto taken = take(rows, cols);
    t.stored_bytes = static_cast<std::int64_t>(taken.size());
    return taken;
  }

  void vector(const std::string& name, std::int64_t size) {
    Tensor& t = add(name, {size});
    t.raw = take(t, 1, size);
  }

  void matrix(const std::string& name, std::int64_t rows, std::int64_t cols) {
    Tensor& t = add(name, {rows, cols});
    t.raw = take(t, rows, cols);
  }

  void rotary(const std::string& name, std::int64_t rows, std::int64_t cols,
              std::int64_t head_dim) {
    Tensor& t = add(name, {rows, cols});
    t.read = reader([owner = file_, data = take(t, rows, cols), rows, cols, head_dim](float* out) {
      const std::size_t bytes = static_cast<std::size_t>(cols) * sizeof(float);
      for (std::int64_t row = 0; row < rows; ++row) {
        std::memcpy(out + row * cols, data.data() + interleaved_row(row, head_dim) * cols * 4,
                    bytes);
      }
    });
  }

  void padded(const std::string& name, std::int64_t rows, std::int64_t cols, std::int64_t to_rows,
              std::int64_t to_cols) {
    if (rows == to_rows && cols == to_cols) return matrix(name, rows, cols);
    Tensor& t = add(name, {to_rows, to_cols});
    t.read = reader(
        [owner = file_, data = take(t, rows, cols), rows, cols, to_rows, to_cols](float* out) {
          std::fill_n(out, to_rows * to_cols, 0.0f);
          const std::size_t bytes = static_cast<std::size_t>(cols) * sizeof(float);
          for (std::int64_t row = 0; row < rows; ++row) {
            std::memcpy(out + row * to_cols, data.data() + row * cols * 4, bytes);
          }
        });
  }

  void finish() const {
    check(left_.empty(), kOp,
          "{}: has {} bytes more than its header promises; is this a version 0 model?",
          file_.path().string(), left_.size());
  }

 private:
  static std::shared_ptr<const std::function<void(float*)>> reader(std::function<void(float*)> f) {
    return std::make_shared<const std::function<void(float*)>>(std::move(f));
  }

  Tensor& add(const std::string& name, std::vector<std::int64_t> shape) {
    Tensor& t = c_.tensors[name];
    t.name = name;
    t.shape = std::move(shape);
    return t;
  }

  Checkpoint& c_;
  const MappedFile& file_;
  std::span<const std::byte> left_;
};

void read_tensors(Checkpoint& c, const MappedFile& file, const Header& h) {
  Reader in(c, file);
  const auto each_layer = [&](std::string_view part, auto read) {
    for (int i = 0; i < h.layers; ++i) read(fmt::format("model.layers.{}.{}.weight", i, part));
  };
  const std::int64_t vocab = std::abs(std::int64_t{h.vocab});
  in.matrix("model.embed_tokens.weight", vocab, h.dim);
  each_layer("input_layernorm", [&](auto name) { in.vector(name, h.dim); });
  each_layer("self_attn.q_proj", [&](auto name) { in.rotary(name, h.dim, h.dim, h.head_dim()); });
  each_layer("self_attn.k_proj",
             [&](auto name) { in.rotary(name, h.kv_dim(), h.dim, h.head_dim()); });
  each_layer("self_attn.v_proj", [&](auto name) { in.matrix(name, h.kv_dim(), h.dim); });
  each_layer("self_attn.o_proj", [&](auto name) { in.matrix(name, h.dim, h.dim); });
  each_layer("post_attention_layernorm", [&](auto name) { in.vector(name, h.dim); });
  each_layer("mlp.gate_proj",
             [&](auto name) { in.padded(name, h.hidden, h.dim, h.padded_hidden(), h.dim); });
  each_layer("mlp.down_proj",
             [&](auto name) { in.padded(name, h.dim, h.hidden, h.dim, h.padded_hidden()); });
  each_layer("mlp.up_proj",
             [&](auto name) { in.padded(name, h.hidden, h.dim, h.padded_hidden(), h.dim); });
  in.vector("model.norm.weight", h.dim);
  in.take(h.context, h.head_dim() / 2);  // cosines
  in.take(h.context, h.head_dim() / 2);  // sines
  if (h.vocab < 0) in.matrix("lm_head.weight", vocab, h.dim);
  in.finish();
}

}  // namespace

Checkpoint open_llama2c(const fs::path& path) {
  const MappedFile file(path);
  const Header header = read_header(file.bytes(), path.string());
  Checkpoint c;
  c.path = path;
  c.format = "llama2.c";
  c.config = make_config(header);
  read_tensors(c, file, header);
  c.files.push_back(file);
  return c;
}

}  // namespace qad::checkpoint
