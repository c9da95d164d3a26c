// A small plotting core: one frame with axes, then lines or bars in it.
#include "report/chart.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "report/format.h"

namespace qad::report {
namespace {

constexpr double kTop = 10, kBottom = 30, kRight = 14;
constexpr std::size_t kMaxPoints = 400;  // of a drawn line
constexpr std::size_t kMaxHovers = 60;   // places with a tooltip

struct Axis {
  double low = 0, high = 1;
  bool log = false;
  double at(double v) const {  // 0..1
    return log ? std::log(v / low) / std::log(high / low) : (v - low) / (high - low);
  }
};

struct Frame {
  Axis x, y;
  double left = 46, width = 0, height = 0;
  double px(double v) const { return left + x.at(v) * (width - left - kRight); }
  double py(double v) const { return height - kBottom - y.at(v) * (height - kTop - kBottom); }
};

// One form for all labels of an axis: as many decimals as their step needs.
std::string tick_label(double value, double step) {
  if (value == 0) return "0";
  if (std::abs(value) < 1e-3 || std::abs(value) >= 1e6) {
    const double exponent = std::floor(std::log10(std::abs(value)) + 1e-9);
    const double mantissa = value / std::pow(10, exponent);
    const int digits = std::abs(mantissa - std::round(mantissa)) < 1e-6 ? 0 : 1;
    return fmt::format("{:.{}f}e{:.0f}", mantissa, digits, exponent);
  }
  const int decimals = step >= 1 ? 0 : static_cast<int>(std::ceil(-std::log10(step) - 1e-9));
  return fmt::format("{:.{}f}", value, std::min(decimals, 6));
}

std::string axes(const Frame& f, const std::string& x_label, const std::vector<double>& x_ticks,
                 const std::vector<double>& y_ticks) {
  std::string out;
  const auto step_of = [](const std::vector<double>& t, std::size_t i) {
    return t.size() > 1 ? std::abs(t[std::min(i + 1, t.size() - 1)] - t[std::min(i, t.size() - 2)])
                        : std::abs(t[0]);
  };
  for (std::size_t i = 0; i < y_ticks.size(); ++i) {
    const double y = f.py(y_ticks[i]);
    const double step = f.y.log ? y_ticks[i] : step_of(y_ticks, 0);
    out += fmt::format(
        "<line class=\"grid\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
        "<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n",
        f.left, f.width - kRight, y, y, f.left - 6, y + 4, tick_label(y_ticks[i], step));
  }
  for (const double tick : x_ticks) {
    out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                       f.px(tick), f.height - kBottom + 16, tick_label(tick, step_of(x_ticks, 0)));
  }
  out +=
      fmt::format("<line class=\"axis\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>",
                  f.left, f.width - kRight, f.height - kBottom, f.height - kBottom);
  out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n",
                     f.width - kRight, f.height - 2, x_label);
  return out;
}

std::string open(const Frame& f, const std::string& name) {
  return fmt::format(
      "<svg class=\"{}\" viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" aria-label=\"{}\">\n",
      f.width > 500 ? "wide" : "narrow", f.width, f.height, escape(name));
}

bool drawable(const Point& p, bool log) {
  return std::isfinite(p.step) && std::isfinite(p.value) && (!log || p.value > 0);
}

std::vector<Point> kept(const std::vector<Point>& points, bool log) {
  std::vector<Point> out;
  std::copy_if(points.begin(), points.end(), std::back_inserter(out),
               [&](const Point& p) { return drawable(p, log); });
  return out;
}

// Means of equal runs of points.
std::vector<Point> thinned(const std::vector<Point>& points, std::size_t most) {
  if (points.size() <= most) return points;
  std::vector<Point> out;
  for (std::size_t i = 0; i < most; ++i) {
    const std::size_t begin = points.size() * i / most, end = points.size() * (i + 1) / most;
    Point mean;
    for (std::size_t k = begin; k < end; ++k) {
      mean.step += points[k].step;
      mean.value += points[k].value;
    }
    const auto n = static_cast<double>(end - begin);
    out.push_back({mean.step / n, mean.value / n});
  }
  return out;
}

// Centred moving average over a twentieth of the run: no lag, unlike an exponential one.
std::vector<Point> smoothed(const std::vector<Point>& points) {
  const std::size_t half = std::max<std::size_t>(1, points.size() / 40);
  std::vector<double> sums(1, 0);
  for (const Point& p : points) sums.push_back(sums.back() + p.value);
  std::vector<Point> out;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const std::size_t reach = std::min({half, i, points.size() - 1 - i});
    const std::size_t begin = i - reach, end = i + reach + 1;
    out.push_back({points[i].step, (sums[end] - sums[begin]) / static_cast<double>(end - begin)});
  }
  return out;
}

std::string polyline(const Frame& f, const std::vector<Point>& points, const std::string& style) {
  std::string out = "<polyline class=\"" + style + "\" points=\"";
  for (const Point& p : points) out += fmt::format("{:.1f},{:.1f} ", f.px(p.step), f.py(p.value));
  return out + "\"/>\n";
}

std::string hovers(const Frame& f, const std::string& name, bool dots,
                   const std::vector<Point>& points, std::size_t color) {
  std::string out;
  for (const Point& p : dots ? points : thinned(points, kMaxHovers)) {
    out += fmt::format(
        "<circle class=\"{} s{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"><title>{}, step {:.0f}: "
        "{}</title></circle>\n",
        dots ? "dot" : "hover", color, f.px(p.step), f.py(p.value), dots ? "3.5" : "7",
        escape(name), p.step, number(p.value));
  }
  return out;
}

}  // namespace

std::vector<double> linear_ticks(double low, double high, int about) {
  const double rough = (high - low) / std::max(about, 1);
  if (!(rough > 0) || !std::isfinite(rough)) return {low};
  const double power = std::pow(10, std::floor(std::log10(rough)));
  const double multiple = rough / power;
  const double step = power * (multiple > 5 ? 10 : multiple > 2 ? 5 : multiple > 1 ? 2 : 1);
  std::vector<double> ticks;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i)
    ticks.push_back(i == 0 ? 0 : i * step);
  return ticks;
}

std::vector<double> log_ticks(double low, double high) {
  std::vector<double> ticks;
  const bool few = std::log10(high / low) < 3;
  for (double e = std::floor(std::log10(low)); e <= std::ceil(std::log10(high)); ++e) {
    for (const double m : {1.0, 2.0, 5.0}) {
      const double tick = m * std::pow(10, e);
      if (tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9) && (m == 1 || few))
        ticks.push_back(tick);
    }
  }
  return ticks;
}

std::string line_chart(const Chart& chart, int width) {
  double x0 = std::numeric_limits<double>::infinity(), x1 = -x0, y0 = x0, y1 = -x0;
  for (const Curve& curve : chart.curves) {
    std::vector<Point> points = kept(curve.points, chart.log);
    for (const Point& p : points) {
      x0 = std::min(x0, p.step);
      x1 = std::max(x1, p.step);
    }
    if (curve.smooth) points = thinned(points, kMaxPoints);
    for (const Point& p : points) {
      y0 = std::min(y0, p.value);
      y1 = std::max(y1, p.value);
    }
  }
  if (!(x0 <= x1)) return {};
  for (const auto& [name, value] : chart.references) {
    if (!drawable({0, value}, chart.log)) continue;
    y0 = std::min(y0, value);
    y1 = std::max(y1, value);
  }
  Frame f;
  f.width = width;
  f.height = width > 500 ? 270 : 220;
  if (x0 == x1) x1 = x0 + 1;
  f.x = {x0, x1};
  std::vector<double> y_ticks;
  if (chart.log) {
    f.y = {y0 / 1.15, y1 * 1.15, true};
    y_ticks = log_ticks(f.y.low, f.y.high);
  }
  if (y_ticks.size() < 2) {
    // Zero belongs to the picture unless the values are far from it.
    if (y0 > 0 && y0 < y1 * 0.5 && !chart.log) y0 = 0;
    const double margin = y1 > y0 ? (y1 - y0) * 0.06 : std::max(std::abs(y1) * 0.1, 1e-12);
    f.y = {y0 == 0 ? 0 : y0 - margin, y1 + margin, false};
    y_ticks = linear_ticks(f.y.low, f.y.high, 5);
  }
  std::string out =
      open(f, chart.title) + axes(f, "step", linear_ticks(x0, x1, width > 500 ? 8 : 4), y_ticks);
  for (const auto& [name, value] : chart.references) {
    if (!drawable({0, value}, f.y.log)) continue;
    const double y = f.py(value);
    out += fmt::format(
        "<line class=\"reference\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>"
        "<text class=\"halo\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{} {}</text>\n",
        f.left, f.width - kRight, y, y, f.width - kRight - 2, y < kTop + 14 ? y + 14 : y - 5,
        escape(name), number(value));
  }
  for (std::size_t i = 0; i < chart.curves.size(); ++i) {
    const Curve& curve = chart.curves[i];
    std::vector<Point> points = kept(curve.points, f.y.log);
    if (curve.smooth && points.size() > 40) {
      out += polyline(f, thinned(points, kMaxPoints), fmt::format("faint s{}", i % 4));
      points = smoothed(points);
    }
    points = thinned(points, kMaxPoints);
    out += polyline(f, points, fmt::format("line s{}", i % 4)) +
           hovers(f, curve.name.empty() ? chart.title : curve.name, curve.markers, points, i % 4);
  }
  return out + "</svg>\n";
}

std::string error_chart(const std::vector<LayerError>& errors, int width) {
  std::vector<std::size_t> order;
  double high = 0;
  for (std::size_t i = 0; i < errors.size(); ++i) {
    if (!std::isfinite(errors[i].sqnr_db)) continue;
    order.push_back(i);
    high = std::max(high, errors[i].sqnr_db);
  }
  if (order.empty()) return {};
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return errors[a].sqnr_db < errors[b].sqnr_db; });
  const std::set<std::size_t> worst(
      order.begin(),
      order.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(10, order.size())));
  const double low = std::min(0.0, errors[order[0]].sqnr_db);
  Frame f;
  f.width = width;
  f.height = width > 500 ? 230 : 200;
  f.x = {0, static_cast<double>(errors.size())};
  f.y = {low, high > low ? high * 1.05 : low + 1};
  std::string out = open(f, "SQNR by tensor");
  out += axes(f, "tensor, in the order of the model", {}, linear_ticks(f.y.low, f.y.high, 4));
  const double slot = (f.width - f.left - kRight) / static_cast<double>(errors.size());
  const double bar = std::clamp(slot - (slot > 4 ? 2 : 0.2), 0.3, 18.0);
  for (const std::size_t i : std::set<std::size_t>(order.begin(), order.end())) {
    const double top = f.py(std::max(errors[i].sqnr_db, 0.0)),
                 bottom = f.py(std::min(errors[i].sqnr_db, 0.0));
    out += fmt::format(
        "<rect class=\"{}\" x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" "
        "height=\"{:.1f}\"><title>{}: {:.2f} dB</title></rect>\n",
        worst.count(i) ? "bar worst" : "bar", f.px(static_cast<double>(i)) + (slot - bar) / 2, top,
        bar, std::max(bottom - top, 0.5), escape(errors[i].name), errors[i].sqnr_db);
  }
  return out + "</svg>\n";
}

}  // namespace qad::report
