// Which tokenizer belongs to which kind of model.
#include "text/model_files.h"

#include "core/error.h"
#include "text/tokenizer_presets.h"

namespace qad::text {
namespace {

using checkpoint::Checkpoint;

constexpr std::string_view kGguf = "tokenizer.ggml.";

class GgufKeys {
 public:
  explicit GgufKeys(const Checkpoint& model) : model_(model) {}

  const Json* find(const std::string& key) const {
    const auto entry = model_.metadata.find(key);
    return entry == model_.metadata.end() ? nullptr : &*entry;
  }
  template <class T>
  T get(std::string_view name, T otherwise) const {
    const std::string key = std::string(kGguf).append(name);
    const Json* value = find(key);
    return value ? convert<T>(*value, key) : otherwise;
  }
  template <class T>
  std::vector<T> list(std::string_view name) const {
    const std::string key = std::string(kGguf).append(name);
    const Json* value = find(key);
    std::vector<T> out;
    if (value == nullptr) return out;
    check(value->is_array(), "tokenizer_of", "{}: {}: expected a list", model_.path.string(), key);
    out.reserve(value->size());
    for (const Json& item : *value) out.push_back(convert<T>(item, key));
    return out;
  }
  std::optional<TokenId> id(std::string_view name) const {
    const auto id = get<std::int32_t>(name, -1);
    return id < 0 ? std::nullopt : std::optional<TokenId>(id);
  }

 private:
  template <class T>
  T convert(const Json& value, const std::string& key) const {
    try {
      return value.get<T>();
    } catch (const Json::exception& e) {
      fail("tokenizer_of", "{}: {}: {}", model_.path.string(), key, e.what());
    }
  }
  const Checkpoint& model_;
};

Vocabulary gguf_vocabulary(const Checkpoint& model) {
  const GgufKeys keys(model);
  Vocabulary v;
  v.model = keys.get<std::string>("model", "");
  check(v.model == "llama" || v.model == "gpt2", "tokenizer_of",
        "{}: tokenizer.ggml.model \"{}\": expected \"llama\" or \"gpt2\"", model.path.string(),
        v.model);
  v.pre = keys.get<std::string>("pre", "default");
  v.tokens = keys.list<std::string>("tokens");
  v.scores = keys.list<float>("scores");
  v.types = keys.list<std::int32_t>("token_type");
  v.merges = keys.list<std::string>("merges");
  if (v.types.empty()) v.types.assign(v.tokens.size(), 1);
  v.bos = keys.id("bos_token_id");
  v.eos = keys.id("eos_token_id");
  v.unk = keys.id("unknown_token_id");
  v.pad = keys.id("padding_token_id");
  const bool sentencepiece = v.model == "llama";
  const bool adds_bos = sentencepiece || byte_level_preset(v.pre).add_bos;
  v.add_bos = keys.get("add_bos_token", adds_bos && v.bos.has_value());
  v.add_eos = keys.get("add_eos_token", false);
  v.add_space_prefix = keys.get("add_space_prefix", sentencepiece);
  if (const Json* chat = keys.find("tokenizer.chat_template"); chat != nullptr && chat->is_string())
    v.chat_template = chat->get<std::string>();
  return v;
}

Vocabulary llama2c_vocabulary(const Checkpoint& model) {
  const fs::path folder = model.path.parent_path();
  const auto size = model.config.at("vocab_size").get<std::int64_t>();
  for (const std::string& name : {fmt::format("tok{}.bin", size), std::string("tokenizer.bin")}) {
    if (!fs::exists(folder / name)) continue;
    Vocabulary v = read_llama2c_vocabulary(folder / name);
    check(std::int64_t(v.tokens.size()) == size, "tokenizer_of",
          "{}: expected {} tokens, as {} has, found {}", (folder / name).string(), size,
          model.path.string(), v.tokens.size());
    return v;
  }
  fail("tokenizer_of", "{}: expected tok{}.bin or tokenizer.bin beside it, found neither",
       model.path.string(), size);
}

Vocabulary vocabulary_of(const Checkpoint& model) {
  return model.format == "gguf" ? gguf_vocabulary(model) : llama2c_vocabulary(model);
}

}  // namespace

Tokenizer tokenizer_of(const Checkpoint& model) {
  if (model.format == "safetensors") return load_tokenizer(model.path);
  const TokenizerFiles files = tokenizer_files(vocabulary_of(model));
  return tokenizer_from_json(files.tokenizer_json, files.tokenizer_config);
}

std::vector<std::pair<std::string, std::string>> companion_files(const Checkpoint& source) {
  std::vector<std::pair<std::string, std::string>> out;
  if (source.format == "safetensors") {
    for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                             "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model",
                             "chat_template.jinja", "chat_template.json"})
      if (fs::exists(source.path / name)) out.emplace_back(name, read_text(source.path / name));
    return out;
  }
  const TokenizerFiles files = tokenizer_files(vocabulary_of(source));
  out.emplace_back("tokenizer.json", files.tokenizer_json.dump(1) + "\n");
  out.emplace_back("tokenizer_config.json", files.tokenizer_config.dump(2) + "\n");
  return out;
}

}  // namespace qad::text
