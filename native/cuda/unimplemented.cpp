#include "cuda/attention/attention.h"
#include "cuda/gemm/pack_matrix.h"
#include "cuda/gemm/x_proj.h"
#include "cuda/sample/sample.h"
#include "cuda/stages.h"
namespace hymba::cuda {
#define STUB(name, Args) \
  __attribute__((weak)) void name(const Args&, const LaunchContext&) { fail(ErrorCode::kInternal, #name " is not there yet"); }
STUB(embed_tokens, EmbedTokensArgs)
STUB(gather_rows, GatherRowsArgs)
STUB(rms_norm, RmsNormArgs)
STUB(linear, LinearArgs)
STUB(gated_linear, GatedLinearArgs)
STUB(rotary_kv_write, RotaryKvWriteArgs)
STUB(attention, AttentionArgs)
STUB(causal_conv1d, CausalConv1dArgs)
STUB(x_proj, XProjArgs)
STUB(dt_proj, DtProjArgs)
STUB(selective_scan, SelectiveScanArgs)
STUB(fuse_heads, FuseHeadsArgs)
STUB(count_tokens, CountTokensArgs)
STUB(sample, SampleArgs)
STUB(token_logprobs, TokenLogprobsArgs)
STUB(pack_rows, PackRowsArgs)
__attribute__((weak)) size_t attention_scratch_bytes(const StageLimits&) { return 0; }
__attribute__((weak)) size_t x_proj_scratch_bytes(const StageLimits&) { return 0; }
__attribute__((weak)) size_t sample_scratch_bytes(const StageLimits&) { return 0; }
}  // namespace hymba::cuda
