// The "pre_tokenizer" of tokenizer.json: cuts a normalised text into the pieces that BPE works on.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "text/tokenizer_regex.h"

namespace qad::text {

struct Piece {
  std::string_view text;
  bool first;  // starts where the user's text starts
};

// Where pieces that differ from the text live, and room to work in. One for each encode.
struct PieceStorage {
  std::deque<std::string> texts;
  std::vector<Span> spans;
};

class PreTokenizer {
 public:
  // Throws Error naming a component that is not supported.
  explicit PreTokenizer(const Json& pre_tokenizer);
  // The pieces of `text`, none of them empty. With byte_level() they are still bytes: mapping them
  // to GPT-2's alphabet is left to the model.
  std::vector<Piece> cut(Piece text, PieceStorage& storage) const;
  bool byte_level() const { return byte_level_; }

  using Step = std::function<void(Piece, PieceStorage&, std::vector<Piece>&)>;

 private:
  void add(const Json& component);
  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace qad::text
