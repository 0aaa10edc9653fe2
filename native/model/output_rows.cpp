#include "model/output_rows.h"

#include <algorithm>

namespace hymba {
namespace {

// Up to kLogitRows rows of a block, worked out together.
class OutputChunk {
 public:
  OutputChunk(const ForwardContext& context, const StepBlock& block, int64_t first)
      : context_(context),
        block_(block),
        first_(first),
        count_(std::min<int64_t>(kLogitRows, block.logit_rows.rows() - first)),
        logits_(forward_logits(context, block.token_ids.rows(),
                               block.logit_rows.slice_rows(first, count_))) {}

  void draw() {
    const int64_t count = std::min(count_, block_.sampled_slots.rows() - first_);
    if (count <= 0) return;
    const Workspace& w = context_.workspace;
    Arena arena(w.drawn.raw(), w.drawn.bytes());
    const DrawnTokens drawn = lay_out_drawn(block_.sampled_slots.rows(), arena);
    const auto part = [&](const TensorView& view) { return view.slice_rows(first_, count); };
    context_.backend.sample({.logits = logits_.slice_rows(0, count),
                             .rows = part(block_.sampling_rows),
                             .bias_tokens = w.bias_tokens,
                             .bias_values = w.bias_values,
                             .masks = w.masks,
                             .history = context_.cache.history,
                             .token = part(drawn.tokens),
                             .logprob = part(drawn.logprobs),
                             .top_tokens = part(drawn.top_tokens),
                             .top_logprobs = part(drawn.top_logprobs)});
    context_.backend.remember_tokens({.tokens = part(drawn.tokens),
                                      .slots = part(block_.sampled_slots),
                                      .last_tokens = context_.cache.last_tokens});
  }

  void read_logits(std::span<const OutputRow> rows, std::vector<SpanOutput>& outputs) {
    const int64_t vocab_size = logits_.dim(1);
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].logits_idx < 0) continue;
      std::vector<float>& logits = outputs[rows[i].span].logits;
      const size_t begin = rows[i].logits_idx * vocab_size;
      logits.resize(std::max(logits.size(), begin + vocab_size));
      context_.backend.download(logits.data() + begin, logits_.row<float>(static_cast<int64_t>(i)),
                                vocab_size * sizeof(float));
    }
  }

  void read_targets(std::span<const OutputRow> rows, std::vector<SpanOutput>& outputs) {
    const Workspace& w = context_.workspace;
    std::vector<int32_t> targets;
    for (const OutputRow& row : rows) targets.push_back(std::max(row.target, 0));
    context_.backend.upload(w.targets.raw(), targets.data(), targets.size() * sizeof(int32_t));
    const TensorView logprob = w.target_logprobs.slice_rows(0, count_);
    context_.backend.token_logprobs(
        {.logits = logits_, .tokens = w.targets.slice_rows(0, count_), .logprob = logprob});
    std::vector<float> values(count_);
    context_.backend.download(values.data(), logprob.raw(), logprob.bytes());
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].target_idx < 0) continue;
      std::vector<float>& out = outputs[rows[i].span].target_logprobs;
      out.resize(std::max<size_t>(out.size(), rows[i].target_idx + 1));
      out[rows[i].target_idx] = values[i];
    }
  }

  // What a greedy draw lists; the tokens that it draws are those of nobody.
  void read_tops(std::span<const OutputRow> rows, std::vector<SpanOutput>& outputs) {
    const Workspace& w = context_.workspace;
    std::vector<SamplingRow> options;
    for (const OutputRow& row : rows)
      options.push_back({.temperature = 0, .num_top_logprobs = row.num_tops});
    context_.backend.upload(w.top_rows.raw(), options.data(), options.size() * sizeof options[0]);
    Arena arena(w.tops.raw(), w.tops.bytes());
    const DrawnTokens tops = lay_out_drawn(count_, arena);
    context_.backend.sample({.logits = logits_,
                             .rows = w.top_rows.slice_rows(0, count_),
                             .bias_tokens = w.bias_tokens,
                             .bias_values = w.bias_values,
                             .masks = w.masks,
                             .history = context_.cache.history,
                             .token = tops.tokens,
                             .logprob = tops.logprobs,
                             .top_tokens = tops.top_tokens,
                             .top_logprobs = tops.top_logprobs});
    std::vector<int32_t> tokens(count_ * kMaxTopLogprobs);
    std::vector<float> logprobs(tokens.size());
    context_.backend.download(tokens.data(), tops.top_tokens.raw(), tops.top_tokens.bytes());
    context_.backend.download(logprobs.data(), tops.top_logprobs.raw(), tops.top_logprobs.bytes());
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].target_idx < 0) continue;
      const size_t count = rows[i].num_tops, begin = rows[i].target_idx * count;
      const auto place = [&](const auto& values, auto& list) {
        list.resize(std::max(list.size(), begin + count));
        std::copy_n(values.data() + i * kMaxTopLogprobs, count, list.data() + begin);
      };
      place(tokens, outputs[rows[i].span].target_top_tokens);
      place(logprobs, outputs[rows[i].span].target_top_logprobs);
    }
  }

 private:
  const ForwardContext& context_;
  const StepBlock& block_;
  const int64_t first_;
  const int64_t count_;
  const TensorView logits_;  // [count, V]
};

}  // namespace

OutputPlan::OutputPlan(std::span<const SpanInput> spans) {
  std::vector<OutputRow> others;
  int32_t row = 0;
  for (size_t s = 0; s < spans.size(); ++s) {
    const SpanInput& span = spans[s];
    int num_logits = 0, num_targets = 0;
    for (size_t t = 0; t < span.tokens.size(); ++t, ++row) {
      const bool last = t + 1 == span.tokens.size();
      OutputRow wanted{.row = row, .span = static_cast<int>(s)};
      if (span.logits == LogitsWanted::kAll || (last && span.logits == LogitsWanted::kLast))
        wanted.logits_idx = num_logits++;
      if (!span.targets.empty() && span.targets[t] >= 0) {
        wanted.target = span.targets[t];
        wanted.target_idx = num_targets++;
        wanted.num_tops = span.num_target_tops;
      }
      wants_logits = wants_logits || wanted.logits_idx >= 0;
      wants_targets = wants_targets || wanted.target_idx >= 0;
      wants_tops = wants_tops || wanted.num_tops > 0;
      if (last && span.sampling.has_value())
        rows.push_back(wanted);
      else if (wanted.logits_idx >= 0 || wanted.target_idx >= 0)
        others.push_back(wanted);
    }
  }
  num_sampled = rows.size();
  rows.insert(rows.end(), others.begin(), others.end());
}

void draw_tokens(const ForwardContext& context, const StepBlock& block) {
  for (int64_t first = 0; first < block.sampled_slots.rows(); first += kLogitRows)
    OutputChunk(context, block, first).draw();
}

void draw_and_read_rows(const ForwardContext& context, const StepBlock& block,
                        const OutputPlan& plan, std::vector<SpanOutput>& outputs) {
  for (size_t first = 0; first < plan.rows.size(); first += kLogitRows) {
    const std::span<const OutputRow> rows(plan.rows.data() + first,
                                          std::min<size_t>(kLogitRows, plan.rows.size() - first));
    OutputChunk chunk(context, block, static_cast<int64_t>(first));
    chunk.draw();
    if (plan.wants_logits) chunk.read_logits(rows, outputs);
    if (plan.wants_targets) chunk.read_targets(rows, outputs);
    if (plan.wants_tops) chunk.read_tops(rows, outputs);
  }
}

}  // namespace hymba
