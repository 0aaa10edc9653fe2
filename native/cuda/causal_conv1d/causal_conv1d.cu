// Computes  out[t, e] = silu(bias[e] + Σ_w weight[e, w] · u[t - W + 1 + w, e]), u before the span's
//           first token taken from its conv state; then leaves the last W-1 rows of u in the span's
//           own state slot.
// Shapes    u, out [T, E] act, rows may be strided; weight [E, W] fp32, bias [E] fp32 or empty;
//           conv_state [slots, W-1, E] act, oldest row first.
// Mapping   a thread = 8 channels × a run of consecutive tokens, whatever spans they belong to;
//           neighbouring threads hold neighbouring channels. The last W-1 rows slide through
//           registers, four rows are in flight at a time.
//           Only the thread that a span's first token falls to touches the state of its channels:
//           it computes the span's first W-1 tokens, even those beyond its run, so that nobody else
//           needs the carry-in, and it writes the carry-out after it has read the carry-in. So a
//           span may leave its state where it took it from.
// Numerics  fp32 sum in the order of w, one rounding of the output: the same bits however the
//           tokens are cut into spans. The state holds u as it is.
// Limits    W from 2 to 4; a span has at least one token. No span reads a slot that another one of
//           the same call writes.
// Cost      2·T·E·act bytes, 2·(W-1)·E·act a span for the state, 2·W·T·E flops; bound by memory.

#include "cuda/causal_conv1d/channel_conv.cuh"
#include "cuda/dispatch.h"
#include "cuda/stages.h"

namespace hymba::cuda {
namespace {

constexpr int kThreads = 128;

// Tokens a thread: long runs read few rows twice (W-1 before each run), short ones give a decode
// step or a short prompt enough threads. The bits don't depend on it.
int run_length(int num_tokens) {
  if (num_tokens <= 256) return 1;
  if (num_tokens <= 1024) return 4;
  return 16;
}

template <typename Act, int kWidth>
__global__ void __launch_bounds__(kThreads) causal_conv1d_kernel(ConvParams<Act> params, int run) {
  allow_successor();
  const unsigned thread = blockIdx.x * kThreads + threadIdx.x;
  const int begin = static_cast<int>(thread / params.groups) * run;
  ChannelConv<Act, kWidth> conv(params, static_cast<int>(thread % params.groups) * kConvChannels);
  wait_for_predecessor();
  conv.run(begin, min(begin + run, params.batch.num_tokens));
}

template <typename Act>
void launch_for(const CausalConv1dArgs& args, const LaunchContext& context) {
  const auto width = static_cast<int>(args.weight.dim(1));
  const int run = run_length(args.batch.num_tokens);
  const auto params = make_conv_params<Act>(args);
  const int64_t threads = int64_t{params.groups} * ceil_div(args.batch.num_tokens, run);
  auto* const kernel = width == 2   ? causal_conv1d_kernel<Act, 2>
                       : width == 3 ? causal_conv1d_kernel<Act, 3>
                                    : causal_conv1d_kernel<Act, 4>;
  launch("causal_conv1d", context, kernel, dim3(ceil_div<int64_t>(threads, kThreads)),
         dim3(kThreads), 0, params, run);
}

}  // namespace

void causal_conv1d(const CausalConv1dArgs& args, const LaunchContext& context) {
  constexpr int kMaxWidth = 4;
  if (args.weight.dim(1) > kMaxWidth)
    fail(ErrorCode::kModelUnsupported, "causal_conv1d: a convolution of width ", args.weight.dim(1),
         ", at most ", kMaxWidth, " on CUDA");
  with_act_type(args.u.dtype(), [&](auto type) { launch_for<decltype(type)>(args, context); });
}

}  // namespace hymba::cuda
