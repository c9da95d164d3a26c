// Keeping and putting back.
#include "distill/candidates.h"

#include <algorithm>

#include "core/error.h"

namespace qad::distill {

namespace {

bool contains(const std::vector<Validation>& list, std::int64_t step) {
  return std::any_of(list.begin(), list.end(), [&](const Validation& v) { return v.step == step; });
}

constexpr std::string_view kPrefix = "kept-";

}  // namespace

fs::path Candidates::folder_of(std::int64_t step) const {
  return folder_ / fmt::format("{}{:08}", kPrefix, step);
}

void Candidates::consider(const Validation& v, const Weights& weights) {
  const auto place =
      std::upper_bound(best_.begin(), best_.end(), v,
                       [](const Validation& a, const Validation& b) { return a.loss < b.loss; });
  if (place - best_.begin() >= keep_) return;
  best_.insert(place, v);
  if (folder_.empty()) {
    Kept& kept = memory_[v.step];
    for (const auto& [name, tensor] : weights.master_state())
      kept.masters.push_back(tensor.clone());
    kept.globals = weights.weight_globals();
  } else {
    Json about = {{"step", v.step}, {"validation_loss", v.loss}};
    about["weight_globals"] = weights.weight_globals();
    save_state(folder_of(v.step), about, weights.master_state());
  }
  if (static_cast<std::int64_t>(best_.size()) <= keep_) return;
  const std::int64_t dropped = best_.back().step;
  best_.pop_back();
  memory_.erase(dropped);
  if (!folder_.empty() && !contains(pinned_, dropped)) fs::remove_all(folder_of(dropped));
}

void Candidates::restore(std::int64_t step, Weights& weights) const {
  check(contains(best_, step), "restore", "the masters of step {} were not kept", step);
  if (folder_.empty()) {
    const Kept& kept = memory_.at(step);
    const NamedTensors masters = weights.master_state();
    for (std::size_t i = 0; i < masters.size(); ++i) masters[i].second.copy_(kept.masters[i]);
    weights.set_weight_globals(kept.globals);
  } else {
    const fs::path folder = folder_of(step);
    weights.set_weight_globals(
        read_state_json(folder).at("weight_globals").get<std::vector<float>>());
    read_state_tensors(folder, weights.master_state());
  }
  weights.publish();
}

void Candidates::resumed(std::vector<Validation> best) {
  best_ = std::move(best);
  pinned_ = best_;
}

void Candidates::saved() {
  pinned_ = best_;
  for (const auto& entry : fs::directory_iterator(folder_)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    const std::int64_t step = std::strtoll(name.c_str() + kPrefix.size(), nullptr, 10);
    if (!contains(best_, step)) fs::remove_all(entry.path());
  }
}

}  // namespace qad::distill
