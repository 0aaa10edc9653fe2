// A loaded model: weights, cache and workspace of one backend, and the steps that it runs.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "cache/sequence_table.h"
#include "model/forward.h"
#include "model/step.h"

namespace hymba {

// Bytes that a model takes, known before anything is allocated.
struct MemoryPlan {
  size_t weight_bytes = 0;
  size_t cache_bytes = 0;
  size_t workspace_bytes = 0;
};

MemoryPlan plan_memory(const ModelConfig& config, const ModelOptions& options,
                       const TensorTable& table, Backend& backend);

// `step` and `trace` are called from one thread at a time; the other methods from any thread.
class Model {
 public:
  // Imports the weights and computes the meta prefix. Throws kModelFormat, kInvalidArgument,
  // kOutOfMemory; kAborted when `stop` is set meanwhile, which also ends a running step, and with
  // it the model.
  Model(ModelConfig config, const ModelOptions& options, const TensorTable& table,
        std::unique_ptr<Backend> backend, const std::atomic<bool>& stop, const Progress& progress);

  SequenceId create_sequence();
  void release_sequence(SequenceId id);
  CacheUsage usage() const;

  // Runs the spans, one a sequence, in one forward pass. All or nothing: when it throws, no
  // sequence has changed. Should a stage itself fail, the model is lost, and every later step
  // throws that first error again.
  std::vector<SpanOutput> step(std::span<const SpanInput> spans);

  // One pass over the meta tokens and `tokens` from nothing, in a sequence of its own: every
  // activation of the given layers, M + T rows each.
  std::vector<TraceTensor> trace(std::span<const int32_t> tokens, std::span<const int> layers);

  const ModelConfig& config() const { return config_; }
  const KvLayout& layout() const { return layout_; }
  const MemoryPlan& memory() const { return memory_; }

 private:
  void compute_meta_prefix();
  void run_cold(SequenceId id, std::span<const int32_t> token_ids, Probe* probe);
  void check_token_ids(const std::string& where, std::span<const int32_t> ids) const;
  void check_spans(std::span<const SpanInput> spans) const;
  BatchView begin_step(std::span<const SpanRequest> requests, std::span<const int32_t> token_ids);
  void run_layers(const BatchView& batch, Probe* probe);
  template <typename Fn>
  void guarded(Fn&& run_stages);
  ForwardContext context();

  const ModelConfig config_;
  const ModelOptions options_;
  const KvLayout layout_;
  const std::unique_ptr<Backend> backend_;
  const std::atomic<bool>& stop_;
  MemoryPlan memory_;
  std::unique_ptr<Slab> weight_slab_, cache_slab_, workspace_slab_;
  Weights weights_;
  CacheViews cache_;
  Workspace workspace_;

  mutable std::mutex table_mutex_;
  SequenceTable table_;            // guarded by table_mutex_
  std::vector<int32_t> metadata_;  // of the running step, as uploaded
  std::optional<Error> lost_;
};

}  // namespace hymba
