// Three syntheses that differ in seed and length.
#include "recipe/data_free.h"

#include <algorithm>

#include "core/console.h"

namespace qad::recipe {

Synthesis data_free_synthesis(const Recipe& recipe, const text::Tokenizer& tokenizer) {
  Synthesis s;
  s.teacher = recipe.teacher.empty() ? recipe.model : recipe.teacher;
  s.device = recipe.device;
  s.threads = recipe.threads;
  s.seed = recipe.seed;
  s.tokens = recipe.data.synthesize_tokens > 0
                 ? recipe.data.synthesize_tokens
                 : recipe.train.steps * recipe.train.batch_sequences * recipe.train.seq_len;
  s.sampling.max_tokens = recipe.train.seq_len;
  if (!tokenizer.chat_template.empty()) s.sources.push_back({.kind = "self"});
  s.sources.push_back({.kind = "bos"});
  return s;
}

SynthesisSummary write_teacher_data(Recipe& recipe, const LoadedModel& teacher) {
  const fs::path folder = fs::path(recipe.output) / "teacher-data";
  generate::EngineOptions engine;
  engine.cache_bytes = static_cast<double>(recipe.evaluate.cache_gb) * 1e9;
  SynthesisSummary of_train;
  const auto write = [&](const char* part, std::int64_t seed, bool held_out) {
    Synthesis s = data_free_synthesis(recipe, teacher.tokenizer);
    s.output = (folder / part).string();
    s.seed += seed;
    if (held_out) s.tokens = std::max(s.tokens / 20, 16 * recipe.train.seq_len);
    note("the teacher writes {} tokens for {}", human_count(static_cast<double>(s.tokens)), part);
    SynthesisSummary summary = synthesize(teacher, s, engine);
    if (!held_out) of_train = summary;
    of_train.interrupted = summary.interrupted;
    return s.output;
  };
  const std::string train = write("train", 0, false);
  if (!of_train.interrupted && recipe.data.validation.empty())
    recipe.data.validation = write("validation", 1, true);
  if (!of_train.interrupted && recipe.data.test.empty()) recipe.data.test = write("test", 2, true);
  recipe.data.train = {{train, 1}};
  return of_train;
}

}  // namespace qad::recipe
