// Keeps the engine's queue short and gives each text its stream and stop strings.
#include "generate/write_texts.h"

#include <memory>
#include <set>
#include <utility>

#include "generate/streamed_text.h"

namespace qad::generate {
namespace {

constexpr std::int64_t kMostWaiting = 64;

}  // namespace

const char* finish_reason(Finish finish) {
  return finish == Finish::length ? "length" : "stop";
}

void write_texts(Engine& engine, const text::Tokenizer& tokenizer, const TextWriter& writer) {
  struct Text {
    StreamedText stream;
    std::string so_far;
    std::optional<text::TokenId> ended_by;
  };
  std::int64_t count = 0;
  std::set<std::int64_t> writing;  // by the engine's numbers
  const auto add = [&](TextJob job) {
    const auto text = std::make_shared<Text>(
        Text{{tokenizer, job.prompt, std::exchange(job.sampling.stop, {})}, {}, {}});
    Request request;
    request.prompt = std::move(job.prompt);
    request.sampling = std::move(job.sampling);
    request.each = [text](text::TokenId id) {
      text->so_far += text->stream.add(id);
      return !text->stream.stopped();
    };
    request.ended_by = [text](text::TokenId id) { text->ended_by = id; };
    const auto number = std::make_shared<std::int64_t>();  // the engine's
    request.done = [&, text, number, index = count++](Finish finish,
                                                      const std::vector<text::TokenId>& ids) {
      writing.erase(*number);
      if (finish == Finish::cancelled) return;
      text->so_far += text->stream.end();
      writer.done(index, {std::move(text->so_far), ids, text->ended_by, finish});
    };
    *number = engine.add(std::move(request));
    writing.insert(*number);
  };
  for (;;) {
    while (engine.waiting() < kMostWaiting) {
      std::optional<TextJob> job = writer.next();
      if (!job) break;
      add(std::move(*job));
    }
    if (!engine.step()) return;
    if (writer.go_on()) continue;
    for (const std::int64_t number : writing) engine.cancel(number);
    engine.step();  // lets go of them
    return;
  }
}

}  // namespace qad::generate
