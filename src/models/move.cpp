// A model that was prepared on one device goes on to another.
#include <utility>

#include "models/model.h"

namespace qad::models {

void move_to(Model& model, const Placement& placement) {
  const at::NoGradGuard no_grad;
  if (placement.device != model.placement.device || placement.type != model.placement.type) {
    for (Parameter* p : parameters(model))
      p->value = p->value.detach().to(placement.device, p->constant ? at::kFloat : placement.type);
    for (Linear* l : linears(model)) {
      if (!l->quant) continue;
      if (l->quant->weight_scales.defined())
        l->quant->weight_scales = l->quant->weight_scales.to(placement.device);
      l->quant->clipped = at::Tensor();
      l->quant->seen = 0;
    }
    model.rope = {};
  }
  model.placement = placement;
}

}  // namespace qad::models
