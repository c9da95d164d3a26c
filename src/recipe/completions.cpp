// What is there, what is missing, and a line for each that comes.
#include "recipe/completions.h"

#include <chrono>
#include <set>

#include "core/console.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/random.h"
#include "generate/streamed_text.h"
#include "report/events.h"
#include "text/chat_template.h"

namespace qad::recipe {
namespace {

constexpr std::string_view kOperation = "completions";

// What the line says of itself: {"prompt": ...} or {"messages": ...}.
std::vector<Json> read_prompts(const fs::path& file, bool chat) {
  const std::string extension = file.extension().string();
  check(extension == ".txt" || extension == ".jsonl", kOperation,
        "{}: expected a .txt or .jsonl file", file.string());
  std::vector<Json> prompts;
  std::istringstream text(read_text(file));
  std::int64_t number = 0;
  for (std::string line; std::getline(text, line);) {
    ++number;
    if (extension == ".txt") {
      prompts.push_back({{"prompt", line}});
    } else {
      const Json json = parse_json(line, fmt::format("{}:{}", file.string(), number));
      const bool messages = json.is_object() && json.contains("messages");
      check(messages || (json.is_object() && json.contains("prompt") && json["prompt"].is_string()),
            kOperation, "{}:{}: expected 'prompt', a text, or 'messages'", file.string(), number);
      prompts.push_back(messages ? Json{{"messages", json["messages"]}}
                                 : Json{{"prompt", json["prompt"]}});
    }
    if (chat && prompts.back().contains("prompt"))
      prompts.back() = {{"messages", {{{"role", "user"}, {"content", prompts.back()["prompt"]}}}}};
  }
  check(!prompts.empty(), kOperation, "{}: no prompts; the file is empty", file.string());
  return prompts;
}

std::vector<text::TokenId> tokens_of(const Json& prompt, const LoadedModel& loaded,
                                     const std::optional<text::ChatTemplate>& chat,
                                     std::size_t index) {
  std::vector<text::TokenId> ids;
  if (prompt.contains("prompt")) {
    ids = loaded.tokenizer.encode(prompt["prompt"].get<std::string>());
  } else {
    check(chat.has_value(), kOperation, "messages need a chat template, and this model has none");
    ids = text::chat_prompt(loaded.tokenizer, *chat, prompt["messages"]);
  }
  check(!ids.empty(), kOperation,
        "prompt {} has no tokens, and the tokenizer adds no BOS; expected a text", index);
  return ids;
}

Json to_json(const generate::SamplingOptions& o) {
  return {{"max_tokens", o.max_tokens},
          {"temperature", o.temperature},
          {"top_k", o.top_k},
          {"top_p", o.top_p},
          {"min_p", o.min_p},
          {"repetition_penalty", o.repetition_penalty},
          {"seed", o.seed},
          {"stop", o.stop},
          {"stop_tokens", o.stop_tokens}};
}

using Place = std::pair<std::int64_t, std::int64_t>;  // of a completion: prompt, sample

// The completions that are there; the line that a kill cut is taken away.
std::set<Place> read_earlier(const CompletionsJob& job, const std::vector<Json>& prompts,
                             const std::string& model) {
  std::set<Place> places;
  std::int64_t number = 0;
  if (!fs::exists(job.out)) return places;
  const std::string text = read_text(job.out);
  const std::string whole = text.substr(0, text.rfind('\n') + 1);  // npos + 1 = 0
  const Json sampling = to_json(job.sampling);
  std::istringstream lines(whole);
  for (std::string line; std::getline(lines, line);) {
    const Json json = parse_json(line, job.out.string());
    const std::int64_t index = json.value("index", std::int64_t{-1});
    const auto same = [&] {
      if (index < 0 || index >= static_cast<std::int64_t>(prompts.size())) return false;
      for (const auto& [key, value] : prompts[static_cast<std::size_t>(index)].items())
        if (!json.contains(key) || json[key] != value) return false;
      return json.value("sampling", Json()) == sampling && json.value("model", "") == model;
    };
    ++number;
    check(same(), kOperation,
          "{}: line {} is of other prompts, another sampling or another model; expected this "
          "run's, or no such "
          "file: remove it or write elsewhere",
          job.out.string(), number);
    const std::int64_t sample = json.value("sample", std::int64_t{0});
    if (sample < job.samples) places.insert({index, sample});
  }
  if (whole.size() < text.size()) write_file(job.out, whole);
  return places;
}

}  // namespace

CompletionsResult write_completions(const LoadedModel& loaded, const CompletionsJob& job) {
  generate::validate(job.sampling, loaded.model.config.vocabulary);
  const std::vector<Json> prompts = read_prompts(job.prompts, job.chat);
  const std::string model = loaded.source.path.string();
  const std::set<Place> earlier = read_earlier(job, prompts, model);
  std::optional<text::ChatTemplate> chat;
  if (!loaded.tokenizer.chat_template.empty()) chat.emplace(loaded.tokenizer.chat_template);

  generate::Engine engine(loaded.model, job.engine);
  generate::SamplingOptions of_ids = job.sampling;
  of_ids.stop.clear();
  // All before the first pass: a bad one should not be found hours later.
  std::vector<std::vector<text::TokenId>> ids;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    ids.push_back(tokens_of(prompts[i], loaded, chat, i));
    try {
      engine.check_request(ids.back(), of_ids);
    } catch (const Error& e) {
      fail(kOperation, "prompt {}: {}", i, e.what());
    }
  }

  const auto start = std::chrono::steady_clock::now();
  CompletionsResult result;
  result.earlier = static_cast<std::int64_t>(earlier.size());
  const std::int64_t all = static_cast<std::int64_t>(prompts.size()) * job.samples;
  report::MetricsLog out(job.out, /*append=*/true);
  const Json sampling = to_json(job.sampling);

  const auto add = [&](std::int64_t index, std::int64_t sample) {
    generate::Request request;
    request.prompt = ids[static_cast<std::size_t>(index)];
    request.sampling = of_ids;
    request.sampling.seed =
        random_bits(random_bits(job.sampling.seed, static_cast<std::uint64_t>(index)),
                    static_cast<std::uint64_t>(sample));
    struct Text {
      generate::StreamedText stream;
      std::string so_far;
    };
    const auto text =
        std::make_shared<Text>(Text{{loaded.tokenizer, request.prompt, job.sampling.stop}, {}});
    request.each = [text](text::TokenId id) {
      text->so_far += text->stream.add(id);
      return !text->stream.stopped();
    };
    request.done = [&, text, index, sample](generate::Finish finish,
                                            const std::vector<text::TokenId>& made) {
      Json line = {{"index", index}, {"sample", sample}};
      line.update(prompts[static_cast<std::size_t>(index)]);
      line["completion"] = text->so_far + text->stream.end();
      line["token_ids"] = made;
      line["finish_reason"] = finish == generate::Finish::length ? "length" : "stop";
      line["model"] = model;
      line["sampling"] = sampling;
      out.write(line);
      ++result.completions;
    };
    engine.add(std::move(request));
  };

  const Interrupt interrupt;
  Progress progress("write ");
  std::int64_t next = 0;
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  const auto show = [&](bool last) {
    const double took = seconds(), done = static_cast<double>(result.completions);
    const double left = static_cast<double>(all - result.earlier - result.completions);
    progress.show(
        fmt::format(
            "{} of {} completions  {} tokens/s{}", result.earlier + result.completions, all,
            human_count(static_cast<double>(engine.counts().new_tokens) / std::max(took, 1e-9)),
            done > 0 && !last ? fmt::format("  {} left", human_time(left * took / done)) : ""),
        last);
  };
  for (;;) {
    // A few are queued at a time: prompts may be many.
    while (next < all && engine.waiting() < job.engine.most_sequences) {
      const Place place{next / job.samples, next % job.samples};
      ++next;
      if (!earlier.contains(place)) add(place.first, place.second);
    }
    result.interrupted = interrupt.asked();
    if (result.interrupted || (!engine.step() && next >= all)) break;
    show(false);
  }
  show(true);
  result.counts = engine.counts();
  result.seconds = seconds();
  return result;
}

}  // namespace qad::recipe
