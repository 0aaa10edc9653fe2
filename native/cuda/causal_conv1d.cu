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

#include "cuda/device/chunk.cuh"
#include "cuda/device/silu.cuh"
#include "cuda/device/views.cuh"
#include "cuda/dispatch.h"
#include "cuda/stages.h"

namespace hymba::cuda {
namespace {

constexpr int kChannels = 8;  // of a thread
constexpr int kThreads = 128;
constexpr int kRowsInFlight = 4;

// Tokens a thread: long runs read few rows twice (W-1 before each run), short ones give a decode
// step or a short prompt enough threads. The bits don't depend on it.
int run_length(int num_tokens) {
  if (num_tokens <= 256) return 1;
  if (num_tokens <= 1024) return 4;
  return 16;
}

template <typename Act>
struct ConvParams {
  DeviceBatch batch;
  Rows<const Act> u;
  const float* weight;
  const float* bias;  // or nullptr
  Rows<Act> state;    // a slot a row
  Rows<Act> out;
  int channels;
  unsigned groups;  // of 8 channels, the last one perhaps of fewer
  int run_length;
  bool aligned;
};

// What one thread does, for its channels.
template <typename Act, int kWidth>
class ChannelConv {
 public:
  // Reads constants only.
  __device__ __forceinline__ ChannelConv(const ConvParams<Act>& params, int first_channel)
      : params_(params), first_(first_channel), valid_(params.channels - first_channel) {
    // The weights of 8 channels are 8·W consecutive numbers.
    const float* weight = params.weight + static_cast<int64_t>(first_) * kWidth;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const auto chunk = load_chunk<kChannels>(weight + i * kChannels,
                                               valid_ * kWidth - i * kChannels, params.aligned);
#pragma unroll
      for (int j = 0; j < kChannels; ++j) {
        const int at = i * kChannels + j;
        weight_[at % kWidth][at / kWidth] = element(chunk, j);
      }
    }
    unpack(bias_, params.bias == nullptr
                      ? zero_chunk<float, kChannels>()
                      : load_chunk<kChannels>(params.bias + first_, valid_, params.aligned));
  }

  // Tokens [begin, end) of all spans, and the first W-1 of each span that begins there.
  __device__ __forceinline__ void run(int begin, int end) {
    const DeviceBatch& batch = params_.batch;
    for (int t = begin; t < end;) {
      const int span = batch.token_spans[t];
      const int span_begin = batch.span_offsets[span];
      const int span_end = batch.span_offsets[span + 1];
      const int first_end = span_begin + kHistory;  // of the tokens that look back at the state
      if (t > span_begin && t < first_end) {
        t = min(first_end, span_end);  // done by the thread of the span's first token
        continue;
      }
      const int stop = min(span_end, max(end, first_end));
      const bool owns_state = t == span_begin;
      const int slot = owns_state ? batch.state_slot[span] : -1;
      if (owns_state)
        look_back_at_state(slot < 0 ? -1 : batch.state_source[span]);
      else
        look_back_at_rows(t);
      convolve(t, stop);
      if (slot >= 0) leave_state(slot, stop == span_end, span_end);
      t = stop;
    }
  }

 private:
  static constexpr int kHistory = kWidth - 1;

  __device__ __forceinline__ Chunk<Act, kChannels> load_u(int t) const {
    return load_chunk<kChannels>(params_.u[t] + first_, valid_, params_.aligned);
  }

  __device__ __forceinline__ Act* state_row(int slot, int w) const {
    return params_.state[slot] + static_cast<int64_t>(w) * params_.channels + first_;
  }

  __device__ __forceinline__ void look_back_at_rows(int t) {
#pragma unroll
    for (int w = 0; w < kHistory; ++w) unpack(window_[w], load_u(t - kHistory + w));
  }

  __device__ __forceinline__ void look_back_at_state(int source) {
#pragma unroll
    for (int w = 0; w < kHistory; ++w) {
      const Act* row = source < 0 ? nullptr : state_row(source, w);
      unpack(window_[w], load_chunk<kChannels>(row, source < 0 ? 0 : valid_, params_.aligned));
    }
  }

  // When the span's last token is done the window holds its last rows, or older ones if the span is
  // short. Until then the span has more than W-1 tokens, and the rows are rows of u.
  __device__ __forceinline__ void leave_state(int slot, bool done, int span_end) const {
#pragma unroll
    for (int w = 0; w < kHistory; ++w) {
      Chunk<Act, kChannels> row;
      if (done)
        pack(row, window_[w]);
      else
        row = load_u(span_end - kHistory + w);
      store_chunk(state_row(slot, w), row, valid_, params_.aligned);
    }
  }

  // Tokens [t, stop), which follow on the rows in the window.
  __device__ __forceinline__ void convolve(int t, int stop) {
    for (; t + kRowsInFlight <= stop; t += kRowsInFlight) {
      Chunk<Act, kChannels> rows[kRowsInFlight];
#pragma unroll
      for (int i = 0; i < kRowsInFlight; ++i) rows[i] = load_u(t + i);
#pragma unroll
      for (int i = 0; i < kRowsInFlight; ++i) step(t + i, rows[i]);
    }
    for (; t < stop; ++t) step(t, load_u(t));
  }

  __device__ __forceinline__ void step(int t, const Chunk<Act, kChannels>& chunk) {
    float row[kChannels], out[kChannels];
    unpack(row, chunk);
#pragma unroll
    for (int e = 0; e < kChannels; ++e) {
      float sum = bias_[e];
#pragma unroll
      for (int w = 0; w < kHistory; ++w) sum = fmaf(weight_[w][e], window_[w][e], sum);
      out[e] = silu(fmaf(weight_[kHistory][e], row[e], sum));
#pragma unroll
      for (int w = 0; w + 1 < kHistory; ++w) window_[w][e] = window_[w + 1][e];
      window_[kHistory - 1][e] = row[e];
    }
    store_values(params_.out[t] + first_, out, valid_, params_.aligned);
  }

  const ConvParams<Act>& params_;
  const int first_;
  const int valid_;  // channels from the first one on
  float weight_[kWidth][kChannels];
  float bias_[kChannels];
  float window_[kHistory][kChannels];  // the last rows of u, oldest first
};

template <typename Act, int kWidth>
__global__ void __launch_bounds__(kThreads) causal_conv1d_kernel(ConvParams<Act> params) {
  allow_successor();
  const unsigned thread = blockIdx.x * kThreads + threadIdx.x;
  const int begin = static_cast<int>(thread / params.groups) * params.run_length;
  ChannelConv<Act, kWidth> conv(params, static_cast<int>(thread % params.groups) * kChannels);
  wait_for_predecessor();
  conv.run(begin, min(begin + params.run_length, params.batch.num_tokens));
}

template <typename Act>
void launch_for(const CausalConv1dArgs& args, const LaunchContext& context) {
  const auto channels = static_cast<int>(args.u.dim(1));
  const auto width = static_cast<int>(args.weight.dim(1));
  const TensorView weight(args.weight.raw(), DType::kF32, {args.weight.elements()});
  const bool aligned = channels % kChannels == 0 && in_chunks<Act, kChannels>(args.u) &&
                       in_chunks<Act, kChannels>(args.out) &&
                       in_chunks<Act, kChannels>(args.conv_state) &&
                       in_chunks<float, kChannels>(weight) &&
                       (args.bias.empty() || in_chunks<float, kChannels>(args.bias));
  const int run = run_length(args.batch.num_tokens);
  const auto groups = static_cast<unsigned>(ceil_div(channels, kChannels));
  const int64_t threads = int64_t{groups} * ceil_div(args.batch.num_tokens, run);
  auto* const kernel = width == 2   ? causal_conv1d_kernel<Act, 2>
                       : width == 3 ? causal_conv1d_kernel<Act, 3>
                                    : causal_conv1d_kernel<Act, 4>;
  launch("causal_conv1d", context, kernel, dim3(ceil_div<int64_t>(threads, kThreads)),
         dim3(kThreads), 0,
         ConvParams<Act>{.batch = DeviceBatch(args.batch),
                         .u = Rows<const Act>(args.u),
                         .weight = args.weight.data<float>(),
                         .bias = args.bias.data<float>(),
                         .state = Rows<Act>(args.conv_state),
                         .out = Rows<Act>(args.out),
                         .channels = channels,
                         .groups = groups,
                         .run_length = run,
                         .aligned = aligned});
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
