// A resumed run appends to metrics.jsonl and starts a new event file, as TensorBoard expects.
#include "recipe/progress.h"

#include <optional>
#include <sstream>

#include "core/console.h"
#include "core/error.h"
#include "report/events.h"

namespace qad::recipe {

namespace {

Json line_of(const distill::StepInfo& s, bool distilled) {
  Json line = {{"step", s.step},
               {"loss", s.loss},
               {"ce", s.ce},
               {"gradient_norm", s.gradient_norm},
               {"learning_rate", s.learning_rate},
               {"tokens", s.tokens},
               {"tokens_per_second", s.tokens_per_second}};
  if (distilled) line["kl"] = s.kl;
  return line;
}

Json line_of(const distill::Validation& v, bool distilled) {
  Json line = {{"step", v.step}, {"validation_loss", v.loss}, {"validation_ce", v.ce}};
  if (distilled) line["validation_kl"] = v.kl;
  return line;
}

}  // namespace

struct TrainingLog::Impl {
  Progress progress{"train "};
  fs::path metrics_path;
  std::optional<report::MetricsLog> metrics;
  fs::path events_path;
  std::optional<report::EventWriter> events;
  bool distilled;  // false: there is no KL to show
  std::vector<distill::StepInfo> steps;
  double seconds_per_step = 0;  // smoothed, for the time left
  std::string validated;        // the last validation, shown behind the step

  Impl(const fs::path& output, bool distilled)
      : metrics_path(output / "metrics.jsonl"),
        events_path(output / "events"),
        distilled(distilled) {}

  report::MetricsLog& log() {
    check(metrics.has_value(), "TrainingLog", "a record came before started()");
    return *metrics;
  }

  std::vector<Json> read_earlier(std::int64_t steps_done) {
    std::vector<Json> lines;
    if (steps_done == 0 || !fs::exists(metrics_path)) return lines;
    std::istringstream text(read_text(metrics_path));
    for (std::string line; std::getline(text, line);) {
      const Json json = Json::parse(line, nullptr, false);
      if (!json.is_object() || json.value("step", steps_done + 1) > steps_done) continue;
      lines.push_back(json);
      if (!json.contains("loss")) continue;
      distill::StepInfo s;
      s.step = json.value("step", std::int64_t{0});
      s.loss = json.value("loss", 0.0);
      s.kl = json.value("kl", 0.0);
      s.ce = json.value("ce", 0.0);
      s.learning_rate = json.value("learning_rate", 0.0);
      s.tokens = json.value("tokens", std::int64_t{0});
      steps.push_back(s);
    }
    return lines;
  }
};

TrainingLog::TrainingLog(const fs::path& output, bool distilled)
    : impl_(std::make_unique<Impl>(output, distilled)) {}
TrainingLog::~TrainingLog() = default;

const std::vector<distill::StepInfo>& TrainingLog::steps() const {
  return impl_->steps;
}

void TrainingLog::started(std::int64_t steps_done) {
  const std::vector<Json> earlier = impl_->read_earlier(steps_done);
  impl_->metrics.emplace(impl_->metrics_path);
  for (const Json& line : earlier) impl_->metrics->write(line);
  if (steps_done == 0) fs::remove_all(impl_->events_path);  // another run's
  impl_->events.emplace(impl_->events_path);
}

void TrainingLog::step(const distill::StepInfo& s, std::int64_t tokens_per_step) {
  Impl& m = *impl_;
  m.log().write(line_of(s, m.distilled));
  m.steps.push_back(s);
  std::vector<std::pair<std::string, double>> scalars = {
      {"train/loss", s.loss},
      {"train/ce", s.ce},
      {"train/gradient_norm", s.gradient_norm},
      {"train/learning_rate", s.learning_rate},
      {"train/tokens_per_second", s.tokens_per_second}};
  if (m.distilled) scalars.emplace_back("train/kl", s.kl);
  m.events->scalars(s.step, scalars);
  const double now = static_cast<double>(tokens_per_step) / std::max(s.tokens_per_second, 1e-9);
  m.seconds_per_step = m.seconds_per_step == 0 ? now : 0.9 * m.seconds_per_step + 0.1 * now;
  m.progress.show(fmt::format(
      "step {}/{}  {}loss {:.4f}  {} tokens/s  {} left{}", s.step, s.steps,
      m.distilled ? fmt::format("KL {:.4f}  ", s.kl) : "", s.loss, human_count(s.tokens_per_second),
      human_time(m.seconds_per_step * static_cast<double>(s.steps - s.step)), m.validated));
}

void TrainingLog::validation(const distill::Validation& v) {
  Impl& m = *impl_;
  m.log().write(line_of(v, m.distilled));
  std::vector<std::pair<std::string, double>> scalars = {{"validation/loss", v.loss},
                                                         {"validation/ce", v.ce}};
  if (m.distilled) scalars.emplace_back("validation/kl", v.kl);
  m.events->scalars(v.step, scalars);
  m.validated = fmt::format("  validation {:.4f} (step {})", v.loss, v.step);
}

}  // namespace qad::recipe
