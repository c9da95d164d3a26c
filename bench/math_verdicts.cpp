// Verdicts for bench/math_verdicts.py and tests against peers: reads JSON lines {"reference": ...,
// "answer": ...} and prints 1 or 0 for each, or, given "response" instead of "answer", the
// response's answer as JSON.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "score/math.h"

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    const auto row = nlohmann::json::parse(line);
    if (row.contains("response")) {
      std::cout << nlohmann::json(qad::score::final_answer(row["response"].get<std::string>()))
                << '\n';
      continue;
    }
    const auto text = [&row](const char* key) { return row.at(key).get<std::string>(); };
    std::cout << qad::score::math_equal(text("reference"), text("answer")) << std::endl;
  }
}
