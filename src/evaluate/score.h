// Responses judged as their task says.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "evaluate/results.h"

namespace qad::evaluate {

// What a task needs beyond its problems (a sandbox, tests, a judge), tried before a model writes
// for hours. Throws Error saying what is missing and what to do.
void check_can_score(const Task& task, const std::vector<Problem>& problems);

// Fills answer, verdict and metrics of all `responses` (in the order of problem, sample, step).
// Programs and judges work on `threads` responses at a time; `progress` is called after each, on
// the calling thread.
void score(const Task& task, const std::vector<Problem>& problems, std::vector<Response>& responses,
           std::int64_t threads, const std::function<void(std::int64_t done)>& progress = {});

// What stands behind the last </think>, or the whole of it: what a reasoning model says in the end.
std::string_view without_thinking(std::string_view response);

// What the next step of a problem is told of a response: its code.
std::string step_answer(const Task& task, std::string_view response);

}  // namespace qad::evaluate
