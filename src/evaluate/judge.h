// A model behind an OpenAI-compatible endpoint that says whether an answer is right.
#pragma once

#include <string>

namespace qad::evaluate {

struct Judge {
  std::string url;    // "http://host:port/v1" or https
  std::string model;  // may be empty: the endpoint's first
};

// Asks POST url/chat/completions with one user message at temperature 0 and returns what it says.
// The key, if one is needed, is in the environment as QAD_JUDGE_KEY. Tries again after refusals
// for load (429, 503) and broken connections, for half a minute; throws Error naming the endpoint
// and its words.
std::string ask(const Judge& judge, const std::string& message);

// Error unless the endpoint answers GET url/models.
void check_judge(const Judge& judge);

}  // namespace qad::evaluate
