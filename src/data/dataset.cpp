// Reading of .txt and .jsonl files into documents.
#include "data/dataset.h"

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "core/json.h"
#include "data/render.h"

namespace qad::data {

namespace {

constexpr std::string_view kOperation = "read_data";
constexpr std::string_view kSeparator = "<|endoftext|>";
constexpr std::int64_t kIgnored = -100;  // the label of a token that does not count
constexpr std::string_view kSpace = " \t\r\n\v\f";

std::string_view trim(std::string_view s) {
  const std::size_t first = s.find_first_not_of(kSpace);
  if (first == s.npos) return {};
  return s.substr(first, s.find_last_not_of(kSpace) - first + 1);
}

// Calls fn(part, line of its first byte) for the parts of `text` between separators.
template <class Fn>
void split(std::string_view text, std::string_view separator, Fn fn) {
  std::int64_t line = 1;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t found = text.find(separator, begin);
    const std::size_t end = std::min(found, text.size());
    const std::size_t next = found == text.npos ? text.size() : found + separator.size();
    if (!fn(text.substr(begin, end - begin), line)) return;
    line += std::count(text.begin() + begin, text.begin() + next, '\n');
    begin = next;
  }
}

std::string string_at(const Json& line, const char* key) {
  const Json& value = line.at(key);
  check(value.is_string(), kOperation, "expected '{}' to be a string, found {}", key,
        value.type_name());
  return value.get<std::string>();
}

std::vector<std::int64_t> integers_at(const Json& line, const char* key) {
  const Json& list = line.at(key);
  const auto whole = [](const Json& id) { return id.is_number_integer(); };
  check(list.is_array() && std::all_of(list.begin(), list.end(), whole), kOperation,
        "expected '{}' to be a list of whole numbers", key);
  return list.get<std::vector<std::int64_t>>();
}

Document tokenized(const Json& line, Mask mask) {
  Document d;
  for (const std::int64_t id : integers_at(line, "input_ids")) {
    check(id >= 0 && id <= std::numeric_limits<text::TokenId>::max(), kOperation,
          "'input_ids': expected token ids, found {}", id);
    d.ids.push_back(static_cast<text::TokenId>(id));
  }
  check(!d.ids.empty(), kOperation, "'input_ids' is empty");
  d.counts.assign(d.ids.size(), 1);
  if (!line.contains("labels")) {
    check(mask == Mask::all, kOperation, "the mask 'assistant' needs 'labels' beside 'input_ids'");
    return d;
  }
  const std::vector<std::int64_t> labels = integers_at(line, "labels");
  check(labels.size() == d.ids.size(), kOperation,
        "expected as many labels as input_ids, {}, found {}", d.ids.size(), labels.size());
  for (std::size_t i = 0; i < labels.size(); ++i) {
    check(labels[i] == kIgnored || labels[i] == d.ids[i], kOperation,
          "'labels': expected {} or the token's own id, {}, at place {}, found {}", kIgnored,
          d.ids[i], i, labels[i]);
    d.counts[i] = labels[i] != kIgnored;
  }
  return d;
}

Document read_line(std::string_view text, const Renderer& renderer, Mask mask) {
  check(!trim(text).empty(), kOperation, "the line is empty");
  const Json line = parse_json(text, "this line");
  check(line.is_object(), kOperation, "expected an object, found {}", line.type_name());
  if (line.contains("input_ids")) return tokenized(line, mask);
  if (line.contains("messages"))
    return renderer.chat(line["messages"], line.contains("tools") ? line["tools"] : Json());
  if (line.contains("prompt") && line.contains("response")) {
    const std::string prompt = string_at(line, "prompt"), response = string_at(line, "response");
    check(!response.empty(), kOperation, "'response' is empty");
    if (!renderer.has_template()) return renderer.completion(prompt, response);
    return renderer.chat(
        {{{"role", "user"}, {"content", prompt}}, {{"role", "assistant"}, {"content", response}}},
        Json());
  }
  check(line.contains("text"), kOperation,
        "expected 'text', 'messages', 'prompt' and 'response', or 'input_ids'");
  const std::string plain = string_at(line, "text");
  check(!plain.empty(), kOperation, "'text' is empty");
  return renderer.plain(plain);
}

std::vector<Document> read_folder(const fs::path& folder, const text::Tokenizer& tokenizer,
                                  const RenderOptions& options) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".jsonl") files.push_back(entry.path());
  check(!files.empty(), kOperation, "{}: a folder without .jsonl files", folder.string());
  std::sort(files.begin(), files.end());
  std::vector<Document> documents;
  RenderOptions left = options;
  for (const fs::path& file : files) {
    auto more = read_documents(file, tokenizer, left);
    documents.insert(documents.end(), std::make_move_iterator(more.begin()),
                     std::make_move_iterator(more.end()));
    if (options.max_documents > 0) {
      left.max_documents = options.max_documents - static_cast<std::int64_t>(documents.size());
      if (left.max_documents <= 0) break;
    }
  }
  return documents;
}

}  // namespace

std::vector<Document> read_documents(const fs::path& file, const text::Tokenizer& tokenizer,
                                     const RenderOptions& options) {
  if (fs::is_directory(file)) return read_folder(file, tokenizer, options);
  const std::string extension = file.extension().string();
  check(extension == ".txt" || extension == ".jsonl", kOperation,
        "{}: expected a .txt or .jsonl file", file.string());
  const MappedFile mapped(file);
  const Renderer renderer(tokenizer, options);
  std::vector<Document> documents;
  const auto add = [&](std::int64_t line, auto&& make) {
    try {
      documents.push_back(make());
    } catch (const Error& e) {
      std::string_view said = e.what();
      const std::string own = fmt::format("[{}] ", kOperation);  // once is enough
      if (said.starts_with(own)) said.remove_prefix(own.size());
      fail(kOperation, "{}:{}: {}", file.string(), line, said);
    }
    return options.max_documents <= 0 ||
           static_cast<std::int64_t>(documents.size()) < options.max_documents;
  };
  if (extension == ".txt") {
    split(mapped.text(), kSeparator, [&](std::string_view text, std::int64_t line) {
      text = trim(text);
      return text.empty() || add(line, [&] { return renderer.plain(text); });
    });
  } else {
    split(mapped.text(), "\n", [&](std::string_view text, std::int64_t line) {
      return add(line, [&] { return read_line(text, renderer, options.mask); });
    });
  }
  check(!documents.empty(), kOperation, "{}:1: no documents; the file is empty", file.string());
  const auto counts = [](const Document& d) {
    return std::any_of(d.counts.begin() + !d.counts.empty(), d.counts.end(),
                       [](std::uint8_t c) { return c != 0; });
  };
  check(std::any_of(documents.begin(), documents.end(), counts), kOperation,
        "{}:1: no token to learn from: the assistant says nothing in any document", file.string());
  return documents;
}

}  // namespace qad::data
