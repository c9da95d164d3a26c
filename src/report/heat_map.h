// A grid of layers and kinds of linears, darker where quantisation costs more: where in a model the
// error is, at a glance.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "report/report.h"

namespace qad::report {

struct HeatCell {
  double value = 0;
  std::string label;  // of the cell alone: a tooltip
  bool marked = false;
};
struct HeatMap {
  std::string title, unit;
  bool high_is_bad = true, log = false;  // of the colours
  std::vector<std::string> kinds;
  std::vector<std::string> layers;  // "0", "1", ...
  // [layer][kind]; none where a layer has no such linear, or its value is not finite.
  std::vector<std::vector<std::optional<HeatCell>>> cells;
};

// From names such as "model.layers.3.self_attn.q_proj" (a ".weight" behind is left out): layer 3,
// kind "q_proj"; of experts, which share a cell, the worst. What stands in no layer is left out.
HeatMap error_map(const std::vector<LayerError>& errors);
// Cells of what stays in BF16 are marked.
HeatMap sensitivity_map(const std::vector<Sensitivity>& groups);

// As SVG `width` units wide, layers to the right; empty without cells.
std::string heat_chart(const HeatMap& map, int width);
// The same for a terminal: a line a layer, with "<" behind the worst tenth of all cells.
std::string heat_table(const HeatMap& map);

}  // namespace qad::report
