// Lets a caller look at activations between stages: golden tests and `model.trace`.
#pragma once

#include "core/tensor_view.h"

namespace hymba {

class Probe {
 public:
  virtual ~Probe() = default;
  // Called after the stage that wrote `view`, which later stages may overwrite. layer: -1 outside
  // of the layers.
  virtual void record(int layer, const char* name, const TensorView& view) = 0;
};

}  // namespace hymba
