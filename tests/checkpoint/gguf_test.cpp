// GGUF against gguf-py's decoding and Transformers' row order (tests/golden/checkpoint_gguf.py),
// and against files that lie.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <map>

#include "checkpoint/gguf.h"
#include "checkpoint/gguf_model.h"
#include "files.h"

namespace qad::checkpoint {
namespace {

using testing::HasSubstr;

TEST(GgufBlocks, EqualGgufPyBitForBit) {
  const Json cases = read_json(golden("gguf/blocks.json"));
  for (const auto& [name, golden_case] : cases.items()) {
    SCOPED_TRACE(name);
    const auto* format = find_ggml_format(golden_case["type"].get<std::uint32_t>());
    ASSERT_NE(format, nullptr);
    EXPECT_EQ(format->name, name);
    std::vector<std::byte> bytes;
    const auto hex = golden_case["bytes"].get<std::string>();
    for (std::size_t i = 0; i < hex.size(); i += 2) {
      bytes.push_back(static_cast<std::byte>(std::stoi(hex.substr(i, 2), nullptr, 16)));
    }
    const auto expected = golden_case["values"].get<std::vector<float>>();
    const std::int64_t blocks = static_cast<std::int64_t>(bytes.size()) / format->bytes;
    ASSERT_EQ(static_cast<std::int64_t>(expected.size()), blocks * format->values);
    std::vector<float> values(expected.size());
    format->dequantize(bytes.data(), blocks, values.data());
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(values[i]), std::bit_cast<std::uint32_t>(expected[i]))
          << i << ": " << values[i] << " " << expected[i];
    }
  }
}

// ggml's block layouts (ggml-common.h): bytes a block of that many values.
std::int64_t stored_bytes(const std::string& type, std::int64_t values) {
  const std::map<std::string, std::pair<int, int>> blocks = {
      {"F32", {4, 1}},    {"F16", {2, 1}},    {"BF16", {2, 1}},   {"Q4_0", {18, 32}},
      {"Q4_1", {20, 32}}, {"Q5_0", {22, 32}}, {"Q5_1", {24, 32}}, {"Q8_0", {34, 32}}};
  const auto [bytes, count] = blocks.at(type);
  return values / count * bytes;
}

TEST(Gguf, ValuesAndNamesEqualTransformers) {
  const Checkpoint c = open_gguf(golden("gguf/llama.gguf"));
  const Json index = read_json(golden("gguf/llama.json"));
  const std::string expected = read_text(golden("gguf/llama.f32"));
  EXPECT_EQ(c.format, "gguf");
  EXPECT_EQ(c.tensors.size(), index.size());
  for (const auto& [name, entry] : index.items()) {
    SCOPED_TRACE(name);
    const Tensor& t = c.at(name);
    EXPECT_EQ(t.shape, entry["shape"].get<std::vector<std::int64_t>>());
    const auto stored = entry["stored"].get<std::string>();
    EXPECT_EQ(t.stored_as.empty() ? name_of(t.dtype) : t.stored_as, stored);
    EXPECT_EQ(t.stored_bytes, stored_bytes(stored, t.elements()));
    std::vector<float> values(static_cast<std::size_t>(t.elements()));
    read_f32(t, values.data());
    const char* want = expected.data() + entry["offset"].get<std::size_t>() * sizeof(float);
    EXPECT_EQ(std::memcmp(values.data(), want, values.size() * sizeof(float)), 0);
  }
}

TEST(Gguf, ConfigAndMetadata) {
  const Checkpoint c = open_gguf(golden("gguf/llama.gguf"));
  const Json expected = {{"architectures", {"LlamaForCausalLM"}},
                         {"model_type", "llama"},
                         {"hidden_size", 32},
                         {"intermediate_size", 32},
                         {"num_hidden_layers", 1},
                         {"num_attention_heads", 4},
                         {"num_key_value_heads", 2},
                         {"head_dim", 8},
                         {"hidden_act", "silu"},
                         {"rms_norm_eps", 1e-5},
                         {"rope_theta", 500000.0},
                         {"rope_scaling",
                          {{"rope_type", "llama3"},
                           {"factor", 32.0},
                           {"low_freq_factor", 1.0},
                           {"high_freq_factor", 4.0},
                           {"original_max_position_embeddings", 8192}}},
                         {"max_position_embeddings", 131072},
                         {"vocab_size", 16},
                         {"tie_word_embeddings", false},
                         {"attention_bias", false},
                         {"mlp_bias", false},
                         {"bos_token_id", 0},
                         {"eos_token_id", {1, 5}},
                         {"torch_dtype", "bfloat16"}};
  EXPECT_EQ(c.config, expected) << c.config.dump(1);
  const Json& tokens = c.metadata["tokenizer.ggml.tokens"];
  ASSERT_EQ(tokens.size(), 16u);
  EXPECT_EQ(tokens[2].get<std::string>(), "\xff\xfe");
  EXPECT_EQ(c.metadata["tokenizer.ggml.scores"][3].get<double>(), -1.5);
  EXPECT_EQ(c.metadata["tokenizer.ggml.token_type"][1].get<int>(), 3);
  EXPECT_EQ(c.metadata["tokenizer.ggml.merges"][1].get<std::string>(), "t 4");
  EXPECT_EQ(c.metadata["tokenizer.ggml.add_bos_token"], true);
}

TEST(Gguf, NamesOfAllLayersParts) {
  EXPECT_EQ(gguf_to_hf_name("blk.31.attn_q_norm.weight"),
            "model.layers.31.self_attn.q_norm.weight");
  EXPECT_EQ(gguf_to_hf_name("blk.7.attn_k.bias"), "model.layers.7.self_attn.k_proj.bias");
  for (const auto name :
       {"blk.x.attn_q.weight", "blk.1.ffn_gate_exps.weight", "blk.1", "blk.-1.attn_q.weight",
        "output.scale", "weight", "", "blk.", "blk.99999999999.attn_q.weight"}) {
    EXPECT_EQ(gguf_to_hf_name(name), std::nullopt) << name;
  }
}

// A model without a file: metadata, and tensors over `values`.
struct Model {
  std::vector<float> values = std::vector<float>(64, 1.0f);
  GgufFile file;

  explicit Model(const std::string& arch) {
    file.where = "test.gguf";
    file.metadata = {{"general.architecture", arch}};
    const Json keys = {{"context_length", 2048},    {"embedding_length", 16},
                       {"block_count", 1},          {"feed_forward_length", 16},
                       {"attention.head_count", 2}, {"attention.layer_norm_rms_epsilon", 1e-6f}};
    for (const auto& [key, value] : keys.items()) {
      set(arch + "." + key, value);
    }
    add("token_embd.weight", {4, 16});
  }
  void set(const std::string& key, const Json& value) { file.metadata[key] = value; }
  void add(const std::string& name, std::vector<std::int64_t> shape) {
    file.tensors.push_back(
        {name, std::move(shape), find_ggml_format(0), std::as_bytes(std::span(values))});
  }
  Json config() const { return gguf_config(file); }
};

TEST(GgufConfig, Qwen) {
  Model qwen2("qwen2");
  EXPECT_EQ(qwen2.config()["architectures"][0], "Qwen2ForCausalLM");
  EXPECT_FALSE(qwen2.config().contains("attention_bias"));
  EXPECT_EQ(qwen2.config()["tie_word_embeddings"], true);
  EXPECT_EQ(qwen2.config()["rms_norm_eps"].dump(), "1e-06");
  EXPECT_EQ(interleaved_heads("blk.0.attn_q.weight", qwen2.config()), 0);

  Model qwen3("qwen3");
  qwen3.set("qwen3.attention.key_length", 128);
  qwen3.set("qwen3.attention.value_length", 128);
  qwen3.set("qwen3.attention.head_count_kv", 1);
  qwen3.add("output.weight", {4, 16});
  EXPECT_EQ(qwen3.config()["head_dim"], 128);
  EXPECT_EQ(qwen3.config()["num_key_value_heads"], 1);
  EXPECT_EQ(qwen3.config()["attention_bias"], false);
  EXPECT_EQ(qwen3.config()["tie_word_embeddings"], false);
}

TEST(GgufConfig, RopeScalings) {
  Model yarn("qwen2");
  yarn.set("qwen2.rope.scaling.type", "yarn");
  yarn.set("qwen2.rope.scaling.factor", 4.0f);
  yarn.set("qwen2.rope.scaling.original_context_length", 32768);
  EXPECT_EQ(
      yarn.config()["rope_scaling"],
      (Json{{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}}));
  Model linear("llama");
  linear.set("llama.rope.scaling.type", "linear");
  linear.set("llama.rope.scaling.factor", 2.5f);
  EXPECT_EQ(linear.config()["rope_scaling"], (Json{{"rope_type", "linear"}, {"factor", 2.5}}));
}

// Parameters that are not Llama 3's own are found from the divisors, which the converter computes
// so:
TEST(GgufConfig, Llama3ScalingIsFitted) {
  const double factor = 8, low = 1, high = 6, original = 4096, theta = 250000;
  Model m("llama");
  m.set("llama.attention.key_length", 64);
  m.set("llama.rope.freq_base", theta);
  for (int i = 0; i < 32; ++i) {
    const double wavelength = 2 * M_PI * std::pow(theta, i / 32.0);
    const double smooth = (original / wavelength - low) / (high - low);
    m.values[i] =
        static_cast<float>(wavelength < original / high  ? 1
                           : wavelength > original / low ? factor
                                                         : 1 / ((1 - smooth) / factor + smooth));
  }
  m.add("rope_freqs.weight", {32});
  EXPECT_EQ(m.config()["rope_scaling"], (Json{{"rope_type", "llama3"},
                                              {"factor", factor},
                                              {"low_freq_factor", low},
                                              {"high_freq_factor", high},
                                              {"original_max_position_embeddings", 4096}}));
  m.values[3] = 1.5f;
  EXPECT_THAT(error_of([&] { m.config(); }), HasSubstr("fits no Llama 3 scaling"));
  m.values.assign(64, 1.0f);
  EXPECT_EQ(m.config()["rope_scaling"], nullptr);
}

TEST(GgufConfig, UnsupportedModelsAreNamed) {
  const struct {
    std::string key;
    Json value;
    std::string message;
  } cases[] = {
      {"general.architecture", "gemma3", "architecture 'gemma3' is not supported"},
      {"split.count", 3, "join them first"},
      {"llama.expert_count", 8, "llama.expert_count is 8; such models are not supported"},
      {"llama.attention.sliding_window", 1024, "llama.attention.sliding_window"},
      {"llama.rope.scaling.type", "longrope", "rope scaling 'longrope' is not supported"},
      {"llama.rope.dimension_count", 4, "expected the head dimension 8"},
      {"llama.attention.value_length", 4, "expected the head dimension 8"},
      {"llama.attention.head_count", 0, "expected one integer from 1"},
      {"llama.attention.head_count", 3, "embedding_length 16 is no multiple"},
      {"llama.attention.head_count", Json{2, 2}, "expected one integer from 1"},
      {"llama.attention.head_count_kv", 4, "no multiple of 4 key-value heads"},
      {"llama.attention.layer_norm_rms_epsilon", "x", "expected a positive number, found string"},
      {"llama.attention.layer_norm_rms_epsilon", std::nan(""), "expected a positive number"},
      {"llama.block_count", -1, "expected one integer from 1"},
      {"llama.embedding_length", nullptr, "found null"},
  };
  for (const auto& [key, value, message] : cases) {
    Model m("llama");
    m.set(key, value);
    EXPECT_THAT(error_of([&] { m.config(); }), HasSubstr(message)) << key;
  }
}

TEST(Gguf, MisshapenAndUnknownTensorsAreNamed) {
  Model q("llama");
  q.add("blk.0.attn_q.weight", {3, 16});
  EXPECT_THAT(error_of([&] { gguf_checkpoint(q.file, {}); }),
              HasSubstr("attn_q.weight: expected 16 rows"));
  Model extra("llama");
  extra.add("blk.0.attn_sinks.weight", {2});
  EXPECT_THAT(error_of([&] { gguf_checkpoint(extra.file, {}); }),
              HasSubstr("blk.0.attn_sinks.weight is unknown"));
  Model twice("llama");
  twice.add("blk.0.attn_v.weight", {2, 16});
  twice.add("blk.00.attn_v.weight", {2, 16});
  EXPECT_THAT(error_of([&] { gguf_checkpoint(twice.file, {}); }), HasSubstr("two tensors are"));
}

TEST(Gguf, BiasOfLlamaIsReorderedToo) {
  Model m("llama");
  for (std::size_t i = 0; i < m.values.size(); ++i) m.values[i] = static_cast<float>(i);
  m.add("blk.0.attn_q.bias", {16});
  m.file.tensors.back().data = m.file.tensors.back().data.first(16 * sizeof(float));
  const Checkpoint c = gguf_checkpoint(m.file, {});
  std::vector<float> bias(16);
  read_f32(c.at("model.layers.0.self_attn.q_proj.bias"), bias.data());
  EXPECT_THAT(bias, testing::ElementsAre(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
}

// A file written field by field, so that each field can lie.
class Writer {
 public:
  template <class T>
  Writer& put(T value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  Writer& u32(std::uint32_t v) { return put(v); }
  Writer& u64(std::uint64_t v) { return put(v); }
  Writer& text(std::string_view s) {
    u64(s.size());
    bytes += s;
    return *this;
  }
  Writer& head(std::uint64_t tensors, std::uint64_t values, std::uint32_t version = 3) {
    bytes += "GGUF";
    return u32(version).u64(tensors).u64(values);
  }
  Writer& tensor(std::string_view name, std::vector<std::uint64_t> dims, std::uint32_t type,
                 std::uint64_t offset) {
    text(name).u32(static_cast<std::uint32_t>(dims.size()));
    for (const auto d : dims) u64(d);
    return u32(type).u64(offset);
  }
  Writer& data(std::size_t n) {
    bytes.resize((bytes.size() + 31) / 32 * 32 + n);
    return *this;
  }
  std::string bytes;
};

std::string parse_error(const std::string& bytes) {
  return error_of([&] { parse_gguf(std::as_bytes(std::span(bytes)), "bad.gguf"); });
}

TEST(GgufFile, SmallestFile) {
  const Writer w = Writer().head(1, 0, 2).tensor("a", {2, 3}, 0, 0).data(24);
  EXPECT_EQ(parse_error(w.bytes), "");
  const GgufFile file = parse_gguf(std::as_bytes(std::span(w.bytes)), "good.gguf");
  EXPECT_EQ(file.tensors[0].shape, (std::vector<std::int64_t>{3, 2}));
  EXPECT_EQ(file.tensors[0].data.size(), 24u);
}

TEST(GgufFile, LiesAreErrors) {
  const std::uint64_t huge = std::uint64_t{1} << 62;
  Writer nested;
  nested.head(0, 1).text("k").u32(9);
  for (int i = 0; i < 9; ++i) nested.u32(9).u64(1);
  nested.data(1000);
  const struct {
    std::string what;
    Writer file;
    std::string message;
  } cases[] = {
      {"empty", Writer(), "ends within the magic"},
      {"magic", Writer().text("something else entirely"), "doesn't begin with 'GGUF'"},
      {"version", Writer().head(0, 0, 1), "version 1: expected 2 or 3"},
      {"byte order", Writer().head(0, 0, 0x03000000), "big-endian"},
      {"tensor count", Writer().head(huge, 0).data(100), "the number of tensors says"},
      {"value count", Writer().head(0, huge).data(100), "the number of key-values says"},
      {"key length", Writer().head(0, 1).u64(huge).data(100), "a key says"},
      {"value type", Writer().head(0, 1).text("k").u32(13).data(100), "k: unknown value type 13"},
      {"boolean", Writer().head(0, 1).text("k").u32(7).put<char>(2), "expected a boolean"},
      {"string length", Writer().head(0, 1).text("k").u32(8).u64(~std::uint64_t{0}), "k says"},
      {"array type", Writer().head(0, 1).text("k").u32(9).u32(13).u64(1).data(100),
       "unknown value type 13"},
      {"array count", Writer().head(0, 1).text("k").u32(9).u32(10).u64(huge).data(100), "k says"},
      {"array nesting", nested, "nest deeper than 8"},
      {"value missing", Writer().head(0, 1).text("12345678").u32(12).u32(0),
       "ends within 12345678"},
      {"key twice", Writer().head(0, 2).text("k").u32(0).put('a').text("k").u32(0).put('a'),
       "'k' appears twice"},
      {"alignment 0", Writer().head(0, 1).text("general.alignment").u32(4).u32(0),
       "expected a power of two"},
      {"alignment 48", Writer().head(0, 1).text("general.alignment").u32(4).u32(48), "found 48"},
      {"alignment text", Writer().head(0, 1).text("general.alignment").u32(8).text("x"),
       "found string"},
      {"no dimensions", Writer().head(1, 0).tensor("a", {}, 0, 0).data(64),
       "1 to 4 dimensions, found 0"},
      {"5 dimensions", Writer().head(1, 0).tensor("a", {1, 1, 1, 1, 1}, 0, 0).data(4), "found 5"},
      {"dimension 0", Writer().head(1, 0).tensor("a", {4, 0}, 0, 0).data(64),
       "a: dimension 1 is 0"},
      {"product wraps", Writer().head(1, 0).tensor("a", {huge, 8}, 0, 0).data(64),
       "a: dimension 0 is"},
      {"product wraps late", Writer().head(1, 0).tensor("a", {64, 64, 64, huge}, 0, 0).data(64),
       "dimension"},
      {"type", Writer().head(1, 0).tensor("a", {256}, 10, 0).data(84),
       "a: type Q2_K is not supported"},
      {"type number", Writer().head(1, 0).tensor("a", {256}, 4, 0).data(84),
       "a: type number 4 is not"},
      {"row of half a block", Writer().head(1, 0).tensor("a", {16, 2}, 2, 0).data(64),
       "no multiple of Q4_0's"},
      {"offset unaligned", Writer().head(1, 0).tensor("a", {2}, 0, 4).data(64),
       "a: offset 4 is no multiple"},
      {"offset outside", Writer().head(1, 0).tensor("a", {2}, 0, huge).data(64),
       "a: expected 8 bytes at offset"},
      {"data short", Writer().head(1, 0).tensor("a", {17}, 0, 0).data(64),
       "a: expected 68 bytes at offset 0"},
      {"no data", Writer().head(1, 0).tensor("a", {1}, 0, 0), "but the data ends at 0"},
      {"name twice", Writer().head(2, 0).tensor("a", {1}, 0, 0).tensor("a", {1}, 0, 32).data(64),
       "'a' appears"},
      {"name long", Writer().head(1, 0).tensor(std::string(65, 'a'), {1}, 0, 0).data(64),
       "expected at most 64"},
      {"overlap", Writer().head(2, 0).tensor("b", {9}, 0, 0).tensor("a", {8}, 0, 32).data(64),
       "b and a overlap"},
      {"same place", Writer().head(2, 0).tensor("b", {8}, 0, 0).tensor("a", {8}, 0, 0).data(64),
       "overlap"},
  };
  for (const auto& [what, file, message] : cases)
    EXPECT_THAT(parse_error(file.bytes), HasSubstr(message)) << what;
}

TEST(GgufFile, EveryTruncationIsAnError) {
  const std::string whole = read_text(golden("gguf/llama.gguf"));
  EXPECT_EQ(parse_error(whole), "");
  // The file's last 16 bytes are padding after rope_freqs.weight.
  for (std::size_t n = 0; n + 16 < whole.size(); ++n) {
    const std::string cut = whole.substr(0, n);
    ASSERT_THAT(parse_error(cut), HasSubstr("bad.gguf")) << n;
  }
}

}  // namespace
}  // namespace qad::checkpoint
