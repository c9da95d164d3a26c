// Of a model on disk the parameters that are in memory for the time of a step.
#pragma once

#include <vector>

#include "models/model.h"

namespace qad::quantize {

// Their values are in memory while this lives; their bytes in the files are let go of.
class Loaded {
 public:
  Loaded(const checkpoint::Checkpoint& source, models::Model& model,
         std::vector<models::Parameter*> which)
      : which_(std::move(which)) {
    models::read_values(source, model, which_);
    for (const models::Parameter* p : which_)
      for (const models::Part& part : p->parts) checkpoint::release(source, source.at(part.name));
  }
  Loaded(const Loaded&) = delete;
  Loaded& operator=(const Loaded&) = delete;
  ~Loaded() { models::drop_values(which_); }

 private:
  std::vector<models::Parameter*> which_;
};

}  // namespace qad::quantize
