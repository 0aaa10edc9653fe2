// After the layers: logits, sampled tokens and log-probabilities for the rows of a step that
// something is wanted of.
#pragma once

#include <span>
#include <vector>

#include "model/forward.h"
#include "model/step.h"

namespace hymba {

// Works through the wanted rows, kLogitRows at a time. `state_slots` and `positions` are the spans'
// slots and the positions of the tokens that would be drawn next.
std::vector<SpanOutput> compute_outputs(const ForwardContext& context, int num_tokens,
                                        std::span<const SpanInput> spans,
                                        std::span<const int32_t> state_slots,
                                        std::span<const int32_t> positions);

}  // namespace hymba
