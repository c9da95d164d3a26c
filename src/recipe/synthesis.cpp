// Source by source: candidates are numbered, written in any order and kept in theirs, until the
// source has its share of the tokens.
#include "recipe/synthesis.h"

#include <chrono>
#include <map>

#include "core/console.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/random.h"
#include "distill/resume.h"
#include "generate/write_texts.h"
#include "recipe/prompts.h"
#include "recipe/synthesis_candidates.h"
#include "recipe/writing_progress.h"
#include "report/events.h"

namespace qad::recipe {
namespace {

constexpr std::string_view kOperation = "synthesize";
constexpr std::size_t kExamples = 2;  // of each source

// The shards as one file that grows: records in order, a new shard after so many.
class Shards {
 public:
  Shards(fs::path folder, std::int64_t records) : folder_(std::move(folder)), most_(records) {}

  // Calls `each` with what is there; a line that a kill has cut is removed.
  void read(const std::function<void(const Json&)>& each) {
    for (; fs::exists(path()); ++shard_) {
      records_ = 0;
      report::read_log(path(), [&](const Json& record, std::int64_t number) {
        each(record);
        records_ = number;
      });
      if (records_ < most_) break;
    }
    if (records_ == most_ && !fs::exists(path())) records_ = 0;
  }

  void add(const Json& record) {
    if (records_ == most_) {
      log_.reset();
      ++shard_;
      records_ = 0;
    }
    if (!log_) log_.emplace(path(), /*append=*/true);
    log_->write(record);
    ++records_;
  }

 private:
  fs::path path() const { return folder_ / fmt::format("data-{:05}.jsonl", shard_); }

  fs::path folder_;
  std::int64_t most_, shard_ = 0, records_ = 0;
  std::optional<report::MetricsLog> log_;
};

void count(SynthesisSummary& summary, const Json& record) {
  SynthesisSummary::Source& s = summary.sources[record.at("source").get<std::size_t>()];
  const auto tokens = static_cast<std::int64_t>(record.at("input_ids").size());
  if (s.records < static_cast<std::int64_t>(kExamples))
    summary.examples.emplace_back(record.at("prompt"), record.at("completion"));
  ++s.records;
  s.tokens += tokens;
  s.completion_tokens += tokens - record.at("prompt_tokens").get<std::int64_t>();
  s.ended += record.at("finish_reason") == "stop";
  s.candidates = record.at("index").get<std::int64_t>() + 1;
}

class Writer {
 public:
  Writer(const LoadedModel& teacher, const Synthesis& synthesis, std::size_t number,
         std::int64_t share, SynthesisSummary& summary, Shards& shards, const Json& about)
      : teacher_(teacher),
        synthesis_(synthesis),
        number_(number),
        share_(share),
        summary_(summary),
        shards_(shards),
        about_(about),
        candidates_(make_candidates(synthesis, number, teacher)),
        next_(summary.sources[number].candidates),
        flushed_(next_) {}

  // False for an interrupt.
  bool run(const generate::EngineOptions& options) {
    if (has_share()) return true;
    generate::Engine engine(teacher_.model, options);
    const Interrupt interrupt;
    WritingProgress progress(fmt::format("{:<8} ", synthesis_.sources[number_].kind), engine,
                             static_cast<double>(source().tokens));
    const auto show = [&](bool last) {
      const auto have = static_cast<double>(source().tokens), all = static_cast<double>(share_);
      progress.show(fmt::format("{} of {} tokens", human_count(have), human_count(all)), have, all,
                    last);
    };
    bool stopped = false;
    generate::TextWriter writer;
    writer.next = [&] { return next(); };
    writer.done = [&](std::int64_t text, generate::WrittenText written) {
      note_text(static_cast<std::size_t>(text), std::move(written));
    };
    writer.go_on = [&] {
      show(false);
      stopped = interrupt.asked();
      return !stopped && !has_share();
    };
    generate::write_texts(engine, teacher_.tokenizer, writer);
    show(true);
    return !stopped;
  }

 private:
  SynthesisSummary::Source& source() { return summary_.sources[number_]; }
  bool has_share() { return source().tokens >= share_; }

  // A candidate under way: the texts that lead to it, one after another.
  struct Way {
    std::int64_t index = 0;
    Candidate candidate;
  };

  std::optional<generate::TextJob> next() {
    if (has_share()) return std::nullopt;
    Way way;
    if (!again_.empty()) {
      way = std::move(again_.back());
      again_.pop_back();
    } else {
      for (;;) {  // those without a text of the model's are done at once
        auto candidate = candidates_->next(next_);
        if (!candidate) return std::nullopt;
        way = {next_++, std::move(*candidate)};
        if (!way.candidate.complete) break;
        finish(std::move(way));
        if (has_share()) return std::nullopt;
      }
    }
    generate::TextJob job;
    job.prompt = way.candidate.prompt_ids;
    const auto& o = synthesis_.sampling;
    job.sampling.max_tokens = o.max_tokens;
    job.sampling.temperature = o.temperature;
    job.sampling.top_p = o.top_p;
    job.sampling.min_p = o.min_p;
    job.sampling.top_k = o.top_k;
    job.sampling.seed =
        random_bits(generate::sample_seed(static_cast<std::uint64_t>(synthesis_.seed),
                                          static_cast<std::int64_t>(number_), way.index),
                    way.candidate.stage);
    writing_.push_back(std::move(way));
    return job;
  }

  void note_text(std::size_t text, generate::WrittenText written) {
    Way way = std::move(writing_[text]);
    candidates_->note(way.candidate, std::move(written));
    if (way.candidate.complete || way.candidate.rejected)
      finish(std::move(way));
    else
      again_.push_back(std::move(way));
  }

  // Kept in the order of the candidates.
  void finish(Way way) {
    done_.emplace(way.index, std::move(way.candidate));
    for (auto c = done_.find(flushed_); c != done_.end() && !has_share();
         c = done_.find(flushed_)) {
      if (!c->second.rejected) {
        Json record = {{"source", number_}, {"index", flushed_}};
        record.update(c->second.record);
        record.update(about_);
        shards_.add(record);
        count(summary_, record);
      }
      source().candidates = ++flushed_;
      done_.erase(c);
    }
  }

  const LoadedModel& teacher_;
  const Synthesis& synthesis_;
  std::size_t number_;
  std::int64_t share_;
  SynthesisSummary& summary_;
  Shards& shards_;
  const Json& about_;
  std::unique_ptr<Candidates> candidates_;
  std::int64_t next_, flushed_;
  std::vector<Way> writing_;  // by the number of the text
  std::vector<Way> again_;    // whose next text is due
  std::map<std::int64_t, Candidate> done_;
};

}  // namespace

SynthesisSummary synthesize(const LoadedModel& teacher, const Synthesis& synthesis,
                            const generate::EngineOptions& engine) {
  validate(synthesis);
  const fs::path folder = synthesis.output, about_file = folder / "about.json";
  const std::string fingerprint = fmt::format("{:016x}", distill::fingerprint(teacher.model));
  Json recipe = to_json(synthesis);
  for (const char* place : {"output", "device", "threads"}) recipe.erase(place);
  Json about = {{"recipe", recipe}, {"teacher_fingerprint", fingerprint}, {"complete", false}};
  if (fs::exists(about_file)) {
    const Json earlier = read_json(about_file);
    check(earlier.value("recipe", Json()) == recipe &&
              earlier.value("teacher_fingerprint", "") == fingerprint,
          kOperation, "{}: was begun by another recipe or teacher; remove it or write elsewhere",
          folder.string());
    if (earlier.value("complete", false)) {
      note("{}: is complete already", folder.string());
      return summary_of(earlier.at("summary"));
    }
  } else {
    check(!fs::exists(folder) || fs::is_empty(folder), kOperation,
          "{}: holds other files; remove it or write elsewhere", folder.string());
    fs::create_directories(folder);
    write_file(about_file, to_text(about));
  }

  const auto start = std::chrono::steady_clock::now();
  SynthesisSummary summary;
  double weights = 0;
  for (const SynthesisSource& s : synthesis.sources) {
    summary.sources.push_back({s.kind, s.file + s.task});
    weights += s.weight;
  }
  Shards shards(folder, synthesis.shard_records);
  shards.read([&](const Json& record) { count(summary, record); });
  const Json sampling = {{"temperature", synthesis.sampling.temperature},
                         {"top_p", synthesis.sampling.top_p},
                         {"min_p", synthesis.sampling.min_p},
                         {"top_k", synthesis.sampling.top_k},
                         {"max_tokens", synthesis.sampling.max_tokens},
                         {"seed", synthesis.seed}};
  const Json of_all = {{"sampling", sampling}, {"teacher", fingerprint}};
  for (std::size_t i = 0; i < synthesis.sources.size(); ++i) {
    const double share =
        static_cast<double>(synthesis.tokens) * synthesis.sources[i].weight / weights;
    Writer writer(teacher, synthesis, i, static_cast<std::int64_t>(share), summary, shards, of_all);
    summary.interrupted = !writer.run(engine);
    if (summary.interrupted) return summary;
    const auto& s = summary.sources[i];
    check(s.records > 0, kOperation, "{}: nothing was kept of {} candidates{}",
          s.from.empty() ? s.kind : s.from, s.candidates,
          synthesis.sources[i].keep == "correct" ? "; none was correct" : "");
    if (static_cast<double>(s.tokens) < share - 1)
      note("{}: all prompts are completed; {} of {} tokens (passes: more completions of each)",
           s.from, s.tokens, static_cast<std::int64_t>(share));
  }
  summary.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  about["complete"] = true;
  about["summary"] = to_json(summary);
  write_file(about_file, to_text(about));
  return summary;
}

}  // namespace qad::recipe
