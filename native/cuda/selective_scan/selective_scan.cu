// Computes  for each token t of a span, each channel e and state n:
//             s[e, n] ← exp(delta[t, e] · a[e, n]) · s[e, n] + delta[t, e] · b[t, n] · u[t, e]
//             out[t, e] = (Σ_n s[e, n] · c[t, n] + d[e] · u[t, e]) · silu(z[t, e])
// Shapes    u, delta, z, out [T, E] act; b, c [T, N] act; rows may be strided; a [E, N], d [E]
// fp32;
//           ssm_state [slots, E, N] fp32.
// Mapping   A lane has a quarter of a channel's states, in registers; 32 channels a block.
//           Spans of one token: update_kernel.cuh, four lanes a channel, four spans a block. Longer
//           ones: scan_kernel.cuh, a block walks through a span, four warps with its states and
//           four that bring and take what these work on. With spans of both kinds in a call both
//           kernels run, and each leaves the other's spans alone.
// Shared memory  scan: three tiles of 32 tokens, the sums of two: 63 KB for 16 states; more where
//           the blocks are to spread over the device. update: none.
// Numerics  state and arithmetic in fp32, exp2 by the approximate instruction (2 ulp), one rounding
//           of the output. Sequential in time, the same operations in the same order in both
//           kernels: the same bits however a sequence is cut.
// Limits    N ≤ 64; a span has at least one token. No span reads a slot that another one of the
//           same call writes.
// Cost      N exponentials and 4·N multiply-adds a token and channel; 8·N bytes of state a channel
//           and span. Scan: with 16 states a token and 32 channels are 32 cycles of a
//           multiprocessor's exponential units, and as many instructions of each scheduler: bound
//           by both, on as many multiprocessors as there are blocks. Update: bound by memory.

#include "cuda/dispatch.h"
#include "cuda/selective_scan/scan_kernel.cuh"
#include "cuda/selective_scan/update_kernel.cuh"
#include "cuda/stages.h"

namespace hymba::cuda {
namespace {

template <typename Act, int kStates>
void launch_for(const SelectiveScanArgs& args, const LaunchContext& context) {
  using namespace scan;
  const int num_tokens = args.batch.num_tokens, num_spans = args.batch.num_spans;
  const auto params = make_params<Act, kStates>(args);
  const auto channel_blocks = static_cast<unsigned>(ceil_div(params.channels, kBlockChannels));
  // Spans have a token or more: one span of several tokens is the only call without short spans, as
  // many spans as tokens the only one without long ones.
  if (num_spans > 1 || num_tokens == 1)
    launch("selective_scan (update)", context, update_kernel<Act, kStates>,
           dim3(channel_blocks, ceil_div(num_spans, kBlockSpans)), dim3(kThreads), 0, params);
  if (num_tokens > num_spans)
    launch("selective_scan", context, scan_kernel<Act, kStates>, dim3(channel_blocks, num_spans),
           dim3(Scan<Act, kStates>::kThreads),
           spread_evenly(context, int64_t{channel_blocks} * num_spans, sizeof(Scan<Act, kStates>)),
           params);
}

}  // namespace

void selective_scan(const SelectiveScanArgs& args, const LaunchContext& context) {
  const int64_t num_states = args.a.dim(1);
  if (num_states > scan::kMaxStates)
    fail(ErrorCode::kModelUnsupported, "selective_scan: ", num_states,
         " states a channel, at most ", scan::kMaxStates, " on CUDA");
  with_act_type(args.u.dtype(), [&](auto type) {
    using Act = decltype(type);
    if (num_states <= 16)
      launch_for<Act, 4>(args, context);
    else if (num_states <= 32)
      launch_for<Act, 8>(args, context);
    else
      launch_for<Act, scan::kMaxStatesPerLane>(args, context);
  });
}

}  // namespace hymba::cuda
