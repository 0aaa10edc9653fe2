// After the layers: logits, drawn tokens and log-probabilities for the rows of a step that
// something is wanted of.
#pragma once

#include <span>
#include <vector>

#include "model/forward.h"
#include "model/step.h"
#include "model/step_block.h"

namespace hymba {

// One row of the step's output that something is wanted of.
struct OutputRow {
  int32_t row = 0;  // among the step's tokens
  int span = 0;
  int logits_idx = -1;  // place among the span's rows of logits; -1: none are wanted
  int target_idx = -1;  // place among the span's targets; -1: none
  int32_t target = -1;
  int num_tops = 0;  // most probable tokens to list beside the target
};

// The rows of a step, those that tokens are drawn of first.
struct OutputPlan {
  explicit OutputPlan(std::span<const SpanInput> spans);

  std::vector<OutputRow> rows;
  size_t num_sampled = 0;
  bool wants_logits = false;
  bool wants_targets = false;
  bool wants_tops = false;

  // Whether the host needs nothing but the drawn tokens: the stages need not be waited for then.
  bool only_draws() const { return !wants_logits && !wants_targets; }
};

// Draws the tokens of the block's first D rows into workspace.drawn, and remembers them as their
// sequences' last.
void draw_tokens(const ForwardContext& context, const StepBlock& block);

// The same, and brings logits, the targets' log-probabilities and what is listed beside them, of
// all rows, to the host.
void draw_and_read_rows(const ForwardContext& context, const StepBlock& block,
                        const OutputPlan& plan, std::vector<SpanOutput>& outputs);

}  // namespace hymba
