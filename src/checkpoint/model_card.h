// README.md of what is written: what was done to the model, what its weights are, how to serve it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/out_model.h"

namespace qad::checkpoint {

// Markdown with the YAML header of model hubs. `m.about` (method, data, results) is kept between
// marks, so that a conversion can hand it on; `changes` is what Format::write returns.
std::string model_card(const OutModel& m, std::string_view format,
                       const std::vector<std::string>& changes);

// OutModel::about of a folder that we wrote; empty for others.
std::string about_of(const fs::path& folder);

}  // namespace qad::checkpoint
