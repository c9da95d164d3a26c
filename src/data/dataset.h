// Examples to learn from and to measure on: files become documents of token ids with a mask of the
// tokens that count.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/file.h"
#include "text/tokenizer.h"

namespace qad::data {

struct Document {
  std::vector<text::TokenId> ids;
  std::vector<std::uint8_t>
      counts;  // counts[i]: ids[i] is a target (predicted from what precedes it)
};

enum class Mask { all, assistant };  // every token, or only what the assistant says

struct RenderOptions {
  Mask mask = Mask::all;
  bool calibration =
      false;  // one line of a .jsonl (or one document of a .txt) is one sequence, unpacked
};

// .txt: documents separated by <|endoftext|>, each encoded with BOS (and EOS, where the tokenizer
// has one). .jsonl: a line has `text`, or `messages` (rendered by the chat template), or `prompt`
// and `response`. Throws Error "[read_data] FILE:LINE: ..." for empty files and malformed lines.
std::vector<Document> read_documents(const fs::path& file, const text::Tokenizer& tokenizer,
                                     const RenderOptions& options = {});

}  // namespace qad::data
