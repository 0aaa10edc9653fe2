// A step that was handed to the device and whose results are not there yet.
#pragma once

#include <memory>
#include <vector>

#include "model/step.h"
#include "ops/ops.h"

namespace hymba {

// The token drawn for a span, among those of the step in order.
struct Draw {
  int span = 0;
  int num_top_logprobs = 0;
};

struct PendingStep {
  std::vector<SpanOutput> outputs;     // all but the drawn tokens
  std::vector<Draw> draws;             // in the order of the drawn tokens
  std::unique_ptr<Download> download;  // of DrawnTokens; null: nothing was drawn
  int64_t num_drawn = 0;               // rows of DrawnTokens, padded lanes included

  bool ready() const { return download == nullptr || download->ready(); }
};

}  // namespace hymba
