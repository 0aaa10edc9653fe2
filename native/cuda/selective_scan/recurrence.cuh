// What the kernels of selective_scan and of the fused heads share: the parameters, and the
// arithmetic of a token.
//
// A lane has a quarter of a channel's states. Where a token is a span, the four of a channel are
// neighbours, a quad, and four outputs at a time are brought to it, so that one transposed sum
// serves all four; in longer spans they are in four warps. The kernels use the same functions in
// the same order: a token's bits don't depend on which of them, or which chunk of its span, it came
// with.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/device/chunk.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/silu.cuh"
#include "cuda/device/views.cuh"

namespace hymba::cuda::scan {

inline constexpr int kQuarters = 4;
inline constexpr int kQuad = kQuarters;
inline constexpr int kBlockChannels = 32;
inline constexpr int kThreads = kBlockChannels * kQuad;
// Channels that are loaded together, by 16-byte accesses for bf16.
inline constexpr int kChannelChunk = 8;
// States a lane in the instances of the kernels: up to 16, 32 and 64 states a channel. Those beyond
// the model's are zero and stay zero.
inline constexpr int kMaxStatesPerLane = 16;
inline constexpr int kMaxStates = kMaxStatesPerLane * kQuad;

template <typename Act>
struct Params {
  DeviceBatch batch;
  Rows<const Act> u;
  Rows<const Act> delta;
  Rows<const Act> b;
  Rows<const Act> c;
  Rows<const Act> z;
  const float* a;
  const float* d;
  Rows<float> state;  // a slot a row
  Rows<Act> out;
  int channels;
  int num_states;
  bool rows_aligned;    // u, delta, z and out can be moved in chunks of 8
  bool bc_aligned;      // b and c can be read in chunks of a lane's states
  bool states_aligned;  // and so can a and the states
};

template <typename Act, int kStates>
Params<Act> make_params(const SelectiveScanArgs& args) {
  const auto num_states = static_cast<int>(args.a.dim(1));
  const TensorView a(args.a.raw(), DType::kF32, {args.a.elements()});
  return {
      .batch = DeviceBatch(args.batch),
      .u = Rows<const Act>(args.u),
      .delta = Rows<const Act>(args.delta),
      .b = Rows<const Act>(args.b),
      .c = Rows<const Act>(args.c),
      .z = Rows<const Act>(args.z),
      .a = args.a.data<float>(),
      .d = args.d.data<float>(),
      .state = Rows<float>(args.ssm_state),
      .out = Rows<Act>(args.out),
      .channels = static_cast<int>(args.u.dim(1)),
      .num_states = num_states,
      .rows_aligned =
          in_chunks<Act, kChannelChunk>(args.u) && in_chunks<Act, kChannelChunk>(args.delta) &&
          in_chunks<Act, kChannelChunk>(args.z) && in_chunks<Act, kChannelChunk>(args.out),
      .bc_aligned = in_chunks<Act, kStates>(args.b) && in_chunks<Act, kStates>(args.c),
      .states_aligned = num_states % 4 == 0 && in_chunks<float, kStates>(a) &&
                        in_chunks<float, kStates>(args.ssm_state),
  };
}

// The output, from the sum over the states.
__device__ __forceinline__ float output(float sum, float d, float u, float gate) {
  return fmaf(d, u, sum) * gate;
}

// A quarter of the states of one channel.
template <typename Act, int kStates>
class Lane {
 public:
  // Reads constants only.
  __device__ __forceinline__ Lane(const Params<Act>& params, int channel, int quarter)
      : params_(params),
        channel_(channel),
        first_(quarter * kStates),
        valid_(params.num_states - first_) {
    const bool present = channel < params.channels;
    d_ = present ? params.d[channel] : 0.0f;
    unpack(a_log2_,
           load_chunk<kStates>(params.a + offset(), present ? valid_ : 0, params.states_aligned));
#pragma unroll
    for (int n = 0; n < kStates; ++n) a_log2_[n] *= kLog2E;
  }

  // Zeroes when `slot` is below 0.
  __device__ __forceinline__ void load_states(float (&h)[kStates], int slot) const {
    const bool present = slot >= 0 && channel_ < params_.channels;
    const float* from = present ? params_.state[slot] + offset() : nullptr;
    unpack(h, load_chunk<kStates>(from, present ? valid_ : 0, params_.states_aligned));
  }
  // The two for a step of one token, which needs the states once: the first to 16 bytes of shared
  // memory, in the background. For `states_aligned`.
  __device__ __forceinline__ void copy_states_async(float (&to)[kStates], int slot) const {
    static_assert(kStates == 4);
    const bool present = slot >= 0 && channel_ < params_.channels && valid_ > 0;
    copy_16_async_once(to, present ? params_.state[slot] + offset() : params_.state.data,
                       present ? 16 : 0);
  }
  __device__ __forceinline__ void store_states_once(const float (&h)[kStates], int slot) const {
    static_assert(kStates == 4);
    if (slot >= 0 && channel_ < params_.channels && valid_ > 0)
      store_16_once(params_.state[slot] + offset(), make_float4(h[0], h[1], h[2], h[3]));
  }
  __device__ __forceinline__ void store_states(const float (&h)[kStates], int slot) const {
    if (slot >= 0 && channel_ < params_.channels)
      store_values(params_.state[slot] + offset(), h, valid_, params_.states_aligned);
  }

  // This lane's part of b or c of a token.
  __device__ __forceinline__ Chunk<Act, kStates> load_part(const Act* row) const {
    return load_chunk<kStates>(row + first_, valid_, params_.bc_aligned);
  }

  // exp(delta · a).
  __device__ __forceinline__ void decays(float (&decay)[kStates], float delta) const {
#pragma unroll
    for (int n = 0; n < kStates; ++n) decay[n] = exp2_approx(delta * a_log2_[n]);
  }

  __device__ __forceinline__ float output(float sum, float u, float gate) const {
    return scan::output(sum, d_, u, gate);
  }

 private:
  __device__ __forceinline__ int64_t offset() const {
    return static_cast<int64_t>(channel_) * params_.num_states + first_;
  }

  const Params<Act>& params_;
  const int channel_;
  const int first_;  // state
  const int valid_;  // states from the first one on
  float a_log2_[kStates];
  float d_;
};

// One token: h ← decay·h + delta·u·b. Returns this lane's part of Σ h·c.
template <int kStates>
__device__ __forceinline__ float advance(float (&h)[kStates], const float (&decay)[kStates],
                                         float delta_u, const float (&b)[kStates],
                                         const float (&c)[kStates]) {
  float y = 0.0f;
#pragma unroll
  for (int n = 0; n < kStates; ++n) {
    h[n] = fmaf(decay[n], h[n], delta_u * b[n]);
    y = n == 0 ? h[n] * c[n] : fmaf(h[n], c[n], y);
  }
  return y;
}

// What lane i of the quad has.
template <typename T>
__device__ __forceinline__ T of_lane(T value, int i) {
  return __shfl_sync(kAllLanes, value, i, kQuad);
}

// `advance` for token i of four whose delta, and delta · u, the lanes of a quad hold: one each.
template <typename Act, int kStates>
__device__ __forceinline__ float advance_one_of_four(const Lane<Act, kStates>& lane, int i,
                                                     float (&h)[kStates], float delta,
                                                     float delta_u, const float (&b)[kStates],
                                                     const float (&c)[kStates]) {
  float decay[kStates];
  lane.decays(decay, of_lane(delta, i));
  return advance(h, decay, of_lane(delta_u, i), b, c);
}

// The sum of the quarters' parts.
__device__ __forceinline__ float sum_quarters(float part_0, float part_1, float part_2,
                                              float part_3) {
  return (part_0 + part_2) + (part_1 + part_3);
}

// Lane j of a quad gets the sum of parts[j] over the quad, in the order of `sum_quarters` whatever
// j is.
__device__ __forceinline__ float quad_sums(const float (&parts)[kQuad]) {
  const bool upper = threadIdx.x & 2, odd = threadIdx.x & 1;
  float even_part = upper ? parts[2] : parts[0];
  float odd_part = upper ? parts[3] : parts[1];
  even_part += __shfl_xor_sync(kAllLanes, upper ? parts[0] : parts[2], 2);
  odd_part += __shfl_xor_sync(kAllLanes, upper ? parts[1] : parts[3], 2);
  return (odd ? odd_part : even_part) + __shfl_xor_sync(kAllLanes, odd ? even_part : odd_part, 1);
}

}  // namespace hymba::cuda::scan
