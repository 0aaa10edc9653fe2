#include "model/output_rows.h"

#include <algorithm>
#include <cstring>

namespace hymba {
namespace {

// One row of the step's output that something is wanted of.
struct OutputRow {
  int32_t row = 0;  // among the step's tokens
  int span = 0;
  bool logits = false;
  bool sample = false;
  int32_t target = -1;
};

std::vector<OutputRow> wanted_rows(std::span<const SpanInput> spans) {
  std::vector<OutputRow> rows;
  int32_t row = 0;
  for (size_t s = 0; s < spans.size(); ++s) {
    const SpanInput& span = spans[s];
    for (size_t t = 0; t < span.tokens.size(); ++t, ++row) {
      const bool last = t + 1 == span.tokens.size();
      OutputRow wanted{.row = row, .span = static_cast<int>(s)};
      wanted.logits =
          span.logits == LogitsWanted::kAll || (last && span.logits == LogitsWanted::kLast);
      wanted.sample = last && span.sampling.has_value();
      if (!span.targets.empty()) wanted.target = span.targets[t];
      if (wanted.logits || wanted.sample || wanted.target >= 0) rows.push_back(wanted);
    }
  }
  return rows;
}

// Up to kLogitRows rows, worked out together.
class OutputChunk {
 public:
  OutputChunk(const ForwardContext& context, int num_tokens, std::span<const OutputRow> rows)
      : workspace_(context.workspace), backend_(context.backend), rows_(rows) {
    std::vector<int32_t> indices;
    for (const OutputRow& row : rows) indices.push_back(row.row);
    upload(workspace_.logit_rows, indices);
    logits_ = forward_logits(context, num_tokens, static_cast<int>(rows.size()));
  }

  void copy_logits(std::vector<SpanOutput>& outputs) {
    for (size_t i = 0; i < rows_.size(); ++i) {
      if (!rows_[i].logits) continue;
      std::vector<float>& logits = outputs[rows_[i].span].logits;
      const size_t before = logits.size();
      logits.resize(before + logits_.dim(1));
      backend_.download(logits.data() + before, logits_.row<float>(static_cast<int64_t>(i)),
                        logits_.dim(1) * sizeof(float));
    }
  }

  void score_targets(std::vector<SpanOutput>& outputs) {
    std::vector<int32_t> targets;
    for (const OutputRow& row : rows_) targets.push_back(std::max(row.target, 0));
    upload(workspace_.targets, targets);
    backend_.token_logprobs({.logits = logits_,
                             .tokens = head(workspace_.targets),
                             .logprob = head(workspace_.target_logprobs)});
    const auto logprobs = download<float>(workspace_.target_logprobs);
    for (size_t i = 0; i < rows_.size(); ++i)
      if (rows_[i].target >= 0) outputs[rows_[i].span].target_logprobs.push_back(logprobs[i]);
  }

  void sample(const CacheViews& cache, std::span<const SpanInput> spans,
              std::span<const int32_t> state_slots, std::span<const int32_t> positions,
              std::vector<SpanOutput>& outputs) {
    // Rows that nothing is drawn from go through with the settings of a greedy draw, whose result
    // is not looked at.
    std::vector<SamplingRow> sampling(rows_.size(), SamplingRow{.temperature = 0});
    std::vector<int32_t> bias_tokens;
    std::vector<float> bias_values;
    for (size_t i = 0; i < rows_.size(); ++i) {
      if (!rows_[i].sample) continue;
      const int span = rows_[i].span;
      const SamplingRequest& request = *spans[span].sampling;
      sampling[i] = request.row;
      sampling[i].position = positions[span];
      sampling[i].state_slot = state_slots[span];
      sampling[i].bias_begin = static_cast<int32_t>(bias_tokens.size());
      bias_tokens.insert(bias_tokens.end(), request.bias_tokens.begin(), request.bias_tokens.end());
      bias_values.insert(bias_values.end(), request.bias_values.begin(), request.bias_values.end());
      sampling[i].bias_end = static_cast<int32_t>(bias_tokens.size());
    }
    upload(workspace_.sampling_rows, sampling);
    upload(workspace_.bias_tokens, bias_tokens);
    upload(workspace_.bias_values, bias_values);
    backend_.sample({.logits = logits_,
                     .rows = head(workspace_.sampling_rows),
                     .bias_tokens = workspace_.bias_tokens,
                     .bias_values = workspace_.bias_values,
                     .history = cache.history,
                     .token = head(workspace_.tokens),
                     .logprob = head(workspace_.logprobs),
                     .top_tokens = head(workspace_.top_tokens),
                     .top_logprobs = head(workspace_.top_logprobs)});
    const auto tokens = download<int32_t>(workspace_.tokens);
    const auto logprobs = download<float>(workspace_.logprobs);
    const auto top_tokens = download<int32_t>(workspace_.top_tokens);
    const auto top_logprobs = download<float>(workspace_.top_logprobs);
    for (size_t i = 0; i < rows_.size(); ++i) {
      if (!rows_[i].sample) continue;
      const size_t first = i * kMaxTopLogprobs;
      const size_t end = first + sampling[i].num_top_logprobs;
      outputs[rows_[i].span].sampled =
          SampledToken{.token = tokens[i],
                       .logprob = logprobs[i],
                       .top_tokens = {top_tokens.begin() + first, top_tokens.begin() + end},
                       .top_logprobs = {top_logprobs.begin() + first, top_logprobs.begin() + end}};
    }
  }

 private:
  TensorView head(const TensorView& view) const {
    return view.slice_rows(0, static_cast<int64_t>(rows_.size()));
  }

  template <typename T>
  void upload(const TensorView& view, const std::vector<T>& values) {
    check(values.size() * sizeof(T) <= view.bytes(), "output rows: ", values.size() * sizeof(T),
          " bytes for a buffer of ", view.bytes());
    backend_.upload(view.raw(), values.data(), values.size() * sizeof(T));
  }

  template <typename T>
  std::vector<T> download(const TensorView& view) {
    const TensorView rows = head(view);
    std::vector<T> values(rows.elements());
    backend_.download(values.data(), rows.raw(), rows.bytes());
    return values;
  }

  const Workspace& workspace_;
  Backend& backend_;
  std::span<const OutputRow> rows_;
  TensorView logits_;
};

}  // namespace

std::vector<SpanOutput> compute_outputs(const ForwardContext& context, int num_tokens,
                                        std::span<const SpanInput> spans,
                                        std::span<const int32_t> state_slots,
                                        std::span<const int32_t> positions) {
  std::vector<SpanOutput> outputs(spans.size());
  const std::vector<OutputRow> rows = wanted_rows(spans);
  for (size_t first = 0; first < rows.size(); first += kLogitRows) {
    const std::span<const OutputRow> chunk(rows.data() + first,
                                           std::min<size_t>(kLogitRows, rows.size() - first));
    const auto any = [&](auto wanted) { return std::any_of(chunk.begin(), chunk.end(), wanted); };
    OutputChunk output(context, num_tokens, chunk);
    output.copy_logits(outputs);
    if (any([](const OutputRow& row) { return row.target >= 0; })) output.score_targets(outputs);
    if (any([](const OutputRow& row) { return row.sample; }))
      output.sample(context.cache, spans, state_slots, positions, outputs);
  }
  return outputs;
}

}  // namespace hymba
