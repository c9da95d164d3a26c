// qad logits: the numbers themselves, for comparing with other programs.
#include <cstring>

#include "checkpoint/write.h"
#include "cli/commands.h"
#include "core/error.h"
#include "core/json.h"
#include "recipe/steps.h"

namespace qad::cli {
namespace {

struct Options {
  std::string model, tokens, output;
  ComputeOptions compute;
};

std::vector<std::vector<std::int32_t>> read_ids(const fs::path& path, std::int64_t vocabulary) {
  const Json json = read_json(path);
  check(json.is_array() && !json.empty(), "logits", "{}: expected a list of lists of ids",
        path.string());
  std::vector<std::vector<std::int32_t>> rows;
  for (const Json& row : json) {
    check(row.is_array() && !row.empty(), "logits", "{}: row {}: expected a list of ids",
          path.string(), rows.size());
    auto& ids = rows.emplace_back();
    for (const Json& id : row) {
      check(id.is_number_integer() && id.get<std::int64_t>() >= 0 &&
                id.get<std::int64_t>() < vocabulary,
            "logits", "{}: row {}: {} is not an id of a vocabulary of {}", path.string(),
            rows.size() - 1, id.dump(), vocabulary);
      ids.push_back(id.get<std::int32_t>());
    }
    check(ids.size() == rows.front().size(), "logits",
          "{}: row {} has {} ids, row 0 has {}; expected equal lengths", path.string(),
          rows.size() - 1, ids.size(), rows.front().size());
  }
  return rows;
}

}  // namespace

void add_logits(CLI::App& app) {
  Command command(app, "logits", "logits [B, S, V] of token ids, as safetensors");
  auto o = std::make_shared<Options>();
  command.required("model", o->model,
                   "checkpoint, BF16 or NVFP4 (then with quantised activations if it says so)");
  command.required("--tokens", o->tokens, "JSON: a list of equal-length lists of ids");
  command.required("-o,--output", o->output, "safetensors file with F32 `logits`");
  add_compute_options(command, o->compute);
  command.run([o] {
    apply(o->compute);
    const checkpoint::Checkpoint source = checkpoint::open(o->model);
    const models::Model model =
        recipe::load_values(source, models::placement_of(o->compute.device));
    const auto ids = read_ids(o->tokens, model.config.vocabulary);
    const at::NoGradGuard no_grad;
    const at::Tensor logits = models::logits(model, models::forward(model, models::tokens_of(ids)))
                                  .to(at::kCPU)
                                  .contiguous();
    const auto rows = static_cast<std::int64_t>(ids.size()),
               length = static_cast<std::int64_t>(ids[0].size());
    checkpoint::write_safetensors(
        o->output,
        {{"logits", checkpoint::DType::f32, {rows, length, logits.size(1)}, [&](std::byte* out) {
            std::memcpy(out, logits.const_data_ptr<float>(), logits.nbytes());
          }}});
    return 0;
  });
}

}  // namespace qad::cli
