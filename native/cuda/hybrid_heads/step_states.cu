// Computes  delta = softplus(dt · weightᵀ + bias), then selective_scan's recurrence and gate, for
//           spans of exactly one token.
// Shapes    dt [T, R] bf16, weight [E, R] packed, bias [E] fp32; the rest as in selective_scan.cu.
// Mapping   A block takes 32 channels of up to 8 tokens. The product: a warp has 8 channels, and
//           half the rows of its matrix instructions are tokens, the others zeroes. The recurrence:
//           four lanes a channel, four tokens at a time, as in update_kernel.cuh.
//           Weights are on their way before the predecessor has ended, and everything else is asked
//           for together right after it, above all the states: they arrive while delta is worked
//           out.
// Shared    Weights [R/64][32 channels][64] and dt [R/64][8 tokens][64], swizzled as in a packed
//           matrix; states [8 tokens][128 threads] of 16 bytes, each thread's own; b and c [8][16];
//           delta [8][32]. 28 KB for a rank of 100, so that seven blocks, with 112 KB of states
//           under way, fit on a multiprocessor of an H100.
// Numerics  The bits of dt_proj, for up to 256 tokens, and of selective_scan: the same sums in the
//           same order, and delta is rounded to bf16.
// Limits    R ≤ 128; N ≤ 16, a multiple of 4; states, and rows of dt, 16-byte aligned.
// Cost      As the update of selective_scan: bound by reading and writing the states.

#include "cuda/device/shared.cuh"
#include "cuda/gemm/epilogue.cuh"
#include "cuda/gemm/packed_operands.h"
#include "cuda/gemm/select.h"
#include "cuda/hybrid_heads/kernels.h"
#include "cuda/selective_scan/recurrence.cuh"

namespace hymba::cuda {
namespace {

using scan::kBlockChannels;
using scan::kQuad;
using scan::kThreads;
using scan::of_lane;

constexpr int kTokens = 8;  // of a block
constexpr int kRounds = kTokens / kQuad;
constexpr int kStates = 4;  // of a lane
constexpr int kBlocksAnSm = 7;
constexpr int kWarpChannels = kBlockRows;
static_assert(kBlockChannels == kWarpChannels * (kThreads / kWarp));
static_assert(kTokens == kBlockRows, "rows of dt lie like rows of a packed matrix");
static_assert(kMaxStepStates == kQuad * kStates);
static_assert(split_warps(kBlockCols) == 1 && split_warps(2 * kBlockCols) == 2 &&
                  kMaxStepRank == 2 * kBlockCols,
              "a warp of dt_proj has one block of columns");

// Of 64 columns.
constexpr int kWeightElements = kBlockChannels * kBlockCols;
constexpr int kDtElements = kTokens * kBlockCols;

struct Shared {
  float states[kTokens][kThreads][kStates];
  float b[kTokens][kMaxStepStates];
  float c[kTokens][kMaxStepStates];
  float delta[kTokens][kBlockChannels];
};

// Copies what this block needs of the weights, channels beyond the last one as zeroes.
__device__ __forceinline__ void load_weights(BFloat16* to, const PackedOperands& product) {
  const int first_group = blockIdx.x * (kBlockChannels / kBlockRows);
  for (int i = threadIdx.x * 8; i < product.blocks * kWeightElements; i += kThreads * 8) {
    const int group = first_group + i % kWeightElements / kBlockElements;
    const bool valid = group < product.groups;
    const int64_t block = int64_t{i / kWeightElements} * product.groups + (valid ? group : 0);
    copy_16_async(to + i, product.weight + block * kBlockElements + i % kBlockElements,
                  valid ? 16 : 0);
  }
}

// Copies dt of tokens [first, first + 8). What does not exist becomes zeroes, and so do B and C,
// which follow on dt in memory.
__device__ __forceinline__ void load_dt(BFloat16* to, const PackedOperands& product, int first) {
  for (int i = threadIdx.x; i < product.blocks * kTokens * 8; i += kThreads) {
    const int chunk = i % 8;
    const int row = i / 8 % kTokens;
    const int block = i / (8 * kTokens);
    const int col = block * kBlockCols + chunk * 8;
    const bool present = first + row < product.rows;
    const int valid = present ? min(max(product.cols - col, 0), 8) : 0;
    const BFloat16* const from =
        valid > 0 ? product.in + (first + row) * product.in_stride + col : product.in;
    copy_16_async(to + block * kDtElements + row * kBlockCols + (chunk ^ row) * 8, from,
                  valid * static_cast<int>(sizeof(BFloat16)));
  }
}

// Of the warp's 8 channels by 8 tokens: a lane gets token lane / 4, channels 2·(lane % 4) and the
// next. `weights`: from the warp's channels on. In the order of skinny.cuh, where a warp has one
// block of 64 columns, and a step takes 4 elements of a lane's chunk.
__device__ __forceinline__ float2 multiply(const BFloat16* weights, const BFloat16* dt,
                                           int blocks) {
  const int row = threadIdx.x % kWarp / 4;
  const int t = threadIdx.x % 4;
  float2 total{};
#pragma unroll 1  // or registers run short
  for (int block = 0; block < blocks; ++block) {
    float sums[4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = row * kBlockCols + ((half * 4 + t) ^ row) * 8;
      const uint4 a = *reinterpret_cast<const uint4*>(dt + block * kDtElements + at);
      const uint4 b = *reinterpret_cast<const uint4*>(weights + block * kWeightElements + at);
      mma_16x8x16(sums, {a.x, 0, a.y, 0}, {b.x, b.y});
      mma_16x8x16(sums, {a.z, 0, a.w, 0}, {b.z, b.w});
    }
    total = total + float2{sums[0], sums[1]};
  }
  return total;
}

__global__ void __launch_bounds__(kThreads, kBlocksAnSm)
    step_states_kernel(PackedOperands product, const float* bias, scan::Params<BFloat16> params) {
  using Softplus = SoftplusEpilogue<BFloat16>;
  allow_successor();
  BFloat16* const weights = dynamic_shared<BFloat16>();
  BFloat16* const dt = weights + product.blocks * kWeightElements;
  Shared& shared = *reinterpret_cast<Shared*>(dt + product.blocks * kDtElements);

  const int warp = threadIdx.x / kWarp;
  const int lane_idx = threadIdx.x % kWarp;
  const int own = threadIdx.x % kQuad;
  const int block_channel = threadIdx.x / kQuad;
  const int first_channel = blockIdx.x * kBlockChannels;
  const int channel = first_channel + block_channel;
  const bool channel_present = channel < params.channels;
  const scan::Lane<BFloat16, kStates> lane(params, channel);
  const int delta_channel = warp * kWarpChannels + lane_idx % 4 * 2;
  const float2 delta_bias = load_bias(bias, params.channels, first_channel + delta_channel);
  load_weights(weights, product);
  wait_for_predecessor();

  // Lane j of a quad has tokens j and j + 4 of the block, which are spans as well.
  const int first_token = blockIdx.y * kTokens;
  const DeviceBatch& batch = params.batch;
  int source[kRounds], slot[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int token = first_token + round * kQuad + own;
    const bool present = token < batch.num_tokens;
    slot[round] = present ? batch.state_slot[token] : -1;
    source[round] = present ? batch.state_source[token] : -1;
  }
  load_dt(dt, product, first_token);
  commit_copies();
  float u[kRounds], z[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int token = first_token + round * kQuad + own;
    const bool present = token < batch.num_tokens && channel_present;
    u[round] = present ? as_float(params.u[token][channel]) : 0.0f;
    z[round] = present ? as_float(params.z[token][channel]) : 0.0f;
  }
  // A warp for b, one for c: a lane has a quarter of one token's.
  const int bc_row = lane_idx / kQuad;
  const bool bc_present = warp < 2 && first_token + bc_row < batch.num_tokens;
  const auto bc_part = bc_present
                           ? lane.load_part((warp == 0 ? params.b : params.c)[first_token + bc_row])
                           : zero_chunk<BFloat16, kStates>();
#pragma unroll
  for (int round = 0; round < kRounds; ++round)
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      const int from = of_lane(slot[round] < 0 ? -1 : source[round], i);
      lane.copy_states_async(shared.states[round * kQuad + i][threadIdx.x], from);
    }
  commit_copies();
  if (warp < 2) {
    float part[kStates];
    unpack(part, bc_part);
    float* const to = (warp == 0 ? shared.b : shared.c)[bc_row] + own * kStates;
    *reinterpret_cast<float4*>(to) = make_float4(part[0], part[1], part[2], part[3]);
  }

  wait_copies<1>();
  __syncthreads();
  const float2 sum = multiply(weights + warp * kBlockElements, dt, product.blocks) + delta_bias;
  *reinterpret_cast<float2*>(&shared.delta[lane_idx / 4][delta_channel]) = make_float2(
      rounded<BFloat16>(Softplus::softplus(sum.x)), rounded<BFloat16>(Softplus::softplus(sum.y)));
  wait_copies<0>();
  __syncthreads();

  const auto read_four = [](float(&to)[kStates], const float* from) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    to[0] = four.x;
    to[1] = four.y;
    to[2] = four.z;
    to[3] = four.w;
  };
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    if (first_token + round * kQuad >= batch.num_tokens) break;
    const float delta = shared.delta[round * kQuad + own][block_channel];
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
      lane.store_states(h, of_lane(slot[round], i));
    }
    const float y = scan::quad_sums(parts);
    const int token = first_token + round * kQuad + own;
    if (token < batch.num_tokens && channel_present)
      params.out[token][channel] = as_act<BFloat16>(lane.output(y, u[round], silu(z[round])));
  }
}

}  // namespace

void step_states(const DtProjArgs& dt_proj, const SelectiveScanArgs& scan,
                 const LaunchContext& context) {
  const PackedOperands product(dt_proj.dt, dt_proj.weight);
  const auto params = scan::make_params<BFloat16, kStates>(scan);
  const size_t shared_bytes =
      product.blocks * (kWeightElements + kDtElements) * sizeof(BFloat16) + sizeof(Shared);
  launch("hybrid_heads (states)", context, step_states_kernel,
         dim3(ceil_div(params.channels, kBlockChannels), ceil_div(product.rows, kTokens)),
         dim3(kThreads), shared_bytes, product, dt_proj.bias.data<float>(), params);
}

}  // namespace hymba::cuda
