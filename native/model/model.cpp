#include "model/model.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "model/output_rows.h"

namespace hymba {
namespace {

size_t count_weights(const ModelConfig& config, const TensorTable& table, DType act,
                     Backend& backend, Arena& arena) {
  const HostTensors tensors(table, /*describe_only=*/true);
  return import_weights(config, tensors, act, backend, arena, /*counting=*/true, nullptr)
      .borrowed_bytes;
}

// As embed_tokens reads them.
std::vector<int32_t> meta_token_ids(const ModelConfig& config) {
  std::vector<int32_t> ids(config.num_meta_tokens);
  for (size_t j = 0; j < ids.size(); ++j) ids[j] = -1 - static_cast<int32_t>(j);
  return ids;
}

// Copies what a pass computes to the host, as fp32.
class TraceProbe final : public Probe {
 public:
  TraceProbe(Backend& backend, std::span<const int> layers, const TensorView& state_slot)
      : backend_(backend), layers_(layers), state_slot_(state_slot) {}

  void record(int layer, const char* name, const TensorView& view) override {
    if (std::find(layers_.begin(), layers_.end(), layer) == layers_.end()) return;
    TensorView rows = view;
    // States are recorded for all slots; the trace is about its own.
    if (std::string_view(name) == "ssm.state") {
      int32_t slot = 0;
      backend_.download(&slot, state_slot_.raw(), sizeof slot);
      rows = view.slice_rows(slot, 1);
    }
    TraceTensor tensor{.layer = layer, .name = name, .shape = {}, .values = {}};
    for (int i = 0; i < rows.rank(); ++i) tensor.shape.push_back(rows.dim(i));
    const size_t row_elements = rows.row_elements();
    std::vector<char> row(row_elements * dtype_bytes(rows.dtype()));
    for (int64_t i = 0; i < rows.rows(); ++i) {
      backend_.download(row.data(), rows.slice_rows(i, 1).raw(), row.size());
      for (size_t j = 0; j < row_elements; ++j)
        tensor.values.push_back(rows.dtype() == DType::kF32
                                    ? reinterpret_cast<const float*>(row.data())[j]
                                    : to_float(reinterpret_cast<const BFloat16*>(row.data())[j]));
    }
    traced.push_back(std::move(tensor));
  }

  std::vector<TraceTensor> traced;

 private:
  Backend& backend_;
  std::span<const int> layers_;
  TensorView state_slot_;
};

}  // namespace

MemoryPlan plan_memory(const ModelConfig& config, const ModelOptions& options,
                       const TensorTable& table, Backend& backend) {
  const KvLayout layout = make_kv_layout(config, options);
  Arena weights, cache, workspace;
  const size_t borrowed_bytes = count_weights(config, table, options.dtype, backend, weights);
  plan_cache(config, options, layout, cache);
  plan_workspace(config, options, layout, workspace);
  return {.weight_bytes = borrowed_bytes + weights.bytes(),
          .cache_bytes = cache.bytes(),
          .workspace_bytes = workspace.bytes()};
}

Model::Model(ModelConfig config, const ModelOptions& options, const TensorTable& table,
             std::unique_ptr<Backend> backend, const std::atomic<bool>& stop,
             const Progress& progress)
    : config_(std::move(config)),
      options_(options),
      layout_(make_kv_layout(config_, options)),
      backend_(std::move(backend)),
      stop_(stop),
      memory_(plan_memory(config_, options, table, *backend_)),
      table_(layout_) {
  Arena weights;
  count_weights(config_, table, options.dtype, *backend_, weights);
  weight_slab_ = backend_->allocate(weights.bytes());
  cache_slab_ = backend_->allocate(memory_.cache_bytes);
  workspace_slab_ = backend_->allocate(memory_.workspace_bytes);

  Arena weight_arena(weight_slab_->data(), weight_slab_->bytes());
  const HostTensors tensors(table, /*describe_only=*/false);
  const Progress report = [&](double fraction) {
    if (stop_) fail(ErrorCode::kAborted, "the model was stopped while it was loading");
    progress(fraction);
  };
  weights_ = import_weights(config_, tensors, options.dtype, *backend_, weight_arena,
                            /*counting=*/false, report);
  Arena cache_arena(cache_slab_->data(), cache_slab_->bytes());
  cache_ = plan_cache(config_, options_, layout_, cache_arena);
  Arena workspace_arena(workspace_slab_->data(), workspace_slab_->bytes());
  workspace_ = plan_workspace(config_, options_, layout_, workspace_arena);

  if (!workspace_.cos_sin.empty()) {
    const std::vector<float> cos_sin =
        rope_table(config_.rope, config_.head_dim, static_cast<int>(workspace_.cos_sin.rows()));
    backend_->upload(workspace_.cos_sin.raw(), cos_sin.data(), workspace_.cos_sin.bytes());
  }
  if (config_.num_meta_tokens > 0) compute_meta_prefix();
}

SequenceId Model::create_sequence() {
  const std::lock_guard lock(table_mutex_);
  return table_.create();
}

void Model::release_sequence(SequenceId id) {
  const std::lock_guard lock(table_mutex_);
  table_.release(id);
}

CacheUsage Model::usage() const {
  const std::lock_guard lock(table_mutex_);
  return table_.usage();
}

ForwardContext Model::context() {
  return {.config = config_,
          .layout = layout_,
          .weights = weights_,
          .cache = cache_,
          .workspace = workspace_,
          .backend = *backend_,
          .stop = stop_};
}

// The meta tokens come before every prompt and see nothing that follows: their K/V and the states
// after them are constants of the model. One cold run makes them, and every sequence starts from
// there.
void Model::compute_meta_prefix() {
  const SequenceId id = table_.create_cold();
  run_cold(id, meta_token_ids(config_), nullptr);
  table_.adopt_prefix(id);
}

void Model::run_cold(SequenceId id, std::span<const int32_t> token_ids, Probe* probe) {
  const size_t chunk_tokens = options_.max_batch_tokens;
  for (size_t first = 0; first < token_ids.size(); first += chunk_tokens) {
    const auto chunk = token_ids.subspan(first, std::min(chunk_tokens, token_ids.size() - first));
    const SpanRequest request{.id = id, .num_tokens = static_cast<int>(chunk.size())};
    const BatchView batch = begin_step(std::array{request}, chunk);
    guarded([&] { run_layers(batch, probe); });
  }
}

void Model::check_token_ids(const std::string& where, std::span<const int32_t> ids) const {
  for (int32_t id : ids)
    if (id < 0 || id >= config_.vocab_size)
      fail(ErrorCode::kInvalidArgument, where, ": token id ", id,
           " is out of range, expected 0 to ", config_.vocab_size - 1);
}

void Model::check_spans(std::span<const SpanInput> spans) const {
  for (size_t s = 0; s < spans.size(); ++s) {
    const SpanInput& span = spans[s];
    check_token_ids("span " + std::to_string(s), span.tokens);
    if (!span.targets.empty() && span.targets.size() != span.tokens.size())
      fail(ErrorCode::kInvalidArgument, "span ", s, ": ", span.targets.size(), " targets for ",
           span.tokens.size(), " tokens");
    for (int32_t target : span.targets)
      if (target < -1 || target >= config_.vocab_size)
        fail(ErrorCode::kInvalidArgument, "span ", s, ": target id ", target,
             " is out of range, expected -1 to ", config_.vocab_size - 1);
    if (span.sampling && span.sampling->bias_tokens.size() > kMaxLogitBias)
      fail(ErrorCode::kInvalidArgument, "span ", s, ": logit bias for ",
           span.sampling->bias_tokens.size(), " tokens, expected at most ", kMaxLogitBias);
  }
}

std::vector<SpanOutput> Model::step(std::span<const SpanInput> spans) {
  if (lost_) throw *lost_;
  check_spans(spans);
  std::vector<SpanRequest> requests;
  std::vector<int32_t> token_ids;
  for (const SpanInput& span : spans) {
    requests.push_back({span.sequence, static_cast<int>(span.tokens.size()), span.generated});
    token_ids.insert(token_ids.end(), span.tokens.begin(), span.tokens.end());
  }
  const BatchView batch = begin_step(requests, token_ids);

  std::vector<int32_t> state_slots(spans.size());
  std::vector<int32_t> next_positions(spans.size());
  const int32_t* uploaded = metadata_.data();
  const auto host = [&](const TensorView& view) {
    return uploaded + (view.data<int32_t>() - workspace_.token_ids.data<int32_t>());
  };
  for (size_t s = 0; s < spans.size(); ++s) {
    state_slots[s] = host(workspace_.state_slot)[s];
    next_positions[s] = host(workspace_.positions)[host(workspace_.span_offsets)[s + 1] - 1] + 1;
  }

  std::vector<SpanOutput> outputs;
  guarded([&] {
    run_layers(batch, nullptr);
    outputs = compute_outputs(context(), batch.num_tokens, spans, state_slots, next_positions);
  });
  return outputs;
}

std::vector<TraceTensor> Model::trace(std::span<const int32_t> tokens,
                                      std::span<const int> layers) {
  if (lost_) throw *lost_;
  check_token_ids("trace", tokens);
  std::vector<int32_t> ids = meta_token_ids(config_);
  ids.insert(ids.end(), tokens.begin(), tokens.end());
  if (ids.size() > static_cast<size_t>(options_.max_batch_tokens))
    fail(ErrorCode::kInvalidArgument, "trace: ", config_.num_meta_tokens, " meta tokens and ",
         tokens.size(), " tokens are more than one step takes: expected at most ",
         options_.max_batch_tokens, " together (maxBatchTokens)");

  SequenceId id;
  {
    const std::lock_guard lock(table_mutex_);
    id = table_.create_cold();
  }
  TraceProbe probe(*backend_, layers, workspace_.state_slot);
  try {
    run_cold(id, ids, &probe);
  } catch (...) {
    release_sequence(id);
    throw;
  }
  release_sequence(id);
  return std::move(probe.traced);
}

// Reserves what the spans need, lets their lengths advance, and puts the step's metadata where the
// stages read them.
BatchView Model::begin_step(std::span<const SpanRequest> requests,
                            std::span<const int32_t> token_ids) {
  const Workspace& w = workspace_;
  const int64_t num_tokens = static_cast<int64_t>(token_ids.size());
  const int64_t num_spans = static_cast<int64_t>(requests.size());
  int32_t* const device = w.token_ids.data<int32_t>();
  const TensorView& last = w.page_tables[KvPool::kWindow];
  const int64_t block = last.data<int32_t>() + last.elements() - device;
  metadata_.resize(block);
  // The metadata buffers are neighbours: the host copy has the same offsets, and one upload brings
  // all of them over.
  const auto host = [&](const TensorView& view, int64_t count) {
    return std::span<int32_t>(metadata_.data() + (view.data<int32_t>() - device), count);
  };

  {
    const std::lock_guard lock(table_mutex_);
    table_.begin_step(requests);
    const auto table_of = [&](KvPool pool) {
      return host(w.page_tables[pool], num_spans * w.page_tables[pool].dim(1));
    };
    table_.fill({.positions = host(w.positions, num_tokens),
                 .token_spans = host(w.token_spans, num_tokens),
                 .span_offsets = host(w.span_offsets, num_spans + 1),
                 .state_source = host(w.state_source, num_spans),
                 .state_slot = host(w.state_slot, num_spans),
                 .is_generated = host(w.is_generated, num_spans),
                 .fresh = host(w.fresh, num_spans),
                 .global_pages = table_of(KvPool::kGlobal),
                 .window_pages = table_of(KvPool::kWindow)});
    // Committed before it runs: steps run in the order in which they were begun, so that a page
    // given back here is only ever written by a later one.
    table_.end_step();
  }
  std::copy(token_ids.begin(), token_ids.end(), host(w.token_ids, num_tokens).begin());
  return {.num_tokens = static_cast<int>(num_tokens),
          .num_spans = static_cast<int>(num_spans),
          .token_ids = w.token_ids.slice_rows(0, num_tokens),
          .positions = w.positions.slice_rows(0, num_tokens),
          .token_spans = w.token_spans.slice_rows(0, num_tokens),
          .span_offsets = w.span_offsets.slice_rows(0, num_spans + 1),
          .state_source = w.state_source.slice_rows(0, num_spans),
          .state_slot = w.state_slot.slice_rows(0, num_spans)};
}

void Model::run_layers(const BatchView& batch, Probe* probe) {
  const Workspace& w = workspace_;
  backend_->upload(w.token_ids.raw(), metadata_.data(), metadata_.size() * sizeof(int32_t));
  backend_->count_tokens({.token_ids = batch.token_ids,
                          .span_offsets = batch.span_offsets,
                          .state_slot = batch.state_slot,
                          .is_generated = w.is_generated.slice_rows(0, batch.num_spans),
                          .fresh = w.fresh.slice_rows(0, batch.num_spans),
                          .history = cache_.history});
  forward_layers(context(), batch, probe);
}

// Stages update states in place: one that fails half-way leaves sequences that are neither as
// before nor as after.
template <typename Fn>
void Model::guarded(Fn&& run_stages) {
  try {
    run_stages();
    backend_->synchronize();
  } catch (const Error& error) {
    lost_ = error;
  } catch (const std::exception& error) {
    lost_ = Error(ErrorCode::kInternal, error.what());
  }
  if (lost_) throw *lost_;
}

}  // namespace hymba
