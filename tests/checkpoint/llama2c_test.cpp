// llama2.c files written here by run.c's layout, each value telling where it came from.
#include "checkpoint/llama2c.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "files.h"

namespace qad::checkpoint {
namespace {

using testing::HasSubstr;

struct Shape {
  int dim = 8, hidden = 5, layers = 2, heads = 2, kv_heads = 1, vocab = 3, context = 4;
};

// Floats 0, 1, 2, ... after the header, as many as run.c's memory_map_weights walks over.
std::vector<float> values_of(const Shape& s) {
  const int kv = s.dim / s.heads * s.kv_heads, vocab = std::abs(s.vocab);
  const int layer = 2 * s.dim + 2 * s.dim * s.dim + 2 * kv * s.dim + 3 * s.hidden * s.dim;
  const int tables = s.context * (s.dim / s.heads);
  std::vector<float> values(vocab * s.dim + s.layers * layer + s.dim + tables +
                            (s.vocab < 0 ? vocab * s.dim : 0));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  return values;
}

std::string file_of(const Shape& s) {
  const std::array header{s.dim, s.hidden, s.layers, s.heads, s.kv_heads, s.vocab, s.context};
  const auto values = values_of(s);
  std::string bytes(reinterpret_cast<const char*>(header.data()), sizeof(header));
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  return bytes;
}

class Llama2c : public testing::Test {
 protected:
  Checkpoint open(const std::string& bytes) {
    write_file(folder_ / "model.bin", bytes);
    return open_llama2c(folder_ / "model.bin");
  }
  static std::vector<float> read(const Checkpoint& c, const std::string& name) {
    const Tensor& t = c.at(name);
    std::vector<float> values(static_cast<std::size_t>(t.elements()), -1.0f);
    read_f32(t, values.data());
    return values;
  }

 private:
  ScratchFolder folder_;
};

TEST_F(Llama2c, EveryTensorIsFoundAtItsPlace) {
  const Checkpoint c = open(file_of({}));
  const int dim = 8, hidden = 5, vocab = 3, kv = 4, layers = 2;
  // Offsets in floats, kind by kind.
  const int att_norm = vocab * dim, wq = att_norm + layers * dim, wk = wq + layers * dim * dim;
  const int wv = wk + layers * kv * dim, wo = wv + layers * kv * dim,
            ffn_norm = wo + layers * dim * dim;
  const int w1 = ffn_norm + layers * dim, w2 = w1 + layers * hidden * dim,
            w3 = w2 + layers * hidden * dim;
  const int norm = w3 + layers * hidden * dim;
  const struct {
    std::string name;
    std::vector<std::int64_t> shape;
    int offset, rows, cols;  // as stored
    bool rotary = false;
  } cases[] = {
      {"model.embed_tokens.weight", {vocab, dim}, 0, vocab, dim},
      {"model.layers.1.input_layernorm.weight", {dim}, att_norm + dim, 1, dim},
      {"model.layers.0.self_attn.q_proj.weight", {dim, dim}, wq, dim, dim, true},
      {"model.layers.1.self_attn.q_proj.weight", {dim, dim}, wq + dim * dim, dim, dim, true},
      {"model.layers.1.self_attn.k_proj.weight", {kv, dim}, wk + kv * dim, kv, dim, true},
      {"model.layers.1.self_attn.v_proj.weight", {kv, dim}, wv + kv * dim, kv, dim},
      {"model.layers.1.self_attn.o_proj.weight", {dim, dim}, wo + dim * dim, dim, dim},
      {"model.layers.1.post_attention_layernorm.weight", {dim}, ffn_norm + dim, 1, dim},
      {"model.layers.1.mlp.gate_proj.weight", {16, dim}, w1 + hidden * dim, hidden, dim},
      {"model.layers.1.mlp.down_proj.weight", {dim, 16}, w2 + hidden * dim, dim, hidden},
      {"model.layers.1.mlp.up_proj.weight", {16, dim}, w3 + hidden * dim, hidden, dim},
      {"model.norm.weight", {dim}, norm, 1, dim},
  };
  const int row_of[] = {0, 2, 1,
                        3};  // of each head of 4, where half-split row r is among the interleaved
  for (const auto& [name, shape, offset, rows, cols, rotary] : cases) {
    SCOPED_TRACE(name);
    EXPECT_EQ(c.at(name).shape, shape);
    EXPECT_EQ(c.at(name).stored_bytes, rows * cols * 4);
    const int padded_cols = static_cast<int>(shape.back());
    std::vector<float> expected(static_cast<std::size_t>(c.at(name).elements()), 0.0f);
    for (int r = 0; r < rows; ++r) {
      const int from = rotary ? r / 4 * 4 + row_of[r % 4] : r;
      for (int k = 0; k < cols; ++k)
        expected[r * padded_cols + k] = static_cast<float>(offset + from * cols + k);
    }
    EXPECT_EQ(read(c, name), expected);
  }
  EXPECT_EQ(c.tensors.size(), 2u + 2 * 9);
}

TEST_F(Llama2c, Config) {
  const Checkpoint c = open(file_of({}));
  EXPECT_EQ(c.format, "llama2.c");
  EXPECT_TRUE(c.metadata.is_null());
  const Json expected = {{"hidden_size", 8},
                         {"intermediate_size", 16},
                         {"num_hidden_layers", 2},
                         {"num_attention_heads", 2},
                         {"num_key_value_heads", 1},
                         {"vocab_size", 3},
                         {"head_dim", 4},
                         {"max_position_embeddings", 4},
                         {"tie_word_embeddings", true},
                         {"rms_norm_eps", 1e-5},
                         {"rope_theta", 10000.0},
                         {"model_type", "llama"},
                         {"bos_token_id", 1},
                         {"eos_token_id", 2},
                         {"torch_dtype", "float32"}};
  for (const auto& [key, value] : expected.items()) EXPECT_EQ(c.config[key], value) << key;
}

TEST_F(Llama2c, NegativeVocabularyMeansAClassifierAtTheEnd) {
  const Shape untied{.hidden = 16, .vocab = -3};
  const Checkpoint c = open(file_of(untied));
  EXPECT_EQ(c.config["tie_word_embeddings"], false);
  EXPECT_EQ(c.config["vocab_size"], 3);
  const auto all = values_of(untied);
  EXPECT_EQ(read(c, "lm_head.weight"), std::vector<float>(all.end() - 24, all.end()));
  EXPECT_FALSE(c.at("model.layers.0.mlp.down_proj.weight").read);  // 16 needs no padding
}

TEST_F(Llama2c, BadFilesAreErrors) {
  std::string truncated = file_of({}), longer = file_of({}) + std::string(4, '\0');
  truncated.pop_back();
  const std::int32_t most = INT32_MAX;
  const auto header = [](std::array<std::int32_t, 7> h) {
    return std::string(reinterpret_cast<const char*>(h.data()), sizeof(h));
  };
  const struct {
    std::string bytes, message;
  } cases[] = {
      {"", "expected a header of 28 bytes, found 0"},
      {std::string(27, '\1'), "found 27"},
      {header({0x616b3432, 1, 8, 16, 1, 2, 2}), "format version 1; expected version 0"},
      {truncated, "truncated"},
      {longer, "has 4 bytes more"},
      {header({8, 5, 2, 2, 1, 3, 4}), "truncated"},
      {header({0, 5, 2, 2, 1, 3, 4}), "impossible header: dim 0"},
      {header({8, 5, 2, 3, 1, 3, 4}), "impossible header"},
      {header({8, 5, 2, 8, 1, 3, 4}), "impossible header"},
      {header({8, 5, 2, 2, 0, 3, 4}), "impossible header"},
      {header({8, 5, 2, 2, 1, 0, 4}), "impossible header"},
      {header({8, 5, 2, 2, 1, INT32_MIN, 4}), "impossible header"},
      {header({8, 5, -2, 2, 1, 3, 4}), "impossible header"},
      {header({most - 1, most, most, 1, 1, most, most}), "truncated"},
      {std::string(100, 'a'), "impossible header"},
  };
  for (const auto& [bytes, message] : cases) {
    EXPECT_THAT(error_of([&] { open(bytes); }), HasSubstr(message)) << message;
  }
}

// The model of the demo: 172 is padded to 176, and the embedding is the file's first matrix.
TEST(Llama2cFile, Stories260K) {
  const fs::path path = fs::path(QAD_SOURCE_DIR) / "data/stories260k/stories260K.bin";
  const Checkpoint c = open_llama2c(path);
  EXPECT_EQ(c.config["intermediate_size"], 176);
  std::int64_t parameters = 0;
  for (const auto& [name, t] : c.tensors) parameters += t.elements();
  EXPECT_EQ(parameters, 260032 + 5 * 3 * 4 * 64);
}

}  // namespace
}  // namespace qad::checkpoint
