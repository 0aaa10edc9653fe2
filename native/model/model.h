// A loaded model: weights, cache and workspace of one backend, and the steps that it runs.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "cache/sequence_table.h"
#include "model/begun_step.h"
#include "model/forward.h"
#include "model/pending_step.h"
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

// A sequence that is carried out of the cache or into it, and what has to be copied before.
struct CarriedSequence {
  SequenceHoldings held;
  CacheCopies copies;
};

// Two threads share a model without a lock. One moves the integers that say who holds what of the
// cache: it has all methods but `submit`, `collect`, `read`, `write` and `trace`, which are the
// other's. That one has the memory of the backend, and runs steps in the order in which the first
// one began them.
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

  // As in SequenceTable. These only move integers: what has to be copied is copied before the next
  // step.
  std::optional<SequenceId> snapshot(SequenceId id, bool proven);
  void retire_sequence(SequenceId id);
  // `tokens` are those that the snapshot stands after. For the penalties they count as a prompt.
  SequenceId resume(SequenceId snapshot, std::span<const int32_t> tokens);
  bool is_snapshot(SequenceId id) const;
  int own_pages(SequenceId id) const;

  // A sequence of so many tokens, the contents of which `write` has yet to bring.
  SequenceId create_at(int length);
  // Bytes of the sequence's image. Throws kDisposed, kInvalidArgument when it has no tokens.
  size_t image_bytes(SequenceId id) const;
  // What `read` or `write` needs of the cache as it is now; one of them is to follow.
  CarriedSequence carry(SequenceId id);

  // Moves the cache on for the spans, one a sequence, in one forward pass: takes pages, lets
  // lengths advance, and writes down what the stages will read. All or nothing: when it throws, no
  // sequence has changed. From then on the cache is as if the step had run: what it gives back may
  // be taken, and what it leaves may be kept, by steps that are begun later.
  BegunStep begin(std::span<const SpanInput> spans);
  // One pass over the meta tokens and `tokens` from nothing, in memory of its own.
  BegunStep begin_trace(std::span<const int32_t> tokens);

  // Hands a step to the device. Should a stage fail, the model is lost, and every later step throws
  // that first error again. The results are there once the step is ready; the next one may be
  // submitted meanwhile.
  PendingStep submit(BegunStep step);
  // Waits for a step. Throws what went wrong on the device; then the model is lost.
  std::vector<SpanOutput> collect(PendingStep step);
  // The image of a sequence as it was after the steps that were begun before `carry`.
  std::vector<char> read(const CarriedSequence& carried);
  // Brings an image of image_bytes() to where a sequence lies.
  void write(const CarriedSequence& carried, std::span<const char> image);
  // Runs what `begin_trace` began. Every activation of the given layers, M + T rows each.
  std::vector<TraceTensor> trace(const BegunStep& step, std::span<const int> layers);

  const ModelConfig& config() const { return config_; }
  const KvLayout& layout() const { return layout_; }
  const MemoryPlan& memory() const { return memory_; }
  // What of the device is left at this moment; none for the host.
  std::optional<DeviceRoom> room() const { return backend_->room(); }

 private:
  void compute_meta_prefix();
  void run_cold(SequenceId id, std::span<const int32_t> token_ids);
  void check_token_ids(const std::string& where, std::span<const int32_t> ids) const;
  void check_spans(std::span<const SpanInput> spans) const;
  void check_drawn_before(std::span<const SpanInput> spans) const;
  BegunStep begin_cold(SequenceId id, std::span<const int32_t> token_ids);
  BegunStep move_cache(std::span<const SpanRequest> requests, std::span<const int32_t> token_ids,
                       const StepSize& size);
  void fill_rows(std::span<const SpanInput> spans, BegunStep& step);
  StepBlock prepare(const BegunStep& step);
  void run_layers(const StepBlock& block, Probe* probe);
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

  // Of the thread that begins steps.
  SequenceTable table_;
  std::unordered_set<SequenceId> drawn_;  // whose last step draws a token
  // Tokens before the first of a resumed sequence that has not had a step.
  std::unordered_map<SequenceId, std::vector<int32_t>> resumed_;

  // Of the thread that runs them.
  std::optional<Error> lost_;
};

}  // namespace hymba
