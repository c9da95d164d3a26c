// The frame around what a page says.
#include "report/page.h"

#include <fmt/format.h>

#include <algorithm>

#include "report/format.h"
#include "report/style.h"

namespace qad::report {
namespace {

std::size_t columns_of(const std::string& text) {
  std::size_t columns = 0;
  for (const char c : text) columns += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return columns;
}

}  // namespace

std::string page(const std::string& title, const std::string& body) {
  return fmt::format(
             "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
             "<meta name=\"viewport\" content=\"width=device-width, "
             "initial-scale=1\">\n<title>{}</title>\n<style>{}</style></head>\n"
             "<body><main>\n",
             escape(title), kStyle) +
         body +
         "<footer>Written by qad: quantization-aware distillation in "
         "NVFP4.</footer>\n</main></body></html>\n";
}

std::string text_table(const std::vector<std::vector<std::string>>& lines) {
  std::vector<std::size_t> widths;
  for (const auto& line : lines)
    for (std::size_t i = 0; i < line.size(); ++i) {
      if (i == widths.size()) widths.push_back(0);
      widths[i] = std::max(widths[i], columns_of(line[i]));
    }
  std::string out;
  for (const auto& line : lines) {
    std::string text;
    for (std::size_t i = 0; i < line.size(); ++i) {
      const std::string space(widths[i] - columns_of(line[i]), ' ');
      text += (i == 0 ? "" : "  ") + (i == 0 ? line[i] + space : space + line[i]);
    }
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + "\n";
  }
  return out;
}

}  // namespace qad::report
