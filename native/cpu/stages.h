// The stages on the CPU, one file each. They are written to be read: this backend is the
// specification of what the GPU computes.
#pragma once

#include "core/thread_pool.h"
#include "ops/ops.h"

namespace hymba::cpu {

void embed_tokens(const EmbedTokensArgs& args);
void gather_rows(const GatherRowsArgs& args);
void rms_norm(const RmsNormArgs& args, ThreadPool& pool);
void linear(const LinearArgs& args, ThreadPool& pool);
void gated_linear(const GatedLinearArgs& args, ThreadPool& pool);
void rotary_kv_write(const RotaryKvWriteArgs& args, ThreadPool& pool);
void attention(const AttentionArgs& args, ThreadPool& pool);
void causal_conv1d(const CausalConv1dArgs& args, ThreadPool& pool);
void x_proj(const XProjArgs& args, ThreadPool& pool);
void dt_proj(const DtProjArgs& args, ThreadPool& pool);
void selective_scan(const SelectiveScanArgs& args, ThreadPool& pool);
void fuse_heads(const FuseHeadsArgs& args, ThreadPool& pool);
void count_tokens(const CountTokensArgs& args, ThreadPool& pool);
void sample(const SampleArgs& args, ThreadPool& pool);
void token_logprobs(const TokenLogprobsArgs& args, ThreadPool& pool);
void recall_tokens(const RecallTokensArgs& args);
void remember_tokens(const RememberTokensArgs& args);

}  // namespace hymba::cpu
