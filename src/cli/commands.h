// One function a subcommand: it adds its options to the program and what to do when it is chosen.
// Parse, call, print; logic lives in the rooms.
#pragma once

#include <cstdint>
#include <string>

#include "cli/command.h"

namespace qad::generate {
struct SamplingOptions;
}

namespace qad::cli {

// The program: parses, runs the chosen command, prints errors. Returns the exit code: 0, 1 for an
// error, 2 for wrong usage, 130 for an interrupted run.
int run(int argc, char** argv);

void add_inspect(CLI::App& app);
void add_quantize(CLI::App& app);
void add_distill(CLI::App& app);
void add_evaluate(CLI::App& app);
void add_compare(CLI::App& app);
void add_synthesize(CLI::App& app);
void add_generate(CLI::App& app);
void add_chat(CLI::App& app);
void add_serve(CLI::App& app);
void add_logits(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_convert(CLI::App& app);
void add_verify(CLI::App& app);
void add_diff(CLI::App& app);
void add_bench(CLI::App& app);

// --device, --threads: what every computing command takes.
struct ComputeOptions {
  std::string device = "cpu";
  std::int64_t threads = 0;
};
void add_compute_options(Command& command, ComputeOptions& options);
void apply(const ComputeOptions& options);  // threads; the device is for models::placement_of

// How tokens are drawn and where a text ends.
void add_sampling_options(Command& command, generate::SamplingOptions& options);

extern std::string command_line;  // as typed, for reports

}  // namespace qad::cli
