// Formats that are read and written: what a model becomes, and what comes back.
#include "checkpoint/formats.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "checkpoint/dtype.h"
#include "checkpoint/gguf.h"
#include "checkpoint/model_card.h"
#include "checkpoint/nvfp4_tensors.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/torchao.h"
#include "checkpoint/verify.h"
#include "files.h"
#include "nvfp4/nvfp4.h"

namespace qad::checkpoint {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// A row of 64 values in all three packings, worked out by the format's rules alone: code 2b in the
// low nibble of byte b; in GGUF value j of each 16 below value j + 8.
TEST(Nvfp4Blocks, AreAPermutationOfTheCodes) {
  const std::vector<std::uint8_t> codes = {0xa1, 0xf5, 0x00, 0x48, 0x97, 0x02, 0x6d, 0x80,
                                           0xa1, 0xf5, 0x00, 0x48, 0xa5, 0x02, 0x6e, 0x80,
                                           0,    0,    0,    0,    0,    0,    0,    0,
                                           0x53, 0x7f, 0xa3, 0x65, 0x7d, 0xd0, 0xf7, 0x43};
  const std::vector<std::uint8_t> scales = {0x7E, 0x4C, 0x38, 0x76};
  const std::vector<std::uint8_t> expected = {0x7e, 0x4c, 0x38, 0x76, 0x71, 0x9a, 0x25, 0x0f, 0xd0,
                                              0x60, 0x08, 0x84, 0x51, 0xaa, 0x25, 0x0f, 0xe0, 0x60,
                                              0x08, 0x84, 0,    0,    0,    0,    0,    0,    0,
                                              0,    0xd3, 0x75, 0x0f, 0xd7, 0x73, 0xfa, 0x35, 0x46};
  std::vector<std::byte> block(36);
  nvfp4_block_from(codes.data(), scales.data(), block.data());
  EXPECT_TRUE(std::ranges::equal(std::as_bytes(std::span(expected)), block));
  std::vector<std::uint8_t> codes_again(32), scales_again(4);
  nvfp4_block_to(block.data(), codes_again.data(), scales_again.data());
  EXPECT_EQ(codes_again, codes);
  EXPECT_EQ(scales_again, scales);
  std::vector<float> ours(64), theirs(64);
  nvfp4::dequantize(codes.data(), scales.data(), 1, 64, 1, ours.data());
  ggml_format("NVFP4").dequantize(block.data(), 1, theirs.data());
  EXPECT_EQ(ours, theirs);
}

TEST(Q8, RoundsToTheNearestMultipleOfItsScale) {
  std::vector<float> x(64, 0);
  for (int i = 0; i < 32; ++i) x[i] = static_cast<float>(i - 16) * 127 / 16;  // scale 1 exactly
  x[1] = 2.5f;
  std::vector<std::byte> blocks(2 * 34);
  encode_q8_0(x.data(), 64, blocks.data());
  std::vector<float> y(64);
  ggml_format("Q8_0").dequantize(blocks.data(), 2, y.data());
  for (int i = 0; i < 64; ++i) EXPECT_EQ(y[i], std::round(x[i])) << i;
  EXPECT_EQ(y[1], 3);  // halves away from zero
}

// Two layers' worth of nothing in particular: llama with q, k, v, o in NVFP4.
struct Tiny {
  static constexpr std::int64_t kHidden = 64;
  OutModel m;

  Tiny() {
    m.config = {{"architectures", {"LlamaForCausalLM"}},
                {"model_type", "llama"},
                {"hidden_size", kHidden},
                {"intermediate_size", kHidden},
                {"num_hidden_layers", 1},
                {"num_attention_heads", 4},
                {"num_key_value_heads", 4},
                {"max_position_embeddings", 128},
                {"rms_norm_eps", 1e-5},
                {"vocab_size", 32},
                {"torch_dtype", "bfloat16"},
                {"tie_word_embeddings", true}};
    m.tokenizer = {{"tokenizer.ggml.model", "llama"},
                   {"tokenizer.ggml.tokens", std::vector<std::string>(32, "t")},
                   {"tokenizer.ggml.scores", std::vector<float>(32, 0.5f)},
                   {"tokenizer.ggml.eos_token_id", 2u}};
    plain("model.embed_tokens.weight", {32, kHidden});
    plain("model.norm.weight", {kHidden});
    plain("model.layers.0.input_layernorm.weight", {kHidden});
    plain("model.layers.0.post_attention_layernorm.weight", {kHidden});
    int seed = 1;
    for (const char* leaf : {"q_proj", "k_proj", "v_proj", "o_proj"})
      quantized(std::string("model.layers.0.self_attn.") + leaf + ".weight", seed++);
    for (const char* leaf : {"gate_proj", "up_proj", "down_proj"})
      plain(std::string("model.layers.0.mlp.") + leaf + ".weight", {kHidden, kHidden});
  }
  void plain(const std::string& name, std::vector<std::int64_t> shape) {
    const std::int64_t n = *count_elements(shape);
    m.weights.push_back({name, std::move(shape), DType::bf16, {}, {}, {}});
    m.weights.back().fill = [n](std::byte* out) {
      for (std::int64_t i = 0; i < n; ++i) {
        const auto bits = static_cast<std::uint16_t>(0x3F00 + i % 97);
        std::memcpy(out + 2 * i, &bits, 2);
      }
    };
  }
  void quantized(const std::string& name, int seed) {
    m.weights.push_back({name, {kHidden, kHidden}, DType::bf16, {}, {}, {}});
    m.weights.back().nvfp4 = {0x1p-5f, 0x1p-3f, [seed](std::uint8_t* codes, std::uint8_t* scales) {
                                for (int i = 0; i < kHidden * kHidden / 2; ++i)
                                  codes[i] = static_cast<std::uint8_t>(i * 37 + seed);
                                for (int i = 0; i < kHidden * kHidden / 16; ++i)
                                  scales[i] = static_cast<std::uint8_t>(0x20 + (i + seed) % 80);
                              }};
  }
};

std::vector<std::byte> bytes_of(const TensorBytes& t) {
  const std::span<const std::byte> span = t;
  return {span.begin(), span.end()};
}

// Through each format that keeps NVFP4 and back: the same codes, scales and plain values.
TEST(Formats, KeepCodesScalesAndValues) {
  const ScratchFolder scratch;
  const Tiny tiny;
  format_named("modelopt").write(scratch / "a", tiny.m);
  const Checkpoint a = open(scratch / "a");
  ASSERT_THAT(problems(a), IsEmpty());
  for (const char* name : {"compressed-tensors", "gguf", "torchao", "modelopt"}) {
    OutModel again = out_model(a, std::nullopt);
    again.tokenizer = tiny.m.tokenizer;
    again.max_shard_bytes = 10000;
    const fs::path path = scratch / name;
    format_named(name).write(path, again);
    const Checkpoint b = open(path);
    EXPECT_THAT(problems(b), IsEmpty()) << name;
    for (const auto& [tensor, t] : a.tensors) {
      ASSERT_TRUE(b.has(tensor)) << name << " " << tensor;
      const Tensor& u = b.at(tensor);
      EXPECT_EQ(t.shape, u.shape) << name << " " << tensor;
      if (t.dtype == DType::u8 || t.dtype == DType::f8_e4m3) {
        EXPECT_EQ(bytes_of(TensorBytes(t)), bytes_of(TensorBytes(u))) << name << " " << tensor;
        continue;
      }
      std::vector<float> x(static_cast<std::size_t>(t.elements())), y = x;
      read_f32(t, x.data());
      read_f32(u, y.data());
      EXPECT_EQ(x, y) << name << " " << tensor;
    }
    EXPECT_EQ(find_nvfp4(b, "model.layers.0.self_attn.q_proj")->input_scale, 0x1p-3f) << name;
  }
}

// Scales of an FP8 cache go both ways, whatever an architecture calls its attention.
TEST(Formats, KeepTheScalesOfACache) {
  for (const std::string mixer : {"self_attn", "mixer"}) {
    const ScratchFolder scratch;
    Tiny tiny;
    for (OutWeight& w : tiny.m.weights)
      if (const auto at = w.name.find("self_attn"); at != w.name.npos) w.name.replace(at, 9, mixer);
    tiny.m.kv_cache_algo = "FP8";
    const std::string layer = "model.layers.0." + mixer;
    tiny.m.kv_scales = {{layer + ".k_proj.k_scale", 0x1p-6f}, {layer + ".v_proj.v_scale", 0.3f}};
    format_named("compressed-tensors").write(scratch / "ct", tiny.m);
    const Checkpoint ct = open(scratch / "ct");
    format_named("modelopt").write(scratch / "back", out_model(ct, std::nullopt));
    const Checkpoint back = open(scratch / "back");
    for (const Checkpoint* c : {&ct, &back}) {
      const OutModel m = out_model(*c, std::nullopt);
      EXPECT_EQ(m.kv_cache_algo, "FP8") << mixer;
      EXPECT_EQ(m.kv_scales, tiny.m.kv_scales) << mixer;
    }
    const auto file = read_safetensors(scratch / "ct/model.safetensors");
    EXPECT_EQ(std::count_if(file.tensors.begin(), file.tensors.end(),
                            [&](const Tensor& t) {
                              return t.name == layer + ".k_scale" || t.name == layer + ".v_scale";
                            }),
              2);
  }
}

// NVIDIA's layout of block scales: in a tile of 128 x 4, the scale (r, c) is byte
// r % 32 * 16 + r / 32 * 4 + c; tiles follow each other along rows.
TEST(Torchao, SwizzledScalesAreTilesOf512Bytes) {
  constexpr std::int64_t kRows = 130, kCols = 5;
  std::vector<std::uint8_t> scales(kRows * kCols);
  for (std::size_t i = 0; i < scales.size(); ++i)
    scales[i] = static_cast<std::uint8_t>(i % 251 + 1);
  ASSERT_EQ(swizzled_bytes(kRows, kCols), 4 * 512);
  std::vector<std::uint8_t> tiles(4 * 512, 0xFF), again(scales.size());
  swizzle_scales(scales.data(), kRows, kCols, tiles.data());
  for (const auto& [row, col, at] :
       {std::tuple(0, 0, 0), std::tuple(0, 3, 3), std::tuple(1, 0, 16), std::tuple(32, 1, 5),
        std::tuple(127, 3, 511), std::tuple(0, 4, 512), std::tuple(128, 0, 1024),
        std::tuple(129, 4, 1536 + 16)})
    EXPECT_EQ(tiles[at], scales[row * kCols + col]) << row << ", " << col;
  EXPECT_EQ(std::count(tiles.begin(), tiles.end(), 0), 4 * 512 - kRows * kCols) << "filled up";
  unswizzle_scales(tiles.data(), kRows, kCols, again.data());
  EXPECT_EQ(again, scales);
}

// Transformers joins the metadata of all shards, the last one's list of names with it.
TEST(Torchao, DescribesAllTensorsInEveryShard) {
  const ScratchFolder scratch;
  Tiny tiny;
  tiny.m.max_shard_bytes = 10000;
  format_named("torchao").write(scratch / "m", tiny.m);
  int shards = 0;
  for (const auto& entry : fs::directory_iterator(scratch / "m")) {
    if (entry.path().extension() != ".safetensors") continue;
    ++shards;
    const auto metadata = read_safetensors(entry.path()).metadata;
    EXPECT_EQ(parse_json(metadata.at("tensor_names"), "").size(), tiny.m.weights.size());
    for (const OutWeight& w : tiny.m.weights)
      EXPECT_EQ(parse_json(metadata.at(w.name), "")["_type"], w.nvfp4 ? "NVFP4Tensor" : "Tensor");
  }
  EXPECT_GT(shards, 2);
}

// What another program may have written: scales in rows, no global scale, names of the model in
// memory in the metadata; and what is refused.
TEST(Torchao, ReadsWhatTheMetadataDescribes) {
  const ScratchFolder scratch;
  const Json config = {{"quantization_config", {{"quant_method", "torchao"}}}};
  const auto described = [](Json data, const char* type = "NVFP4Tensor") {
    return Json{{"_type", type}, {"_data", std::move(data)}}.dump();
  };
  const Json plain = {
      {"block_size", 16}, {"is_swizzled_scales", false}, {"act_quant_kwargs", nullptr}};
  const auto written = [&](std::map<std::string, std::string> metadata, bool input = false) {
    OutFolder folder;
    folder.config = config;
    folder.metadata = std::move(metadata);
    append_codes_and_scales(folder.tensors, "backbone.x._weight_qdata", "backbone.x._weight_scale",
                            2, 32, [](std::uint8_t* codes, std::uint8_t* scales) {
                              std::fill_n(codes, 32, std::uint8_t{0x22});  // 1, 1
                              for (int i = 0; i < 4; ++i)
                                scales[i] = static_cast<std::uint8_t>(0x38 + 8 * i);  // 1, 2, 4, 8
                            });
    if (input)
      folder.tensors.push_back(
          scalar_tensor("backbone.x._weight_act_per_tensor_scale", {}, {0.5f}));
    write_folder(scratch / "m", folder);
    return open(scratch / "m");
  };
  for (const char* name : {"backbone.x.weight", "model.x.weight"}) {
    const Checkpoint c = written({{name, described(plain)}});
    EXPECT_THAT(problems(c), IsEmpty()) << name;
    const OutModel m = out_model(c, std::nullopt);
    ASSERT_EQ(m.weights.size(), 1u);
    EXPECT_EQ(algo_of(m.weights[0]), "W4A16_NVFP4");
    std::vector<float> values(64);
    values_of(m.weights[0], values.data());
    for (int i = 0; i < 64; ++i) EXPECT_EQ(values[i], 1 << i / 16) << i;
  }
  Json inputs = plain;
  inputs["act_quant_kwargs"] = {{"_data", {{"use_dynamic_per_tensor_scale", false}}}};
  const Checkpoint w4a4 = written({{"backbone.x.weight", described(inputs)}}, true);
  EXPECT_EQ(find_nvfp4(w4a4, "backbone.x")->input_scale, 0.5f);

  const auto refused = [&](const std::string& entry, const char* text, bool input = false) {
    EXPECT_THAT(error_of([&] { written({{"backbone.x.weight", entry}}, input); }), HasSubstr(text));
  };
  refused(described(plain, "Float8Tensor"),
          "expected torchao's NVFP4Tensor, found \"Float8Tensor\"");
  refused("7", "expected torchao's NVFP4Tensor");
  refused("{", "__metadata__ of backbone.x.weight");
  refused(described({{"block_size", 32}}), "expected block_size 16, found 32");
  refused(described(plain), "act_quant_kwargs is null", true);
  Json swizzled = plain;
  swizzled["is_swizzled_scales"] = true;
  refused(described(swizzled), "expected F8_E4M3 [32, 16] in tiles of 128 x 4");
  inputs["act_quant_kwargs"]["_data"]["use_dynamic_per_tensor_scale"] = true;
  refused(described(inputs), "expected use_dynamic_per_tensor_scale false");
  EXPECT_THAT(error_of([&] { written({}); }), HasSubstr("has no entry backbone.x.weight"));
}

// Of an outline, before there are values.
TEST(Formats, AreCheckedBeforeTheWork) {
  Tiny tiny;
  for (OutWeight& w : tiny.m.weights) {
    w.fill = {};
    if (w.nvfp4) w.nvfp4->fill = {};
  }
  for (const Format& f : formats())
    EXPECT_NO_THROW(check_format(f, f.name.starts_with("gguf") ? "m.gguf" : "m", tiny.m)) << f.name;
  EXPECT_THAT(error_of([&] { check_format(format_named("torchao"), "m.gguf", tiny.m); }),
              HasSubstr("the name of a GGUF file, but the format is torchao"));
  OutModel amax = tiny.m;
  for (OutWeight& w : amax.weights)
    if (w.nvfp4) w.nvfp4->global_scale = 0.3f;
  EXPECT_THAT(error_of([&] { check_format(format_named("mlx"), "m", amax); }),
              HasSubstr("--global-scale pow2"));
  tiny.quantized("model.layers.0.mlp.experts.0.up_proj.weight", 9);
  EXPECT_THAT(error_of([&] { check_format(format_named("torchao"), "m", tiny.m); }),
              HasSubstr("torchao keeps a layer's experts stacked"));
  EXPECT_THAT(error_of([&] { check_format(format_named("gguf"), "m", tiny.m); }),
              HasSubstr("GGUF has no name for it"));
}

// MLX has no global scales: a norm takes those of q, k and v, and o is stored as values.
TEST(Formats, MlxComputesTheSameProducts) {
  const ScratchFolder scratch;
  const Tiny tiny;
  format_named("modelopt").write(scratch / "a", tiny.m);
  const auto changes = format_named("mlx").write(scratch / "b", tiny.m);
  EXPECT_THAT(changes, Contains(HasSubstr("3 NVFP4 weights keep")));
  EXPECT_THAT(changes, Contains(HasSubstr("1 quantised weights are BF16")));
  const Json config = read_json(scratch / "b/config.json")["quantization"];
  EXPECT_EQ(config["mode"], "nvfp4");
  EXPECT_EQ(config["model.layers.0.self_attn.o_proj"], false);
  EXPECT_FALSE(config.contains("model.layers.0.self_attn.q_proj"));
  const Checkpoint a = open(scratch / "a"), b = open(scratch / "b");
  EXPECT_THAT(problems(b), IsEmpty());
  const std::string layer = "model.layers.0.", q = layer + "self_attn.q_proj";
  const auto x = find_nvfp4(a, q), y = find_nvfp4(b, q);
  EXPECT_EQ(bytes_of(x->codes()), bytes_of(y->codes()));
  EXPECT_EQ(bytes_of(x->scales()), bytes_of(y->scales()));
  EXPECT_EQ(x->global_scale, 0x1p-5f);
  EXPECT_EQ(y->global_scale, 1);
  const auto values = [](const Checkpoint& c, const std::string& name) {
    std::vector<float> v(static_cast<std::size_t>(c.at(name).elements()));
    read_f32(c.at(name), v.data());
    return v;
  };
  std::vector<float> norm = values(a, layer + "input_layernorm.weight");
  for (float& n : norm) n *= 0x1p-5f;
  EXPECT_EQ(values(b, layer + "input_layernorm.weight"), norm);
  EXPECT_EQ(values(b, layer + "post_attention_layernorm.weight"),
            values(a, layer + "post_attention_layernorm.weight"));
  OutModel other = tiny.m;
  for (OutWeight& w : other.weights)
    if (w.nvfp4) w.nvfp4->global_scale = 0.3f;
  EXPECT_THAT(error_of([&] { format_named("mlx").write(scratch / "c", other); }),
              HasSubstr("quantise it with --global-scale pow2"));
}

TEST(ModelCard, IsInEveryFolderAndHandsOnWhatWasDone) {
  const ScratchFolder scratch;
  Tiny tiny;
  tiny.m.name = "tiny";
  tiny.m.about = "Distilled from **itself**.\n\n| a | b |\n";
  for (const Format& f : formats()) {
    f.write(scratch / f.name, tiny.m);
    const std::string card = read_text(scratch / f.name / "README.md");
    EXPECT_TRUE(card.starts_with("---\nlibrary_name: ")) << f.name;
    EXPECT_THAT(card, HasSubstr("# tiny\n")) << f.name;
    EXPECT_EQ(card.find("| NVFP4 | 4 | 16384 |") == card.npos, f.name.ends_with("bf16")) << f.name;
    EXPECT_THAT(card, HasSubstr(f.name == "mlx" ? "mlx_lm" : "llama-server")) << f.name;
    EXPECT_EQ(about_of(scratch / f.name), tiny.m.about) << f.name;
  }
  EXPECT_EQ(about_of(scratch / "none"), "");
}

TEST(Formats, SayWhatIsKnown) {
  EXPECT_THAT(error_of([] { format_named("ggml"); }), HasSubstr("did you mean \"gguf\""));
  EXPECT_GE(formats().size(), 6u);
}

TEST(Formats, AnAbandonedWritingLeavesNothing) {
  const ScratchFolder scratch;
  Tiny tiny;
  struct Stop {};
  tiny.m.progress = [](std::int64_t done, std::int64_t all) {
    if (2 * done > all) throw Stop{};
  };
  for (const Format& f : formats()) {
    EXPECT_THROW(f.write(scratch / "x", tiny.m), Stop) << f.name;
    EXPECT_TRUE(fs::is_empty(scratch.path())) << f.name;
  }
  EXPECT_THROW(format_named("gguf").write(scratch / "x.gguf", tiny.m), Stop);
  EXPECT_TRUE(fs::is_empty(scratch.path()));
}

TEST(Gguf, RefusesWhatItHasNoNameFor) {
  const ScratchFolder scratch;
  Tiny tiny;
  tiny.plain("model.layers.0.self_attn.sinks.weight", {4});
  EXPECT_THAT(error_of([&] { format_named("gguf").write(scratch / "x", tiny.m); }),
              HasSubstr("sinks.weight: GGUF has no name for it in a llama"));
  Tiny other;
  other.m.config["model_type"] = "gemma";
  EXPECT_THAT(error_of([&] { format_named("gguf").write(scratch / "x", other.m); }),
              HasSubstr("model_type \"gemma\""));
}

// --- FP8 and MXFP4 in HF folders ---

struct Folder {
  ScratchFolder scratch;
  Json header = Json::object();
  std::string data;

  void add(const std::string& name, const char* type, std::vector<std::int64_t> shape,
           std::string bytes) {
    header[name] = {{"dtype", type},
                    {"shape", shape},
                    {"data_offsets", {data.size(), data.size() + bytes.size()}}};
    data += bytes;
  }
  void add_f32(const std::string& name, std::vector<std::int64_t> shape, std::vector<float> x) {
    add(name, "F32", std::move(shape),
        {reinterpret_cast<const char*>(x.data()), x.size() * sizeof(float)});
  }
  Checkpoint opened(const Json& quantization) {
    const std::string text = header.dump();
    const std::uint64_t length = text.size();
    std::string file(reinterpret_cast<const char*>(&length), 8);
    write_file(scratch / "model.safetensors", file + text + data);
    write_file(scratch / "config.json",
               to_text({{"model_type", "llama"}, {"quantization_config", quantization}}));
    return open(scratch.path());
  }
};

std::vector<float> read(const Checkpoint& c, const std::string& name) {
  std::vector<float> x(static_cast<std::size_t>(c.at(name).elements()));
  read_f32(c.at(name), x.data());
  return x;
}

TEST(Fp8, IsReadByItsScales) {
  // E4M3: 0x38 is 1, 0x40 2, 0xC4 -3, 0x01 2^-9.
  const std::string codes("\x38\x40\xC4\x01", 4);
  for (const auto& [shape, scales, expected] :
       {std::tuple(std::vector<std::int64_t>{}, std::vector{0.5f},
                   std::vector{0.5f, 1.0f, -1.5f, 0x1p-10f}),
        std::tuple(std::vector<std::int64_t>{1}, std::vector{0.5f},
                   std::vector{0.5f, 1.0f, -1.5f, 0x1p-10f}),
        std::tuple(std::vector<std::int64_t>{2}, std::vector{0.5f, 4.0f},
                   std::vector{0.5f, 1.0f, -12.0f, 0x1p-7f}),
        std::tuple(std::vector<std::int64_t>{2, 1}, std::vector{0.5f, 4.0f},
                   std::vector{0.5f, 1.0f, -12.0f, 0x1p-7f})}) {
    Folder f;
    f.add("x.weight", "F8_E4M3", {2, 2}, codes);
    f.add_f32("x.weight_scale", shape, scales);
    f.add_f32("x.input_scale", {}, {2});
    const Checkpoint c = f.opened({{"quant_method", "modelopt"}, {"quant_algo", "FP8"}});
    EXPECT_EQ(read(c, "x.weight"), expected);
    EXPECT_EQ(c.tensors.size(), 1u);
    // With one scale of each it is quantised, inputs and all; else it can be quantised anew.
    EXPECT_EQ(c.quantization.is_null(), scales.size() > 1);
    EXPECT_EQ(c.at("x.weight").fp8->input_scale, 2.0f);
  }
}

TEST(Fp8, OfNoRowsHasNoValues) {
  Folder f;
  f.add("x.weight", "F8_E4M3", {0, 2}, "");
  f.add_f32("x.weight_scale", {0}, {});
  const Checkpoint c = f.opened({{"quant_method", "modelopt"}, {"quant_algo", "FP8"}});
  const OutModel m = out_model(c, {});
  ASSERT_EQ(m.weights.size(), 1u);
  float none = 7;
  values_of(m.weights[0], &none);
  EXPECT_EQ(none, 7);
}

TEST(Fp8, TilesOf128HaveAScaleEach) {
  constexpr std::int64_t kRows = 130, kCols = 257;
  Folder f;
  f.add("x.weight", "F8_E4M3", {kRows, kCols}, std::string(kRows * kCols, '\x38'));
  f.add_f32("x.weight_scale_inv", {2, 3}, {1, 2, 3, 4, 5, 6});
  const Checkpoint c = f.opened({{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}});
  const std::vector<float> x = read(c, "x.weight");
  for (const auto& [row, col, value] :
       {std::tuple(0, 0, 1.0f), std::tuple(127, 127, 1.0f), std::tuple(0, 128, 2.0f),
        std::tuple(127, 256, 3.0f), std::tuple(128, 0, 4.0f), std::tuple(129, 256, 6.0f)})
    EXPECT_EQ(x[static_cast<std::size_t>(row * kCols + col)], value) << row << " " << col;
  EXPECT_EQ(c.at("x.weight").fp8, nullptr);
}

TEST(Fp8, RefusesPartsThatDoNotFit) {
  const auto error = [](std::vector<std::int64_t> shape, std::vector<float> scales) {
    Folder f;
    f.add("x.weight", "F8_E4M3", {2, 2}, "1234");
    if (!scales.empty()) f.add_f32("x.weight_scale", std::move(shape), std::move(scales));
    return error_of([&] { f.opened({{"quant_method", "fp8"}}); });
  };
  EXPECT_THAT(error({}, {}), HasSubstr("x.weight_scale (or .weight_scale_inv) is missing"));
  EXPECT_THAT(error({3}, {1, 1, 1}), HasSubstr("one for each 128 x 128 of [2, 2], found [3]"));
  EXPECT_THAT(error({}, {NAN}), HasSubstr("expected finite positive scales, found nan"));
  EXPECT_THAT(error({2}, {1, 0}), HasSubstr("found 0"));
}

TEST(Fp8, StaysWhatItIsAmongNvfp4) {
  const ScratchFolder scratch;
  Folder f;
  f.add("a.weight", "F8_E4M3", {2, 16}, std::string(32, '\x38'));
  f.add_f32("a.weight_scale", {}, {0.5f});
  f.add_f32("a.input_scale", {}, {0.25f});
  f.add("b.weight", "U8", {2, 8}, std::string(16, '\x21'));
  f.add("b.weight_scale", "F8_E4M3", {2, 1}, "\x38\x38");
  f.add_f32("b.weight_scale_2", {}, {0.5f});
  f.add_f32("b.input_scale", {}, {0.25f});
  const Json layers = {{"a", {{"quant_algo", "FP8"}}},
                       {"b", {{"quant_algo", "NVFP4"}, {"group_size", 16}}}};
  const Checkpoint source = f.opened({{"quant_method", "modelopt"},
                                      {"quant_algo", "MIXED_PRECISION"},
                                      {"quantized_layers", layers}});
  std::vector<std::string> changes;
  write_folder(scratch / "ct", compressed_tensors_folder(out_model(source, {}), changes));
  const Json ct = read_json(scratch / "ct/config.json")["quantization_config"];
  EXPECT_EQ(ct["format"], "mixed-precision");
  EXPECT_EQ(ct["config_groups"]["group_0"]["targets"], Json::array({"a"}));
  EXPECT_EQ(ct["config_groups"]["group_1"]["targets"], Json::array({"b"}));
  const Checkpoint back = open(scratch / "ct");
  write_folder(scratch / "m", modelopt_folder(out_model(back, {}), changes));
  const Json m = read_json(scratch / "m/hf_quant_config.json")["quantization"];
  EXPECT_EQ(m["quant_algo"], "MIXED_PRECISION");
  EXPECT_EQ(nlohmann::json(m["quantized_layers"]), nlohmann::json(layers));
  const Checkpoint again = open(scratch / "m");
  EXPECT_EQ(read(again, "a.weight"), read(source, "a.weight"));
  EXPECT_EQ(again.at("a.weight").fp8->input_scale, 0.25f);
  EXPECT_EQ(find_nvfp4(again, "b")->global_scale, 0.5f);
}

TEST(Mxfp4, IsReadAsValues) {
  Folder f;
  f.add("x.weight_packed", "U8", {1, 16}, std::string("\x21\xF7", 2) + std::string(14, '\0'));
  f.add("x.weight_scale", "U8", {1, 1}, "\x80");  // 2^1
  const Checkpoint c = f.opened({{"quant_method", "compressed-tensors"}, {"config_groups", {}}});
  const std::vector<float> x = read(c, "x.weight");
  ASSERT_EQ(x.size(), 32u);
  EXPECT_THAT(std::vector(x.begin(), x.begin() + 5), ElementsAre(1, 2, 12, -12, 0));
  EXPECT_EQ(c.at("x.weight").stored_as, "MXFP4");
  EXPECT_EQ(c.tensors.size(), 1u);
}

// --- compressed-tensors, malformed ---

TEST(CompressedTensors, RefusesWhatWouldComputeSomethingElse) {
  const Json operand = {
      {"num_bits", 4}, {"type", "float"}, {"group_size", 16}, {"dynamic", "local"}};
  const Json good = {
      {"quant_method", "compressed-tensors"},
      {"config_groups", {{"group_0", {{"weights", operand}, {"input_activations", operand}}}}}};
  const auto error = [&](const std::string& leave_out, const Json& quantization) {
    Folder f;
    const auto add = [&](const std::string& name, auto&& how) {
      if (name != leave_out) how(name);
    };
    add("x.weight_packed", [&](auto& n) { f.add(n, "U8", {2, 8}, std::string(16, '\x21')); });
    add("x.weight_scale", [&](auto& n) { f.add(n, "F8_E4M3", {2, 1}, "\x38\x38"); });
    add("x.weight_global_scale", [&](auto& n) { f.add_f32(n, {1}, {4}); });
    add("x.input_global_scale", [&](auto& n) { f.add_f32(n, {1}, {8}); });
    return error_of([&] {
      const Checkpoint c = f.opened(quantization);
      const auto w = find_nvfp4(c, "x");
      EXPECT_EQ(w->global_scale, 0.25f);
      EXPECT_EQ(w->input_scale, leave_out.empty() ? std::optional(0.125f) : std::nullopt);
    });
  };
  EXPECT_EQ(error("", good), "");
  EXPECT_THAT(error("x.weight_packed", good), HasSubstr("x.weight_packed is missing"));
  EXPECT_THAT(error("x.weight_scale", good), HasSubstr("x.weight_scale is missing"));
  EXPECT_THAT(error("x.input_global_scale", good), HasSubstr("x.input_global_scale is missing"));
  EXPECT_THAT(error("x.weight_global_scale", good), HasSubstr("quantised as compressed-tensors"));
  Json weight_only = good;
  weight_only["config_groups"]["group_0"]["input_activations"] = nullptr;
  EXPECT_EQ(error("x.input_global_scale", weight_only), "");
  EXPECT_THAT(error("", weight_only), HasSubstr("no group of config_groups quantises inputs"));
  Json dynamic = good;
  dynamic["config_groups"]["group_0"]["input_activations"]["dynamic"] = true;
  EXPECT_THAT(error("", dynamic), HasSubstr("with a calibrated scale"));
  Json rotated = good;
  rotated["transform_config"]["config_groups"]["R1"] = {{"type", "hadamard"}};
  EXPECT_THAT(error("", rotated), HasSubstr("rotated as they run"));
}

}  // namespace
}  // namespace qad::checkpoint
