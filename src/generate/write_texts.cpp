// Keeps the engine's queue short and gives each text its stream and stop strings.
#include "generate/write_texts.h"

#include <memory>
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
  };
  std::int64_t count = 0;
  const auto add = [&](TextJob job) {
    const auto text = std::make_shared<Text>(
        Text{{tokenizer, job.prompt, std::exchange(job.sampling.stop, {})}, {}});
    Request request{std::move(job.prompt), std::move(job.sampling), {}, {}};
    request.each = [text](text::TokenId id) {
      text->so_far += text->stream.add(id);
      return !text->stream.stopped();
    };
    request.done = [&writer, text, number = count++](Finish finish,
                                                     const std::vector<text::TokenId>& ids) {
      text->so_far += text->stream.end();
      writer.done(number, {std::move(text->so_far), ids,
                           finish == Finish::length ? Finish::length : Finish::stop});
    };
    engine.add(std::move(request));
  };
  for (;;) {
    while (engine.waiting() < kMostWaiting) {
      std::optional<TextJob> job = writer.next();
      if (!job) break;
      add(std::move(*job));
    }
    if (!engine.step() || !writer.go_on()) return;
  }
}

}  // namespace qad::generate
