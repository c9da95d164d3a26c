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
  // counts[i]: ids[i] is a target (predicted from what precedes it; ids[0] is never predicted).
  std::vector<std::uint8_t> counts;
};

enum class Mask { all, assistant };  // every token, or only what the assistant says

struct RenderOptions {
  Mask mask = Mask::all;
  bool eos =
      false;  // plain texts end with EOS too, where the tokenizer has one (chats: the template's)
  std::int64_t max_documents = 0;  // read no more than the first n; 0: all
};

// .txt: documents separated by <|endoftext|>, trimmed, empty ones skipped; each is encoded with
// what the tokenizer's post-processor adds (BOS), then EOS if asked for. .jsonl, by the keys of
// each line:
//   text                a plain text, as above but untrimmed
//   messages [, tools]  rendered by the chat template and encoded without further special tokens
//   prompt, response    a chat of two messages; without a chat template the two texts joined, as
//                       a plain text
//   input_ids           token ids as they are, with nothing added; with `labels` beside them those
//    [, labels]         whose label is -100 do not count, as in Transformers, whatever the mask
// A folder: its .jsonl files in the order of their names.
// Throws Error "[read_data] FILE:LINE: ..." for empty files, empty or malformed lines, a chat
// without a chat template, and an assistant mask over texts that have no assistant.
std::vector<Document> read_documents(const fs::path& file, const text::Tokenizer& tokenizer,
                                     const RenderOptions& options = {});

}  // namespace qad::data
