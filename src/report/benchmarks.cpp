// Percent everywhere: a score is a share of points.
#include "report/benchmarks.h"

#include <fmt/format.h>

#include <algorithm>

#include "report/format.h"
#include "report/page.h"

namespace qad::report {
namespace {

std::string score_text(const Score& s) {
  return fmt::format("{:.1f} ± {:.1f}", 100 * s.mean, 100 * s.se);
}
std::string difference_text(const Score& d) {
  return fmt::format("{:+.1f} [{:+.1f}, {:+.1f}]", 100 * d.mean, 100 * d.low, 100 * d.high);
}
// Beyond what chance does: its interval leaves out zero.
bool is_certain(const Score& d) {
  return d.low > 0 || d.high < 0;
}

std::string row_name(const BenchmarkRow& row) {
  return row.headline ? row.task : "  " + row.metric;
}

std::string row_html(const Benchmarks& b, const BenchmarkRow& row) {
  std::string out = row.headline
                        ? fmt::format("<tr><th>{} <span class=\"se\">{}</span></th>",
                                      escape(row.task), escape(row.metric))
                        : fmt::format("<tr><th class=\"soft\">&emsp;{}</th>", escape(row.metric));
  for (std::size_t m = 0; m < b.models.size(); ++m) {
    if (const auto& s = row.scores[m])
      out += fmt::format("<td class=\"n{}\">{:.1f}<span class=\"se\"> ± {:.1f}</span></td>",
                         row.headline ? " strong" : "", 100 * s->mean, 100 * s->se);
    else
      out += "<td class=\"n soft\">–</td>";
    if (m == 0) continue;
    if (const auto& d = row.differences[m])
      out += fmt::format(
          "<td class=\"n {}\">{:+.1f}<span class=\"se\"> [{:+.1f}, {:+.1f}]</span></td>",
          !is_certain(*d) ? "soft"
          : d->mean > 0   ? "good"
                          : "bad",
          100 * d->mean, 100 * d->low, 100 * d->high);
    else
      out += "<td class=\"n soft\">–</td>";
  }
  return out + fmt::format("<td class=\"n soft\">{} × {}</td></tr>\n", row.problems, row.samples);
}

std::string sample_html(const Benchmarks& b, const BenchmarkSample& s) {
  std::string marks, bodies;
  for (std::size_t m = 0; m < s.answers.size(); ++m) {
    const auto& a = s.answers[m];
    if (!a) continue;
    marks += fmt::format(" <span class=\"{}\">{} {}</span>", a->right ? "good" : "bad",
                         escape(b.models[m]), a->right ? "✓" : "✗");
    bodies += fmt::format(
        "<h3>{} <span class=\"se\">{}{}</span></h3><pre>{}</pre>\n", escape(b.models[m]),
        escape(a->verdict),
        a->answer.empty() || a->answer == a->text ? "" : ": " + escape(a->answer.substr(0, 200)),
        escape(a->text));
  }
  return fmt::format(
      "<details><summary>{} {}{}</summary><h3>Prompt</h3><pre>{}</pre>{}{}</details>\n",
      escape(s.task), escape(s.id), marks, escape(s.prompt),
      s.reference.empty() ? ""
                          : fmt::format("<p>Reference: <code>{}</code></p>", escape(s.reference)),
      bodies);
}

}  // namespace

std::string benchmark_table(const Benchmarks& b) {
  std::vector<std::vector<std::string>> lines(1);
  lines[0].push_back("%");
  for (std::size_t m = 0; m < b.models.size(); ++m) {
    lines[0].push_back(b.models[m]);
    if (m > 0) lines[0].push_back("less " + b.models[0]);
  }
  for (const BenchmarkRow& row : b.rows) {
    std::vector<std::string> line = {row_name(row)};
    for (std::size_t m = 0; m < b.models.size(); ++m) {
      line.push_back(row.scores[m] ? score_text(*row.scores[m]) : "–");
      if (m > 0) line.push_back(row.differences[m] ? difference_text(*row.differences[m]) : "–");
    }
    lines.push_back(std::move(line));
  }
  return text_table(lines);
}

namespace {

std::string body(const Benchmarks& b) {
  std::string out = "<div class=\"scroll\"><table><thead><tr><th></th>";
  for (std::size_t m = 0; m < b.models.size(); ++m) {
    out += fmt::format("<th class=\"n\">{}</th>", escape(b.models[m]));
    if (m > 0) out += fmt::format("<th class=\"n\">less {}</th>", escape(b.models[0]));
  }
  out += "<th class=\"n\">problems × samples</th></tr></thead><tbody>\n";
  for (const BenchmarkRow& row : b.rows) out += row_html(b, row);
  out +=
      "</tbody></table></div>\n<p class=\"soft\">Percent; ± is one standard error, brackets are "
      "95 % intervals, both by resampling problems; differences are over the same problems with "
      "the same seeds, coloured where their interval leaves out zero.</p>\n";
  for (const std::string& note : b.notes) out += "<p>" + escape(note) + "</p>\n";
  if (b.samples.empty()) return out;
  out += "<h3>What they said</h3>\n";
  for (const BenchmarkSample& s : b.samples) out += sample_html(b, s);
  if (b.samples_left_out > 0)
    out += fmt::format("<p class=\"soft\">{} more problems are in the results.</p>\n",
                       grouped(b.samples_left_out));
  return out;
}

}  // namespace

std::string benchmark_section(const Benchmarks& b) {
  return b.rows.empty() ? std::string() : "<h2>Benchmarks</h2>\n" + body(b);
}

std::string benchmark_page(const std::string& title, const Benchmarks& b) {
  return page(title, "<header><h1>" + escape(title) + "</h1></header>\n" + body(b));
}

}  // namespace qad::report
