// tokenizer.json ranks merges, GGUF's SentencePiece model scores tokens: a token's score is minus
// the rank of the first merge that makes it, which orders merges the same way.
#include "text/gguf_tokenizer.h"

#include <algorithm>
#include <unordered_map>

#include "core/error.h"
#include "text/model_files.h"
#include "text/tokenizer_presets.h"
#include "text/tokenizer_spec.h"

namespace qad::text {
namespace {

constexpr std::string_view kOperation = "gguf_tokenizer";

// GGUF's tokenizer.ggml.token_type.
enum TokenType : std::int32_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

bool is_byte(const std::string& token) {
  return token.size() == 6 && token.starts_with("<0x") && token.ends_with(">");
}

// What a component says apart from options that mean nothing here.
Json essence(Json component) {
  if (component.is_array()) {
    for (Json& part : component) part = essence(part);
    return component;
  }
  if (!component.is_object()) return component;
  for (const char* key : {"trim_offsets", "add_prefix_space"})
    if (component.contains(key)) component.erase(key);
  Json sorted = Json::object();
  const nlohmann::json by_name(component);
  for (const auto& [key, value] : by_name.items()) sorted[key] = essence(Json(value));
  return sorted;
}

// llama.cpp's name for the split of a byte-level tokenizer.
std::string preset_name(const Json& rest) {
  const auto part = [&](const char* key) { return essence(rest.value(key, Json())); };
  const bool prefix_space = rest.value("pre_tokenizer", Json()).value("add_prefix_space", false);
  for (const char* name : {"qwen2", "llama-bpe", "smollm", "gpt-2", "tekken", "deepseek-v3"}) {
    const Preset preset = byte_level_preset(name);
    if (essence(preset.pre_tokenizer) == part("pre_tokenizer") &&
        essence(preset.normalizer) == part("normalizer") && !prefix_space)
      return name;
  }
  fail(kOperation,
       "tokenizer.json: its pre_tokenizer and normalizer are those of none of qwen2, llama-bpe, "
       "smollm, gpt-2, tekken and deepseek-v3, and a GGUF names them");
}

bool prepends_space(const Json& normalizer) {
  if (type_of(normalizer) == "Prepend") return true;
  const Json parts = normalizer.is_object() ? normalizer.value("normalizers", Json()) : Json();
  return std::any_of(parts.begin(), parts.end(),
                     [](const Json& part) { return type_of(part) == "Prepend"; });
}

Json numbers(const Vocabulary& v) {
  Json keys;
  const auto id = [&](const char* key, std::optional<TokenId> id) {
    if (id) keys[fmt::format("tokenizer.ggml.{}_token_id", key)] = static_cast<std::uint32_t>(*id);
  };
  id("bos", v.bos);
  id("eos", v.eos);
  id("unknown", v.unk);
  id("padding", v.pad);
  keys["tokenizer.ggml.add_bos_token"] = v.add_bos;
  if (v.add_eos) keys["tokenizer.ggml.add_eos_token"] = true;
  if (v.model == "llama") keys["tokenizer.ggml.add_space_prefix"] = v.add_space_prefix;
  if (!v.chat_template.empty()) keys["tokenizer.chat_template"] = v.chat_template;
  return keys;
}

Json keys_of(const Vocabulary& v) {
  Json keys;
  keys["tokenizer.ggml.model"] = v.model;
  keys["tokenizer.ggml.pre"] = v.model == "llama" ? "default" : v.pre;
  keys["tokenizer.ggml.tokens"] = v.tokens;
  if (!v.scores.empty()) keys["tokenizer.ggml.scores"] = v.scores;
  keys["tokenizer.ggml.token_type"] = v.types;
  if (!v.merges.empty()) keys["tokenizer.ggml.merges"] = v.merges;
  keys.update(numbers(v));
  return keys;
}

// Scores by which the best pair merges first, as the list says.
std::vector<float> scores_of(const TokenizerSpec& spec, const std::vector<std::string>& tokens) {
  std::unordered_map<std::string, std::size_t> rank_of;
  for (std::size_t rank = 0; rank < spec.merges.size(); ++rank)
    rank_of.try_emplace(spec.merges[rank].first + spec.merges[rank].second, rank);
  std::vector<float> scores;
  for (const std::string& token : tokens) {
    const auto rank = rank_of.find(token);
    scores.push_back(rank == rank_of.end() ? 0.0f : -static_cast<float>(rank->second + 1));
  }
  return scores;
}

Vocabulary vocabulary_of(const TokenizerSpec& spec, const Tokenizer& tokenizer,
                         std::int64_t vocabulary) {
  const Json model = spec.rest.value("model", Json::object());
  check(type_of(model) == "BPE" || !model.contains("type"), kOperation,
        "tokenizer.json: expected a BPE model, found {}", type_of(model));
  Vocabulary v;
  const bool sentencepiece = bool_at(model, "byte_fallback", false);
  v.model = sentencepiece ? "llama" : "gpt2";

  std::int64_t size = std::max<std::int64_t>(vocabulary, 0);
  for (const auto& [token, id] : spec.vocab) size = std::max<std::int64_t>(size, id + 1);
  const Json added = spec.rest.value("added_tokens", Json::array());
  for (const Json& token : added)
    size = std::max<std::int64_t>(size, static_cast<std::int64_t>(natural(token["id"], "id")) + 1);
  // A model may have rows for more tokens than there are.
  for (std::int64_t i = 0; i < size; ++i) v.tokens.push_back(fmt::format("[PAD{}]", i));
  v.types.assign(static_cast<std::size_t>(size), kUnused);
  const auto put = [&](std::size_t id, const std::string& token, std::int32_t type) {
    v.tokens[id] = token;
    v.types[id] = type;
  };
  for (const auto& [token, id] : spec.vocab)
    put(static_cast<std::size_t>(id), token, sentencepiece && is_byte(token) ? kByte : kNormal);
  for (const Json& token : added) {
    const bool special = bool_at(token, "special", false);
    put(natural(token["id"], "id"), string_at(token, "content", "added token"),
        special ? kControl : kUserDefined);
  }
  const auto special = [&](const char* key) -> std::optional<TokenId> {
    if (!tokenizer.special_tokens.contains(key)) return {};
    return tokenizer.id_of(tokenizer.special_tokens[key].get<std::string>());
  };
  v.bos = tokenizer.bos;
  v.eos = tokenizer.eos;
  v.unk = special("unk_token");
  v.pad = special("pad_token");
  if (sentencepiece) {
    if (v.unk) v.types[static_cast<std::size_t>(*v.unk)] = kUnknown;
    v.scores = scores_of(spec, v.tokens);
    v.add_space_prefix = prepends_space(spec.rest.value("normalizer", Json()));
  } else {
    v.pre = preset_name(spec.rest);
    for (const auto& [left, right] : spec.merges) v.merges.push_back(left + " " + right);
  }
  const auto around = tokenizer.encode("", true);
  v.add_bos = v.bos && !around.empty() && around.front() == *v.bos;
  v.add_eos = v.eos && !around.empty() && around.back() == *v.eos && around.size() > v.add_bos;
  v.chat_template = tokenizer.chat_template;
  return v;
}

}  // namespace

Json gguf_tokenizer(const Json& tokenizer_json, const Json& tokenizer_config,
                    std::int64_t vocabulary) {
  return keys_of(vocabulary_of(spec_of(tokenizer_json),
                               tokenizer_from_json(tokenizer_json, tokenizer_config), vocabulary));
}

Json gguf_tokenizer(const checkpoint::Checkpoint& source) {
  Json keys = Json::object();
  if (source.format == "gguf") {
    for (const auto& [key, value] : source.metadata.items())
      if (key.starts_with("tokenizer.")) keys.get_ref<Json::object_t&>().emplace_back(key, value);
    return keys;
  }
  const std::int64_t size = source.config.value("vocab_size", std::int64_t{0});
  if (source.format == "safetensors")
    return keys_of(vocabulary_of(load_spec(source.path), load_tokenizer(source.path), size));
  std::map<std::string, Json> parts;
  for (const auto& [name, content] : companion_files(source))
    parts[name] = parse_json(content, name);
  return gguf_tokenizer(parts.at("tokenizer.json"), parts.at("tokenizer_config.json"), size);
}

}  // namespace qad::text
