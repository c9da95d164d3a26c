// A golden model with a prompt and what Transformers' generate makes of it, greedily
// (tests/golden/models.py).
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "models/model.h"
#include "text/tokenizer.h"

namespace qad::generate {

struct Golden {
  models::Model model;  // without eos
  std::vector<text::TokenId> prompt, greedy;
  std::vector<float> logits;  // [prompt, V] at the prompt's tokens

  explicit Golden(const std::string& name) {
    const fs::path folder = fs::path(QAD_SOURCE_DIR) / "tests/golden/models" / name;
    model = models::load(checkpoint::open(folder));
    model.config.eos.clear();
    const auto read = checkpoint::read_safetensors(folder / "expected.safetensors");
    for (const checkpoint::Tensor& t : read.tensors) {
      if (t.name == "logits1") {
        logits.resize(static_cast<std::size_t>(t.elements()));
        std::memcpy(logits.data(), t.raw.data(), t.raw.size());
      }
      if (t.name != "ids1" && t.name != "greedy") continue;
      std::vector<std::int64_t> ids(static_cast<std::size_t>(t.elements()));
      std::memcpy(ids.data(), t.raw.data(), t.raw.size());
      (t.name == "ids1" ? prompt : greedy).assign(ids.begin(), ids.end());
    }
    check(!prompt.empty() && !greedy.empty(), "golden", "{}: no such tensors", name);
  }
};

}  // namespace qad::generate
