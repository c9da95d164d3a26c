// Devices and threads, shared by every command that computes.
#include "cli/commands.h"

namespace qad::cli {

void add_compute_options(Command& command, ComputeOptions& options) {
  command.choice("--device", options.device, {"cpu", "cuda"}, "where to compute");
  command.number("--threads", options.threads, "CPU threads; 0: one a core", std::int64_t{0},
                 std::int64_t{4096});
}

void apply(const ComputeOptions& options) {
  if (options.threads > 0) at::set_num_threads(static_cast<int>(options.threads));
}

}  // namespace qad::cli
