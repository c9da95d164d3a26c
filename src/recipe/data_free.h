// A distillation without data: the teacher writes what it is learned from, which the report found
// to work (arXiv 2601.20088, 4.1: "Generated from BOS token").
#pragma once

#include "recipe/synthesis.h"

namespace qad::recipe {

// What the teacher is to write for a run without data.train: prompts it makes itself with answers,
// where it has a chat template, and as much from BOS.
Synthesis data_free_synthesis(const Recipe& recipe, const text::Tokenizer& tokenizer);

// Writes OUTPUT/teacher-data/train and, where the recipe has none, /validation and /test (a
// twentieth each), and puts them into `recipe`. Later runs find them. The summary is that of train.
SynthesisSummary write_teacher_data(Recipe& recipe, const LoadedModel& teacher);

}  // namespace qad::recipe
