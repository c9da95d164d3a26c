// qad: quantization-aware distillation in NVFP4. `qad -h` and `qad COMMAND -h` are the reference of
// every option.
#include <CLI/CLI.hpp>

#include <c10/util/Exception.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "cli/commands.h"
#include "core/error.h"
#include "core/nearest.h"
#include "core/version.h"
#include "ops/allocator.h"

namespace qad::cli {

std::string command_line;

namespace {

// The first word that no command or option wanted, with the nearest that is known; empty if none.
std::string unexpected_word(const CLI::App& app) {
  const std::vector<std::string> words = app.remaining(true);
  if (words.empty()) return {};
  const auto option = std::find_if(words.begin(), words.end(),
                                   [](const std::string& w) { return w.starts_with("-"); });
  const std::string word = option == words.end() ? words.front() : *option;
  const auto chosen = app.get_subcommands();
  std::vector<std::string> known;
  if (chosen.empty()) {
    for (const CLI::App* command : app.get_subcommands({})) known.push_back(command->get_name());
    for (const CLI::Option* o : app.get_options())
      for (const std::string& name : o->get_lnames()) known.push_back("--" + name);
    return fmt::format("\"{}\" is no {}{}", word, word.starts_with("-") ? "option" : "command",
                       did_you_mean(word, known));
  }
  for (const CLI::Option* o : chosen.front()->get_options())
    for (const std::string& name : o->get_lnames()) known.push_back("--" + name);
  return fmt::format("\"{}\" is nothing that qad {} takes{}", word, chosen.front()->get_name(),
                     did_you_mean(word, known));
}

}  // namespace

int run(int argc, char** argv) {
  ops::install_allocator();
  for (int i = 0; i < argc; ++i) {
    const std::string word = i == 0 ? "qad" : argv[i];
    const bool plain =
        !word.empty() && word.find_first_of(" \t\n\"'\\$`*?[]{}()<>|&;#~") == word.npos;
    if (i > 0) command_line += ' ';
    command_line += plain ? word : "'" + word + "'";
  }
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error of write(), not a death

  CLI::App app(
      "qad distils a BF16 language model into its own NVFP4 copy.\n"
      "  qad distill recipe.yaml    BF16 checkpoint in; NVFP4 checkpoint, table BF16 | PTQ | QAD "
      "and report out");
  app.name("qad");
  app.require_subcommand(1);
  app.set_version_flag("--version", fmt::format("qad {}", kVersion));
  add_inspect(app);
  add_quantize(app);
  add_distill(app);
  add_evaluate(app);
  add_compare(app);
  add_synthesize(app);
  add_generate(app);
  add_chat(app);
  add_serve(app);
  add_logits(app);
  add_tokenize(app);
  add_convert(app);
  add_verify(app);
  add_diff(app);
  add_bench(app);
  try {
    app.parse(argc, argv);
    check(std::fflush(stdout) == 0 && std::ferror(stdout) == 0, "write",
          "standard output: {}; what was printed is incomplete", std::strerror(errno));
    return 0;
  } catch (const CLI::RuntimeError& e) {
    return e.get_exit_code();
  } catch (const CLI::ParseError& e) {
    const std::string word = e.get_exit_code() == 0 ? std::string() : unexpected_word(app);
    if (word.empty()) return app.exit(e) == 0 ? 0 : 2;
    std::fprintf(stderr, "qad: %s\nRun with --help for more information.\n", word.c_str());
    return 2;
  } catch (const c10::OutOfMemoryError& e) {
    const std::string_view what = e.what_without_backtrace();
    std::fprintf(stderr,
                 "qad: the GPU's memory is full: %s; see the plan of qad distill --dry-run\n",
                 std::string(what.substr(0, what.find('.'))).c_str());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr,
                 "qad: out of memory; try fewer sequences a micro-batch or a shorter seq_len\n");
  } catch (const std::exception& e) {
    std::fprintf(stderr, "qad: %s\n", e.what());
  }
  return 1;
}

}  // namespace qad::cli
