// What the host counts while work is recorded belongs to the replays: nothing was done yet.
#include "models/recording.h"

#include "models/model.h"

namespace qad::models {

ModelRecording::ModelRecording(const Model& model, const std::function<void()>& work)
    : model_(&model) {
  const std::vector<const Linear*> all = linears(model);
  for (const Linear* l : all) seen_.push_back(l->quant ? l->quant->seen : 0);
  recording_ = record_work(model.placement.device, work);
  for (std::size_t i = 0; i < all.size(); ++i) {
    LinearQuant* const quant = all[i]->quant.get();
    if (quant == nullptr) continue;
    std::swap(seen_[i], quant->seen);
    seen_[i] -= quant->seen;
  }
}

void ModelRecording::replay() {
  recording_->replay();
  const std::vector<const Linear*> all = linears(*model_);
  for (std::size_t i = 0; i < all.size(); ++i)
    if (all[i]->quant) all[i]->quant->seen += seen_[i];
}

}  // namespace qad::models
