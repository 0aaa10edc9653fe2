// What every backend refuses, in the same words: the public side of each stage checks its Args,
// then runs it.

#include <string>

#include "ops/ops.h"

namespace hymba {
namespace {

// Collects the checks of one stage, so that a message can say which stage and which argument.
class StageCheck {
 public:
  explicit StageCheck(const char* stage) : stage_(stage) {}

  void that(bool condition, const char* what) const {
    if (!condition) [[unlikely]]
      fail(ErrorCode::kInvalidArgument, stage_, ": ", what);
  }

  // The view has the given shape; -1 stands for any extent.
  void shape(const char* name, const TensorView& view,
             std::initializer_list<int64_t> expected) const {
    bool equal = !view.empty() && view.rank() == static_cast<int>(expected.size());
    int i = 0;
    for (int64_t extent : expected) {
      equal = equal && (extent < 0 || view.dim(i) == extent);
      ++i;
    }
    if (!equal) [[unlikely]]
      fail(ErrorCode::kInvalidArgument, stage_, ": ", name, " is ", describe(view), ", expected ",
           describe(expected));
  }

  void dtype(const char* name, const TensorView& view, DType expected) const {
    if (view.dtype() != expected) [[unlikely]]
      fail(ErrorCode::kInvalidArgument, stage_, ": ", name, " is ", dtype_name(view.dtype()),
           ", expected ", dtype_name(expected));
  }

  void act(const char* name, const TensorView& view) const {
    if (view.dtype() != DType::kF32 && view.dtype() != DType::kBF16) [[unlikely]]
      fail(ErrorCode::kInvalidArgument, stage_, ": ", name, " is ", dtype_name(view.dtype()),
           ", expected F32 or BF16");
  }

  void vector(const char* name, const TensorView& view, int64_t extent) const {
    shape(name, view, {extent});
    dtype(name, view, DType::kF32);
  }

  void matrix(const char* name, const Matrix& matrix, int64_t rows, int64_t cols) const {
    if ((rows >= 0 && matrix.rows != rows) || matrix.cols != cols || matrix.num_blocks < 1)
        [[unlikely]]
      fail(ErrorCode::kInvalidArgument, stage_, ": ", name, " is [", matrix.rows, ", ", matrix.cols,
           "] in ", matrix.num_blocks, " blocks, expected [", rows, ", ", cols, "]");
  }

  void batch(const BatchView& batch) const {
    that(batch.num_tokens >= 1 && batch.num_spans >= 1, "an empty batch");
    shape("positions", batch.positions, {batch.num_tokens});
    shape("token_spans", batch.token_spans, {batch.num_tokens});
    shape("span_offsets", batch.span_offsets, {batch.num_spans + 1});
    shape("state_source", batch.state_source, {batch.num_spans});
    shape("state_slot", batch.state_slot, {batch.num_spans});
  }

  void kv(const KvLayerView& kv, const BatchView& batch) const {
    that(kv.pool != nullptr && kv.num_pages >= 1, "no K/V pool");
    that(kv.layer_idx >= 0 && kv.layer_idx < kv.num_layers, "K/V layer index out of its pool");
    that(kv.ring_columns >= 1, "a page table without text columns");
    shape("page_table", kv.page_table, {batch.num_spans, kv.meta_columns + kv.ring_columns});
    dtype("page_table", kv.page_table, DType::kI32);
  }

 private:
  static std::string describe(std::initializer_list<int64_t> shape) {
    std::string text = "[";
    for (int64_t extent : shape)
      text += (text.size() > 1 ? ", " : "") + (extent < 0 ? "any" : std::to_string(extent));
    return text + "]";
  }
  static std::string describe(const TensorView& view) {
    if (view.empty()) return "missing";
    std::string text = "[";
    for (int i = 0; i < view.rank(); ++i) text += (i > 0 ? ", " : "") + std::to_string(view.dim(i));
    return text + "]";
  }

  const char* stage_;
};

// Of the stages that others stand for.

void check_args(const RmsNormArgs& args) {
  const StageCheck check("rms_norm");
  check.shape("in", args.in, {-1, -1});
  check.act("in", args.in);
  check.vector("weight", args.weight, args.in.dim(1));
  check.shape("out", args.out, {args.in.rows(), args.in.dim(1)});
  check.act("out", args.out);
}

void check_args(const LinearArgs& args) {
  const StageCheck check("linear");
  check.shape("in", args.in, {-1, args.weight.cols});
  check.act("in", args.in);
  check.matrix("weight", args.weight, -1, args.in.dim(1));
  check.that(args.weight.num_blocks == 1, "weight has two blocks: that is gated_linear's");
  check.shape("out", args.out, {args.in.rows(), args.weight.rows});
  check.act("out", args.out);
  if (!args.bias.empty()) check.vector("bias", args.bias, args.weight.rows);
  check.that(!args.accumulate || args.out.dtype() == DType::kF32, "accumulates into F32 only");
}

void check_args(const GatedLinearArgs& args) {
  const StageCheck check("gated_linear");
  check.shape("in", args.in, {-1, args.weight.cols});
  check.act("in", args.in);
  check.that(args.weight.num_blocks == (args.activation == MlpActivation::kSilu ? 2 : 1),
             "silu needs gate and up, relu2 only up");
  check.shape("out", args.out, {args.in.rows(), args.weight.rows});
  check.act("out", args.out);
}

void check_args(const FuseHeadsArgs& args) {
  const StageCheck check("fuse_heads");
  check.shape("attention", args.attention, {-1, -1});
  const int64_t width = args.attention.dim(1);
  check.shape("mamba", args.mamba, {args.attention.rows(), width});
  check.shape("out", args.out, {args.attention.rows(), width});
  check.dtype("mamba", args.mamba, args.attention.dtype());
  check.dtype("out", args.out, args.attention.dtype());
  check.vector("attention_weight", args.attention_weight, width);
  check.vector("mamba_weight", args.mamba_weight, width);
}

void check_args(const RotaryKvWriteArgs& args) {
  const StageCheck check("rotary_kv_write");
  check.batch(args.batch);
  check.kv(args.kv, args.batch);
  const int64_t num_tokens = args.batch.num_tokens;
  check.shape("q", args.q, {num_tokens, -1, args.kv.head_dim});
  check.act("q", args.q);
  check.that(args.k.empty() == args.v.empty(), "k and v come together");
  check.that(args.kv.head_dim % 2 == 0, "an odd head dim cannot be rotated");
  if (!args.k.empty()) {
    check.shape("k", args.k, {num_tokens, args.kv.num_kv_heads, args.kv.head_dim});
    check.shape("v", args.v, {num_tokens, args.kv.num_kv_heads, args.kv.value_head_dim});
    check.dtype("k", args.k, args.q.dtype());
    check.dtype("v", args.v, args.q.dtype());
    check.that(args.kv.dtype == args.q.dtype(), "K/V pages have the dtype of the activations");
  }
  if (!args.cos_sin.empty()) check.shape("cos_sin", args.cos_sin, {-1, args.kv.head_dim});
  if (!args.q_norm.empty()) check.shape("q_norm", args.q_norm, {args.q.dim(1), args.kv.head_dim});
  if (!args.k_norm.empty() && !args.k.empty())
    check.shape("k_norm", args.k_norm, {args.kv.num_kv_heads, args.kv.head_dim});
}

void check_args(const AttentionArgs& args) {
  const StageCheck check("attention");
  check.batch(args.batch);
  check.kv(args.kv, args.batch);
  check.shape("q", args.q, {args.batch.num_tokens, -1, args.kv.head_dim});
  check.act("q", args.q);
  check.that(args.q.dim(1) % args.kv.num_kv_heads == 0, "K/V heads do not divide the query heads");
  check.that(args.kv.dtype == args.q.dtype(), "K/V pages have the dtype of the activations");
  check.shape("out", args.out, {args.batch.num_tokens, args.q.dim(1), args.kv.value_head_dim});
  check.dtype("out", args.out, args.q.dtype());
}

void check_args(const CausalConv1dArgs& args) {
  const StageCheck check("causal_conv1d");
  check.batch(args.batch);
  check.shape("u", args.u, {args.batch.num_tokens, -1});
  check.act("u", args.u);
  const int64_t channels = args.u.dim(1);
  check.shape("weight", args.weight, {channels, -1});
  const int64_t width = args.weight.dim(1);
  check.that(width >= 2, "a convolution of width 1 has no state");
  if (!args.bias.empty()) check.vector("bias", args.bias, channels);
  check.shape("conv_state", args.conv_state, {-1, width - 1, channels});
  check.dtype("conv_state", args.conv_state, args.u.dtype());
  check.shape("out", args.out, {args.batch.num_tokens, channels});
  check.dtype("out", args.out, args.u.dtype());
}

void check_args(const XProjArgs& args) {
  const StageCheck check("x_proj");
  check.shape("u", args.u, {-1, args.weight.cols});
  check.act("u", args.u);
  check.shape("out", args.out, {args.u.rows(), args.weight.rows});
  check.dtype("out", args.out, args.u.dtype());
  check.that(
      args.dt_norm.empty() == args.b_norm.empty() && args.dt_norm.empty() == args.c_norm.empty(),
      "the three norms come together");
  if (!args.dt_norm.empty())
    check.that(args.dt_norm.rows() + args.b_norm.rows() + args.c_norm.rows() == args.weight.rows,
               "the three norms do not cover the output");
}

void check_args(const DtProjArgs& args) {
  const StageCheck check("dt_proj");
  check.shape("dt", args.dt, {-1, args.weight.cols});
  check.act("dt", args.dt);
  check.vector("bias", args.bias, args.weight.rows);
  check.shape("delta", args.delta, {args.dt.rows(), args.weight.rows});
  check.dtype("delta", args.delta, args.dt.dtype());
}

void check_args(const SelectiveScanArgs& args) {
  const StageCheck check("selective_scan");
  check.batch(args.batch);
  const int64_t num_tokens = args.batch.num_tokens;
  check.shape("u", args.u, {num_tokens, -1});
  check.act("u", args.u);
  const int64_t channels = args.u.dim(1);
  check.shape("a", args.a, {channels, -1});
  const int64_t states = args.a.dim(1);
  check.shape("delta", args.delta, {num_tokens, channels});
  check.shape("b", args.b, {num_tokens, states});
  check.shape("c", args.c, {num_tokens, states});
  check.shape("z", args.z, {num_tokens, channels});
  check.shape("out", args.out, {num_tokens, channels});
  for (const TensorView* view : {&args.delta, &args.b, &args.c, &args.z, &args.out})
    check.dtype("an activation", *view, args.u.dtype());
  check.dtype("a", args.a, DType::kF32);
  check.vector("d", args.d, channels);
  check.shape("ssm_state", args.ssm_state, {-1, channels, states});
  check.dtype("ssm_state", args.ssm_state, DType::kF32);
}

bool same_view(const TensorView& a, const TensorView& b) {
  return a.raw() == b.raw() && a.dtype() == b.dtype() && a.rows() == b.rows() &&
         a.row_elements() == b.row_elements() && a.row_stride() == b.row_stride();
}

bool same_batch(const BatchView& a, const BatchView& b) {
  return a.num_tokens == b.num_tokens && a.num_spans == b.num_spans &&
         same_view(a.positions, b.positions) && same_view(a.token_spans, b.token_spans) &&
         same_view(a.span_offsets, b.span_offsets) && same_view(a.state_source, b.state_source) &&
         same_view(a.state_slot, b.state_slot);
}

bool same_cache(const KvLayerView& a, const KvLayerView& b) {
  return a.pool == b.pool && a.dtype == b.dtype && a.num_layers == b.num_layers &&
         a.layer_idx == b.layer_idx && a.num_kv_heads == b.num_kv_heads &&
         a.head_dim == b.head_dim && a.value_head_dim == b.value_head_dim &&
         same_view(a.page_table, b.page_table) && a.num_meta_tokens == b.num_meta_tokens &&
         a.meta_columns == b.meta_columns && a.ring_columns == b.ring_columns;
}

void check_args(const HybridHeadsArgs& args) {
  const auto& [rotary, attention, conv, x_proj, dt_proj, scan] = args;
  check_args(rotary);
  check_args(attention);
  check_args(conv);
  check_args(x_proj);
  check_args(dt_proj);
  check_args(scan);
  const StageCheck check("hybrid_heads");
  for (const BatchView* batch : {&attention.batch, &conv.batch, &scan.batch})
    check.that(same_batch(rotary.batch, *batch), "the stages' batches differ");
  check.that(same_view(rotary.q, attention.q), "attention's q is not the one that is rotated");
  check.that(same_cache(rotary.kv, attention.kv), "attention's K/V is not what is written to");
  check.that(same_view(conv.out, x_proj.u), "x_proj's u is not the output of the convolution");
  check.that(same_view(conv.out, scan.u), "the scan's u is not the output of the convolution");
  check.that(same_view(dt_proj.delta, scan.delta), "the scan's delta is not dt_proj's");
  const int64_t rank = dt_proj.dt.dim(1), states = scan.b.dim(1);
  check.that(rank + 2 * states == x_proj.out.dim(1), "x_proj's output is not dt, B and C");
  check.that(same_view(dt_proj.dt, x_proj.out.slice_columns(0, rank)) &&
                 same_view(scan.b, x_proj.out.slice_columns(rank, states)) &&
                 same_view(scan.c, x_proj.out.slice_columns(rank + states, states)),
             "dt, B and C are not the parts of x_proj's output");
}

// From the first row to the end of the last.
bool overlap(const TensorView& a, const TensorView& b) {
  const auto begin = [](const TensorView& view) { return static_cast<const char*>(view.raw()); };
  const auto end = [&](const TensorView& view) {
    const int64_t elements = (view.rows() - 1) * view.row_stride() + view.row_elements();
    return begin(view) + elements * dtype_bytes(view.dtype());
  };
  return begin(a) < end(b) && begin(b) < end(a);
}

bool reads(const RmsNormArgs& norm, const TensorView& view) { return overlap(norm.in, view); }
bool reads(const FuseHeadsArgs& norm, const TensorView& view) {
  return overlap(norm.attention, view) || overlap(norm.mamba, view);
}

void check_args(const NormedProductArgs& args) {
  std::visit(
      [](const auto& norm, const auto& product) {
        check_args(norm);
        check_args(product);
        const StageCheck check("normed_product");
        check.that(same_view(norm.out, product.in), "the product's input is not the norm's output");
        check.that(!reads(norm, product.out), "the product's output is what the norm reads");
      },
      args.norm, args.product);
}

}  // namespace

void Backend::embed_tokens(const EmbedTokensArgs& args) {
  const StageCheck check("embed_tokens");
  check.dtype("token_ids", args.token_ids, DType::kI32);
  check.shape("out", args.out, {args.token_ids.rows(), args.table.cols});
  check.dtype("out", args.out, DType::kF32);
  if (args.meta.rows > 0) check.matrix("meta", args.meta, -1, args.table.cols);
  run(args);
}

void Backend::gather_rows(const GatherRowsArgs& args) {
  const StageCheck check("gather_rows");
  check.shape("in", args.in, {-1, -1});
  check.shape("rows", args.rows, {-1});
  check.shape("out", args.out, {args.rows.rows(), args.in.dim(1)});
  run(args);
}

void Backend::rms_norm(const RmsNormArgs& args) {
  check_args(args);
  run(args);
}

void Backend::linear(const LinearArgs& args) {
  check_args(args);
  run(args);
}

void Backend::gated_linear(const GatedLinearArgs& args) {
  check_args(args);
  run(args);
}

void Backend::rotary_kv_write(const RotaryKvWriteArgs& args) {
  check_args(args);
  run(args);
}

void Backend::attention(const AttentionArgs& args) {
  check_args(args);
  run(args);
}

void Backend::causal_conv1d(const CausalConv1dArgs& args) {
  check_args(args);
  run(args);
}

void Backend::x_proj(const XProjArgs& args) {
  check_args(args);
  run(args);
}

void Backend::dt_proj(const DtProjArgs& args) {
  check_args(args);
  run(args);
}

void Backend::selective_scan(const SelectiveScanArgs& args) {
  check_args(args);
  run(args);
}

void Backend::hybrid_heads(const HybridHeadsArgs& args) {
  check_args(args);
  run(args);
}

void Backend::fuse_heads(const FuseHeadsArgs& args) {
  check_args(args);
  run(args);
}

void Backend::normed_product(const NormedProductArgs& args) {
  check_args(args);
  run(args);
}

void Backend::count_tokens(const CountTokensArgs& args) {
  const StageCheck check("count_tokens");
  const int64_t num_spans = args.state_slot.rows();
  check.shape("span_offsets", args.span_offsets, {num_spans + 1});
  check.shape("is_generated", args.is_generated, {num_spans});
  check.shape("fresh", args.fresh, {num_spans});
  check.shape("history", args.history, {-1, -1});
  check.dtype("history", args.history, DType::kU16);
  run(args);
}

void Backend::sample(const SampleArgs& args) {
  const StageCheck check("sample");
  check.shape("logits", args.logits, {-1, -1});
  check.dtype("logits", args.logits, DType::kF32);
  const int64_t num_rows = args.logits.rows();
  check.shape("rows", args.rows, {num_rows, sizeof(SamplingRow) / sizeof(int32_t)});
  if (!args.masks.empty()) check.shape("masks", args.masks, {-1, mask_words(args.logits.dim(1))});
  check.shape("history", args.history, {-1, args.logits.dim(1)});
  check.shape("token", args.token, {num_rows});
  check.shape("logprob", args.logprob, {num_rows});
  check.shape("top_tokens", args.top_tokens, {num_rows, kMaxTopLogprobs});
  check.shape("top_logprobs", args.top_logprobs, {num_rows, kMaxTopLogprobs});
  run(args);
}

void Backend::token_logprobs(const TokenLogprobsArgs& args) {
  const StageCheck check("token_logprobs");
  check.shape("logits", args.logits, {-1, -1});
  check.dtype("logits", args.logits, DType::kF32);
  check.shape("tokens", args.tokens, {args.logits.rows()});
  check.shape("logprob", args.logprob, {args.logits.rows()});
  run(args);
}

void Backend::recall_tokens(const RecallTokensArgs& args) {
  const StageCheck check("recall_tokens");
  check.shape("token_spans", args.token_spans, {args.token_ids.rows()});
  check.shape("state_slot", args.state_slot, {-1});
  check.shape("last_tokens", args.last_tokens, {-1});
  run(args);
}

void Backend::remember_tokens(const RememberTokensArgs& args) {
  const StageCheck check("remember_tokens");
  check.shape("slots", args.slots, {args.tokens.rows()});
  check.shape("last_tokens", args.last_tokens, {-1});
  run(args);
}

}  // namespace hymba
