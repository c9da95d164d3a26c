// The page is well formed and shows what it was given, safely; tables line up; result.json has its
// keys.
#include "report/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "report/chart.h"
#include "report/format.h"
#include "report/heat_map.h"

namespace qad::report {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// A bool, so that a failure does not print the page.
bool has(const std::string& page, const std::string& part) {
  return page.find(part) != page.npos;
}

Run full_run() {
  report::Run run;
  run.title = "tiny to NVFP4";
  run.model = "Llama & <friends>";
  run.teacher = Metrics{{1.5, 0.01}, {4.5, 0.05}, Value{0, 0}, Value{1, 0}};
  run.ptq = Metrics{{1.75, 0.011}, {5.5, 0.06}, Value{0.4, 0.004}, Value{0.7, 0.002}};
  run.student = Metrics{{1.55, 0.0105}, {4.75, 0.05}, Value{0.1, 0.001}, Value{0.85, 0.002}};
  Curve train{"training", {}, true, false}, validation{"validation", {}, false, true};
  for (int i = 1; i <= 1000; ++i) train.points.push_back({double(i), 1.0 / i + 0.1});
  for (int i = 100; i <= 1000; i += 100) validation.points.push_back({double(i), 1.0 / i + 0.1});
  train.points[5].value = NAN;
  run.charts = {{"KL", "nats", {train, validation}, {{"PTQ", 0.4}}, false},
                {"Loss", "", {train}, {}, true},
                {"Nothing", "", {{"empty", {}}}, {}, false}};
  for (int i = 0; i < 41; ++i)
    run.layer_errors.push_back({"layer<" + std::to_string(i) + ">", 20.0 - i * 0.1});
  run.coverage = {{"attention", 4, 1000, 2000, 563, "NVFP4", ""},
                  {"norms", 2, 10, 20, 20, "BF16", "vectors"}};
  run.candidates = {{100, 0.2, 0.19, true}, {50, 0.3, {}, false}};
  run.recipe = {{"steps", "100"}};
  run.samples = {{"QAD", "<script>alert('x')</script> & \"y\" \xff"}};
  run.notes = {"0.02 % of activations were clipped."};
  run.command = "qad distill a.yaml --set x='<y>'";
  run.tokens = 1228800;
  run.seconds = 27.4;
  run.tokens_per_second = 44846;
  run.bytes_before = 568704;
  run.bytes_after = 208064;
  return run;
}

// Every tag closed in order (void elements aside), every attribute quoted, every & a reference.
// Returns what is wrong.
std::string malformed(const std::string& page) {
  const std::set<std::string> void_tags = {"meta", "br", "!doctype"};
  std::vector<std::string> open;
  for (std::size_t i = 0; i < page.size(); ++i) {
    const std::string near = page.substr(i, 60);
    if (!open.empty() && open.back() == "style" && page.compare(i, 8, "</style>") != 0) continue;
    if (page[i] == '>') return "stray > at " + near;
    if (page[i] == '&') {
      const std::size_t end = page.find(';', i);
      if (end == page.npos || end - i > 7) return "bare & at " + near;
    }
    if (page[i] != '<') continue;
    const std::size_t end = page.find('>', i);
    if (end == page.npos) return "tag without end at " + near;
    const std::string tag = page.substr(i + 1, end - i - 1);
    i = end;
    if (std::count(tag.begin(), tag.end(), '"') % 2 != 0) return "odd quotes in " + tag;
    if (tag.find('<') != tag.npos) return "< inside " + tag;
    const std::string name = tag.substr(0, tag.find_first_of(" /", 1));
    if (tag[0] == '/') {
      if (open.empty() || "/" + open.back() != name)
        return name + " closes " + (open.empty() ? "nothing" : open.back());
      open.pop_back();
    } else if (tag.back() != '/' && !void_tags.count(name)) {
      open.push_back(name);
    }
  }
  return open.empty() ? "" : open.back() + " stays open";
}

TEST(Html, IsWellFormed) {
  EXPECT_EQ(malformed(html(full_run())), "");
  EXPECT_EQ(malformed(html(report::Run{})), "");
  report::Run ptq_only = full_run();
  ptq_only.student.reset();
  EXPECT_EQ(malformed(html(ptq_only)), "");
  EXPECT_NE(malformed("<p><b></p></b>"), "");  // the check itself can fail
  EXPECT_NE(malformed("<p>a & b</p>"), "");
}

TEST(Html, EscapesWhatItIsGiven) {
  const std::string page = html(full_run());
  EXPECT_FALSE(has(page, "<script"));
  EXPECT_THAT(
      page,
      HasSubstr(
          "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;y&quot; \xEF\xBF\xBD"));
  EXPECT_TRUE(has(page, "Llama &amp; &lt;friends&gt;"));
  EXPECT_TRUE(has(page, "layer&lt;40&gt;: 16.00 dB"));
  EXPECT_EQ(escape("a\xc3\xa9\xf0\x9f\x99\x82\xc0\xaf\xed\xa0\x80\x01"),
            "aé🙂\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD");
}

TEST(Html, NeedsNothingFromOutside) {
  const std::string page = html(full_run());
  for (const char* part : {"http:", "https:", "<link", "src=", "@import", "url("})
    EXPECT_FALSE(has(page, part)) << part;
  EXPECT_TRUE(has(page, "width=device-width"));
  EXPECT_TRUE(has(page, "prefers-color-scheme:dark"));
  EXPECT_TRUE(has(page, "@media print"));
}

TEST(Html, ShowsEveryPart) {
  const std::string page = html(full_run());
  for (const char* part :
       {"0.1000", "4.750", "85.00", "75 %", "0.02 % of activations", "Checkpoints considered",
        "vectors", "steps", "median 18.0 dB, worst 16.0 dB", "208 kB (37 %)", "PTQ 0.4000"})
    EXPECT_TRUE(has(page, part)) << part;
  EXPECT_FALSE(has(page, "nan"));
  EXPECT_FALSE(has(page, "inf\""));
}

TEST(Recovery, IsTheShareOfWhatPtqLost) {
  const Recovery r = recovery(full_run());
  EXPECT_NEAR(*r.ce, 0.8, 1e-12);
  EXPECT_NEAR(*r.ppl, 0.75, 1e-12);
  EXPECT_NEAR(*r.kl, 0.75, 1e-12);
  EXPECT_NEAR(*r.top1, 0.5, 1e-12);
}

TEST(Recovery, HasNoValueWherePtqLostNothing) {
  report::Run run = full_run();
  run.ptq->ppl.mean = 4.4;  // better than BF16
  run.ptq->kl->mean = 0;
  const Recovery r = recovery(run);
  EXPECT_FALSE(r.ppl);
  EXPECT_FALSE(r.kl);
  run.student.reset();
  EXPECT_FALSE(recovery(run).ce);
}

TEST(Verdict, SaysHowItWent) {
  report::Run run = full_run();
  EXPECT_EQ(
      verdict(run),
      "Training brought the NVFP4 model closer to its teacher: KL 0.4000 → 0.1000 nats a "
      "token, perplexity "
      "5.500 → 4.750 (BF16 4.500), 75 % of the lost perplexity recovered, at 37 % of the size.");
  run.student->kl->mean = 0.5;
  EXPECT_THAT(verdict(run),
              HasSubstr("Training took the NVFP4 model away from its teacher: KL 0.4000 → 0.5000"));
  run.student.reset();
  EXPECT_THAT(
      verdict(run),
      HasSubstr("Quantised to NVFP4 without training: perplexity 5.500 against 4.500 in BF16"));
  EXPECT_EQ(verdict(report::Run{}), "Nothing was evaluated.");
}

// Columns of characters, not bytes.
std::size_t columns(const std::string& line) {
  return static_cast<std::size_t>(std::count_if(line.begin(), line.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

TEST(MetricsTable, LinesUp) {
  const std::string table = metrics_table(full_run());
  std::vector<std::string> lines;
  for (std::size_t start = 0, end; (end = table.find('\n', start)) != table.npos; start = end + 1)
    lines.push_back(table.substr(start, end - start));
  ASSERT_EQ(lines.size(), 5u);
  for (const std::string& line : lines) EXPECT_EQ(columns(line), columns(lines[0])) << line;
  EXPECT_THAT(lines[3], HasSubstr("0.4000 ± 0.0040"));
  EXPECT_THAT(lines[4], HasSubstr("85.00 ± 0.20 %"));
  report::Run ptq_only = full_run();
  ptq_only.student.reset();
  EXPECT_THAT(metrics_table(ptq_only), Not(HasSubstr("QAD")));
  EXPECT_THAT(metrics_table(ptq_only), Not(HasSubstr("recovered")));
}

std::vector<std::string> keys(const Json& json) {
  std::vector<std::string> out;
  for (const auto& [key, value] : json.items()) out.push_back(key);
  return out;
}

TEST(ResultJson, HasItsKeys) {
  const Json json = result_json(full_run());
  EXPECT_THAT(keys(json), ElementsAre("teacher", "ptq", "student", "tokens", "seconds",
                                      "tokens_per_second", "bytes"));
  for (const char* model : {"teacher", "ptq", "student"})
    EXPECT_THAT(keys(json[model]),
                ElementsAre("ce", "ce_se", "ppl", "ppl_se", "kl", "kl_se", "top1", "top1_se"));
  EXPECT_EQ(json["student"]["kl"], 0.1);
  EXPECT_EQ(json["bytes"]["after"], 208064);
  report::Run part;
  part.ptq = Metrics{{NAN, 0}, {5, 0}, {}, {}};
  const Json sparse = result_json(part);
  EXPECT_TRUE(sparse["teacher"].is_null());
  EXPECT_TRUE(sparse["ptq"]["kl"].is_null());
  EXPECT_TRUE(sparse["ptq"]["ce"].is_null());
  EXPECT_EQ(Json::parse(sparse.dump()), sparse);
}

TEST(ResultJson, HasTheChoiceOfPrecisions) {
  report::Run run;
  run.bits = 6;
  run.sensitivities = {{"qkv", 0, {"a.q", "a.k"}, 10, 0.5, 0.02, "BF16", true},
                       {"o", 0, {"a.o"}, 5, 0.1, {}, "NVFP4", false},
                       {"down", 0, {"a.down"}, 5, 0.3, 0.01, "FP8", true}};
  const Json mixed = result_json(run)["mixed_precision"];
  EXPECT_EQ(mixed["bits"], 6);
  ASSERT_EQ(mixed["groups"].size(), 3u);
  EXPECT_EQ(mixed["groups"][0]["format"], "BF16");
  EXPECT_EQ(mixed["groups"][0]["kl_fp8"], 0.02);
  EXPECT_TRUE(mixed["groups"][1]["kl_fp8"].is_null());
  EXPECT_EQ(mixed["rules"], (Json{{{"pattern", "a.q"}, {"quantize", false}},
                                  {{"pattern", "a.k"}, {"quantize", false}},
                                  {{"pattern", "a.down"}, {"quantize", true}, {"format", "fp8"}}}));
}

std::vector<LayerError> errors() {
  return {{"model.layers.0.self_attn.q_proj", 20},
          {"model.layers.0.mlp.down_proj", 18},
          {"model.layers.10.self_attn.q_proj", 12},
          {"model.layers.10.mlp.experts.0.down_proj", 9},
          {"model.layers.10.mlp.experts.1.down_proj.weight", 8},
          {"lm_head", 1}};
}

TEST(HeatMap, HasAPlaceForEachLayerAndKind) {
  const HeatMap map = error_map(errors());
  EXPECT_THAT(map.layers, ElementsAre("0", "10"));
  EXPECT_THAT(map.kinds, ElementsAre("q_proj", "down_proj", "expert down_proj"));
  EXPECT_EQ(map.cells[0][1]->value, 18);
  EXPECT_EQ(map.cells[1][0]->value, 12);
  EXPECT_FALSE(map.cells[1][1]);
  EXPECT_EQ(map.cells[1][2]->value, 8);  // the worst expert
}

TEST(HeatMap, IsDarkestWhereItIsWorst) {
  const std::string svg = heat_chart(error_map(errors()), 820);
  EXPECT_EQ(malformed(svg), "");
  const auto opacity_of = [&](const std::string& label) {
    const std::size_t at = svg.find("<title>" + label);
    return std::stod(svg.substr(svg.rfind("fill-opacity=\"", at) + 14));
  };
  const double worst = opacity_of("model.layers.10.mlp.experts.1.down_proj");
  const double best = opacity_of("model.layers.0.self_attn.q_proj");
  EXPECT_EQ(worst, 1);
  EXPECT_LT(best, 0.1);
  EXPECT_GT(opacity_of("model.layers.10.self_attn.q_proj"), best);
  // Of KLs the highest is the worst; what stays in BF16 is marked.
  const HeatMap kl =
      sensitivity_map({{"o", 0, {"x"}, 1, 1e-3}, {"o", 1, {"y"}, 1, 1, {}, "BF16", true}});
  const std::string chart = heat_chart(kl, 350);
  EXPECT_TRUE(has(chart, "fill-opacity=\"1.000\"><title>y: 1.00 nats a token, BF16"));
  EXPECT_EQ(chart.find("class=\"mark\""), chart.rfind("class=\"mark\""));
}

TEST(HeatMap, TableMarksTheWorst) {
  const std::string table = heat_table(error_map(errors()));
  EXPECT_TRUE(has(table, " 8.0<"));
  EXPECT_EQ(std::count(table.begin(), table.end(), '<'), 1);
  EXPECT_EQ(heat_table(error_map({})), "");
  EXPECT_EQ(heat_chart(error_map({{"no layer", 1}}), 820), "");
}

TEST(Html, ShowsHeatMaps) {
  report::Run run = full_run();
  run.layer_errors = errors();
  run.sensitivities = {{"qkv", 0, {"a<q>"}, 10, 0.5, false}};
  const std::string page = html(run);
  EXPECT_EQ(malformed(page), "");
  EXPECT_TRUE(has(page, "What quantisation costs"));
  EXPECT_TRUE(has(page, "a&lt;q&gt;"));
  EXPECT_EQ(malformed(error_page(run)), "");
}

TEST(Ticks, AreRound) {
  EXPECT_THAT(linear_ticks(0, 1, 5),
              ElementsAre(0, 0.2, 0.4, ::testing::DoubleNear(0.6, 1e-12), 0.8, 1));
  EXPECT_THAT(linear_ticks(3, 290, 5), ElementsAre(100, 200));
  EXPECT_THAT(linear_ticks(2, 2, 5), ElementsAre(2));
  EXPECT_THAT(log_ticks(0.9, 110), ElementsAre(1, 2, 5, 10, 20, 50, 100));
  EXPECT_EQ(log_ticks(1e-6, 1).size(), 7u);
}

TEST(Format, RoundsForReading) {
  EXPECT_EQ(number(0.12345), "0.1235");  // 0.12345 is stored as 0.123450000000000004
  EXPECT_EQ(number(1234.5), "1234");     // ties to even
  EXPECT_EQ(number(1e-6), "1.00e-06");
  EXPECT_EQ(number(NAN), "n/a");
  EXPECT_EQ(grouped(1234567), "1\u202F234\u202F567");
  EXPECT_EQ(grouped(-123), "-123");
  EXPECT_EQ(bytes(999), "999 B");
  EXPECT_EQ(bytes(1500000000), "1.50 GB");
  EXPECT_EQ(bytes(999999), "1.00 MB");
  EXPECT_EQ(seconds(59.6), "1 min 0 s");
  EXPECT_EQ(seconds(7384), "2 h 3 min");
  EXPECT_EQ(with_error({1.23456, 0.0123}, Metric::ce), "1.235 ± 0.012");
}

}  // namespace
}  // namespace qad::report
