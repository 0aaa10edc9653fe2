// top-k, top-p and min-p over one row.
#pragma once

#include <span>

#include "ops/sampling.h"

namespace hymba::cpu {

// Sets to -∞ the tempered logits of the tokens that top-k, top-p or min-p remove: steps 6 to 8 of
// ops/sampling.h. `largest` is the largest of them, and finite.
void remove_unlikely(const SamplingRow& options, float largest, std::span<float> logits);

}  // namespace hymba::cpu
