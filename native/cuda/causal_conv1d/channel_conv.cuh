// The convolution of a few channels by one thread: what causal_conv1d and the fused heads share.
#pragma once

#include "cuda/device/chunk.cuh"
#include "cuda/device/silu.cuh"
#include "cuda/device/views.cuh"
#include "cuda/runtime/launch.h"

namespace hymba::cuda {

inline constexpr int kConvChannels = 8;  // of a thread
inline constexpr int kConvRowsInFlight = 4;

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
  bool aligned;
};

template <typename Act>
ConvParams<Act> make_conv_params(const CausalConv1dArgs& args) {
  const auto channels = static_cast<int>(args.u.dim(1));
  const TensorView weight(args.weight.raw(), DType::kF32, {args.weight.elements()});
  return {.batch = DeviceBatch(args.batch),
          .u = Rows<const Act>(args.u),
          .weight = args.weight.data<float>(),
          .bias = args.bias.data<float>(),
          .state = Rows<Act>(args.conv_state),
          .out = Rows<Act>(args.out),
          .channels = channels,
          .groups = static_cast<unsigned>(ceil_div(channels, kConvChannels)),
          .aligned = channels % kConvChannels == 0 && in_chunks<Act, kConvChannels>(args.u) &&
                     in_chunks<Act, kConvChannels>(args.out) &&
                     in_chunks<Act, kConvChannels>(args.conv_state) &&
                     in_chunks<float, kConvChannels>(weight) &&
                     (args.bias.empty() || in_chunks<float, kConvChannels>(args.bias))};
}

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
      const auto chunk = load_chunk<kConvChannels>(
          weight + i * kConvChannels, valid_ * kWidth - i * kConvChannels, params.aligned);
#pragma unroll
      for (int j = 0; j < kConvChannels; ++j) {
        const int at = i * kConvChannels + j;
        weight_[at % kWidth][at / kWidth] = element(chunk, j);
      }
    }
    unpack(bias_, params.bias == nullptr
                      ? zero_chunk<float, kConvChannels>()
                      : load_chunk<kConvChannels>(params.bias + first_, valid_, params.aligned));
  }

  // The only token of a span that has the token's index, as in a step of decoding. Returns what it
  // wrote. With nothing to find out first, all that it reads is asked for together.
  __device__ __forceinline__ Chunk<Act, kConvChannels> run_single(int t) {
    const Chunk<Act, kConvChannels> row = load_u(t);
    const int slot = params_.batch.state_slot[t];
    const int source = params_.batch.state_source[t];
    look_back_at_state(slot < 0 ? -1 : source);
    const Chunk<Act, kConvChannels> out = step(t, row);
    if (slot >= 0) leave_state(slot, true, t + 1);
    return out;
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

  __device__ __forceinline__ Chunk<Act, kConvChannels> load_u(int t) const {
    return load_chunk<kConvChannels>(params_.u[t] + first_, valid_, params_.aligned);
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
      unpack(window_[w], load_chunk<kConvChannels>(row, source < 0 ? 0 : valid_, params_.aligned));
    }
  }

  // When the span's last token is done the window holds its last rows, or older ones if the span is
  // short. Until then the span has more than W-1 tokens, and the rows are rows of u.
  __device__ __forceinline__ void leave_state(int slot, bool done, int span_end) const {
#pragma unroll
    for (int w = 0; w < kHistory; ++w) {
      Chunk<Act, kConvChannels> row;
      if (done)
        pack(row, window_[w]);
      else
        row = load_u(span_end - kHistory + w);
      store_chunk(state_row(slot, w), row, valid_, params_.aligned);
    }
  }

  // Tokens [t, stop), which follow on the rows in the window.
  __device__ __forceinline__ void convolve(int t, int stop) {
    for (; t + kConvRowsInFlight <= stop; t += kConvRowsInFlight) {
      Chunk<Act, kConvChannels> rows[kConvRowsInFlight];
#pragma unroll
      for (int i = 0; i < kConvRowsInFlight; ++i) rows[i] = load_u(t + i);
#pragma unroll
      for (int i = 0; i < kConvRowsInFlight; ++i) step(t + i, rows[i]);
    }
    for (; t < stop; ++t) step(t, load_u(t));
  }

  __device__ __forceinline__ Chunk<Act, kConvChannels> step(
      int t, const Chunk<Act, kConvChannels>& chunk) {
    float row[kConvChannels], out[kConvChannels];
    unpack(row, chunk);
#pragma unroll
    for (int e = 0; e < kConvChannels; ++e) {
      float sum = bias_[e];
#pragma unroll
      for (int w = 0; w < kHistory; ++w) sum = fmaf(weight_[w][e], window_[w][e], sum);
      out[e] = silu(fmaf(weight_[kHistory][e], row[e], sum));
#pragma unroll
      for (int w = 0; w + 1 < kHistory; ++w) window_[w][e] = window_[w + 1][e];
      window_[kHistory - 1][e] = row[e];
    }
    Chunk<Act, kConvChannels> result;
    pack(result, out);
    store_chunk(params_.out[t] + first_, result, valid_, params_.aligned);
    return result;
  }

  const ConvParams<Act>& params_;
  const int first_;
  const int valid_;  // channels from the first one on
  float weight_[kWidth][kConvChannels];
  float bias_[kConvChannels];
  float window_[kHistory][kConvChannels];  // the last rows of u, oldest first
};

}  // namespace hymba::cuda
