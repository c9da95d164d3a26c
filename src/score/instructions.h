// IFEval's instructions that a program can check (Zhou et al., "Instruction-Following Evaluation
// for Large Language Models", arXiv 2311.07911): 25 kinds, "keywords:existence" to
// "punctuation:no_comma". What each demands is in docs/ifeval-checks.md.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace qad::score {

struct InstructionVerdict {
  std::string id;
  bool strict;  // the response as it is
  bool loose;   // it, or it without its first line, its last or both, each also without any "*"
};

// One verdict for each entry of problem["instruction_id_list"], with its arguments from
// problem["kwargs"], a list of objects of the same length (members that are null count as missing).
// A blank response follows nothing. Bytes that are no UTF-8 are read as U+FFFD.
//
// Throws Error, whatever the response, for an unknown id, for an argument that is missing or of the
// wrong type, and for a keyword that is no regular expression of Python's `re`; also for a keyword
// whose search through this response would take too long. Each is named.
std::vector<InstructionVerdict> check_instructions(const Json& problem, std::string_view response);

// Whether the check is plain string work, the same for everyone. Those that are not (languages,
// sentences, words as NLTK cuts them) follow a model or tokenizer of others, nearly always to the
// same verdict. 662 of IFEval's 834 instructions are exact. Throws Error for an unknown id.
bool is_exact(std::string_view id);

}  // namespace qad::score
