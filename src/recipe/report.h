// The papers of a run: an Outcome as the report room's values, written beside the checkpoint.
#pragma once

#include <string>

#include "recipe/run.h"
#include "report/report.h"

namespace qad::recipe {

report::Run report_of(const Outcome& outcome);

// result.json, report.html and recipe.yaml in the output folder.
void write_report(const Outcome& outcome);

// For the model card: method, data, the table of results and the recipe, as Markdown.
std::string about(const Outcome& outcome);

// What the terminal shows at the end: the table, samples, and where everything lies.
std::string summary(const Outcome& outcome);

}  // namespace qad::recipe
