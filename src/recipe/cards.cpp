// One column a number of cards, each the plan that one of them would train by.
#include "recipe/cards.h"

#include <algorithm>
#include <array>

#include "core/console.h"

namespace qad::recipe {
namespace {

struct Column {
  std::int64_t cards, sequences;  // of the batch, on a card
  distill::MemoryPlan plan;
  distill::Fit fit;

  std::string bytes(const std::string& kind) const {
    for (const auto& [name, size] : plan.bytes)
      if (name == kind) return human_bytes(size);
    return "";
  }
};

Column column_of(std::int64_t cards, distill::TrainConfig config,
                 const models::ModelConfig& student, const models::ModelConfig& teacher,
                 const quantize::Policy& policy, std::int64_t epoch_tokens, double room) {
  models::Placement placement = models::placement_named("cuda");
  config.batch_sequences = (config.batch_sequences + cards - 1) / cards;
  const std::int64_t tokens = (epoch_tokens + cards - 1) / cards;
  const distill::Fit fit =
      distill::fit_memory(student, &teacher, config, placement, room, tokens, policy, cards);
  fit.apply(config, placement);
  return {cards, config.batch_sequences,
          distill::plan_memory(student, &teacher, config, placement, tokens, policy, cards), fit};
}

}  // namespace

std::string cards_table(const distill::TrainConfig& config, const models::ModelConfig& student,
                        const models::ModelConfig& teacher, const quantize::Policy& policy,
                        std::int64_t epoch_tokens, double room) {
  std::vector<Column> columns;
  for (const std::int64_t cards : {1, 4, 8})
    columns.push_back(column_of(cards, config, student, teacher, policy, epoch_tokens, room));
  std::string text;
  const auto row = [&](const std::string& what, auto&& cell) {
    std::string line = fmt::format("            {:<28}", what);
    for (const Column& c : columns) line += fmt::format(" {:>12}", cell(c));
    text += line.substr(0, line.find_last_not_of(' ') + 1) + '\n';
  };
  row(fmt::format("cards of {}", human_bytes(room)),
      [](const Column& c) { return std::to_string(c.cards); });
  for (const auto& [kind, size] : columns.back().plan.bytes)
    row(kind, [&, kind = kind](const Column& c) { return c.bytes(kind); });
  row("a card", [](const Column& c) { return human_bytes(c.plan.total()); });
  row("sequences a micro-batch",
      [](const Column& c) { return fmt::format("{} of {}", c.fit.micro_sequences, c.sequences); });
  row("layers that run again", [&](const Column& c) {
    return fmt::format("{} of {}", c.fit.recomputed_layers, student.layers.size());
  });
  row("fits", [](const Column& c) { return c.fit.fits ? "yes" : "no"; });
  return text;
}

}  // namespace qad::recipe
