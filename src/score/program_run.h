// What the benchmarks share: a Python process that tells by its exit code how far it came.
#pragma once

#include <string>
#include <string_view>

#include "core/json.h"
#include "score/program.h"

namespace qad::score {

// Exit codes no program has by itself: one that ends before its tests must not seem to have passed.
constexpr int kPassed = 77, kWrong = 78, kLacks = 79;

// Runs `code` as a file with further files beside it; `show` is a file of the host it may read.
SandboxResult run_python(std::string_view code, std::vector<SandboxFile> files, std::string input,
                         const ProgramOptions& options, const fs::path& show = {});

// kPassed passes; the reason otherwise: a limit, a signal, or the last line of the traceback.
// kLacks throws Error with that line.
ProgramVerdict verdict_of(const SandboxResult& result);

// Whether the code has a function of that name which is not within something else.
bool defines(std::string_view code, std::string_view name);

// A text of the problem. Throws Error when there is none.
std::string_view text_of(const Json& problem, const char* key);

ProgramVerdict judge_livecodebench(const Json& problem, std::string_view response,
                                   const ProgramOptions& options);
ProgramVerdict judge_scicode(const Json& problem, std::string_view response,
                             const ProgramOptions& options);

}  // namespace qad::score
