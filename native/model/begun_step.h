// A step that the cache has been moved on for, and that the device has not been handed yet.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/sequence_table.h"
#include "model/output_rows.h"
#include "model/pending_step.h"
#include "model/step_block.h"

namespace hymba {

// What the history of a slot begins with.
struct SeenTokens {
  int slot = 0;
  std::vector<int32_t> tokens;
};

// Can be moved, but not copied: `block` lies in `bytes`.
struct BegunStep {
  BegunStep() = default;
  BegunStep(BegunStep&&) = default;
  BegunStep& operator=(BegunStep&&) = default;

  StepSize size;
  std::vector<char> bytes;  // what is uploaded
  StepBlock block;
  // What comes before the stages.
  CacheCopies copies;
  std::vector<SeenTokens> seen;
  // What comes after the layers.
  OutputPlan plan{{}};
  std::vector<Draw> draws;
  bool is_decode = false;  // one token a sequence, and one drawn for each
  std::vector<int32_t> bias_tokens;
  std::vector<float> bias_values;
  std::vector<int32_t> masks;
  size_t num_spans = 0;
};

}  // namespace hymba
