// A bare vocabulary as tokenizer.json. SentencePiece ranks what merges by the score of the result;
// tokenizer.json by a list of pairs, so each token is listed with every way to halve it, best score
// first, as Transformers' converter does.
#include <algorithm>
#include <unordered_map>

#include "core/error.h"
#include "text/tokenizer.h"
#include "text/tokenizer_presets.h"
#include "text/tokenizer_utf8.h"

namespace qad::text {
namespace {

// GGUF's tokenizer.ggml.token_type.
enum TokenType : std::int32_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

constexpr const char* kSpace = "\u2581";

// llama2.c keeps no types: unk, BOS and EOS come first, then the bytes.
std::vector<std::int32_t> llama2c_types(const std::vector<std::string>& tokens) {
  std::vector<std::int32_t> types(tokens.size(), kNormal);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const std::string& token = tokens[i];
    if (i < 3)
      types[i] = i == 0 ? kUnknown : kControl;
    else if (token.size() == 6 && token.starts_with("<0x") && token.ends_with(">"))
      types[i] = kByte;
  }
  return types;
}

Json merges_by_score(const Vocabulary& v, const std::vector<std::int32_t>& types) {
  std::unordered_map<std::string_view, std::size_t> ids;
  const auto takes_part = [&](std::size_t i) { return types[i] == kNormal || types[i] == kUnused; };
  for (std::size_t i = 0; i < v.tokens.size(); ++i)
    if (takes_part(i)) ids.emplace(v.tokens[i], i);
  struct Merge {
    std::string_view left, right;
    std::size_t left_id, right_id;
    float score;
  };
  std::vector<Merge> merges;
  for (std::size_t i = 0; i < v.tokens.size(); ++i) {
    if (!takes_part(i)) continue;
    const std::string_view token = v.tokens[i];
    for (std::size_t cut = 0; cut < token.size();) {
      cut += utf8_size(static_cast<unsigned char>(token[cut]));
      if (cut >= token.size()) break;
      const auto left = ids.find(token.substr(0, cut)), right = ids.find(token.substr(cut));
      if (left != ids.end() && right != ids.end())
        merges.push_back({left->first, right->first, left->second, right->second, v.scores[i]});
    }
  }
  std::sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    if (a.score != b.score) return a.score > b.score;
    return std::pair(a.left_id, a.right_id) < std::pair(b.left_id, b.right_id);
  });
  Json list = Json::array();
  for (const Merge& merge : merges) list.push_back({merge.left, merge.right});
  return list;
}

// What Transformers makes of a Llama 2 tokenizer.model.
Json sentencepiece_json(const Vocabulary& v) {
  const auto replace = [](const char* from, const char* to) {
    return Json{{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
  };
  Json normalizers = Json::array(), decoders = Json::array();
  if (v.add_space_prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", kSpace}});
  normalizers.push_back(replace(" ", kSpace));
  decoders.push_back(replace(kSpace, " "));
  decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (v.add_space_prefix)
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", Json::array()},
          {"normalizer", {{"type", "Sequence"}, {"normalizers", normalizers}}},
          {"pre_tokenizer", nullptr},
          {"post_processor", nullptr},
          {"decoder", {{"type", "Sequence"}, {"decoders", decoders}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", v.unk ? Json(v.tokens[std::size_t(*v.unk)]) : Json()},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", true},
            {"byte_fallback", true},
            {"ignore_merges", false}}}};
}

void validate(const Vocabulary& v, const std::vector<std::int32_t>& types) {
  const std::size_t n = v.tokens.size();
  check(n > 0, "tokenizer_files", "the vocabulary has no tokens");
  check(types.size() == n, "tokenizer_files", "expected {} token types, found {}", n, types.size());
  for (std::size_t i = 0; i < n; ++i)
    check(!v.tokens[i].empty() && valid_utf8(v.tokens[i]), "tokenizer_files",
          "token {}: expected UTF-8 of at least one byte", i);
  for (const auto& [name, id] : {std::pair("bos", v.bos), std::pair("eos", v.eos),
                                 std::pair("unk", v.unk), std::pair("pad", v.pad)})
    check(!id || (*id >= 0 && std::size_t(*id) < n), "tokenizer_files",
          "{} id {}: expected less than {}", name, id.value_or(0), n);
}

}  // namespace

TokenizerFiles tokenizer_files(const Vocabulary& v) {
  const auto types = v.types.empty() && v.model == "llama" ? llama2c_types(v.tokens) : v.types;
  validate(v, types);
  TokenizerFiles files;
  Json& out = files.tokenizer_json;
  Json merges = Json::array();
  if (v.model == "llama") {
    check(v.scores.size() == v.tokens.size(), "tokenizer_files", "expected {} scores, found {}",
          v.tokens.size(), v.scores.size());
    out = sentencepiece_json(v);
    merges = merges_by_score(v, types);
  } else if (v.model == "gpt2") {
    out = byte_level_json(byte_level_preset(v.pre));
    for (const std::string& merge : v.merges) {
      const std::size_t space = merge.find(' ', 1);
      check(space != merge.npos, "tokenizer_files", "merge \"{}\": expected two tokens", merge);
      merges.push_back({merge.substr(0, space), merge.substr(space + 1)});
    }
  } else {
    fail("tokenizer_files",
         "vocabulary model \"{}\": expected \"llama\" (SentencePiece BPE) or \"gpt2\"", v.model);
  }

  Json::object_t vocab;  // appended to as a vector: looking every key up would take minutes
  for (std::size_t i = 0; i < v.tokens.size(); ++i) {
    vocab.emplace_back(v.tokens[i], i);
    if (types[i] != kUnknown && types[i] != kControl && types[i] != kUserDefined) continue;
    out["added_tokens"].push_back({{"id", i},
                                   {"content", v.tokens[i]},
                                   {"single_word", false},
                                   {"lstrip", false},
                                   {"rstrip", false},
                                   {"normalized", false},
                                   {"special", types[i] != kUserDefined}});
  }
  out["model"]["vocab"] = std::move(vocab);
  out["model"]["merges"] = std::move(merges);

  const auto token = [&](TokenId id) { return NamedToken(v.tokens[std::size_t(id)], id); };
  std::vector<NamedToken> before, after;
  check((v.bos || !v.add_bos) && (v.eos || !v.add_eos), "tokenizer_files",
        "the vocabulary asks to add a BOS or EOS token that it does not name");
  if (v.add_bos) before.push_back(token(*v.bos));
  if (v.add_eos) after.push_back(token(*v.eos));
  if (v.add_bos || v.add_eos) out["post_processor"] = template_json(before, after);

  Json& config = files.tokenizer_config;
  config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
            {"clean_up_tokenization_spaces", false}};
  for (const auto& [name, id] : {std::pair("bos_token", v.bos), std::pair("eos_token", v.eos),
                                 std::pair("unk_token", v.unk), std::pair("pad_token", v.pad)})
    if (id) config[name] = token(*id).first;
  if (!v.chat_template.empty()) config["chat_template"] = v.chat_template;
  return files;
}

Vocabulary read_llama2c_vocabulary(const fs::path& path) {
  const MappedFile file(path);
  std::string_view rest = file.text();
  Vocabulary v;
  v.model = "llama";
  const auto take = [&](std::size_t n) {
    check(rest.size() >= n, "read_llama2c_vocabulary", "{}: the file ends inside token {}",
          path.string(), v.tokens.size());
    const std::string_view taken = rest.substr(0, n);
    rest.remove_prefix(n);
    return taken;
  };
  const auto number = [&]<class T>(T value) {
    std::copy_n(take(sizeof value).data(), sizeof value, reinterpret_cast<char*>(&value));
    return value;
  };
  number(std::int32_t{});  // the longest token's length
  while (!rest.empty()) {
    v.scores.push_back(number(float{}));
    const auto length = number(std::int32_t{});
    check(length > 0, "read_llama2c_vocabulary", "{}: token {} has length {}", path.string(),
          v.tokens.size(), length);
    std::string token(take(std::size_t(length)));
    replace_all(token, " ", kSpace);
    v.tokens.push_back(std::move(token));
  }
  check(v.tokens.size() > 3, "read_llama2c_vocabulary", "{}: only {} tokens", path.string(),
        v.tokens.size());
  // Written with line breaks around them, so that they show when printed.
  v.tokens[1] = "<s>";
  v.tokens[2] = "</s>";
  v.unk = 0;
  v.bos = 1;
  v.eos = 2;
  v.add_bos = true;
  return v;
}

}  // namespace qad::text
