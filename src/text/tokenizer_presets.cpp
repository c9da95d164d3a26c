// The patterns are those of the published tokenizer.json files of each family.
#include "text/tokenizer_presets.h"

#include "core/error.h"

namespace qad::text {
namespace {

constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kDeepSeekNumbers = R"(\p{N}{1,3})";
constexpr const char* kDeepSeekCjk = R"([一-龥぀-ゟ゠-ヿ]+)";
constexpr const char* kDeepSeekRest =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

Json sequence(const std::vector<Json>& parts) {
  return {{"type", "Sequence"}, {"pretokenizers", parts}};
}

Json split(const char* pattern) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", pattern}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

}  // namespace

Preset byte_level_preset(std::string_view name) {
  const auto one_of = [&](std::initializer_list<std::string_view> names) {
    for (const auto n : names)
      if (n == name) return true;
    return false;
  };
  Preset preset;
  if (one_of({"gpt-2", "default"})) {
    preset.pre_tokenizer = byte_level(true);
  } else if (one_of({"qwen2", "deepseek-r1-qwen"})) {
    preset.normalizer = {{"type", "NFC"}};
    preset.pre_tokenizer = sequence({split(kQwen2), byte_level(false)});
  } else if (one_of({"llama-bpe", "llama3", "llama-v3"})) {
    preset.pre_tokenizer = sequence({split(kLlama3), byte_level(false)});
    preset.ignore_merges = true;
    preset.add_bos = true;
  } else if (one_of({"smollm"})) {
    preset.pre_tokenizer =
        sequence({{{"type", "Digits"}, {"individual_digits", true}}, byte_level(true)});
  } else if (one_of({"tekken"})) {
    preset.pre_tokenizer = sequence({split(kTekken), byte_level(false)});
    preset.ignore_merges = true;
    preset.add_bos = true;
  } else if (one_of({"deepseek-v3"})) {
    preset.pre_tokenizer = sequence(
        {split(kDeepSeekNumbers), split(kDeepSeekCjk), split(kDeepSeekRest), byte_level(false)});
    preset.add_bos = true;
  } else {
    fail("tokenizer",
         "pre-tokenizer \"{}\" is not known (known: gpt-2, default, qwen2, deepseek-r1-qwen, "
         "llama-bpe, llama3, llama-v3, smollm, tekken, deepseek-v3)",
         name);
  }
  return preset;
}

Json byte_level_json(const Preset& preset) {
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", Json::array()},
          {"normalizer", preset.normalizer},
          {"pre_tokenizer", preset.pre_tokenizer},
          {"post_processor", nullptr},
          {"decoder", byte_level(true)},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", preset.ignore_merges}}}};
}

Json template_json(const std::vector<NamedToken>& before, const std::vector<NamedToken>& after) {
  const auto side = [](const char* text, int type) {
    return Json{{"Sequence", {{"id", text}, {"type_id", type}}}};
  };
  Json single = Json::array(), pair = Json::array(), names = Json::object();
  const auto add = [&](const NamedToken& token, Json& list, int type) {
    list.push_back({{"SpecialToken", {{"id", token.first}, {"type_id", type}}}});
    names[token.first] = {{"id", token.first},
                          {"ids", Json::array({token.second})},
                          {"tokens", Json::array({token.first})}};
  };
  for (const char* text : {"A", "B"}) {
    const int type = *text - 'A';
    for (const NamedToken& token : before) {
      if (type == 0) add(token, single, 0);
      add(token, pair, type);
    }
    if (type == 0) single.push_back(side(text, 0));
    pair.push_back(side(text, type));
    for (const NamedToken& token : after) {
      if (type == 0) add(token, single, 0);
      add(token, pair, type);
    }
  }
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", pair},
          {"special_tokens", names}};
}

}  // namespace qad::text
