// Numbers are rounded to what their standard error supports; text is made safe for HTML.
#include "report/format.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace qad::report {
namespace {

// Length of the UTF-8 sequence at the front of `text`, 0 when there is none.
std::size_t sequence_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  const std::size_t n = first < 0x80   ? 1
                        : first < 0xC2 ? 0
                        : first < 0xE0 ? 2
                        : first < 0xF0 ? 3
                        : first < 0xF5 ? 4
                                       : 0;
  if (n > text.size()) return 0;
  for (std::size_t i = 1; i < n; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  if (n == 3 && ((first == 0xE0 && byte(1) < 0xA0) || (first == 0xED && byte(1) > 0x9F))) return 0;
  if (n == 4 && ((first == 0xF0 && byte(1) < 0x90) || (first == 0xF4 && byte(1) > 0x8F))) return 0;
  return n;
}

}  // namespace

std::string escape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const char c = text[0];
    const std::size_t n = sequence_length(text);
    if (n == 0 || (n == 1 && static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t'))
      out += "\xEF\xBF\xBD";
    else if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else if (c == '\'')
      out += "&#39;";
    else
      out += text.substr(0, n);
    text.remove_prefix(std::max<std::size_t>(n, 1));
  }
  return out;
}

std::string number(double value, int significant) {
  if (!std::isfinite(value)) return "n/a";
  if (value == 0) return "0";
  // The power of ten after rounding: 0.9999996 has that of 1.
  const std::string scientific = fmt::format("{:.{}e}", value, significant - 1);
  const int magnitude = std::stoi(scientific.substr(scientific.find('e') + 1));
  if (magnitude < -4 || magnitude >= 7)
    return fmt::format("{:.{}e}", value, std::max(0, significant - 2));
  const int decimals = std::clamp(significant - 1 - magnitude, 0, 6);
  return fmt::format("{:.{}f}", value, decimals);
}

std::string grouped(std::int64_t value) {
  std::string digits = std::to_string(value);
  const std::size_t first = digits[0] == '-' ? 1 : 0;
  for (std::size_t i = digits.size(); i > first + 3;) {
    i -= 3;
    digits.insert(i, "\u202F");
  }
  return digits;
}

std::string bytes(std::int64_t value) {
  constexpr std::array kUnits = {"B", "kB", "MB", "GB", "TB"};
  double scaled = static_cast<double>(value);
  std::size_t unit = 0;
  while (std::abs(scaled) >= 999.5 && unit + 1 < kUnits.size()) {
    scaled /= 1000;
    ++unit;
  }
  return (unit == 0 ? std::to_string(value) : number(scaled, 3)) + " " + kUnits[unit];
}

std::string seconds(double value) {
  if (!std::isfinite(value)) return "n/a";
  if (value < 10) return number(value, 2) + " s";
  const auto whole = std::llround(value);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string percent(double share, int decimals) {
  if (!std::isfinite(share)) return "n/a";
  return fmt::format("{:.{}f} %", share * 100, decimals);
}

std::optional<Value> get(const std::optional<Metrics>& metrics, Metric metric) {
  if (!metrics) return {};
  switch (metric) {
    case Metric::ce:
      return metrics->ce;
    case Metric::ppl:
      return metrics->ppl;
    case Metric::kl:
      return metrics->kl;
    case Metric::top1:
      return metrics->top1;
  }
  return {};
}

std::string with_error(const Value& value, Metric metric) {
  if (!std::isfinite(value.mean)) return "n/a";
  const double scale = metric == Metric::top1 ? 100 : 1;
  const double mean = value.mean * scale, se = value.se * scale;
  // Two digits of the error, and the mean to the same place; three to five decimals where the error
  // says nothing.
  int decimals = metric == Metric::top1 ? 2 : metric == Metric::ppl ? 3 : 4;
  if (se > 0 && std::isfinite(se))
    decimals = std::clamp(1 - static_cast<int>(std::floor(std::log10(se))), 0, 6);
  const std::string unit = metric == Metric::top1 ? " %" : "";
  if (se == 0 && (mean == 0 || (metric == Metric::top1 && mean == 100)))
    return fmt::format("{:.0f}{}", mean, unit);
  if (!(se > 0)) return fmt::format("{:.{}f}{}", mean, decimals, unit);
  return fmt::format("{:.{}f} ± {:.{}f}{}", mean, decimals, se, decimals, unit);
}

std::string label(Metric metric) {
  switch (metric) {
    case Metric::ce:
      return "cross-entropy";
    case Metric::ppl:
      return "perplexity";
    case Metric::kl:
      return "KL to teacher";
    case Metric::top1:
      return "top-1 agreement";
  }
  return {};
}

}  // namespace qad::report
