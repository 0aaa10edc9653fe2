// The stages of ops/ops.h as launchers, one a file or folder of the same name.
#pragma once

#include "cuda/runtime/launch.h"
#include "ops/ops.h"

namespace hymba::cuda {

void embed_tokens(const EmbedTokensArgs& args, const LaunchContext& context);
void gather_rows(const GatherRowsArgs& args, const LaunchContext& context);
void rms_norm(const RmsNormArgs& args, const LaunchContext& context);
void linear(const LinearArgs& args, const LaunchContext& context);
void gated_linear(const GatedLinearArgs& args, const LaunchContext& context);
void rotary_kv_write(const RotaryKvWriteArgs& args, const LaunchContext& context);
void attention(const AttentionArgs& args, const LaunchContext& context);
void causal_conv1d(const CausalConv1dArgs& args, const LaunchContext& context);
void x_proj(const XProjArgs& args, const LaunchContext& context);
void dt_proj(const DtProjArgs& args, const LaunchContext& context);
void selective_scan(const SelectiveScanArgs& args, const LaunchContext& context);
void fuse_heads(const FuseHeadsArgs& args, const LaunchContext& context);
// Whether one launch did it; else the two stages one after the other can.
bool normed_product(const NormedProductArgs& args, const LaunchContext& context);
void count_tokens(const CountTokensArgs& args, const LaunchContext& context);
void sample(const SampleArgs& args, const LaunchContext& context);
void token_logprobs(const TokenLogprobsArgs& args, const LaunchContext& context);
void recall_tokens(const RecallTokensArgs& args, const LaunchContext& context);
void remember_tokens(const RememberTokensArgs& args, const LaunchContext& context);

}  // namespace hymba::cuda
