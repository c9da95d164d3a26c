// Names to places, values to shades, shades to SVG or text.
#include "report/heat_map.h"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <map>

#include "report/format.h"
#include "report/page.h"

namespace qad::report {
namespace {

struct Place {
  int layer = -1;
  std::string kind;
};

// "backbone.layers.3.mixer.experts.17.up_proj" -> 3, "experts.up_proj"
Place place_of(const std::string& name) {
  const std::string mark = "layers.";
  const std::size_t at = name.find(mark);
  if (at == name.npos) return {};
  std::size_t i = at + mark.size();
  Place place{0, {}};
  for (; i < name.size() && std::isdigit(static_cast<unsigned char>(name[i])) != 0; ++i)
    place.layer = 10 * place.layer + (name[i] - '0');
  std::string last = name.substr(i);
  if (last.ends_with(".weight")) last.resize(last.size() - 7);
  place.kind = last.substr(last.rfind('.') + 1);
  if (last.find(".experts.") != last.npos) place.kind = "expert " + place.kind;
  if (last.find(".shared_experts.") != last.npos) place.kind = "shared " + place.kind;
  return place;
}

// The grid of cells that come in the order of the model.
class Grid {
 public:
  explicit Grid(HeatMap& map) : map_(map) {}

  void put(int layer, const std::string& kind, HeatCell cell) {
    if (layer < 0 || !std::isfinite(cell.value)) return;
    const auto column = std::ranges::find(map_.kinds, kind);
    const auto k = static_cast<std::size_t>(column - map_.kinds.begin());
    if (column == map_.kinds.end()) map_.kinds.push_back(kind);
    auto& row = rows_[layer];
    row.resize(std::max(row.size(), k + 1));
    const bool worse =
        !row[k] || (map_.high_is_bad ? cell.value > row[k]->value : cell.value < row[k]->value);
    if (worse) row[k] = std::move(cell);
  }
  void finish() {
    for (auto& [layer, row] : rows_) {
      row.resize(map_.kinds.size());
      map_.layers.push_back(std::to_string(layer));
      map_.cells.push_back(std::move(row));
    }
  }

 private:
  HeatMap& map_;
  std::map<int, std::vector<std::optional<HeatCell>>> rows_;
};

// 0: nothing wrong, 1: the worst of the map.
class Scale {
 public:
  explicit Scale(const HeatMap& map) : map_(map) {
    for (const auto& row : map.cells)
      for (const auto& cell : row)
        if (cell) {
          low_ = std::min(low_, at(cell->value));
          high_ = std::max(high_, at(cell->value));
        }
  }
  double operator()(double value) const {
    const double x = high_ > low_ ? (at(value) - low_) / (high_ - low_) : 0.5;
    return map_.high_is_bad ? x : 1 - x;
  }
  double least() const { return back(low_); }
  double most() const { return back(high_); }

 private:
  double at(double value) const { return map_.log ? std::log(std::max(value, 1e-12)) : value; }
  double back(double x) const { return map_.log ? std::exp(x) : x; }

  const HeatMap& map_;
  double low_ = std::numeric_limits<double>::infinity(), high_ = -low_;
};

constexpr double kFaintest = 0.06;

std::string rectangle(double x, double y, double width, double height, double heat) {
  return fmt::format(
      "<rect class=\"heat\" x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\" "
      "fill-opacity=\"{:.3f}\"",
      x, y, width, height, kFaintest + (1 - kFaintest) * heat);
}

}  // namespace

HeatMap error_map(const std::vector<LayerError>& errors) {
  HeatMap map{"Weights' signal to quantisation noise", "dB", false, false, {}, {}, {}};
  Grid grid(map);
  for (const LayerError& e : errors) {
    const Place place = place_of(e.name);
    grid.put(place.layer, place.kind,
             {e.sqnr_db, fmt::format("{}: {:.2f} dB", e.name, e.sqnr_db), false});
  }
  grid.finish();
  return map;
}

HeatMap sensitivity_map(const std::vector<Sensitivity>& groups) {
  HeatMap map{"KL to BF16 when it alone is quantised", "nats a token", true, true, {}, {}, {}};
  Grid grid(map);
  for (const Sensitivity& s : groups)
    grid.put(
        s.layer, s.kind,
        {s.kl,
         fmt::format("{}: {} nats a token, {}", s.patterns.empty() ? s.kind : s.patterns.front(),
                     number(s.kl, 3), s.format),
         s.raised});
  grid.finish();
  return map;
}

std::string heat_chart(const HeatMap& map, int width) {
  if (map.cells.empty()) return {};
  const Scale scale(map);
  const bool wide = width > 500;
  std::size_t longest = 0;
  for (const std::string& kind : map.kinds) longest = std::max(longest, kind.size());
  const double left = 10 + 6.6 * static_cast<double>(longest), right = 14, top = 4;
  const double row = wide ? 24 : 22, below = 62;
  const auto layers = static_cast<double>(map.layers.size());
  const double room = width - left - right;
  const double slot = std::min(room / layers, 2.2 * row);
  const double gap = slot > 6 ? 1.5 : 0;
  const double bottom = top + row * static_cast<double>(map.kinds.size());
  std::string out =
      fmt::format("<svg class=\"{}\" viewBox=\"0 0 {} {:.0f}\" role=\"img\" aria-label=\"{}\">\n",
                  wide ? "wide" : "narrow", width, bottom + below, escape(map.title));
  for (std::size_t k = 0; k < map.kinds.size(); ++k) {
    const double y = top + row * static_cast<double>(k);
    out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", left - 8,
                       y + row / 2 + 4, escape(map.kinds[k]));
    for (std::size_t i = 0; i < map.layers.size(); ++i) {
      const auto& cell = map.cells[i][k];
      if (!cell) continue;
      const double x = left + slot * static_cast<double>(i);
      out += rectangle(x, y, slot - gap, row - 1.5, scale(cell->value)) +
             fmt::format("><title>{}</title></rect>\n", escape(cell->label));
      if (cell->marked)
        out += fmt::format("<circle class=\"mark\" cx=\"{:.2f}\" cy=\"{:.2f}\" r=\"{:.1f}\"/>\n",
                           x + (slot - gap) / 2, y + row / 2 - 0.75, std::min(3.0, slot / 3));
    }
  }
  const auto every = static_cast<std::size_t>(std::ceil(26 / slot));
  const std::size_t step = every <= 1 ? 1 : every <= 2 ? 2 : every <= 5 ? 5 : (every + 9) / 10 * 10;
  for (std::size_t i = 0; i < map.layers.size(); i += step)
    out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                       left + slot * static_cast<double>(i) + (slot - gap) / 2, bottom + 16,
                       map.layers[i]);
  out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">layer</text>\n", left - 8,
                     bottom + 16);
  // The scale: ten steps from the best to the worst.
  const double y = bottom + 34;
  for (int i = 0; i < 10; ++i) out += rectangle(left + 14.0 * i, y, 14, 10, i / 9.0) + "/>\n";
  const double best = map.high_is_bad ? scale.least() : scale.most();
  const double worst = map.high_is_bad ? scale.most() : scale.least();
  out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", left - 8,
                     y + 9.5, number(best, 3));
  out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\">{} {}</text>\n", left + 148, y + 9.5,
                     number(worst, 3), escape(map.unit));
  return out + "</svg>\n";
}

std::string heat_table(const HeatMap& map) {
  if (map.cells.empty()) return {};
  std::vector<double> heats;
  const Scale scale(map);
  for (const auto& row : map.cells)
    for (const auto& cell : row)
      if (cell) heats.push_back(scale(cell->value));
  std::ranges::sort(heats);
  const double worst = heats[heats.size() - 1 - heats.size() / 10];
  std::vector<std::vector<std::string>> lines(1, {"layer"});
  for (const std::string& kind : map.kinds) lines[0].push_back(kind + " ");
  for (std::size_t i = 0; i < map.cells.size(); ++i) {
    lines.push_back({map.layers[i]});
    for (const auto& cell : map.cells[i])
      lines.back().push_back(
          !cell ? "- "
                : (map.log ? number(cell->value, 3) : fmt::format("{:.1f}", cell->value)) +
                      (scale(cell->value) >= worst ? "<" : " "));
  }
  return text_table(lines);
}

}  // namespace qad::report
