// The vocabulary of the forward pass: one Args struct a stage, and the Backend that carries the
// stages out.
//
// Dimensions: T tokens of all spans together, S spans (one a sequence), C hidden size, H query
// heads, G K/V heads, Dk and Dv head dims, E Mamba channels, N states a channel, W conv width, R dt
// rank, F MLP width, V vocabulary, M meta tokens. "act" is the model's activation dtype: fp32 or
// bf16. All views of one Args lie in the backend's memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <variant>

#include "core/arena.h"
#include "core/tensor_view.h"
#include "ops/kv_view.h"
#include "ops/sampling.h"

namespace hymba {

// A weight matrix in the form that its backend multiplies by. `blocks` row blocks of [rows, cols]
// are stacked: one for most matrices, two for gate and up, which a backend may interleave.
struct Matrix {
  static constexpr int kMaxBlocks = 2;
  const void* blocks[kMaxBlocks] = {};
  int num_blocks = 0;
  int64_t rows = 0;  // of one block: output features
  int64_t cols = 0;  // input features
  DType dtype = DType::kBF16;
  bool packed = false;  // the elements of all blocks are in the backend's own order, in blocks[0]
};

// The ragged batch of one call. Rows of all activations follow its order: span after span, token
// after token.
struct BatchView {
  int num_tokens = 0;
  int num_spans = 0;
  TensorView token_ids;     // [T] i32; meta token j is written as -1-j
  TensorView positions;     // [T] i32, counted from the first meta token
  TensorView token_spans;   // [T] i32, the span that a token belongs to
  TensorView span_offsets;  // [S+1] i32, span s owns rows [offsets[s], offsets[s+1])
  TensorView state_source;  // [S] i32, state slot that a span goes on from; -1: from zeros
  TensorView state_slot;    // [S] i32, state slot that it leaves its state in; -1: a padded lane,
                            // whose rows mean nothing and which no stage touches the cache for
};

// out[t] = table[id] or meta[-1-id].
struct EmbedTokensArgs {
  TensorView token_ids;  // [T] i32
  Matrix table;          // [V, C]
  Matrix meta;           // [M, C]
  TensorView out;        // [T, C] f32
};

// out[i] = in[rows[i]]: picks the rows whose logits are wanted.
struct GatherRowsArgs {
  TensorView in;    // [T, C] f32
  TensorView rows;  // [K] i32
  TensorView out;   // [K, C] f32
};

// out = weight · in / sqrt(mean(in²) + epsilon), row by row.
struct RmsNormArgs {
  TensorView in;      // [T, D] act or f32, rows may be strided
  TensorView weight;  // [D] f32
  float epsilon = 0;
  TensorView out;  // [T, D] act; may be `in`
};

// out = in · weightᵀ (+ bias) (+ out when `accumulate`).
struct LinearArgs {
  TensorView in;            // [T, K] act, rows may be strided
  Matrix weight;            // [N, K]
  TensorView bias;          // [N] f32, or empty
  TensorView out;           // [T, N] act or f32, rows may be strided
  bool accumulate = false;  // f32 out only: the residual stream
};

enum class MlpActivation { kSilu, kRelu2 };

// out = silu(in · gateᵀ) ⊙ (in · upᵀ), or relu(in · upᵀ)² when there is no gate.
struct GatedLinearArgs {
  TensorView in;  // [T, C] act
  Matrix weight;  // silu: blocks gate, up [F, C]; relu2: block up
  MlpActivation activation = MlpActivation::kSilu;
  TensorView out;  // [T, F] act
};

// q, k ← rope(norm(q)), rope(norm(k)), in place; k and v are then written to their pages. A
// consumer layer has neither k nor v. rope(x)[i] = x[i]·cos[i] - x[i + Dk/2]·sin[i] and rope(x)[i +
// Dk/2] = x[i + Dk/2]·cos[i] + x[i]·sin[i], for i < Dk/2.
struct RotaryKvWriteArgs {
  BatchView batch;
  TensorView q;       // [T, H, Dk] act, rows may be strided
  TensorView k;       // [T, G, Dk] act, or empty
  TensorView v;       // [T, G, Dv] act, or empty
  TensorView q_norm;  // [H, Dk] f32, or empty
  TensorView k_norm;  // [G, Dk] f32, or empty
  float norm_epsilon = 0;
  TensorView cos_sin;  // [positions, Dk] f32: Dk/2 cosines, then Dk/2 sines; empty: no rotation
  KvLayerView kv;
};

// Softmax attention of each token's H queries over the keys that its mask lets it see:
// j ≤ i, and (window < 0, or i - j ≤ window, or j < M).
struct AttentionArgs {
  BatchView batch;
  TensorView q;  // [T, H, Dk] act, rows may be strided
  KvLayerView kv;
  int window = -1;
  float scale = 1;
  TensorView out;  // [T, H, Dv] act
};

// out = silu(depthwise causal convolution of width W over u). The last W-1 rows of u of each span
// are left in its conv state.
struct CausalConv1dArgs {
  BatchView batch;
  TensorView u;           // [T, E] act, rows may be strided
  TensorView weight;      // [E, W] f32
  TensorView bias;        // [E] f32, or empty
  TensorView conv_state;  // [slots, W-1, E] act, oldest row first
  TensorView out;         // [T, E] act
};

// [dt | B | C] = u · weightᵀ, each part through its own RMSNorm unless the norms are empty.
struct XProjArgs {
  TensorView u;        // [T, E] act
  Matrix weight;       // [R + 2N, E]
  TensorView dt_norm;  // [R] f32, or empty
  TensorView b_norm;   // [N] f32, or empty
  TensorView c_norm;   // [N] f32, or empty
  float epsilon = 0;
  TensorView out;  // [T, R + 2N] act
};

// delta = softplus(dt · weightᵀ + bias).
struct DtProjArgs {
  TensorView dt;     // [T, R] act, rows may be strided
  Matrix weight;     // [E, R]
  TensorView bias;   // [E] f32
  TensorView delta;  // [T, E] act
};

// s ← exp(delta·A)·s + delta·B·u;  out = (Σ_n s·C + D·u) · silu(z). The state goes from
// state_source to state_slot.
struct SelectiveScanArgs {
  BatchView batch;
  TensorView u;          // [T, E] act, after the convolution
  TensorView delta;      // [T, E] act
  TensorView b;          // [T, N] act, rows may be strided
  TensorView c;          // [T, N] act, rows may be strided
  TensorView z;          // [T, E] act, rows may be strided
  TensorView a;          // [E, N] f32, -exp(A_log)
  TensorView d;          // [E] f32
  TensorView ssm_state;  // [slots, E, N] f32
  TensorView out;        // [T, E] act
};

// All that stands between in_proj and fuse_heads: the attention heads and the Mamba heads of a
// layer, which do not depend on each other. The same as the six stages in their order, but that of
// what they hand to each other (rotated q and k, conv.out, x_proj.out, dt_proj.delta) nothing is
// promised: a backend may keep it to itself. Outputs are attention.out, scan.out, and what is
// cached.
struct HybridHeadsArgs {
  RotaryKvWriteArgs rotary;
  AttentionArgs attention;  // of rotary's q and K/V
  CausalConv1dArgs conv;
  XProjArgs x_proj;  // of conv's output
  DtProjArgs dt_proj;
  SelectiveScanArgs scan;
};

// out = (rms(attention) + rms(mamba)) / 2.
struct FuseHeadsArgs {
  TensorView attention;         // [T, E] act
  TensorView mamba;             // [T, E] act
  TensorView attention_weight;  // [E] f32
  TensorView mamba_weight;      // [E] f32
  float epsilon = 0;
  TensorView out;  // [T, E] act
};

// A norm, and the product of what it gives. The same as the two stages in their order, but that
// nothing is promised of the norm's output: a backend may keep it to itself. So the product may not
// write to what the norm reads.
struct NormedProductArgs {
  std::variant<RmsNormArgs, FuseHeadsArgs> norm;
  std::variant<LinearArgs, GatedLinearArgs> product;
};

// token_ids[s] ← last_tokens[state_slot[s]] wherever it is kSampledToken: the token that was drawn
// for the sequence last, which the host need not have seen yet. One token a span in such a step.
inline constexpr int32_t kSampledToken = INT32_MIN;
struct RecallTokensArgs {
  TensorView token_ids;    // [T] i32, in place
  TensorView token_spans;  // [T] i32
  TensorView state_slot;   // [S] i32
  TensorView last_tokens;  // [slots] i32
};

// last_tokens[state_slot[i]] ← tokens[i].
struct RememberTokensArgs {
  TensorView tokens;       // [K] i32
  TensorView slots;        // [K] i32; -1: nothing to remember
  TensorView last_tokens;  // [slots] i32
};

// The largest extents of the stages' Args in one model's steps: what scratch memory is planned for.
struct StageLimits {
  int64_t max_tokens = 0;
  int64_t max_spans = 0;
  int64_t max_logit_rows = 0;
  int64_t num_heads = 0;
  int64_t value_head_dim = 0;
  int64_t max_page_columns = 0;  // of a page table row
  int64_t x_proj_rows = 0;       // R + 2N
  int64_t inner_size = 0;        // E
  int64_t vocab_size = 0;
};

// A copy to the host under way.
class Download {
 public:
  virtual ~Download() = default;
  virtual bool ready() const = 0;
  // Waits for it. The bytes live as long as the object.
  virtual const void* wait() = 0;
};

// Memory of a backend, freed with the object. New memory reads as zero.
class Slab {
 public:
  virtual ~Slab() = default;
  virtual void* data() const = 0;
  virtual size_t bytes() const = 0;
};

// The memory of a device that others use too: other models, other processes.
struct DeviceRoom {
  size_t total_bytes = 0;
  size_t free_bytes = 0;
  // What a model may take of it. The rest is for what the runtime itself allocates as steps run.
  size_t available_bytes = 0;
};

// Carries out the stages, in the order of the calls. Stages may run asynchronously: results are
// there after `synchronize`, and a later stage sees what an earlier one wrote. Used from one
// thread.
//
// The public methods check their Args (ops_check.cpp), so that both backends refuse the same things
// with the same words.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::unique_ptr<Slab> allocate(size_t bytes) = 0;
  // The room on the device at this moment; none for the host, whose memory the system hands out as
  // it is written. Once there is a slab, from any thread.
  virtual std::optional<DeviceRoom> room() = 0;
  // In the order of the stages. The host memory may be reused as soon as the call returns.
  virtual void upload(void* to, const void* from_host, size_t bytes) = 0;
  virtual void copy(void* to, const void* from, size_t bytes) = 0;
  // The same for `rows` pieces of `bytes` that lie `stride` bytes apart in both.
  virtual void copy_rows(void* to, const void* from, size_t bytes, size_t stride, size_t rows) = 0;
  virtual void fill_zero(const TensorView& view) = 0;
  // Waits for what was called before.
  virtual void synchronize() = 0;
  virtual void download(void* to_host, const void* from, size_t bytes) = 0;
  // A download that does not wait. The object must not outlive the backend.
  virtual std::unique_ptr<Download> start_download(const void* from, size_t bytes) = 0;

  // Calls `stages`, which may only call stages. Under the same key they must be the same stages on
  // the same memory every time: a backend may then record them once and replay them from there on.
  virtual void replayable(uint64_t key, const std::function<void()>& stages) = 0;

  // Memory that the stages need to work in, and its hand-over before the first stage.
  virtual size_t scratch_bytes(const StageLimits& limits) const = 0;
  virtual void use_scratch(void* memory, size_t bytes) = 0;

  // How long the device works on what `stages` calls, in milliseconds.
  virtual double elapsed_ms(const std::function<void()>& stages) = 0;

  // Brings a matrix from host memory into the form of this backend. Takes what it needs from the
  // arena: with a counting arena that is all it does.
  // `act` is the dtype of the activations that it will be multiplied by.
  virtual Matrix import_matrix(std::span<const TensorView> row_blocks, DType act, Arena& arena) = 0;
  // Whether imported matrices go on pointing at the host memory that they came from.
  virtual bool borrows_host_weights() const = 0;

  void embed_tokens(const EmbedTokensArgs& args);
  void gather_rows(const GatherRowsArgs& args);
  void rms_norm(const RmsNormArgs& args);
  void linear(const LinearArgs& args);
  void gated_linear(const GatedLinearArgs& args);
  void rotary_kv_write(const RotaryKvWriteArgs& args);
  void attention(const AttentionArgs& args);
  void causal_conv1d(const CausalConv1dArgs& args);
  void x_proj(const XProjArgs& args);
  void dt_proj(const DtProjArgs& args);
  void selective_scan(const SelectiveScanArgs& args);
  void hybrid_heads(const HybridHeadsArgs& args);
  void fuse_heads(const FuseHeadsArgs& args);
  void normed_product(const NormedProductArgs& args);
  void count_tokens(const CountTokensArgs& args);
  void sample(const SampleArgs& args);
  void token_logprobs(const TokenLogprobsArgs& args);
  void recall_tokens(const RecallTokensArgs& args);
  void remember_tokens(const RememberTokensArgs& args);

 protected:
  virtual void run(const EmbedTokensArgs& args) = 0;
  virtual void run(const GatherRowsArgs& args) = 0;
  virtual void run(const RmsNormArgs& args) = 0;
  virtual void run(const LinearArgs& args) = 0;
  virtual void run(const GatedLinearArgs& args) = 0;
  virtual void run(const RotaryKvWriteArgs& args) = 0;
  virtual void run(const AttentionArgs& args) = 0;
  virtual void run(const CausalConv1dArgs& args) = 0;
  virtual void run(const XProjArgs& args) = 0;
  virtual void run(const DtProjArgs& args) = 0;
  virtual void run(const SelectiveScanArgs& args) = 0;
  virtual void run(const FuseHeadsArgs& args) = 0;
  // What stands for several stages: one after the other, unless a backend has a shorter way.
  virtual void run(const HybridHeadsArgs& args);
  virtual void run(const NormedProductArgs& args);
  virtual void run(const CountTokensArgs& args) = 0;
  virtual void run(const SampleArgs& args) = 0;
  virtual void run(const TokenLogprobsArgs& args) = 0;
  virtual void run(const RecallTokensArgs& args) = 0;
  virtual void run(const RememberTokensArgs& args) = 0;
};

}  // namespace hymba
