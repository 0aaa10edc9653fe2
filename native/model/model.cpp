#include "model/model.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <string_view>

#include "model/decode_batch.h"
#include "ops/sampling_math.h"

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
  TraceProbe(Backend& backend, std::span<const int> layers, int state_slot)
      : backend_(backend), layers_(layers), state_slot_(state_slot) {}

  void record(int layer, const char* name, const TensorView& view) override {
    if (std::find(layers_.begin(), layers_.end(), layer) == layers_.end()) return;
    TensorView rows = view;
    // States are recorded for all slots; the trace is about its own.
    if (std::string_view(name) == "ssm.state") rows = view.slice_rows(state_slot_, 1);
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
  const int state_slot_;
};

template <typename T>
void append(std::vector<T>& to, const std::vector<T>& values) {
  to.insert(to.end(), values.begin(), values.end());
}

void check_mask(const std::string& where, std::span<const int32_t> mask, int vocab_size) {
  const auto words = static_cast<size_t>(mask_words(vocab_size));
  if (mask.size() != words)
    fail(ErrorCode::kInvalidArgument, where, ": a token mask of ", mask.size(), " words, expected ",
         words);
  for (int32_t token = 0; token < vocab_size; ++token)
    if (mask_allows(mask.data(), token)) return;
  fail(ErrorCode::kInvalidArgument, where, ": its token mask allows no token");
}

// An allocation says that it fails, too, but not of what there is too much; and one that just fits
// leaves nothing for the runtime.
void require_room(const MemoryPlan& plan, const std::optional<DeviceRoom>& room) {
  const size_t needed = plan.weight_bytes + plan.cache_bytes + plan.workspace_bytes;
  if (!room || needed <= room->available_bytes) return;
  const auto mib = [](size_t bytes) { return std::to_string(bytes >> 20) + " MiB"; };
  fail(ErrorCode::kOutOfMemory, "the model takes ", mib(needed), " of GPU memory (weights ",
       mib(plan.weight_bytes), ", cache ", mib(plan.cache_bytes), ", workspace ",
       mib(plan.workspace_bytes), "), but ", mib(room->available_bytes), " of ",
       mib(room->total_bytes),
       " are available: load with a smaller maxSequences, maxContextTokens, cacheTokens or "
       "maxBatchTokens, or free what else is on the GPU");
}

}  // namespace

MemoryPlan plan_memory(const ModelConfig& config, const ModelOptions& options,
                       const TensorTable& table, Backend& backend) {
  const KvLayout layout = make_kv_layout(config, options);
  Arena weights, cache, workspace;
  const size_t borrowed_bytes = count_weights(config, table, options.dtype, backend, weights);
  plan_cache(config, options, layout, cache);
  plan_workspace(config, options, layout, backend, workspace);
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
  require_room(memory_, backend_->room());
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
  workspace_ = plan_workspace(config_, options_, layout_, *backend_, workspace_arena);
  backend_->use_scratch(workspace_.scratch.raw(), workspace_.scratch.bytes());

  if (!workspace_.cos_sin.empty()) {
    const std::vector<float> cos_sin =
        rope_table(config_.rope, config_.head_dim, static_cast<int>(workspace_.cos_sin.rows()));
    backend_->upload(workspace_.cos_sin.raw(), cos_sin.data(), workspace_.cos_sin.bytes());
  }
  if (config_.num_meta_tokens > 0) compute_meta_prefix();
}

SequenceId Model::create_sequence() { return table_.create(); }

void Model::release_sequence(SequenceId id) {
  table_.release(id);
  drawn_.erase(id);
  resumed_.erase(id);
}

std::optional<SequenceId> Model::snapshot(SequenceId id, bool proven) {
  return table_.snapshot(id, proven);
}

void Model::retire_sequence(SequenceId id) {
  table_.retire(id);
  drawn_.erase(id);
  resumed_.erase(id);
}

SequenceId Model::resume(SequenceId snapshot, std::span<const int32_t> tokens) {
  check_token_ids("resume", tokens);
  check(table_.length(snapshot) == std::ssize(tokens), "resume: ", tokens.size(),
        " tokens for a snapshot of ", table_.length(snapshot));
  const SequenceId id = table_.resume(snapshot);
  resumed_.emplace(id, std::vector<int32_t>(tokens.begin(), tokens.end()));
  return id;
}

bool Model::is_snapshot(SequenceId id) const { return table_.is_snapshot(id); }

SequenceId Model::create_at(int length) { return table_.create_at(length); }

size_t Model::image_bytes(SequenceId id) const {
  if (table_.length(id) == 0)
    fail(ErrorCode::kInvalidArgument, "the sequence has no tokens, expected one or more");
  return hymba::image_bytes(table_.holdings(id), cache_);
}

CarriedSequence Model::carry(SequenceId id) {
  check(!resumed_.contains(id), "carry: sequence ", id, " has not had a step");
  SequenceHoldings held = table_.holdings(id);
  return {std::move(held), table_.take_copies()};
}

CacheUsage Model::usage() const { return table_.usage(); }

int Model::own_pages(SequenceId id) const { return table_.own_pages(id); }

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
  run_cold(id, meta_token_ids(config_));
  table_.adopt_prefix(id);
}

void Model::run_cold(SequenceId id, std::span<const int32_t> token_ids) {
  const size_t chunk_tokens = options_.max_batch_tokens;
  for (size_t first = 0; first < token_ids.size(); first += chunk_tokens) {
    const auto chunk = token_ids.subspan(first, std::min(chunk_tokens, token_ids.size() - first));
    const BegunStep step = begin_cold(id, chunk);
    guarded([&] {
      run_layers(prepare(step), nullptr);
      backend_->synchronize();
    });
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
    const bool recalls = span.tokens.size() == 1 && span.tokens[0] == kSampledToken;
    if (!recalls) check_token_ids("span " + std::to_string(s), span.tokens);
    if (!span.targets.empty() && span.targets.size() != span.tokens.size())
      fail(ErrorCode::kInvalidArgument, "span ", s, ": ", span.targets.size(), " targets for ",
           span.tokens.size(), " tokens");
    for (int32_t target : span.targets)
      if (target < -1 || target >= config_.vocab_size)
        fail(ErrorCode::kInvalidArgument, "span ", s, ": target id ", target,
             " is out of range, expected -1 to ", config_.vocab_size - 1);
    if (span.num_target_tops < 0 || span.num_target_tops > kMaxTopLogprobs)
      fail(ErrorCode::kInvalidArgument, "span ", s, ": ", span.num_target_tops,
           " tokens beside each target, expected 0 to ", kMaxTopLogprobs);
    if (span.sampling && span.sampling->bias_tokens.size() > kMaxLogitBias)
      fail(ErrorCode::kInvalidArgument, "span ", s, ": logit bias for ",
           span.sampling->bias_tokens.size(), " tokens, expected at most ", kMaxLogitBias);
    if (span.sampling && !span.sampling->mask.empty())
      check_mask("span " + std::to_string(s), span.sampling->mask, config_.vocab_size);
  }
}

// The device would take whatever was drawn last in the sequence's slot.
void Model::check_drawn_before(std::span<const SpanInput> spans) const {
  for (size_t s = 0; s < spans.size(); ++s)
    if (!spans[s].tokens.empty() && spans[s].tokens[0] == kSampledToken &&
        !drawn_.contains(spans[s].sequence))
      fail(ErrorCode::kInvalidArgument, "span ", s,
           ": goes on from the token drawn last, but the sequence's last step drew none");
}

BegunStep Model::begin(std::span<const SpanInput> spans) {
  check_spans(spans);
  check_drawn_before(spans);
  std::vector<SpanRequest> requests;
  std::vector<int32_t> token_ids;
  for (const SpanInput& span : spans) {
    requests.push_back({span.sequence, static_cast<int>(span.tokens.size()), span.generated});
    token_ids.insert(token_ids.end(), span.tokens.begin(), span.tokens.end());
  }
  OutputPlan plan(spans);
  StepSize size{.tokens = static_cast<int64_t>(token_ids.size()),
                .spans = static_cast<int64_t>(spans.size()),
                .rows = static_cast<int64_t>(plan.rows.size()),
                .sampled = static_cast<int64_t>(plan.num_sampled)};
  // One token a sequence, one drawn for each: the steps that generation consists of.
  const bool is_decode =
      plan.only_draws() && size.tokens == size.spans && size.sampled == size.spans;
  if (is_decode) {
    const int64_t batch = decode_batch(
        size.spans, std::min<int64_t>(options_.max_sequences, options_.max_batch_tokens));
    size = {.tokens = batch, .spans = batch, .rows = batch, .sampled = batch};
  }
  BegunStep step = move_cache(requests, token_ids, size);
  step.plan = std::move(plan);
  step.is_decode = is_decode;
  step.num_spans = spans.size();
  fill_rows(spans, step);
  for (const SpanInput& span : spans) {
    if (span.sampling)
      drawn_.insert(span.sequence);
    else
      drawn_.erase(span.sequence);
  }
  return step;
}

PendingStep Model::submit(BegunStep step) {
  PendingStep pending{
      .outputs = std::vector<SpanOutput>(step.num_spans), .draws = step.draws, .download = {}};
  guarded([&] {
    const StepBlock block = prepare(step);
    if (step.is_decode) {
      backend_->replayable(static_cast<uint64_t>(step.size.spans), [&] {
        run_layers(block, nullptr);
        draw_tokens(context(), block);
      });
    } else {
      run_layers(block, nullptr);
      draw_and_read_rows(context(), block, step.plan, pending.outputs);
    }
    if (!step.draws.empty()) {
      Arena drawn;
      lay_out_drawn(step.size.sampled, drawn);
      pending.download = backend_->start_download(workspace_.drawn.raw(), drawn.bytes());
      pending.num_drawn = step.size.sampled;
    }
  });
  return pending;
}

std::vector<SpanOutput> Model::collect(PendingStep step) {
  if (step.download == nullptr) return std::move(step.outputs);
  guarded([&] {
    // Only read: a layout is of mutable memory.
    void* bytes = const_cast<void*>(step.download->wait());
    Arena layout;
    lay_out_drawn(step.num_drawn, layout);
    Arena arena(bytes, layout.bytes());
    const DrawnTokens drawn = lay_out_drawn(step.num_drawn, arena);
    for (size_t i = 0; i < step.draws.size(); ++i) {
      const auto row = static_cast<int64_t>(i);
      const int32_t* top_tokens = drawn.top_tokens.row<int32_t>(row);
      const float* top_logprobs = drawn.top_logprobs.row<float>(row);
      const int count = step.draws[i].num_top_logprobs;
      step.outputs[step.draws[i].span].sampled =
          SampledToken{.token = drawn.tokens.data<int32_t>()[i],
                       .logprob = drawn.logprobs.data<float>()[i],
                       .top_tokens = {top_tokens, top_tokens + count},
                       .top_logprobs = {top_logprobs, top_logprobs + count}};
    }
  });
  return std::move(step.outputs);
}

std::vector<char> Model::read(const CarriedSequence& carried) {
  std::vector<char> image;
  guarded([&] {
    copy_cache(carried.copies, cache_, *backend_);
    image = read_image(carried.held, cache_, *backend_);
  });
  return image;
}

void Model::write(const CarriedSequence& carried, std::span<const char> image) {
  guarded([&] {
    copy_cache(carried.copies, cache_, *backend_);
    write_image(carried.held, image, cache_, *backend_);
  });
}

BegunStep Model::begin_trace(std::span<const int32_t> tokens) {
  check_token_ids("trace", tokens);
  std::vector<int32_t> ids = meta_token_ids(config_);
  ids.insert(ids.end(), tokens.begin(), tokens.end());
  if (ids.size() > static_cast<size_t>(options_.max_batch_tokens))
    fail(ErrorCode::kInvalidArgument, "trace: ", config_.num_meta_tokens, " meta tokens and ",
         tokens.size(), " tokens are more than one step takes: expected at most ",
         options_.max_batch_tokens, " together (maxBatchTokens)");
  const SequenceId id = table_.create_cold();
  BegunStep step;
  try {
    step = begin_cold(id, ids);
  } catch (...) {
    table_.release(id);
    throw;
  }
  // Whoever takes its pages next has a later step.
  table_.release(id);
  return step;
}

std::vector<TraceTensor> Model::trace(const BegunStep& step, std::span<const int> layers) {
  TraceProbe probe(*backend_, layers, *step.block.state_slot.data<int32_t>());
  guarded([&] {
    run_layers(prepare(step), &probe);
    backend_->synchronize();
  });
  return std::move(probe.traced);
}

BegunStep Model::begin_cold(SequenceId id, std::span<const int32_t> token_ids) {
  const SpanRequest request{.id = id, .num_tokens = static_cast<int>(token_ids.size())};
  return move_cache(std::array{request}, token_ids, {.tokens = request.num_tokens, .spans = 1});
}

// Takes what the spans need, lets their lengths advance, and writes the tables that the stages
// read. A size of more spans than requests leaves padded lanes at the end.
BegunStep Model::move_cache(std::span<const SpanRequest> requests,
                            std::span<const int32_t> token_ids, const StepSize& size) {
  table_.begin_step(requests);  // refuses what does not fit
  BegunStep step;
  step.size = size;
  Arena sizes;
  lay_out_step(size, layout_, sizes);
  step.bytes.resize(sizes.bytes());
  Arena host(step.bytes.data(), step.bytes.size());
  step.block = lay_out_step(size, layout_, host);

  const StepBlock& block = step.block;
  const auto num_tokens = static_cast<int64_t>(token_ids.size());
  const auto num_spans = static_cast<int64_t>(requests.size());
  const auto ints = [](const TensorView& view, int64_t rows) {
    return std::span<int32_t>(view.data<int32_t>(), rows * view.row_elements());
  };
  table_.fill({.positions = ints(block.positions, num_tokens),
               .token_spans = ints(block.token_spans, num_tokens),
               .span_offsets = ints(block.span_offsets, num_spans + 1),
               .state_source = ints(block.state_source, num_spans),
               .state_slot = ints(block.state_slot, num_spans),
               .is_generated = ints(block.is_generated, num_spans),
               .fresh = ints(block.fresh, num_spans),
               .global_pages = ints(block.page_tables[KvPool::kGlobal], num_spans),
               .window_pages = ints(block.page_tables[KvPool::kWindow], num_spans)});
  table_.end_step();
  step.copies = table_.take_copies();
  for (int64_t s = 0; s < num_spans; ++s)
    if (auto resumed = resumed_.extract(requests[s].id))
      step.seen.push_back({block.state_slot.data<int32_t>()[s], std::move(resumed.mapped())});
  std::copy(token_ids.begin(), token_ids.end(), block.token_ids.data<int32_t>());
  for (int64_t lane = num_spans; lane < size.spans; ++lane) {
    block.token_spans.data<int32_t>()[lane] = static_cast<int32_t>(lane);
    block.span_offsets.data<int32_t>()[lane + 1] = static_cast<int32_t>(lane + 1);
    block.state_source.data<int32_t>()[lane] = -1;
    block.state_slot.data<int32_t>()[lane] = -1;
  }
  return step;
}

// Which rows logits are worked out for, and how tokens are drawn from the first of them.
void Model::fill_rows(std::span<const SpanInput> spans, BegunStep& step) {
  const StepBlock& block = step.block;
  const std::vector<OutputRow>& rows = step.plan.rows;
  for (size_t i = 0; i < rows.size(); ++i) block.logit_rows.data<int32_t>()[i] = rows[i].row;
  int32_t num_masks = 0;
  const auto num_sampled = static_cast<int64_t>(step.plan.num_sampled);
  for (int64_t i = 0; i < block.sampled_slots.rows(); ++i) {
    SamplingRow row{.temperature = 0};  // of a padded lane: greedy, and nobody looks
    int32_t slot = -1;
    if (i < num_sampled) {
      const int span = rows[i].span;
      const SamplingRequest& request = *spans[span].sampling;
      slot = block.state_slot.data<int32_t>()[span];
      row = request.row;
      row.position = block.positions.data<int32_t>()[rows[i].row] + 1;
      row.state_slot = slot;
      row.bias_begin = static_cast<int32_t>(step.bias_tokens.size());
      append(step.bias_tokens, request.bias_tokens);
      append(step.bias_values, request.bias_values);
      row.bias_end = static_cast<int32_t>(step.bias_tokens.size());
      if (!request.mask.empty()) row.mask = num_masks++;
      append(step.masks, request.mask);
      step.draws.push_back({span, row.num_top_logprobs});
    }
    block.sampled_slots.data<int32_t>()[i] = slot;
    std::memcpy(block.sampling_rows.row<int32_t>(i), &row, sizeof row);
  }
}

// Brings to the device what the stages of a step read. Returns where its block lies.
StepBlock Model::prepare(const BegunStep& step) {
  copy_cache(step.copies, cache_, *backend_);
  for (const auto& [slot, tokens] : step.seen) {
    std::vector<uint16_t> row(config_.vocab_size);
    for (int32_t token : tokens) row[token] = kSeenInPrompt;
    backend_->upload(cache_.history.row<uint16_t>(slot), row.data(), row.size() * sizeof row[0]);
  }
  const auto upload = [&](const TensorView& view, const auto& values) {
    if (!values.empty())
      backend_->upload(view.raw(), values.data(), values.size() * sizeof values[0]);
  };
  upload(workspace_.bias_tokens, step.bias_tokens);
  upload(workspace_.bias_values, step.bias_values);
  upload(workspace_.masks, step.masks);
  upload(workspace_.step_block, step.bytes);
  Arena device(workspace_.step_block.raw(), workspace_.step_block.bytes());
  return lay_out_step(step.size, layout_, device);
}

void Model::run_layers(const StepBlock& block, Probe* probe) {
  backend_->recall_tokens({.token_ids = block.token_ids,
                           .token_spans = block.token_spans,
                           .state_slot = block.state_slot,
                           .last_tokens = cache_.last_tokens});
  backend_->count_tokens({.token_ids = block.token_ids,
                          .span_offsets = block.span_offsets,
                          .state_slot = block.state_slot,
                          .is_generated = block.is_generated,
                          .fresh = block.fresh,
                          .history = cache_.history});
  forward_layers(context(), block, probe);
}

// Stages update states in place: one that fails half-way leaves sequences that are neither as
// before nor as after.
template <typename Fn>
void Model::guarded(Fn&& run_stages) {
  if (lost_) throw *lost_;
  try {
    run_stages();
  } catch (const Error& error) {
    lost_ = error;
  } catch (const std::exception& error) {
    lost_ = Error(ErrorCode::kInternal, error.what());
  }
  if (lost_) throw *lost_;
}

}  // namespace hymba
