// YAML in and out of a Synthesis, and what it must say.
#include "core/yaml_keys.h"
#include "recipe/synthesis.h"
#include "report/format.h"
#include "report/page.h"

namespace qad::recipe {

Synthesis load_synthesis(const fs::path& file) {
  return yaml::parse<Synthesis>(read_text(file), {"synthesize", file.string()});
}

void set_synthesis_key(Synthesis& synthesis, const std::string& assignment) {
  const auto [key, value] = yaml::split_assignment(assignment, "synthesize");
  yaml::set(synthesis, key, value, {"synthesize", "--set " + assignment});
}

void validate(const Synthesis& s) {
  const auto require = [](bool ok, const std::string& key, const char* what) {
    check(ok, "synthesize", "{}: {}", key, what);
  };
  require(!s.teacher.empty(), "teacher", "is missing: name the model that writes");
  require(!s.output.empty(), "output", "is empty");
  require(!s.sources.empty(), "sources",
          "is empty: say what the teacher continues, as sources: [bos]");
  require(s.sampling.top_p <= 1, "sampling.top_p", "must be at most 1");
  require(s.sampling.min_p <= 1, "sampling.min_p", "must be at most 1");
  for (const SynthesisSource& source : s.sources) {
    require((source.kind == "prompts") == !source.file.empty(), "sources: file",
            "belongs to kind: prompts");
    require((source.kind == "task") == !source.task.empty(), "sources: task",
            "belongs to kind: task");
    require(source.kind == "task" || source.keep == "all", "sources: keep",
            "correct is for kind: task, whose answers are known");
    require(source.kind == "task" || source.kind == "prompts" || source.passes == 1,
            "sources: passes", "are for kinds prompts and task");
  }
}

std::string to_yaml(const Synthesis& synthesis) {
  return yaml::to_yaml(synthesis);
}

Json to_json(const Synthesis& synthesis) {
  return yaml::to_json(synthesis);
}

Json to_json(const SynthesisSummary& s) {
  Json sources = Json::array(), examples = Json::array();
  for (const auto& source : s.sources)
    sources.push_back({{"kind", source.kind},
                       {"from", source.from},
                       {"records", source.records},
                       {"tokens", source.tokens},
                       {"completion_tokens", source.completion_tokens},
                       {"candidates", source.candidates},
                       {"ended", source.ended}});
  for (const auto& [prompt, completion] : s.examples)
    examples.push_back({{"prompt", prompt}, {"completion", completion}});
  return {
      {"sources", std::move(sources)}, {"examples", std::move(examples)}, {"seconds", s.seconds}};
}

std::string summary_table(const SynthesisSummary& s) {
  std::vector<std::vector<std::string>> lines = {
      {"source", "records", "of candidates", "tokens", "written by the model", "ended themselves"}};
  for (const auto& source : s.sources)
    lines.push_back(
        {source.kind + (source.from.empty() ? "" : " " + source.from),
         std::to_string(source.records), std::to_string(source.candidates),
         std::to_string(source.tokens), std::to_string(source.completion_tokens),
         report::percent(static_cast<double>(source.ended) /
                         static_cast<double>(std::max<std::int64_t>(source.records, 1)))});
  return report::text_table(lines);
}

SynthesisSummary summary_of(const Json& json) {
  SynthesisSummary s;
  for (const Json& j : json.at("sources"))
    s.sources.push_back({j.at("kind"), j.at("from"), j.at("records"), j.at("tokens"),
                         j.at("completion_tokens"), j.at("candidates"), j.at("ended")});
  for (const Json& j : json.at("examples"))
    s.examples.emplace_back(j.at("prompt"), j.at("completion"));
  s.seconds = json.at("seconds");
  return s;
}

std::int64_t SynthesisSummary::tokens() const {
  std::int64_t sum = 0;
  for (const Source& source : sources) sum += source.tokens;
  return sum;
}

}  // namespace qad::recipe
