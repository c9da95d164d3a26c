// The page, from the sentence that says how it went down to every setting: a reader may stop
// anywhere.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "report/chart.h"
#include "report/format.h"
#include "report/heat_map.h"
#include "report/page.h"
#include "report/report.h"

namespace qad::report {
namespace {

constexpr int kWide = 820, kNarrow = 350;

std::string heading(const char* text) {
  return fmt::format("<h2>{}</h2>\n", text);
}

// Keeps an arrow on the line of what stands before it.
std::string unbroken(const std::string& text) {
  std::string out = escape(text);
  for (std::size_t at = 0; (at = out.find(" →", at)) != out.npos;) out.replace(at, 1, "&nbsp;");
  return out;
}

std::string header(const Run& run) {
  std::string facts;
  for (const std::string& fact : {run.model, run.date}) {
    if (!fact.empty()) facts += (facts.empty() ? "" : " · ") + escape(fact);
  }
  return fmt::format("<header><p>{}</p><h1>{}</h1></header>\n<p class=\"verdict\">{}</p>\n", facts,
                     escape(run.title.empty() ? run.model : run.title), unbroken(verdict(run)));
}

std::string tile(const std::string& name, const std::string& before, const std::string& after) {
  return fmt::format("<div class=\"tile\"><span>{}</span><b>{}{}</b></div>\n", name,
                     before.empty() ? "" : "<i>" + before + " →</i> ", "<u>" + after + "</u>");
}

std::string tiles(const Run& run) {
  std::string out;
  for (const Metric m : {Metric::kl, Metric::ppl, Metric::top1}) {
    const auto ptq = get(run.ptq, m), last = run.student ? get(run.student, m) : ptq;
    if (!last) continue;
    const auto text = [&](const Value& v) {
      return m == Metric::top1 ? number(v.mean * 100, 3) + " %" : number(v.mean, 3);
    };
    const auto from = run.student ? ptq : get(run.teacher, m);
    const std::string before = !from               ? ""
                               : m == Metric::top1 ? number(from->mean * 100, 3)
                                                   : text(*from);
    out += tile(label(m), before, text(*last));
  }
  if (run.bytes_before > 0 && run.bytes_after > 0)
    out += tile("size", bytes(run.bytes_before), bytes(run.bytes_after));
  return out.empty() ? out : "<div class=\"tiles\">\n" + out + "</div>\n";
}

std::string metric_cell(const std::optional<Value>& v, Metric m, bool strong) {
  if (!v) return "<td class=\"n soft\">–</td>";
  const std::string text = with_error(*v, m);
  const std::size_t at = text.find(" ± ");
  const std::string shown =
      at == text.npos ? text
                      : text.substr(0, at) + "<span class=\"se\">" + text.substr(at) + "</span>";
  return fmt::format("<td class=\"n{}\">{}</td>", strong ? " strong" : "", shown);
}

std::string quality(const Run& run) {
  const bool shares = run.ptq && run.student;
  std::string out = heading("Quality") + "<div class=\"scroll\"><table><thead><tr><th></th>";
  if (run.teacher) out += "<th class=\"n\">BF16</th>";
  if (run.ptq) out += "<th class=\"n\">PTQ</th>";
  if (run.student) out += "<th class=\"n\">" + escape(run.student_label) + "</th>";
  if (shares) out += "<th class=\"n\">recovered</th>";
  out += "</tr></thead><tbody>\n";
  const Recovery back = recovery(run);
  const std::pair<Metric, std::optional<double>> metrics[] = {{Metric::kl, back.kl},
                                                              {Metric::ppl, back.ppl},
                                                              {Metric::ce, back.ce},
                                                              {Metric::top1, back.top1}};
  for (const auto& [m, recovered] : metrics) {
    if (!get(run.teacher, m) && !get(run.ptq, m) && !get(run.student, m)) continue;
    out += fmt::format("<tr><th>{}</th>", label(m));
    if (run.teacher) out += metric_cell(get(run.teacher, m), m, false);
    if (run.ptq) out += metric_cell(get(run.ptq, m), m, false);
    if (run.student) out += metric_cell(get(run.student, m), m, true);
    if (shares) {
      out += recovered ? fmt::format("<td class=\"n {}\">{}</td>", *recovered >= 0 ? "good" : "bad",
                                     percent(*recovered))
                       : "<td class=\"n soft\">–</td>";
    }
    out += "</tr>\n";
  }
  out += "</tbody></table></div>\n<p class=\"soft\">";
  if (run.evaluated_tokens > 0) {
    out += fmt::format("{} held-out tokens", grouped(run.evaluated_tokens));
    if (run.evaluated_documents > 0)
      out += fmt::format(" in {} documents", grouped(run.evaluated_documents));
    out += ". ";
  }
  out += "Cross-entropy and KL in nats a token; ± is one standard error over documents.";
  if (run.ptq && run.student)
    out += " PTQ is the quantised model before training, " + escape(run.student_label) +
           " after it; recovered is the share of what PTQ lost.";
  return out + "</p>\n";
}

std::string figure(const Chart& chart) {
  const std::string wide = line_chart(chart, kWide);
  if (wide.empty()) return {};
  std::string legend;
  for (std::size_t i = 0; i < chart.curves.size(); ++i) {
    const Curve& c = chart.curves[i];
    if (c.points.empty() || c.name.empty()) continue;
    legend += fmt::format("<span class=\"key c{}\">{}</span>", i % 4, escape(c.name));
  }
  const std::string unit =
      chart.unit.empty() ? "" : ", <span class=\"soft\">" + escape(chart.unit) + "</span>";
  return fmt::format("<figure><figcaption><b>{}{}</b>{}</figcaption>\n{}{}</figure>\n",
                     escape(chart.title), unit, legend, wide, line_chart(chart, kNarrow));
}

std::string training(const Run& run) {
  std::string figures;
  for (const Chart& chart : run.charts) figures += figure(chart);
  std::string facts;
  if (run.tokens > 0) {
    facts = fmt::format("<p>{} tokens", grouped(run.tokens));
    if (run.seconds > 0) facts += " in " + seconds(run.seconds);
    if (run.tokens_per_second > 0)
      facts += fmt::format(", {} tokens a second", grouped(std::llround(run.tokens_per_second)));
    facts += ".</p>\n";
  }
  if (facts.empty() && figures.empty() && run.candidates.empty()) return {};
  std::string out = heading("Training") + facts + figures;
  if (run.candidates.empty()) return out;
  out +=
      "<h3>Checkpoints considered</h3><div class=\"scroll\"><table class=\"fit\"><thead><tr><th "
      "class=\"n\">step</th>"
      "<th class=\"n\">validation loss</th><th class=\"n\">KL to "
      "teacher</th><th></th></tr></thead><tbody>\n";
  for (const Candidate& c : run.candidates) {
    out += fmt::format(
        "<tr{}><td class=\"n\">{}</td><td class=\"n\">{}</td><td "
        "class=\"n\">{}</td><td>{}</td></tr>\n",
        c.chosen ? " class=\"strong\"" : "", c.step, number(c.validation_loss, 5),
        c.kl ? number(*c.kl) : "–", c.chosen ? "kept" : "");
  }
  return out + "</tbody></table></div>\n";
}

std::string figure(const HeatMap& map, const char* key) {
  return fmt::format(
      "<figure><figcaption><b>{}, <span "
      "class=\"soft\">{}</span></b>{}</figcaption>\n{}{}</figure>\n",
      escape(map.title), escape(map.unit), key, heat_chart(map, kWide), heat_chart(map, kNarrow));
}

std::string sensitivities(const Run& run) {
  const HeatMap map = sensitivity_map(run.sensitivities);
  if (map.cells.empty()) return {};
  const auto in = [&](std::string_view format) {
    return std::ranges::count(run.sensitivities, format, &Sensitivity::format);
  };
  return heading("What quantisation costs, by layer") +
         fmt::format(
             "<p>Each group of linears was quantised alone and its KL measured on calibration "
             "data; "
             "darker costs more. Of {} groups {} stay in BF16 and {} are in FP8, which makes {} "
             "bits a weight.</p>\n",
             run.sensitivities.size(), in("BF16"), in("FP8"), number(run.bits)) +
         figure(map, "<span>● FP8 or BF16 instead</span>");
}

std::string layers(const Run& run) {
  const std::string wide = error_chart(run.layer_errors, kWide);
  if (wide.empty()) return {};
  const HeatMap map = error_map(run.layer_errors);
  auto sorted = run.layer_errors;
  std::erase_if(sorted, [](const LayerError& e) { return !std::isfinite(e.sqnr_db); });
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return a.sqnr_db < b.sqnr_db; });
  std::string out = heading("Quantisation error by tensor");
  out += fmt::format(
      "<p>Signal to quantisation noise of the weights: median {:.1f} dB, worst {:.1f} dB in "
      "<code>{}</code>. Higher is better; "
      "6 dB halve the error.</p>\n",
      sorted[sorted.size() / 2].sqnr_db, sorted[0].sqnr_db, escape(sorted[0].name));
  if (map.cells.size() > 1)
    out += figure(map, "<span class=\"soft\">darker is worse</span>");
  else  // names that say no layer
    out +=
        "<figure><figcaption><b>SQNR, <span class=\"soft\">dB</span></b><span class=\"key "
        "c1\">ten worst</span></figcaption>\n" +
        wide + error_chart(run.layer_errors, kNarrow) + "</figure>\n";
  out +=
      "<details><summary>The worst in numbers</summary><div "
      "class=\"scroll\"><table class=\"fit\"><thead><tr><th>tensor</th><th class=\"n\">SQNR, "
      "dB</th></tr></thead><tbody>\n";
  for (std::size_t i = 0; i < std::min<std::size_t>(10, sorted.size()); ++i)
    out += fmt::format("<tr><td><code>{}</code></td><td class=\"n\">{:.2f}</td></tr>\n",
                       escape(sorted[i].name), sorted[i].sqnr_db);
  return out + "</tbody></table></div></details>\n";
}

std::string size(const Run& run) {
  std::string out;
  if (run.bytes_before > 0 && run.bytes_after > 0) {
    const double share =
        static_cast<double>(run.bytes_after) / static_cast<double>(run.bytes_before);
    const double most = std::max(1.0, share);
    out += fmt::format(
        "<div class=\"sizes\"><div><span>before</span><i "
        "style=\"width:{:.1f}%\"></i><em>{}</em></div>"
        "<div><span>after</span><i class=\"new\" style=\"width:{:.1f}%\"></i><em>{} "
        "({})</em></div></div>\n",
        62 / most, bytes(run.bytes_before), 62 * share / most, bytes(run.bytes_after),
        percent(share));
  }
  if (!run.coverage.empty()) {
    CoverageRow total;
    out +=
        "<div class=\"scroll\"><table><thead><tr><th>layers</th><th>format</th><th "
        "class=\"n\">tensors</th><th class=\"n\">parameters</th>"
        "<th class=\"n\">before</th><th class=\"n\">after</th><th>why</th></tr></thead><tbody>\n";
    for (const CoverageRow& row : run.coverage) {
      out += fmt::format(
          "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td "
          "class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"soft why\">{}</td></tr>\n",
          escape(row.kind), escape(row.format), grouped(row.tensors), grouped(row.parameters),
          bytes(row.bytes_before), bytes(row.bytes_after), escape(row.why));
      total.tensors += row.tensors;
      total.parameters += row.parameters;
      total.bytes_before += row.bytes_before;
      total.bytes_after += row.bytes_after;
    }
    out += fmt::format(
        "</tbody><tfoot><tr><td>total</td><td></td><td class=\"n\">{}</td><td "
        "class=\"n\">{}</td><td class=\"n\">{}</td><td "
        "class=\"n\">{}</td><td></td></tr></tfoot></table></div>\n",
        grouped(total.tensors), grouped(total.parameters), bytes(total.bytes_before),
        bytes(total.bytes_after));
  }
  return out.empty() ? out : heading("Size and coverage") + out;
}

std::string samples(const Run& run) {
  if (run.samples.empty()) return {};
  std::string out = heading("Samples");
  for (const Sample& s : run.samples)
    out += fmt::format("<div class=\"sample\"><h3>{}</h3><pre>{}</pre></div>\n", escape(s.label),
                       escape(s.text));
  return out;
}

std::string settings(const Run& run) {
  std::string out;
  if (!run.notes.empty()) {
    out += heading("Notes") + "<ul>\n";
    for (const std::string& note : run.notes) out += "<li>" + escape(note) + "</li>\n";
    out += "</ul>\n";
  }
  if (run.recipe.empty() && run.command.empty()) return out;
  out += heading("Recipe");
  if (!run.command.empty()) out += "<pre>" + escape(run.command) + "</pre>\n";
  if (run.recipe.empty()) return out;
  out += "<table class=\"keys\"><tbody>\n";
  for (const auto& [key, value] : run.recipe)
    out += fmt::format("<tr><td>{}</td><td>{}</td></tr>\n", escape(key), escape(value));
  return out + "</tbody></table>\n";
}

}  // namespace

std::string html(const Run& run) {
  return page(run.title.empty() ? "qad report" : run.title,
              header(run) + tiles(run) + quality(run) + benchmark_section(run.benchmarks) +
                  training(run) + sensitivities(run) + layers(run) + size(run) + samples(run) +
                  settings(run));
}

std::string error_page(const Run& run) {
  return page(run.title, fmt::format("<header><p>{}</p><h1>{}</h1></header>\n", escape(run.model),
                                     escape(run.title)) +
                             layers(run));
}

}  // namespace qad::report
