// qad tokenize: ids of a text or of a conversation, as JSON.
#include "cli/commands.h"
#include "core/error.h"
#include "core/json.h"
#include "text/chat_template.h"
#include "text/model_files.h"

namespace qad::cli {
namespace {

struct Options {
  std::string model, file, chat;
  bool no_special = false, generation_prompt = false, text = false;
};

}  // namespace

void add_tokenize(CLI::App& app) {
  Command command(app, "tokenize", "token ids of a text or a conversation");
  auto o = std::make_shared<Options>();
  command.required("model", o->model, "checkpoint, or a folder with tokenizer files alone");
  command.text("--file", o->file, "UTF-8 text");
  command.text("--chat", o->chat, "JSON: a list of messages, rendered by the chat template");
  command.exclude("--file", "--chat");
  command.flag("--no-special", o->no_special, "without BOS and the like (--file)");
  command.flag("--generation-prompt", o->generation_prompt,
               "with the assistant's opening (--chat)");
  command.flag("--text", o->text, "print the rendered text instead of ids (--chat)");
  command.run([o] {
    check(!o->file.empty() || !o->chat.empty(), "tokenize",
          "say --file TEXT or --chat MESSAGES.json");
    const fs::path path = o->model;
    // A folder without weights is enough here.
    const text::Tokenizer tokenizer = fs::is_directory(path)
                                          ? text::load_tokenizer(path)
                                          : text::tokenizer_of(checkpoint::open(path));
    std::vector<text::TokenId> ids;
    if (!o->file.empty()) {
      ids = tokenizer.encode(read_text(o->file), !o->no_special);
    } else {
      check(!tokenizer.chat_template.empty(), "tokenize", "{}: the model has no chat template",
            o->model);
      const std::string rendered = text::ChatTemplate(tokenizer.chat_template)
                                       .render(text::chat_variables(tokenizer, read_json(o->chat),
                                                                    Json(), o->generation_prompt))
                                       .text;
      if (o->text) {
        fmt::print("{}", rendered);
        return 0;
      }
      ids = tokenizer.encode(rendered, false);
    }
    fmt::print("{}\n", Json(ids).dump());
    return 0;
  });
}

}  // namespace qad::cli
