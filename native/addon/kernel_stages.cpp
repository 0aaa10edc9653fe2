#include "addon/kernel_stages.h"

namespace hymba {
namespace {

constexpr DType kF32 = DType::kF32;
constexpr DType kI32 = DType::kI32;
constexpr DType kU16 = DType::kU16;

void embed_tokens(Backend& backend, const KernelArgs& args) {
  backend.embed_tokens({.token_ids = args.dense("tokenIds", 1, kI32),
                        .table = args.matrix("table"),
                        .meta = args.optional_matrix("meta"),
                        .out = args.rows("out", 2, kF32)});
}

void gather_rows(Backend& backend, const KernelArgs& args) {
  backend.gather_rows({.in = args.rows("in", 2, kF32),
                       .rows = args.dense("rows", 1, kI32),
                       .out = args.rows("out", 2, kF32)});
}

RmsNormArgs rms_norm_args(const KernelArgs& args) {
  return {.in = args.rows("in", 2),
          .weight = args.dense("weight", 1, kF32),
          .epsilon = args.number("epsilon"),
          .out = args.rows("out", 2)};
}

LinearArgs linear_args(const KernelArgs& args) {
  const TensorView in = args.rows("in", 2);
  return {.in = in,
          .weight = args.matrix_for("weight", in),
          .bias = args.optional_dense("bias", 1, kF32),
          .out = args.rows("out", 2),
          .accumulate = args.flag("accumulate")};
}

GatedLinearArgs gated_linear_args(const KernelArgs& args) {
  const TensorView in = args.rows("in", 2);
  return {.in = in,
          .weight = args.matrix_for("weight", in),
          .activation =
              args.text("activation") == "silu" ? MlpActivation::kSilu : MlpActivation::kRelu2,
          .out = args.rows("out", 2)};
}

RotaryKvWriteArgs rotary_kv_write_args(const KernelArgs& args) {
  return {.batch = args.batch(),
          .q = args.rows("q", 3),
          .k = args.optional_rows("k", 3),
          .v = args.optional_rows("v", 3),
          .q_norm = args.optional_dense("qNorm", 2, kF32),
          .k_norm = args.optional_dense("kNorm", 2, kF32),
          .norm_epsilon = args.number("normEpsilon"),
          .cos_sin = args.optional_dense("cosSin", 2, kF32),
          .kv = args.kv()};
}

AttentionArgs attention_args(const KernelArgs& args) {
  return {.batch = args.batch(),
          .q = args.rows("q", 3),
          .kv = args.kv(),
          .window = args.integer("window"),
          .scale = args.number("scale"),
          .out = args.rows("out", 3)};
}

CausalConv1dArgs causal_conv1d_args(const KernelArgs& args) {
  const TensorView u = args.rows("u", 2);
  return {.batch = args.batch(),
          .u = u,
          .weight = args.dense("weight", 2, kF32),
          .bias = args.optional_dense("bias", 1, kF32),
          .conv_state = args.dense("convState", 3, u.dtype()),
          .out = args.rows("out", 2)};
}

XProjArgs x_proj_args(const KernelArgs& args) {
  const TensorView u = args.rows("u", 2);
  return {.u = u,
          .weight = args.matrix_for("weight", u),
          .dt_norm = args.optional_dense("dtNorm", 1, kF32),
          .b_norm = args.optional_dense("bNorm", 1, kF32),
          .c_norm = args.optional_dense("cNorm", 1, kF32),
          .epsilon = args.number("epsilon"),
          .out = args.rows("out", 2)};
}

DtProjArgs dt_proj_args(const KernelArgs& args) {
  const TensorView dt = args.rows("dt", 2);
  return {.dt = dt,
          .weight = args.matrix_for("weight", dt),
          .bias = args.dense("bias", 1, kF32),
          .delta = args.rows("delta", 2)};
}

SelectiveScanArgs selective_scan_args(const KernelArgs& args) {
  return {.batch = args.batch(),
          .u = args.rows("u", 2),
          .delta = args.rows("delta", 2),
          .b = args.rows("b", 2),
          .c = args.rows("c", 2),
          .z = args.rows("z", 2),
          .a = args.dense("a", 2, kF32),
          .d = args.dense("d", 1, kF32),
          .ssm_state = args.dense("ssmState", 3, kF32),
          .out = args.rows("out", 2)};
}

FuseHeadsArgs fuse_heads_args(const KernelArgs& args) {
  return {.attention = args.rows("attention", 2),
          .mamba = args.rows("mamba", 2),
          .attention_weight = args.dense("attentionWeight", 1, kF32),
          .mamba_weight = args.dense("mambaWeight", 1, kF32),
          .epsilon = args.number("epsilon"),
          .out = args.rows("out", 2)};
}

void rms_norm(Backend& backend, const KernelArgs& args) { backend.rms_norm(rms_norm_args(args)); }

void linear(Backend& backend, const KernelArgs& args) { backend.linear(linear_args(args)); }

void gated_linear(Backend& backend, const KernelArgs& args) {
  backend.gated_linear(gated_linear_args(args));
}

void fuse_heads(Backend& backend, const KernelArgs& args) {
  backend.fuse_heads(fuse_heads_args(args));
}

void normed_product(Backend& backend, const KernelArgs& args) {
  const auto either = [&](const char* one, const char* other, const auto& read_one,
                          const auto& read_other) {
    using Args = std::variant<decltype(read_one(args)), decltype(read_other(args))>;
    const char* const name = args.either(one, other);
    const KernelArgs nested = args.nested(name);
    return name == one ? Args(read_one(nested)) : Args(read_other(nested));
  };
  backend.normed_product(
      {.norm = either("rmsNorm", "fuseHeads", rms_norm_args, fuse_heads_args),
       .product = either("linear", "gatedLinear", linear_args, gated_linear_args)});
}

void rotary_kv_write(Backend& backend, const KernelArgs& args) {
  backend.rotary_kv_write(rotary_kv_write_args(args));
}

void attention(Backend& backend, const KernelArgs& args) {
  backend.attention(attention_args(args));
}

void causal_conv1d(Backend& backend, const KernelArgs& args) {
  backend.causal_conv1d(causal_conv1d_args(args));
}

void x_proj(Backend& backend, const KernelArgs& args) { backend.x_proj(x_proj_args(args)); }

void dt_proj(Backend& backend, const KernelArgs& args) { backend.dt_proj(dt_proj_args(args)); }

void selective_scan(Backend& backend, const KernelArgs& args) {
  backend.selective_scan(selective_scan_args(args));
}

void hybrid_heads(Backend& backend, const KernelArgs& args) {
  backend.hybrid_heads({.rotary = rotary_kv_write_args(args.nested("rotaryKvWrite")),
                        .attention = attention_args(args.nested("attention")),
                        .conv = causal_conv1d_args(args.nested("causalConv1d")),
                        .x_proj = x_proj_args(args.nested("xProj")),
                        .dt_proj = dt_proj_args(args.nested("dtProj")),
                        .scan = selective_scan_args(args.nested("selectiveScan"))});
}

void recall_tokens(Backend& backend, const KernelArgs& args) {
  backend.recall_tokens({.token_ids = args.dense("tokenIds", 1, kI32),
                         .token_spans = args.dense("tokenSpans", 1, kI32),
                         .state_slot = args.dense("stateSlot", 1, kI32),
                         .last_tokens = args.dense("lastTokens", 1, kI32)});
}

void remember_tokens(Backend& backend, const KernelArgs& args) {
  backend.remember_tokens({.tokens = args.dense("tokens", 1, kI32),
                           .slots = args.dense("slots", 1, kI32),
                           .last_tokens = args.dense("lastTokens", 1, kI32)});
}

void count_tokens(Backend& backend, const KernelArgs& args) {
  backend.count_tokens({.token_ids = args.optional_dense("tokenIds", 1, kI32),
                        .span_offsets = args.dense("spanOffsets", 1, kI32),
                        .state_slot = args.dense("stateSlot", 1, kI32),
                        .is_generated = args.dense("isGenerated", 1, kI32),
                        .fresh = args.dense("fresh", 1, kI32),
                        .history = args.dense("history", 2, kU16)});
}

void sample(Backend& backend, const KernelArgs& args) {
  backend.sample({.logits = args.rows("logits", 2, kF32),
                  .rows = args.dense("rows", 2, kI32),
                  .bias_tokens = args.optional_dense("biasTokens", 1, kI32),
                  .bias_values = args.optional_dense("biasValues", 1, kF32),
                  .masks = args.optional_dense("masks", 2, kI32),
                  .history = args.dense("history", 2, kU16),
                  .token = args.dense("token", 1, kI32),
                  .logprob = args.dense("logprob", 1, kF32),
                  .top_tokens = args.dense("topTokens", 2, kI32),
                  .top_logprobs = args.dense("topLogprobs", 2, kF32)});
}

void token_logprobs(Backend& backend, const KernelArgs& args) {
  backend.token_logprobs({.logits = args.rows("logits", 2, kF32),
                          .tokens = args.dense("tokens", 1, kI32),
                          .logprob = args.dense("logprob", 1, kF32)});
}

struct Stage {
  const char* name;
  void (*run)(Backend& backend, const KernelArgs& args);
};

constexpr Stage kStages[] = {
    {"embedTokens", embed_tokens},
    {"gatherRows", gather_rows},
    {"rmsNorm", rms_norm},
    {"linear", linear},
    {"gatedLinear", gated_linear},
    {"rotaryKvWrite", rotary_kv_write},
    {"attention", attention},
    {"causalConv1d", causal_conv1d},
    {"xProj", x_proj},
    {"dtProj", dt_proj},
    {"selectiveScan", selective_scan},
    {"hybridHeads", hybrid_heads},
    {"fuseHeads", fuse_heads},
    {"normedProduct", normed_product},
    {"recallTokens", recall_tokens},
    {"rememberTokens", remember_tokens},
    {"countTokens", count_tokens},
    {"sample", sample},
    {"tokenLogprobs", token_logprobs},
};

}  // namespace

void run_kernel_stage(Backend& backend, const std::string& stage, Napi::Object fields,
                      const KernelHeap& heap) {
  for (const Stage& candidate : kStages)
    if (stage == candidate.name) return candidate.run(backend, KernelArgs(stage, fields, heap));
  fail(ErrorCode::kInvalidArgument, "there is no stage \"", stage, "\"");
}

}  // namespace hymba
