// The numbers of a run: recovered shares, the sentence that opens the report, the terminal's table,
// result.json.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "report/format.h"
#include "report/page.h"
#include "report/report.h"

namespace qad::report {
namespace {

std::optional<double> share(std::optional<Value> ideal, std::optional<Value> ptq,
                            std::optional<Value> student) {
  if (!ideal || !ptq || !student) return {};
  const double lost = ptq->mean - ideal->mean;
  const double left = student->mean - ideal->mean;
  const double recovered = 1 - left / lost;
  // A loss within its own error has no shares to speak of.
  if (std::abs(lost) <= 2 * ptq->se && ideal->se == 0) return {};
  if (lost == 0 || !std::isfinite(recovered)) return {};
  return recovered;
}

Json finite(double value) {
  return std::isfinite(value) ? Json(value) : Json(nullptr);
}

Json metrics_json(const std::optional<Metrics>& metrics) {
  if (!metrics) return nullptr;
  Json out = Json::object();
  const auto put = [&](const std::string& key, const std::optional<Value>& v) {
    out[key] = v ? finite(v->mean) : Json(nullptr);
    out[key + "_se"] = v ? finite(v->se) : Json(nullptr);
  };
  put("ce", metrics->ce);
  put("ppl", metrics->ppl);
  put("kl", metrics->kl);
  put("top1", metrics->top1);
  return out;
}

}  // namespace

Recovery recovery(const Run& run) {
  const auto get_share = [&](Metric m, std::optional<Value> ideal) -> std::optional<double> {
    const auto ptq = get(run.ptq, m);
    if (ideal && ptq && (m == Metric::top1 ? ptq->mean >= ideal->mean : ptq->mean <= ideal->mean))
      return {};
    return share(ideal, ptq, get(run.student, m));
  };
  return {get_share(Metric::ce, get(run.teacher, Metric::ce)),
          get_share(Metric::ppl, get(run.teacher, Metric::ppl)), get_share(Metric::kl, Value{0, 0}),
          get_share(Metric::top1, Value{1, 0})};
}

std::string verdict(const Run& run) {
  const Recovery back = recovery(run);
  std::string out;
  const auto kl_before = get(run.ptq, Metric::kl), kl_after = get(run.student, Metric::kl);
  if (run.ptq && run.student) {
    const auto before = kl_before && kl_after ? *kl_before : run.ptq->ce;
    const auto after = kl_before && kl_after ? *kl_after : run.student->ce;
    const char* name = kl_before && kl_after ? "KL" : "cross-entropy";
    out = fmt::format("{}: {} {} → {} nats a token, perplexity {} → {}",
                      after.mean < before.mean
                          ? "Training brought the NVFP4 model closer to its teacher"
                          : "Training took the NVFP4 model away from its teacher",
                      name, number(before.mean), number(after.mean), number(run.ptq->ppl.mean),
                      number(run.student->ppl.mean));
    if (run.teacher) out += fmt::format(" (BF16 {})", number(run.teacher->ppl.mean));
    if (back.ppl && *back.ppl > 0 && *back.ppl <= 1)
      out += fmt::format(", {} of the lost perplexity recovered", percent(*back.ppl));
    else if (back.ppl && *back.ppl > 1)
      out += ", better than BF16 on this text";
  } else if (run.ptq) {
    out = fmt::format("Quantised to NVFP4 without training: perplexity {}",
                      number(run.ptq->ppl.mean));
    if (run.teacher) out += fmt::format(" against {} in BF16", number(run.teacher->ppl.mean));
    if (kl_before)
      out += fmt::format(", KL to the teacher {} nats a token", number(kl_before->mean));
  } else if (run.student) {
    out = fmt::format("The trained model has perplexity {}", number(run.student->ppl.mean));
    if (kl_after) out += fmt::format(", KL to the teacher {} nats a token", number(kl_after->mean));
  } else if (run.teacher) {
    out = fmt::format("The BF16 model has perplexity {}", number(run.teacher->ppl.mean));
  } else {
    return "Nothing was evaluated.";
  }
  if (run.bytes_before > 0 && run.bytes_after > 0)
    out += fmt::format(", at {} of the size", percent(static_cast<double>(run.bytes_after) /
                                                      static_cast<double>(run.bytes_before)));
  return out + ".";
}

std::string metrics_table(const Run& run) {
  std::vector<std::vector<std::string>> rows(1, {""});
  if (run.teacher) rows[0].push_back("BF16");
  if (run.ptq) rows[0].push_back("PTQ");
  if (run.student) rows[0].push_back(run.student_label);
  const Recovery back = recovery(run);
  const bool shares = run.ptq && run.student;
  if (shares) rows[0].push_back("recovered");
  const std::pair<Metric, std::optional<double>> metrics[] = {{Metric::ce, back.ce},
                                                              {Metric::ppl, back.ppl},
                                                              {Metric::kl, back.kl},
                                                              {Metric::top1, back.top1}};
  for (const auto& [metric, recovered] : metrics) {
    if (!get(run.teacher, metric) && !get(run.ptq, metric) && !get(run.student, metric)) continue;
    std::vector<std::string> row = {label(metric)};
    for (const auto* model : {&run.teacher, &run.ptq, &run.student}) {
      if (!*model) continue;
      const auto value = get(*model, metric);
      row.push_back(value ? with_error(*value, metric) : "-");
    }
    if (shares) row.push_back(recovered ? percent(*recovered) : "-");
    rows.push_back(std::move(row));
  }
  return text_table(rows);
}

namespace {

Json mixed_precision_json(const Run& run) {
  Json groups = Json::array(), rules = Json::array();
  for (const Sensitivity& s : run.sensitivities) {
    groups.push_back({{"kind", s.kind},
                      {"layer", s.layer},
                      {"weights", s.weights},
                      {"kl", finite(s.kl)},
                      {"kl_fp8", s.kl_fp8 ? finite(*s.kl_fp8) : Json()},
                      {"format", s.format}});
    if (!s.raised) continue;
    for (const std::string& pattern : s.patterns) {
      rules.push_back({{"pattern", pattern}, {"quantize", s.format != "BF16"}});
      if (s.format == "FP8") rules.back()["format"] = "fp8";
    }
  }
  return {{"bits", run.bits}, {"groups", std::move(groups)}, {"rules", std::move(rules)}};
}

}  // namespace

Json result_json(const Run& run) {
  Json out = {{"teacher", metrics_json(run.teacher)},
              {"ptq", metrics_json(run.ptq)},
              {"student", metrics_json(run.student)},
              {"tokens", run.tokens},
              {"seconds", finite(run.seconds)},
              {"tokens_per_second", finite(run.tokens_per_second)},
              {"bytes", {{"before", run.bytes_before}, {"after", run.bytes_after}}}};
  if (!run.sensitivities.empty()) out["mixed_precision"] = mixed_precision_json(run);
  return out;
}

}  // namespace qad::report
