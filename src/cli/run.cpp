// qad: quantization-aware distillation in NVFP4. `qad -h` and `qad COMMAND -h` are the reference of
// every option.
#include <malloc.h>

#include <CLI/CLI.hpp>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "cli/commands.h"
#include "core/error.h"
#include "core/version.h"
#include "ops/allocator.h"

namespace qad::cli {

std::string command_line;

int run(int argc, char** argv) {
  // A training step allocates and frees the same large blocks again and again; by default glibc
  // would map and unmap (and the kernel zero) each of them, which cost a quarter of the step.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 64 << 20);

  for (int i = 0; i < argc; ++i) {
    const std::string word = i == 0 ? "qad" : argv[i];
    const bool plain =
        !word.empty() && word.find_first_of(" \t\n\"'\\$`*?[]{}()<>|&;#~") == word.npos;
    if (i > 0) command_line += ' ';
    command_line += plain ? word : "'" + word + "'";
  }
  ops::install_allocator();
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
  add_generate(app);
  add_logits(app);
  add_tokenize(app);
  add_convert(app);
  add_verify(app);
  try {
    app.parse(argc, argv);
    check(std::fflush(stdout) == 0 && std::ferror(stdout) == 0, "write",
          "standard output: {}; what was printed is incomplete", std::strerror(errno));
    return 0;
  } catch (const CLI::RuntimeError& e) {
    return e.get_exit_code();
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr,
                 "qad: out of memory; try fewer sequences a micro-batch or a shorter seq_len\n");
  } catch (const std::exception& e) {
    std::fprintf(stderr, "qad: %s\n", e.what());
  }
  return 1;
}

}  // namespace qad::cli
