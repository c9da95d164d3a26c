// A Hugging Face folder's tokenizer: which file says what, and what the classes without a
// tokenizer.json mean.
#include "core/error.h"
#include "text/tokenizer.h"
#include "text/tokenizer_presets.h"
#include "text/tokenizer_spec.h"

namespace qad::text {
namespace {

// A special token is a string or an AddedToken object.
std::optional<std::string> token_text(const Json& j) {
  if (j.is_string()) return j.get<std::string>();
  if (j.is_object() && j.contains("content") && j["content"].is_string())
    return j["content"].get<std::string>();
  return {};
}

void apply_config(Tokenizer& tokenizer, const Json& config) {
  tokenizer.special_tokens = Json::object();
  if (!config.is_object()) return;
  for (const auto& [key, value] : config.items())
    if (key.ends_with("_token") && !key.starts_with("add_"))
      if (const auto text = token_text(value)) tokenizer.special_tokens[key] = *text;
  const auto id = [&](const char* key) -> std::optional<TokenId> {
    if (!tokenizer.special_tokens.contains(key)) return {};
    return tokenizer.id_of(tokenizer.special_tokens[key].get<std::string>());
  };
  tokenizer.bos = id("bos_token");
  tokenizer.eos = id("eos_token");
  const Json chat = config.value("chat_template", Json());
  if (chat.is_string()) tokenizer.chat_template = chat.get<std::string>();
  if (chat.is_array())
    for (const Json& named : chat)
      if (string_at(named, "name", "chat_template") == "default")
        tokenizer.chat_template = string_at(named, "template", "chat_template");
}

Json added_tokens_of(const Json& config) {
  Json list = Json::array();
  const Json decoder = config.is_object() ? config.value("added_tokens_decoder", Json()) : Json();
  if (!decoder.is_object()) return list;
  for (const auto& [key, token] : decoder.items()) {
    check(token.is_object() && !key.empty() && key.size() < 10 &&
              key.find_first_not_of("0123456789") == key.npos,
          "tokenizer", "tokenizer_config.json: added_tokens_decoder has \"{}\": {}", key,
          token.dump());
    Json entry = token;
    entry["id"] = std::stoul(key);
    list.push_back(entry);
  }
  return list;
}

TokenizerSpec spec_of_vocab_merges(std::string_view vocab, std::string_view merges,
                                   const Json& config) {
  std::string wrapped = R"({"model":{"vocab":)";
  wrapped.append(vocab).append("}}");
  TokenizerSpec spec = parse_tokenizer_json(wrapped, "vocab.json");
  for (std::size_t begin = 0, end; begin < merges.size(); begin = end + 1) {
    end = std::min(merges.find('\n', begin), merges.size());
    std::string_view line = merges.substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (begin == 0 && line.starts_with("#version"))) continue;
    spec.merges.push_back(split_merge(line));
  }
  const std::string kind = config.is_object() && config.contains("tokenizer_class")
                               ? string_at(config, "tokenizer_class", "tokenizer_config.json")
                               : "";
  std::string_view preset;
  if (kind.starts_with("Qwen2Tokenizer")) preset = "qwen2";
  if (kind.starts_with("GPT2Tokenizer")) preset = "gpt-2";
  check(
      !preset.empty(), "tokenizer",
      "vocab.json and merges.txt of tokenizer_class \"{}\": only Qwen2Tokenizer and GPT2Tokenizer "
      "are known; save a tokenizer.json with Transformers",
      kind);
  const Preset parts = byte_level_preset(preset);
  spec.rest = byte_level_json(parts);
  spec.rest["added_tokens"] = added_tokens_of(config);
  if (bool_at(config, "add_bos_token", false)) {
    const auto bos = token_text(config.value("bos_token", Json()));
    check(bos.has_value(), "tokenizer", "add_bos_token is true but there is no bos_token");
    TokenId id = -1;
    for (const auto& [token, at] : spec.vocab)
      if (token == *bos) id = at;
    for (const Json& added : spec.rest["added_tokens"])
      if (added["content"] == *bos) id = added["id"].get<TokenId>();
    check(id >= 0, "tokenizer", "bos_token \"{}\" is not in the vocabulary", *bos);
    spec.rest["post_processor"] = template_json({{*bos, id}}, {});
  }
  return spec;
}

}  // namespace

Tokenizer tokenizer_from_json(const Json& tokenizer_json, const Json& tokenizer_config) {
  Tokenizer tokenizer = tokenizer_from_spec(spec_of(tokenizer_json));
  apply_config(tokenizer, tokenizer_config);
  return tokenizer;
}

Tokenizer tokenizer_from_vocab_merges(std::string_view vocab_json, std::string_view merges,
                                      const Json& tokenizer_config) {
  Tokenizer tokenizer =
      tokenizer_from_spec(spec_of_vocab_merges(vocab_json, merges, tokenizer_config));
  apply_config(tokenizer, tokenizer_config);
  return tokenizer;
}

Json load_tokenizer_config(const fs::path& folder) {
  // Transformers' order: special_tokens_map.json is older, tokenizer_config.json has the last word.
  Json config = Json::object();
  for (const char* name : {"special_tokens_map.json", "tokenizer_config.json"})
    if (fs::exists(folder / name)) {
      const Json file = read_json(folder / name);
      check(file.is_object(), "tokenizer", "{}: expected an object", (folder / name).string());
      config.update(file);
    }
  return config;
}

TokenizerSpec load_spec(const fs::path& folder) {
  const fs::path whole = folder / "tokenizer.json", vocab = folder / "vocab.json",
                 merges = folder / "merges.txt";
  if (fs::exists(whole)) return parse_tokenizer_json(MappedFile(whole).text(), whole.string());
  check(fs::exists(vocab) && fs::exists(merges), "tokenizer",
        "{}: expected tokenizer.json, or vocab.json and merges.txt; found neither",
        folder.string());
  return spec_of_vocab_merges(MappedFile(vocab).text(), MappedFile(merges).text(),
                              load_tokenizer_config(folder));
}

Tokenizer load_tokenizer(const fs::path& folder) {
  Tokenizer tokenizer = tokenizer_from_spec(load_spec(folder));
  apply_config(tokenizer, load_tokenizer_config(folder));
  if (fs::exists(folder / "chat_template.jinja"))
    tokenizer.chat_template = read_text(folder / "chat_template.jinja");
  return tokenizer;
}

}  // namespace qad::text
