// Charts as inline SVG, coloured through the page's CSS classes so that they follow light, dark and
// print.
#pragma once

#include <string>
#include <vector>

#include "report/report.h"

namespace qad::report {

// Ticks at 1, 2 or 5 times a power of ten covering [low, high]; for log axes at powers of ten, with
// 2 and 5 when few.
std::vector<double> linear_ticks(double low, double high, int about);
std::vector<double> log_ticks(double low, double high);

// A line chart drawn `width` units wide: one for desks, one for phones, so that its text keeps its
// size. Empty when no curve has a finite point.
std::string line_chart(const Chart& chart, int width);

// Every tensor's SQNR in the order of the model, the ten worst emphasised.
std::string error_chart(const std::vector<LayerError>& errors, int width);

}  // namespace qad::report
