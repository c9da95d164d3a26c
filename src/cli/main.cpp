// qad: quantization-aware distillation in NVFP4. `qad -h` and `qad COMMAND -h` are the reference of
// every option.
#include <malloc.h>

#include <cstdio>

#include "cli/commands.h"
#include "core/error.h"

namespace qad::cli {

std::string command_line;

}  // namespace qad::cli

int main(int argc, char** argv) {
  // A training step allocates and frees the same large blocks again and again; by default glibc
  // would map and unmap (and the kernel zero) each of them, which cost a quarter of the step.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 64 << 20);

  for (int i = 0; i < argc; ++i) {
    if (i > 0) qad::cli::command_line += ' ';
    qad::cli::command_line += i == 0 ? "qad" : argv[i];
  }
  CLI::App app(
      "qad distils a BF16 language model into its own NVFP4 copy.\n"
      "  qad distill recipe.yaml    BF16 checkpoint in; NVFP4 checkpoint, table BF16 | PTQ | QAD "
      "and report out");
  app.name("qad");
  app.require_subcommand(1);
  app.set_version_flag("--version", "qad " QAD_VERSION);
  qad::cli::add_inspect(app);
  qad::cli::add_quantize(app);
  qad::cli::add_distill(app);
  qad::cli::add_evaluate(app);
  qad::cli::add_generate(app);
  qad::cli::add_logits(app);
  qad::cli::add_tokenize(app);
  qad::cli::add_convert(app);
  qad::cli::add_verify(app);
  try {
    app.parse(argc, argv);
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
