// Texts of other prompts each round, so that no prefix is found in the cache.
#include "recipe/bench_decode.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "core/random.h"
#include "generate/engine.h"
#include "recipe/bench_model.h"

namespace qad::recipe {
namespace {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

DecodeBenchResult bench_decode(const DecodeBenchOptions& o) {
  const models::Placement placement = models::placement_of(o.device);
  models::ModelConfig config = bench_config(o.model);
  config.eos.clear();  // texts end at their length only
  const models::Model model = random_model(config, placement);
  constexpr std::int64_t kPage = 16;
  const std::int64_t pages = (o.prompt_tokens + o.new_tokens + kPage - 1) / kPage;
  generate::EngineOptions options;
  options.most_sequences = o.texts;
  options.page_tokens = kPage;
  const double texts = static_cast<double>(o.texts), states = models::bytes_of_slot(model) * texts;
  const double of_pages = models::bytes_of_page(model, kPage) * static_cast<double>(pages) * texts;
  options.cache_bytes = states + std::max(states, of_pages);  // the engine gives states half of it
  options.cuda_graphs = o.cuda_graphs;
  generate::Engine engine(model, options);

  std::uint64_t prompts = 0;
  const auto round = [&](std::int64_t new_tokens) {
    std::int64_t made = 0;
    for (std::int64_t i = 0; i < o.texts; ++i) {
      Random random{17, prompts++};
      generate::Request request;
      for (std::int64_t t = 0; t < o.prompt_tokens; ++t)
        request.prompt.push_back(static_cast<text::TokenId>(
            random.below(static_cast<std::uint64_t>(config.vocabulary))));
      request.sampling.max_tokens = new_tokens;
      request.done = [&](generate::Finish, const std::vector<text::TokenId>& ids) {
        made += static_cast<std::int64_t>(ids.size());
      };
      engine.add(std::move(request));
    }
    const auto start = std::chrono::steady_clock::now();
    while (engine.step()) {
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    check(made == o.texts * new_tokens, "bench", "expected {} new tokens, found {}",
          o.texts * new_tokens, made);
    return took.count();
  };

  DecodeBenchResult result;
  result.machine = models::machine_name(placement.device);
  result.first_seconds = round(o.new_tokens);
  std::vector<double> reading;
  for (std::int64_t i = 0; i < o.rounds; ++i) {
    result.seconds.push_back(round(o.new_tokens));
    reading.push_back(round(1));
  }
  result.read_seconds = median(reading);
  result.tokens_per_second = static_cast<double>(o.texts * o.new_tokens) / median(result.seconds);
  return result;
}

}  // namespace qad::recipe
