#include "model/forward.h"

#include <cmath>

namespace hymba {
namespace {

// One layer of one forward pass. T rows of every buffer of the workspace are in use.
class LayerPass {
 public:
  LayerPass(const ForwardContext& context, const StepBlock& block, int layer, Probe* probe)
      : config_(context.config),
        weights_(context.weights.layers[layer]),
        workspace_(context.workspace),
        cache_(context.cache),
        kv_layer_(context.layout.layers[layer]),
        kv_pool_(context.layout.pools[kv_layer_.pool]),
        backend_(context.backend),
        page_table_(block.page_tables[kv_layer_.pool]),
        batch_(block.batch()),
        layer_(layer),
        probe_(probe) {}

  void run() {
    project_in();
    heads();
    fuse();
    mlp();
  }

 private:
  TensorView rows(const TensorView& buffer) const {
    return buffer.slice_rows(0, batch_.num_tokens);
  }

  void record(const char* name, const TensorView& view) const {
    if (probe_ != nullptr) probe_->record(layer_, name, view);
  }

  RmsNormArgs residual_norm(const TensorView& weight) const {
    return {.in = rows(workspace_.residual),
            .weight = weight,
            .epsilon = config_.rms_norm_eps,
            .out = rows(workspace_.normed)};
  }

  // What comes between the norm and its product is there to be recorded only when they run one by
  // one.
  void multiply_normed(const char* name, const auto& norm, const auto& product) {
    if (probe_ == nullptr) return backend_.normed_product({.norm = norm, .product = product});
    run_stage(norm);
    record(name, norm.out);
    run_stage(product);
  }
  void run_stage(const RmsNormArgs& args) { backend_.rms_norm(args); }
  void run_stage(const FuseHeadsArgs& args) { backend_.fuse_heads(args); }
  void run_stage(const LinearArgs& args) { backend_.linear(args); }
  void run_stage(const GatedLinearArgs& args) { backend_.gated_linear(args); }

  // [ q | k | v | u | z ] = rms(x) · in_projᵀ; a consumer has neither k nor v.
  void project_in() {
    record("in", rows(workspace_.residual));
    const TensorView projected =
        rows(workspace_.projected).slice_columns(0, config_.in_proj_rows(layer_));
    multiply_normed("normed", residual_norm(weights_.input_norm),
                    LinearArgs{.in = rows(workspace_.normed),
                               .weight = weights_.in_proj,
                               .bias = weights_.in_proj_bias,
                               .out = projected});
    record("in_proj", projected);

    int64_t column = 0;
    const auto take = [&](int64_t width) {
      column += width;
      return projected.slice_columns(column - width, width);
    };
    const int heads = config_.num_heads, kv_heads = config_.num_kv_heads;
    q_ = take(heads * config_.head_dim).split_columns(heads, config_.head_dim);
    if (kv_layer_.is_producer) {
      k_ = take(kv_heads * config_.head_dim).split_columns(kv_heads, config_.head_dim);
      v_ = take(kv_heads * config_.value_head_dim).split_columns(kv_heads, config_.value_head_dim);
    }
    u_ = take(config_.inner_size);
    z_ = take(config_.inner_size);
  }

  KvLayerView kv_view() const {
    const TensorView& pages = cache_.pages[kv_layer_.pool];
    return {.pool = pages.raw(),
            .dtype = pages.dtype(),
            .num_pages = kv_pool_.num_pages,
            .num_layers = kv_pool_.num_layers,
            .layer_idx = kv_layer_.pool_idx,
            .num_kv_heads = config_.num_kv_heads,
            .head_dim = config_.head_dim,
            .value_head_dim = config_.value_head_dim,
            .page_table = page_table_,
            .num_meta_tokens = config_.num_meta_tokens,
            .meta_columns = kv_pool_.meta_columns,
            .ring_columns = kv_pool_.ring_columns};
  }

  HybridHeadsArgs heads_args() const {
    constexpr float kHeadNormEpsilon =
        1e-6f;  // fixed in the published code, whatever rms_norm_eps is
    const KvLayerView kv = kv_view();
    const int rank = config_.dt_rank, states = config_.state_size;
    const TensorView u = rows(workspace_.conv);
    const TensorView dt_b_c = rows(workspace_.dt_b_c);
    const TensorView dt = dt_b_c.slice_columns(0, rank);
    const TensorView delta = rows(workspace_.delta);
    return {
        .rotary = {.batch = batch_,
                   .q = q_,
                   .k = k_,
                   .v = v_,
                   .q_norm = weights_.q_norm,
                   .k_norm = weights_.k_norm,
                   .norm_epsilon = kHeadNormEpsilon,
                   .cos_sin = workspace_.cos_sin,
                   .kv = kv},
        .attention = {.batch = batch_,
                      .q = q_,
                      .kv = kv,
                      .window = kv_layer_.window,
                      .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
                      .out = rows(workspace_.attention)
                                 .split_columns(config_.num_heads, config_.value_head_dim)},
        .conv = {.batch = batch_,
                 .u = u_,
                 .weight = weights_.conv_weight,
                 .bias = weights_.conv_bias,
                 .conv_state = cache_.conv_states[layer_],
                 .out = u},
        .x_proj = {.u = u,
                   .weight = weights_.x_proj,
                   .dt_norm = weights_.dt_norm,
                   .b_norm = weights_.b_norm,
                   .c_norm = weights_.c_norm,
                   .epsilon = config_.rms_norm_eps,
                   .out = dt_b_c},
        .dt_proj = {.dt = dt, .weight = weights_.dt_proj, .bias = weights_.dt_bias, .delta = delta},
        .scan = {.batch = batch_,
                 .u = u,
                 .delta = delta,
                 .b = dt_b_c.slice_columns(rank, states),
                 .c = dt_b_c.slice_columns(rank + states, states),
                 .z = z_,
                 .a = weights_.a,
                 .d = weights_.d,
                 .ssm_state = cache_.ssm_states[layer_],
                 .out = rows(workspace_.mamba)}};
  }

  // Attention heads and Mamba heads, side by side. What they hand from stage to stage is there to
  // be recorded only when they run one by one.
  void heads() {
    const HybridHeadsArgs args = heads_args();
    if (probe_ == nullptr) return backend_.hybrid_heads(args);

    backend_.rotary_kv_write(args.rotary);
    record("attn.q", q_);
    if (kv_layer_.is_producer) {
      record("attn.k", k_);
      record("attn.v", v_);
    }
    backend_.attention(args.attention);
    record("attn.out", rows(workspace_.attention));

    backend_.causal_conv1d(args.conv);
    record("ssm.u", args.conv.out);
    backend_.x_proj(args.x_proj);
    record("ssm.B", args.scan.b);
    record("ssm.C", args.scan.c);
    backend_.dt_proj(args.dt_proj);
    record("ssm.delta", args.dt_proj.delta);
    record("ssm.gate", z_);
    backend_.selective_scan(args.scan);
    record("ssm.out_gated", args.scan.out);
    record("ssm.state", args.scan.ssm_state);
  }

  // x ← x + (rms(attention) + rms(mamba)) / 2 · out_projᵀ
  void fuse() {
    multiply_normed("fused_heads",
                    FuseHeadsArgs{.attention = rows(workspace_.attention),
                                  .mamba = rows(workspace_.mamba),
                                  .attention_weight = weights_.attention_norm,
                                  .mamba_weight = weights_.mamba_norm,
                                  .epsilon = config_.rms_norm_eps,
                                  .out = rows(workspace_.fused)},
                    LinearArgs{.in = rows(workspace_.fused),
                               .weight = weights_.out_proj,
                               .bias = weights_.out_proj_bias,
                               .out = rows(workspace_.residual),
                               .accumulate = true});
    record("after_heads", rows(workspace_.residual));
  }

  // x ← x + (silu(g · gateᵀ) ⊙ (g · upᵀ)) · downᵀ, g = rms(x)
  void mlp() {
    multiply_normed("mlp_normed", residual_norm(weights_.mlp_norm),
                    GatedLinearArgs{.in = rows(workspace_.normed),
                                    .weight = weights_.gate_up,
                                    .activation = config_.mlp_activation,
                                    .out = rows(workspace_.mlp)});
    backend_.linear({.in = rows(workspace_.mlp),
                     .weight = weights_.down,
                     .bias = {},
                     .out = rows(workspace_.residual),
                     .accumulate = true});
    record("out", rows(workspace_.residual));
  }

  const ModelConfig& config_;
  const LayerWeights& weights_;
  const Workspace& workspace_;
  const CacheViews& cache_;
  const KvLayer& kv_layer_;
  const KvPoolLayout& kv_pool_;
  Backend& backend_;
  const TensorView& page_table_;
  const BatchView batch_;
  const int layer_;
  Probe* probe_;

  TensorView q_, k_, v_, u_, z_;
};

}  // namespace

void forward_layers(const ForwardContext& context, const StepBlock& block, Probe* probe) {
  const int64_t num_tokens = block.token_ids.rows();
  context.backend.embed_tokens({.token_ids = block.token_ids,
                                .table = context.weights.embed_tokens,
                                .meta = context.weights.meta_tokens,
                                .out = context.workspace.residual.slice_rows(0, num_tokens)});
  for (int layer = 0; layer < context.config.num_layers(); ++layer) {
    if (context.stop) fail(ErrorCode::kAborted, "the model was stopped during a step");
    LayerPass(context, block, layer, probe).run();
  }
}

TensorView forward_logits(const ForwardContext& context, int64_t num_tokens,
                          const TensorView& rows) {
  const Workspace& w = context.workspace;
  const int64_t num_rows = rows.rows();
  const TensorView picked = w.logit_residual.slice_rows(0, num_rows);
  const TensorView normed = w.logit_normed.slice_rows(0, num_rows);
  const TensorView logits = w.logits.slice_rows(0, num_rows);
  context.backend.gather_rows(
      {.in = w.residual.slice_rows(0, num_tokens), .rows = rows, .out = picked});
  context.backend.normed_product(
      {.norm = RmsNormArgs{.in = picked,
                           .weight = context.weights.final_norm,
                           .epsilon = context.config.rms_norm_eps,
                           .out = normed},
       .product =
           LinearArgs{.in = normed, .weight = context.weights.lm_head, .bias = {}, .out = logits}});
  return logits;
}

}  // namespace hymba
