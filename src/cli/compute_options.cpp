// Devices and threads, shared by every command that computes.
#include "cli/commands.h"
#include "core/error.h"

namespace qad::cli {

void add_compute_options(CLI::App& command, ComputeOptions& options) {
  command.add_option("--device", options.device, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  command.add_option("--threads", options.threads, "CPU threads; 0: one a core")
      ->check(CLI::NonNegativeNumber);
}

void apply(const ComputeOptions& options) {
  check(options.device == "cpu", "device",
        "cuda: this build has no CUDA plug-in; use --device cpu");
  if (options.threads > 0) at::set_num_threads(options.threads);
}

}  // namespace qad::cli
