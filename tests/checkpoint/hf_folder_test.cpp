#include "checkpoint/hf_folder.h"

#include <gmock/gmock.h>

#include "checkpoint/nvfp4_tensors.h"
#include "files.h"

namespace qad::checkpoint {
namespace {

using testing::HasSubstr;

// A file of one U8 tensor of 4 bytes for each name.
std::string file_of(const std::vector<std::string>& names) {
  Json header;
  for (std::size_t i = 0; i < names.size(); ++i)
    header[names[i]] = {{"dtype", "U8"}, {"shape", {4}}, {"data_offsets", {4 * i, 4 * i + 4}}};
  return safetensors_file(header.dump(), 4 * names.size());
}

class HfFolder : public testing::Test {
 protected:
  void write(const std::string& name, const std::string& content) {
    write_file(folder_ / name, content);
  }
  std::string open_error() {
    return error_of([&] { open(folder_.path()); });
  }
  ScratchFolder folder_;
};

TEST_F(HfFolder, OpensShardsByTheirIndex) {
  write("config.json", R"({"model_type": "llama"})");
  write("model-1.safetensors", file_of({"a", "b"}));
  write("model-2.safetensors", file_of({"c"}));
  write("model.safetensors.index.json",
        R"({"metadata": {"total_size": 12},
            "weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}})");
  const Checkpoint c = open(folder_.path());
  EXPECT_EQ(c.format, "safetensors");
  EXPECT_EQ(c.config["model_type"], "llama");
  EXPECT_TRUE(c.generation_config.is_null());
  EXPECT_EQ(c.tensors.size(), 3u);
  EXPECT_EQ(std::to_integer<int>(c.at("b").raw[0]), 4);
  EXPECT_THAT(error_of([&] { c.at("aa"); }),
              HasSubstr("expected a tensor aa, found none; the nearest name is a"));
}

TEST_F(HfFolder, RefusesAnIndexThatDoesNotFitItsShards) {
  const struct {
    const char* index;
    const char* error;
  } cases[] = {
      {"[]", "expected a JSON object"},
      {"{}", "non-empty object \"weight_map\""},
      {R"({"weight_map": {}})", "non-empty object \"weight_map\""},
      {R"({"weight_map": {"a": 1}})", "expected a file name for tensor a"},
      {R"({"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "gone.safetensors"}})",
       "missing shard gone.safetensors (tensor c)"},
      {R"({"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "x": "one.safetensors"}})",
       "tensor x is not in one.safetensors"},
      {R"({"weight_map": {"a": "one.safetensors"}})",
       "holds tensor b, which the index puts in no shard"},
      {R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})",
       "one.safetensors holds tensor b, which the index puts in two.safetensors"},
      {R"({"weight_map": {"a": "../one.safetensors"}})",
       "in this folder, found \"../one.safetensors\""},
      {R"({"weight_map": {"a": "/etc/one.safetensors"}})", "in this folder"},
      {R"({"weight_map": {"a": "..\\one.safetensors"}})", "in this folder"},
      {R"({"weight_map": {"a": "one.safetensors\u0000.safetensors"}})", "in this folder"},
      {R"({"weight_map": {"a": ".."}})", "in this folder"},
      {R"({"weight_map": {"a": ""}})", "in this folder"},
      {R"({"weight_map": {"a": "config.json"}})", "in this folder"},
      {R"({"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}})",
       "duplicate key \"a\""},
  };
  write("config.json", "{}");
  write("one.safetensors", file_of({"a", "b"}));
  write("two.safetensors", file_of({"b"}));
  for (const auto& [index, error] : cases) {
    write("model.safetensors.index.json", index);
    EXPECT_THAT(open_error(), HasSubstr(error)) << index;
  }
}

TEST_F(HfFolder, SaysWhatIsMissing) {
  EXPECT_THAT(open_error(), HasSubstr("config.json is missing"));
  write("config.json", "{}");
  write("pytorch_model.bin", "x");
  EXPECT_THAT(open_error(),
              HasSubstr("expected model.safetensors or model.safetensors.index.json, found "
                        "pytorch_model.bin; PyTorch pickles must be converted"));
  write("model.safetensors", file_of({"a"}));
  EXPECT_EQ(open_error(), "");
  write("config.json", "[]");
  EXPECT_THAT(open_error(), HasSubstr("config.json: expected a JSON object"));
}

TEST(Open, NamesTheFormatsItKnows) {
  const ScratchFolder scratch;
  EXPECT_THAT(error_of([&] { open(scratch / "none"); }), HasSubstr("no such file or folder"));
  write_file(scratch / "model.safetensors", file_of({"a"}));
  EXPECT_THAT(error_of([&] { open(scratch / "model.safetensors"); }),
              HasSubstr("give the folder that holds this file"));
  write_file(scratch / "notes.txt", "x");
  EXPECT_THAT(error_of([&] { open(scratch / "notes.txt"); }),
              HasSubstr("expected a Hugging Face folder"));
}

TEST_F(HfFolder, ReadsBothFormsOfQuantisationMetadata) {
  const Json nested =
      parse_json(R"({"producer": {"name": "modelopt", "version": "0.45.0"}, "quantization":
    {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16, "exclude_modules": ["lm_head"]}})",
                 "n");
  const Json flat = parse_json(R"({"quant_method": "modelopt", "quant_algo": "NVFP4",
    "producer": {"name": "modelopt", "version": "0.45.0"}, "config_groups": {"group_0": {"weights": {"dynamic": false,
    "num_bits": 4, "type": "float", "group_size": 16}, "targets": ["Linear"]}}, "ignore": ["lm_head"],
    "kv_cache_scheme": {"dynamic": false, "num_bits": 8, "type": "float"}})",
                               "f");
  for (const Json& json : {normalised_quantization(nested, {}), normalised_quantization({}, flat),
                           normalised_quantization(nested, flat)}) {
    const Quantization q = read_quantization(json);
    EXPECT_EQ(q.method, "modelopt");
    EXPECT_EQ(q.algo, "NVFP4");
    EXPECT_EQ(q.kv_cache_algo, "FP8");
    EXPECT_EQ(q.producer, "modelopt");
    EXPECT_EQ(q.group_size, 16);
    EXPECT_EQ(q.excluded, std::vector<std::string>{"lm_head"});
  }
  EXPECT_EQ(read_quantization(normalised_quantization({}, {})).algo, "");

  for (const char* other :
       {R"({"num_bits": 8, "type": "int"})", R"({"num_bits": 4, "type": "float"})",
        R"({"num_bits": 8, "type": "float", "strategy": "attn_head"})",
        R"({"num_bits": 8, "type": "float", "dynamic": true})"}) {
    Json changed = flat;
    changed["kv_cache_scheme"] = parse_json(other, "kv");
    EXPECT_THAT(error_of([&] { normalised_quantization({}, changed); }),
                HasSubstr("kv_cache_scheme: expected FP8"))
        << other;
  }

  write("model.safetensors", file_of({"a"}));
  write("config.json", Json{{"model_type", "llama"}, {"quantization_config", flat}}.dump());
  const Checkpoint c = open(folder_.path());
  EXPECT_FALSE(c.config.contains("quantization_config"));
  EXPECT_EQ(c.quantization["quant_algo"], "NVFP4");
  write("hf_quant_config.json", "{}");
  EXPECT_THAT(open_error(), HasSubstr("expected an object \"quantization\""));
}

TEST(Quantization, ExclusionIsExactOrGlobOrPrefix) {
  Quantization q;
  q.algo = "NVFP4";
  q.excluded = {"lm_head", "model.layers.0.self_attn*", "*.mlp.gate", "mtp.*",
                "model.layers.[12].x"};
  for (const char* name : {"lm_head", "model.layers.0.self_attn", "model.layers.0.self_attn.q_proj",
                           "model.layers.7.mlp.gate", "mtp", "mtp.fc", "model.layers.2.x"})
    EXPECT_EQ(q.algo_of(name), "") << name;
  for (const char* name :
       {"lm_head2", "model.layers.1.self_attn.q_proj", "model.layers.7.mlp.gate_proj", "mtp2",
        "model.layers.3.x", "model.lm_head"})
    EXPECT_EQ(q.algo_of(name), "NVFP4") << name;
}

TEST(Quantization, MixedPrecisionNamesItsLayers) {
  const Quantization q =
      read_quantization(parse_json(R"({"quant_algo": "MIXED_PRECISION", "quantized_layers": {
    "m.0.q_proj": {"quant_algo": "FP8"}, "m.0.mlp.experts": {"quant_algo": "NVFP4", "group_size": 16}}})",
                                   "q"));
  EXPECT_EQ(q.algo_of("m.0.q_proj"), "FP8");
  EXPECT_EQ(q.algo_of("m.0.mlp.experts.3.up_proj"), "NVFP4");
  EXPECT_EQ(q.algo_of("m.0.mlp.experts2"), "");
  EXPECT_EQ(q.algo_of("m.0"), "");
}

TEST(Quantization, RefusesMalformedMetadata) {
  for (const char* text :
       {R"({"quant_algo": 4})", R"({"group_size": "16"})", R"({"exclude_modules": "lm_head"})",
        R"({"exclude_modules": [1]})", R"({"quantized_layers": []})",
        R"({"quantized_layers": {"a": "NVFP4"}})"})
    EXPECT_THROW(read_quantization(parse_json(text, "q")), Error) << text;
  EXPECT_THROW(normalised_quantization({}, Json("fp8")), Error);
}

}  // namespace
}  // namespace qad::checkpoint
