// qad chat: a conversation in the terminal. A turn reads only what is new of it: the engine finds
// the beginning in its cache.
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <utility>

#include "cli/commands.h"
#include "core/console.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "generate/engine.h"
#include "generate/streamed_text.h"
#include "recipe/steps.h"
#include "text/chat_template.h"

namespace qad::cli {
namespace {

struct Options {
  std::string model, system;
  generate::SamplingOptions sampling{.max_tokens = 1024, .temperature = 0.7, .top_p = 0.95};
  double cache_gb = 1;
  ComputeOptions compute;
};

constexpr const char* kHelp =
    "/system TEXT  what the assistant is told first (begins anew; without TEXT: nothing)\n"
    "/reset        begin anew\n"
    "/exit         or Ctrl-D; Ctrl-C ends an answer";

class Conversation {
 public:
  Conversation(const recipe::LoadedModel& loaded, const Options& options)
      : loaded_(loaded),
        options_(options),
        template_(loaded.tokenizer.chat_template),
        engine_(loaded.model, {.cache_bytes = options.cache_gb * 1e9}) {
    begin(options.system);
  }

  void begin(const std::string& system) {
    system_ = system;
    messages_ = Json::array();
    if (!system.empty()) messages_.push_back({{"role", "system"}, {"content", system}});
  }
  void reset() { begin(system_); }

  // The answer to `said`, printed as it comes; an Error leaves the conversation as it was. False:
  // the program is to end.
  bool turn(const std::string& said) {
    Json messages = messages_;
    messages.push_back({{"role", "user"}, {"content", said}});
    const auto prompt = text::chat_prompt(loaded_.tokenizer, template_, messages);
    generate::SamplingOptions sampling = options_.sampling;
    sampling.seed += messages.size();  // another draw for each turn
    generate::StreamedText text(loaded_.tokenizer, prompt, std::exchange(sampling.stop, {}));
    std::string answer;
    const auto print = [&](const std::string& piece) {
      answer += piece;
      fmt::print("{}", piece);
      std::fflush(stdout);
    };
    const Interrupt interrupt;
    const std::int64_t number =
        engine_.add({prompt, sampling,
                     [&](text::TokenId id) {
                       print(text.add(id));
                       return !text.stopped() && !interrupt.asked();
                     },
                     [&](generate::Finish, const auto&) { print(text.end()); }});
    while (engine_.step())
      if (interrupt.asked()) engine_.cancel(number);  // also while the prompt is read
    fmt::print("{}\n", interrupt.asked() ? " [ended]" : "");
    messages.push_back({{"role", "assistant"}, {"content", answer}});
    messages_ = std::move(messages);
    return !interrupt.terminated();
  }

 private:
  const recipe::LoadedModel& loaded_;
  const Options& options_;
  text::ChatTemplate template_;
  generate::Engine engine_;
  std::string system_;
  Json messages_;
};

// False: the end.
bool act_on(const std::string& line, Conversation& conversation) {
  if (line == "/exit" || line == "/quit") return false;
  if (line == "/reset") {
    conversation.reset();
    note("(a new conversation)");
  } else if (line == "/system" || line.starts_with("/system ")) {
    conversation.begin(line.size() > 8 ? line.substr(8) : std::string());
    note("(a new conversation)");
  } else if (line.starts_with("/")) {
    note("{}", kHelp);
  } else if (!line.empty()) {
    try {
      return conversation.turn(line);
    } catch (const Error& e) {
      note("{}; /reset begins anew", e.what());
    }
  }
  return true;
}

}  // namespace

void add_chat(CLI::App& app) {
  Command command(app, "chat", "a conversation with a model in the terminal");
  auto o = std::make_shared<Options>();
  command.required("model", o->model, "checkpoint with a chat template, BF16 or NVFP4");
  command.text("--system", o->system, "what the assistant is told first");
  add_sampling_options(command, o->sampling);
  command.number("--cache-gb", o->cache_gb,
                 "memory for keys and values, which bounds how long it remembers");
  add_compute_options(command, o->compute);
  command.run([o] {
    apply(o->compute);
    const recipe::LoadedModel loaded =
        recipe::load_model(o->model, models::decoding_placement_of(o->compute.device));
    check(!loaded.tokenizer.chat_template.empty(), "chat",
          "{}: the model has no chat template; qad generate continues texts without one", o->model);
    generate::validate(o->sampling, loaded.model.config.vocabulary);
    Conversation conversation(loaded, *o);
    const bool terminal = isatty(STDIN_FILENO) != 0;
    if (terminal) note("{}", kHelp);
    for (std::string line;;) {
      if (terminal) {
        fmt::print("\n> ");
        std::fflush(stdout);
      }
      if (!std::getline(std::cin, line) || !act_on(line, conversation)) break;
    }
    return 0;
  });
}

}  // namespace qad::cli
