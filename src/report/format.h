// How the report writes numbers and text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "report/report.h"

namespace qad::report {

std::string escape(
    std::string_view text);  // for HTML text and attributes; bytes that are not UTF-8 become U+FFFD
std::string number(double value,
                   int significant = 4);  // 0.1234, 12.34, 1.2e-06, "n/a" when not finite
std::string grouped(std::int64_t value);  // 1 234 567, with thin spaces
std::string bytes(std::int64_t value);    // 1.23 GB
std::string seconds(double value);        // 59 s, 12 min 3 s, 2 h 5 min
std::string percent(double share, int decimals = 0);  // 12 %

enum class Metric { ce, ppl, kl, top1 };
std::optional<Value> get(const std::optional<Metrics>& metrics, Metric metric);
std::string with_error(const Value& value, Metric metric);  // "0.2220 ± 0.0031", top1 as percent
std::string label(Metric metric);

}  // namespace qad::report
