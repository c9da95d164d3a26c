// Names by Prometheus' conventions: base units, _total for what only grows.
#include "serve/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace qad::serve {
namespace {

std::string head(std::string_view name, std::string_view help, std::string_view type) {
  return fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n", name, help, type);
}

template <class T>
std::string plain(std::string_view name, std::string_view help, std::string_view type, T value) {
  return head(name, help, type) + fmt::format("{} {}\n", name, value);
}

}  // namespace

void Metrics::Histogram::add(double seconds) {
  const auto* bucket = std::lower_bound(kBounds.begin(), kBounds.end(), seconds);
  ++counts[static_cast<std::size_t>(bucket - kBounds.begin())];
  sum += seconds;
}

std::string Metrics::Histogram::text(std::string_view name, std::string_view help) const {
  std::string out = head(name, help, "histogram");
  std::int64_t below = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    below += counts[i];
    const std::string bound = i < kBounds.size() ? fmt::format("{}", kBounds[i]) : "+Inf";
    out += fmt::format("{}_bucket{{le=\"{}\"}} {}\n", name, bound, below);
  }
  return out + fmt::format("{0}_sum {1}\n{0}_count {2}\n", name, sum, below);
}

void Metrics::answered(std::string_view path, int status, double seconds) {
  const std::lock_guard lock(mutex_);
  ++answers_[{std::string(path), status}];
  if (path == "/v1/chat/completions" || path == "/v1/completions") seconds_.add(seconds);
}

void Metrics::first_token(double seconds) {
  const std::lock_guard lock(mutex_);
  first_token_.add(seconds);
}

void Metrics::cancelled(Cancelled why) {
  const std::lock_guard lock(mutex_);
  ++cancelled_[static_cast<std::size_t>(why)];
}

void Metrics::set(const Load& load) {
  const std::lock_guard lock(mutex_);
  load_ = load;
}

std::string Metrics::text(std::int64_t clients) const {
  const std::lock_guard lock(mutex_);
  std::string out =
      head("qad_http_requests_total",
           "Requests answered, by path and status; 499: the client had gone.", "counter");
  for (const auto& [key, count] : answers_)
    out += fmt::format("qad_http_requests_total{{path=\"{}\",status=\"{}\"}} {}\n", key.first,
                       key.second, count);
  out += head("qad_cancelled_total", "Requests ended before their time.", "counter");
  constexpr std::array<const char*, 2> kWhy = {"disconnected", "slow"};
  for (std::size_t i = 0; i < kWhy.size(); ++i)
    out += fmt::format("qad_cancelled_total{{reason=\"{}\"}} {}\n", kWhy[i], cancelled_[i]);
  const auto& c = load_.counts;
  out += plain("qad_prompt_tokens_total", "Tokens of prompts.", "counter", c.prompt_tokens);
  out += plain("qad_prompt_tokens_cached_total", "Tokens of prompts found in the cache.", "counter",
               c.reused_tokens);
  out += plain("qad_generated_tokens_total", "New tokens.", "counter", c.new_tokens);
  out += plain("qad_passes_total", "Passes through the model.", "counter", c.passes);
  out += plain("qad_preemptions_total", "Texts that gave up their cache and were read again.",
               "counter", c.preemptions);
  out += plain("qad_texts_running", "Texts being written.", "gauge", load_.running);
  out += plain("qad_texts_waiting", "Texts waiting to be written.", "gauge", load_.waiting);
  out += plain("qad_cache_used_ratio", "Share of the key-value cache in use.", "gauge",
               load_.cache_held);
  out += plain("qad_clients", "Connections that are being served.", "gauge", clients);
  out += first_token_.text("qad_time_to_first_token_seconds",
                           "From a text's being asked for to its first token.");
  return out + seconds_.text("qad_request_duration_seconds",
                             "From a request's first byte to the last of its answer.");
}

}  // namespace qad::serve
