// Bytes that are no UTF-8 become U+FFFD, by the rule of each decoder of the `tokenizers` library.
#include "text/tokenizer_decoder.h"

#include <charconv>
#include <optional>

#include "core/error.h"
#include "text/bpe.h"
#include "text/tokenizer_regex.h"
#include "text/tokenizer_spec.h"
#include "text/tokenizer_utf8.h"

namespace qad::text {
namespace {

void fuse(std::vector<std::string>& tokens) {
  std::string text;
  for (const std::string& token : tokens) text += token;
  tokens.assign(1, std::move(text));
}

// A token with a character outside of GPT-2's alphabet (an added one) stands for itself.
void append_byte_level(std::string& bytes, std::string_view token) {
  const std::size_t start = bytes.size();
  for (std::size_t i = 0; i < token.size(); i += utf8_size(static_cast<unsigned char>(token[i]))) {
    const int byte = byte_of_character(decode_utf8(token, i));
    if (byte < 0) {
      bytes.resize(start);
      bytes += token;
      return;
    }
    bytes += static_cast<char>(byte);
  }
}

void byte_level(std::vector<std::string>& tokens) {
  std::string bytes;
  for (const std::string& token : tokens) append_byte_level(bytes, token);
  tokens.assign(1, lossy_utf8(bytes));
}

std::optional<char> byte_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return {};
  unsigned value = 0;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
  if (error != std::errc() || end != token.data() + 5) return {};
  return static_cast<char>(value);
}

void byte_fallback(std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (valid_utf8(bytes))
      out.push_back(bytes);
    else
      out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
    bytes.clear();
  };
  for (std::string& token : tokens) {
    if (const auto byte = byte_token(token)) {
      bytes += *byte;
      continue;
    }
    flush();
    out.push_back(std::move(token));
  }
  flush();
  tokens = std::move(out);
}

Decoder strip(const Json& j) {
  const std::string content = string_at(j, "content", "decoder Strip");
  const std::size_t start = natural(j.value("start", Json()), "decoder Strip: start");
  const std::size_t stop = natural(j.value("stop", Json()), "decoder Strip: stop");
  check(!content.empty(), "tokenizer", "decoder Strip: content is empty");
  return [=](std::vector<std::string>& tokens) {
    for (std::string& token : tokens) {
      std::string_view rest = token;
      for (std::size_t i = 0; i < start && rest.starts_with(content); ++i)
        rest.remove_prefix(content.size());
      for (std::size_t i = 0; i < stop && rest.ends_with(content); ++i)
        rest.remove_suffix(content.size());
      token = std::string(rest);
    }
  };
}

Decoder metaspace(const Json& j) {
  const std::string replacement = string_at(j, "replacement", "decoder Metaspace");
  const bool never =
      !bool_at(j, "add_prefix_space", true) || j.value("prepend_scheme", Json()) == "never";
  return [=](std::vector<std::string>& tokens) {
    for (std::size_t i = 0; i < tokens.size(); ++i)
      replace_all(tokens[i], replacement, i == 0 && !never ? "" : " ");
  };
}

Decoder replace(const Json& j) {
  const Json pattern = j.value("pattern", Json());
  const std::string content = string_at(j, "content", "decoder Replace");
  const std::string from = string_at(pattern, "String", "decoder Replace (a string pattern)");
  check(!from.empty(), "tokenizer", "decoder Replace: the pattern is empty");
  return [=](std::vector<std::string>& tokens) {
    for (std::string& token : tokens) replace_all(token, from, content);
  };
}

}  // namespace

std::string token_bytes(std::string_view token, bool byte_level) {
  std::string bytes;
  if (byte_level) {
    append_byte_level(bytes, token);
  } else if (const auto byte = byte_token(token)) {
    bytes = *byte;
  } else {
    bytes = token;
    replace_all(bytes, "\u2581", " ");
  }
  return bytes;
}

Decoder make_decoder(const Json& j) {
  if (j.is_null())
    return [](std::vector<std::string>& tokens) {
      for (std::size_t i = 1; i < tokens.size(); ++i) tokens[i].insert(tokens[i].begin(), ' ');
    };
  const std::string type = type_of(j);
  if (type == "ByteLevel") return byte_level;
  if (type == "ByteFallback") return byte_fallback;
  if (type == "Fuse") return fuse;
  if (type == "Strip") return strip(j);
  if (type == "Metaspace") return metaspace(j);
  if (type == "Replace") return replace(j);
  if (type == "Sequence") {
    std::vector<Decoder> steps;
    const Json parts = j.value("decoders", Json::array());
    for (const Json& part : parts) steps.push_back(make_decoder(part));
    return [steps](std::vector<std::string>& tokens) {
      for (const Decoder& step : steps) step(tokens);
    };
  }
  fail("tokenizer",
       "decoder \"{}\" is not supported (known: ByteLevel, ByteFallback, Fuse, Strip, Metaspace, "
       "Replace, Sequence)",
       type.empty() ? j.dump() : type);
}

}  // namespace qad::text
