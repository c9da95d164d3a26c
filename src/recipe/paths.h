// Where the program's own files lie.
#pragma once

#include "core/file.h"

namespace qad::recipe {

// The folder of built-in tasks: `tasks` beside the program, a folder above it, or in
// ../share/qad. Error when none is there.
fs::path task_folder();

}  // namespace qad::recipe
