// What is there, what is missing, and a line for each that comes.
#include "recipe/completions.h"

#include <set>

#include "core/console.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "generate/write_texts.h"
#include "recipe/prompts.h"
#include "recipe/writing_progress.h"
#include "report/events.h"

namespace qad::recipe {
namespace {

constexpr std::string_view kOperation = "completions";

using Place = std::pair<std::int64_t, std::int64_t>;  // of a completion: prompt, sample

// The completions that are there; the line that a kill cut is taken away.
std::set<Place> read_earlier(const CompletionsJob& job, const std::vector<Json>& prompts,
                             const std::string& model) {
  std::set<Place> places;
  const Json sampling = generate::to_json(job.sampling);
  report::read_log(job.out, [&](const Json& json, std::int64_t number) {
    const std::int64_t index = json.value("index", std::int64_t{-1});
    const auto same = [&] {
      if (index < 0 || index >= static_cast<std::int64_t>(prompts.size())) return false;
      for (const auto& [key, value] : prompts[static_cast<std::size_t>(index)].items())
        if (!json.contains(key) || json[key] != value) return false;
      return json.value("sampling", Json()) == sampling && json.value("model", "") == model;
    };
    check(same(), kOperation,
          "{}: line {} is of other prompts, another sampling or another model; expected this "
          "run's, or no such "
          "file: remove it or write elsewhere",
          job.out.string(), number);
    const std::int64_t sample = json.value("sample", std::int64_t{0});
    if (sample < job.samples) places.insert({index, sample});
  });
  return places;
}

}  // namespace

CompletionsResult write_completions(const LoadedModel& loaded, const CompletionsJob& job) {
  generate::validate(job.sampling, loaded.model.config.vocabulary);
  const std::vector<Json> prompts = read_prompts(kOperation, job.prompts, job.chat);
  const std::string model = loaded.source.path.string();
  const std::set<Place> earlier = read_earlier(job, prompts, model);
  const auto chat = chat_template_of(loaded.tokenizer);

  generate::Engine engine(loaded.model, job.engine);
  generate::SamplingOptions of_ids = job.sampling;
  of_ids.stop.clear();
  // All before the first pass: a bad one should not be found hours later.
  std::vector<std::vector<text::TokenId>> ids;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    ids.push_back(
        prompt_tokens(kOperation, fmt::format("prompt {}", i), prompts[i], loaded.tokenizer, chat));
    try {
      engine.check_request(ids.back(), of_ids);
    } catch (const Error& e) {
      fail(kOperation, "prompt {}: {}", i, e.what());
    }
  }

  CompletionsResult result;
  result.earlier = static_cast<std::int64_t>(earlier.size());
  const std::int64_t all = static_cast<std::int64_t>(prompts.size()) * job.samples;
  report::MetricsLog out(job.out, /*append=*/true);
  const Json sampling = generate::to_json(job.sampling);

  std::vector<Place> places;  // of the texts, in the order of their beginning
  std::int64_t next = 0;
  generate::TextWriter writer;
  writer.next = [&]() -> std::optional<generate::TextJob> {
    while (next < all && earlier.contains({next / job.samples, next % job.samples})) ++next;
    if (next == all) return std::nullopt;
    const Place place = places.emplace_back(next / job.samples, next % job.samples);
    ++next;
    generate::TextJob text{ids[static_cast<std::size_t>(place.first)], job.sampling};
    text.sampling.seed = generate::sample_seed(job.sampling.seed, place.first, place.second);
    return text;
  };
  writer.done = [&](std::int64_t number, generate::WrittenText text) {
    const Place place = places[static_cast<std::size_t>(number)];
    Json line = {{"index", place.first}, {"sample", place.second}};
    line.update(prompts[static_cast<std::size_t>(place.first)]);
    line["completion"] = text.text;
    line["token_ids"] = text.ids;
    line["finish_reason"] = generate::finish_reason(text.finish);
    line["model"] = model;
    line["sampling"] = sampling;
    out.write(line);
    ++result.completions;
  };

  const Interrupt interrupt;
  WritingProgress progress("write ", engine, static_cast<double>(result.earlier));
  const auto show = [&](bool last) {
    const std::int64_t done = result.earlier + result.completions;
    progress.show(fmt::format("{} of {} completions", done, all), static_cast<double>(done),
                  static_cast<double>(all), last);
  };
  writer.go_on = [&] {
    show(false);
    result.interrupted = interrupt.asked();
    return !result.interrupted;
  };
  generate::write_texts(engine, loaded.tokenizer, writer);
  show(true);
  result.counts = engine.counts();
  result.seconds = progress.seconds();
  return result;
}

}  // namespace qad::recipe
