// The last part of the fused heads: delta = softplus(dt · weightᵀ + bias), then selective_scan's
// recurrence and gate, for spans of exactly one token.
//
// Mapping   A block takes 32 channels of up to 16 tokens. The product: a warp has 8 channels, and
//           the rows of its matrix instructions are tokens. The recurrence: four lanes a channel,
//           four tokens at a time, as in update_kernel.cuh. Weights are on their way before the
//           predecessor has ended, and all the states right after it: they arrive while the block
//           waits for dt, B, C and u, which other blocks of the grid work out.
// Shared    Weights [R/64][32 channels][64] and dt [R/64][16 tokens][64], swizzled as in a packed
//           matrix; states [16 tokens][128 threads] of 16 bytes, each thread's own; b and c
//           [16][16]; delta [16][32]. 48 KB for a rank of 100: as much as attention takes, so that
//           the four blocks of a multiprocessor keep 128 KB of states under way.
// Numerics  The bits of dt_proj, for up to 256 tokens, and of selective_scan: the same sums in the
//           same order, and delta is rounded to bf16.
// Limits    R ≤ 128; N ≤ 16, a multiple of 4; states, and rows of dt, 16-byte aligned.
// Cost      As the update of selective_scan: bound by reading and writing the states.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/device/arrival.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/gemm/epilogue.cuh"
#include "cuda/gemm/packed_operands.h"
#include "cuda/gemm/select.h"
#include "cuda/hybrid_heads/limits.h"
#include "cuda/runtime/launch.h"
#include "cuda/selective_scan/recurrence.cuh"

namespace hymba::cuda {

inline constexpr int kStepTokens = 16;  // of a block
inline constexpr int kStepThreads = scan::kThreads;

struct StepStates {
  static constexpr int kStates = 4;  // of a lane

  PackedOperands product;
  const float* bias;
  scan::Params<BFloat16> params;
  int channel_blocks;

  StepStates(const DtProjArgs& dt_proj, const SelectiveScanArgs& scan)
      : product(dt_proj.dt, dt_proj.weight),
        bias(dt_proj.bias.data<float>()),
        params(scan::make_params<BFloat16, kStates>(scan)),
        channel_blocks(ceil_div(params.channels, scan::kBlockChannels)) {}

  // Of up to kStepTokens tokens.
  int num_groups() const { return ceil_div(product.rows, kStepTokens); }
  __device__ __forceinline__ int group(int block) const { return block / channel_blocks; }
  int num_blocks() const { return channel_blocks * num_groups(); }
  size_t shared_bytes() const;
};

namespace step {

using scan::kBlockChannels;
using scan::kQuad;
using scan::of_lane;

inline constexpr int kStates = StepStates::kStates;
inline constexpr int kRounds = kStepTokens / kQuad;
inline constexpr int kWarpChannels = kBlockRows;
static_assert(kBlockChannels == kWarpChannels * (kStepThreads / kWarp));
static_assert(kStepTokens == 2 * kBlockRows, "rows of dt lie like rows of a packed matrix");
static_assert(kMaxStepStates == kQuad * kStates);
static_assert(split_warps(kBlockCols) == 1 && split_warps(2 * kBlockCols) == 2 &&
                  kMaxStepRank == 2 * kBlockCols,
              "a warp of dt_proj has one block of columns");

// Of 64 columns.
inline constexpr int kWeightElements = kBlockChannels * kBlockCols;
inline constexpr int kDtElements = kStepTokens * kBlockCols;

struct Shared {
  float states[kStepTokens][kStepThreads][kStates];
  float b[kStepTokens][kMaxStepStates];
  float c[kStepTokens][kMaxStepStates];
  float delta[kStepTokens][kBlockChannels];
};

// Copies what the channels need of the weights, those beyond the last channel as zeroes.
__device__ __forceinline__ void load_weights(BFloat16* to, const PackedOperands& product,
                                             int first_channel) {
  const int first_group = first_channel / kBlockRows;
  for (int i = threadIdx.x * 8; i < product.blocks * kWeightElements; i += kStepThreads * 8) {
    const int group = first_group + i % kWeightElements / kBlockElements;
    const bool valid = group < product.groups;
    const int64_t block = int64_t{i / kWeightElements} * product.groups + (valid ? group : 0);
    copy_16_async(to + i, product.weight + block * kBlockElements + i % kBlockElements,
                  valid ? 16 : 0);
  }
}

// Copies dt of the block's tokens. What does not exist becomes zeroes, and so do B and C, which
// follow on dt in memory.
__device__ __forceinline__ void load_dt(BFloat16* to, const PackedOperands& product, int first) {
  for (int i = threadIdx.x; i < product.blocks * kStepTokens * 8; i += kStepThreads) {
    const int chunk = i % 8;
    const int row = i / 8 % kStepTokens;
    const int block = i / (8 * kStepTokens);
    const int col = block * kBlockCols + chunk * 8;
    const bool present = first + row < product.rows;
    const int valid = present ? min(max(product.cols - col, 0), 8) : 0;
    const BFloat16* const from =
        valid > 0 ? product.in + (first + row) * product.in_stride + col : product.in;
    copy_16_async(to + block * kDtElements + row * kBlockCols + (chunk ^ row % kBlockRows) * 8,
                  from, valid * static_cast<int>(sizeof(BFloat16)));
  }
}

// Sums of two neighbouring channels, for two tokens.
struct Sums {
  float2 low;
  float2 high;
};

// Of the warp's 8 channels by 16 tokens: a lane gets tokens lane / 4 and, in `high`, 8 more;
// channels 2·(lane % 4) and the next. `weights`: from the warp's channels on. In the order of
// skinny.cuh, where a warp has one block of 64 columns, and a step takes 4 elements of a lane's
// chunk.
__device__ __forceinline__ Sums multiply(const BFloat16* weights, const BFloat16* dt, int blocks) {
  const int row = threadIdx.x % kWarp / 4;
  const int t = threadIdx.x % 4;
  Sums total{};
#pragma unroll 1  // or registers run short
  for (int block = 0; block < blocks; ++block) {
    float sums[4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = row * kBlockCols + ((half * 4 + t) ^ row) * 8;
      const BFloat16* const tokens = dt + block * kDtElements + at;
      const uint4 low = *reinterpret_cast<const uint4*>(tokens);
      const uint4 high = *reinterpret_cast<const uint4*>(tokens + kBlockElements);
      const uint4 b = *reinterpret_cast<const uint4*>(weights + block * kWeightElements + at);
      mma_16x8x16(sums, {low.x, high.x, low.y, high.y}, {b.x, b.y});
      mma_16x8x16(sums, {low.z, high.z, low.w, high.w}, {b.z, b.w});
    }
    total.low = total.low + float2{sums[0], sums[1]};
    total.high = total.high + float2{sums[2], sums[3]};
  }
  return total;
}

__device__ __forceinline__ float2 delta_of(float2 sum) {
  const auto delta = [](float x) {
    return rounded<BFloat16>(SoftplusEpilogue<BFloat16>::softplus(x));
  };
  return {delta(sum.x), delta(sum.y)};
}

__device__ __forceinline__ void read_four(float (&to)[kStates], const float* from) {
  const float4 four = *reinterpret_cast<const float4*>(from);
  to[0] = four.x;
  to[1] = four.y;
  to[2] = four.z;
  to[3] = four.w;
}

}  // namespace step

inline size_t StepStates::shared_bytes() const {
  return product.blocks * (step::kWeightElements + step::kDtElements) * sizeof(BFloat16) +
         sizeof(step::Shared);
}

// Block `block` of the states. All threads of a block of kStepThreads call it, and it waits for the
// predecessor. Whoever has passed the gate can read dt, B, C and u of the block's group of tokens.
__device__ __forceinline__ void step_states(const StepStates& states, int block, const Gate& gate) {
  using namespace step;
  const PackedOperands& product = states.product;
  const scan::Params<BFloat16>& params = states.params;
  BFloat16* const weights = dynamic_shared<BFloat16>();
  BFloat16* const dt = weights + product.blocks * kWeightElements;
  Shared& shared = *reinterpret_cast<Shared*>(dt + product.blocks * kDtElements);

  const int warp = threadIdx.x / kWarp;
  const int lane_idx = threadIdx.x % kWarp;
  const int own = threadIdx.x % kQuad;
  const int block_channel = threadIdx.x / kQuad;
  const int first_channel = block % states.channel_blocks * kBlockChannels;
  const int channel = first_channel + block_channel;
  const bool channel_present = channel < params.channels;
  const scan::Lane<BFloat16, kStates> lane(params, channel, own);
  const int delta_channel = warp * kWarpChannels + lane_idx % 4 * 2;
  const float2 delta_bias = load_bias(states.bias, params.channels, first_channel + delta_channel);
  load_weights(weights, product, first_channel);
  wait_for_predecessor();

  // Lane j of a quad has tokens j, j + 4, … of the block, which are spans as well.
  const DeviceBatch& batch = params.batch;
  const int first_token = states.group(block) * kStepTokens;
  const int num_tokens = min(kStepTokens, batch.num_tokens - first_token);
  int source[kRounds], slot[kRounds];
  float z[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int row = round * kQuad + own;
    const int token = first_token + row;
    const bool present = row < num_tokens;
    slot[round] = present ? batch.state_slot[token] : -1;
    source[round] = present ? batch.state_source[token] : -1;
    z[round] = present && channel_present ? as_float(params.z[token][channel]) : 0.0f;
  }
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    if (round * kQuad >= num_tokens) break;
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      const int from = of_lane(slot[round] < 0 ? -1 : source[round], i);
      lane.copy_states_async(shared.states[round * kQuad + i][threadIdx.x], from);
    }
  }

  // Not before: what the successor reads ahead would be in the way of all this.
  allow_successor();
  gate.pass();
  load_dt(dt, product, first_token);
  commit_copies();
  // Two warps for b, two for c: a lane has a quarter of one token's.
  constexpr int kWarpRows = kWarp / kQuad;
  const int bc_row = warp % 2 * kWarpRows + lane_idx / kQuad;
  static_assert(kStepTokens == 2 * kWarpRows && kStepThreads == 4 * kWarp);
  const auto bc_part = bc_row < num_tokens
                           ? lane.load_part((warp < 2 ? params.b : params.c)[first_token + bc_row])
                           : zero_chunk<BFloat16, kStates>();
  float u[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int row = round * kQuad + own;
    const bool present = row < num_tokens && channel_present;
    u[round] = present ? as_float(params.u[first_token + row][channel]) : 0.0f;
  }
  float part[kStates];
  unpack(part, bc_part);
  float* const bc = (warp < 2 ? shared.b : shared.c)[bc_row] + own * kStates;
  *reinterpret_cast<float4*>(bc) = make_float4(part[0], part[1], part[2], part[3]);
  wait_copies<0>();
  __syncthreads();

  const Sums sums = multiply(weights + warp * kBlockElements, dt, product.blocks);
  float* const delta_at = &shared.delta[lane_idx / 4][delta_channel];
  *reinterpret_cast<float2*>(delta_at) = delta_of(sums.low + delta_bias);
  *reinterpret_cast<float2*>(delta_at + kBlockRows * kBlockChannels) =
      delta_of(sums.high + delta_bias);
  __syncwarp();  // its channels are the warp's own

#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    if (round * kQuad >= num_tokens) break;
    const int own_row = round * kQuad + own;
    const float delta = shared.delta[own_row][block_channel];
    const float delta_u = delta * u[round];
    float parts[kQuad];
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      const int row = round * kQuad + i;
      float h[kStates], b[kStates], c[kStates];
      read_four(h, shared.states[row][threadIdx.x]);
      read_four(b, shared.b[row] + own * kStates);
      read_four(c, shared.c[row] + own * kStates);
      parts[i] = advance_one_of_four(lane, i, h, delta, delta_u, b, c);
      lane.store_states_once(h, of_lane(slot[round], i));
    }
    const float y = scan::quad_sums(parts);
    if (own_row < num_tokens && channel_present)
      params.out[first_token + own_row][channel] =
          as_act<BFloat16>(lane.output(y, u[round], silu(z[round])));
  }
}

}  // namespace hymba::cuda
