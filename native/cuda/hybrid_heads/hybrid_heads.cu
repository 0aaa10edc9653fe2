// Computes  for spans of exactly one token, all heads of a layer: attention over rotated queries,
//           with the token's own K and V written to their page (rotary_kv_write and attention); and
//           the Mamba heads (causal_conv1d, x_proj, dt_proj and selective_scan).
// Shapes    As those of the six stages, in bf16; Dk and Dv 64 or 128.
// Mapping   Three kinds of blocks: those of attention, unit_attention.cuh; those of
//           x_proj_split.cuh, whose threads convolve what they bring; and those of step_states.cuh,
//           which wait until x_proj of their 16 tokens is done. Both kinds of the Mamba heads take
//           their work in the order in which they start, all of x_proj before any states, so that
//           what a block waits for is always under way.
//           They are spread evenly among those of attention: memory is kept busy while x_proj waits
//           for its sums, and with many tokens x_proj of a tile is long done when the turn of its
//           states comes.
// Shared    The largest of the three: 50 KB at head dims of 64 and 128.
// Numerics  The bits of the six stages.
// Cost      K/V that is seen, and the states, bound by memory. With one sequence bound by latency:
//           the longer of attention and the chain of the Mamba heads.

#include "cuda/hybrid_heads/hybrid_heads.h"

#include <algorithm>

#include "cuda/attention/attention.h"
#include "cuda/attention/unit_attention.cuh"
#include "cuda/causal_conv1d/channel_conv.cuh"
#include "cuda/device/ticket.cuh"
#include "cuda/gemm/x_proj.h"
#include "cuda/gemm/x_proj_split.cuh"
#include "cuda/hybrid_heads/limits.h"
#include "cuda/hybrid_heads/rotated_inputs.cuh"
#include "cuda/hybrid_heads/step_states.cuh"

namespace hymba::cuda {
namespace {

static_assert(kAttentionThreads == kSplitThreads && kAttentionThreads == kStepThreads);
static_assert(kMaxLaunchSpans <= kMaxSkinnyRows);

// u, convolved on the way from in_proj's output: 8 channels of a token a thread.
struct ConvolvedColumns {
  ConvParams<BFloat16> conv;
  static_assert(kConvChannels == kChunkElements);

  struct Reader {
    ChannelConv<BFloat16, kFusedConvWidth> conv;

    __device__ __forceinline__ Chunk<BFloat16, kConvChannels> chunk(int token) {
      return conv.run_single(token);
    }
  };
  __device__ __forceinline__ Reader columns(int first) const { return {{conv, first}}; }
};

// The Mamba heads, in pieces of work of which later ones wait for earlier ones.
struct MambaWork {
  SplitXProj projection;
  ConvolvedColumns columns;
  StepStates states;
  int num_projections;  // blocks, and so many come first
  int num_tiles;        // of x_proj
  uint32_t* gates;      // one a group of tokens of the states

  MambaWork(const HybridHeadsArgs& args, float* contributions, uint32_t* counters)
      : projection(args.x_proj, contributions, counters),
        columns{make_conv_params<BFloat16>(args.conv)},
        states(args.dt_proj, args.scan),
        num_projections(projection.num_blocks()),
        num_tiles(projection.num_tiles()),
        gates(counters + num_tiles) {}

  int num_blocks() const { return num_projections + states.num_blocks(); }
  size_t shared_bytes() const { return std::max(projection.shared_bytes(), states.shared_bytes()); }

  __device__ __forceinline__ void run(int block) const {
    if (block < num_projections) {
      if (project_columns(projection, block, columns))
        gate(projection.tile(block) / kGroupTiles).open();
    } else {
      const int of_states = block - num_projections;
      step_states(states, of_states, gate(states.group(of_states)));
    }
  }

 private:
  static constexpr int kGroupTiles = kStepTokens / kTileTokens;
  static_assert(kStepTokens % kTileTokens == 0);

  __device__ __forceinline__ Gate gate(int group) const {
    return {gates + group, min(kGroupTiles, num_tiles - group * kGroupTiles),
            states.channel_blocks};
  }
};

// Blocks of two kinds in a grid, spread evenly: of the blocks before any one, the share of the
// first kind is that of all, rounded down.
struct Spread {
  uint32_t share;  // of 2^32, rounded up: all blocks together have the right number

  Spread(int64_t num_first, int64_t num_all)
      : share(static_cast<uint32_t>(ceil_div(num_first << 32, num_all))) {}

  __device__ __forceinline__ int first_kind_before(uint32_t block) const {
    return static_cast<int>(uint64_t{block} * share >> 32);
  }
};

template <int kHeadDim, int kValueDim>
__global__ void __launch_bounds__(kAttentionThreads, UnitMemory<kHeadDim, kValueDim>::kBlocksAnSm)
    hybrid_heads_kernel(UnitParams units, RotatedInputs<kHeadDim, kValueDim> inputs,
                        MambaWork mamba, Spread spread, int num_units, int num_mamba,
                        uint32_t* tickets) {
  const int mamba_before = spread.first_kind_before(blockIdx.x);
  if (spread.first_kind_before(blockIdx.x + 1) == mamba_before) {
    wait_for_predecessor();
    // A layer that reads the cache of the one before goes through it backwards: what that one has
    // read last is still in the L2.
    const int unit = static_cast<int>(blockIdx.x) - mamba_before;
    attend_unit<kHeadDim, kValueDim>(units, inputs.brings_key() ? unit : num_units - 1 - unit,
                                     inputs);
  } else {
    mamba.run(take_ticket(tickets, num_mamba));
  }
}

// Contributions are read by 16 bytes.
constexpr int64_t padded_floats(int64_t floats) { return (floats + 3) / 4 * 4; }

}  // namespace

// All kinds of blocks run at the same time, so their scratch lies side by side.
size_t hybrid_heads_scratch_bytes(const StageLimits& limits) {
  const int64_t tokens = std::min<int64_t>(limits.max_spans, kMaxLaunchSpans);
  const int64_t floats = padded_floats(attention_scratch_bytes(limits) / sizeof(float)) +
                         contribution_floats(tokens, limits.x_proj_rows, limits.inner_size);
  return floats * sizeof(float);
}

void hybrid_heads(const HybridHeadsArgs& args, const LaunchContext& context) {
  const AttentionArgs& attention = args.attention;
  const int num_tokens = attention.batch.num_tokens;
  UnitParams units = unit_params(attention, context, num_tokens);
  const int64_t unit_floats = padded_floats(partial_floats(attention, units.plan, num_tokens));
  float* const scratch = context.scratch_for<float>(
      unit_floats +
          contribution_floats(num_tokens, args.x_proj.weight.rows, args.x_proj.weight.cols),
      "hybrid_heads");
  units.partials = partials_in(scratch, attention, units.plan, num_tokens);
  const MambaWork mamba(args, scratch + unit_floats,
                        context.counters + num_tokens * attention.kv.num_kv_heads);
  const int num_mamba = mamba.num_blocks();
  const int num_units = units.num_units(num_tokens);
  const int num_blocks = num_mamba + num_units;
  with_head_dims(attention.kv, [&](auto head_dim, auto value_dim) {
    launch("hybrid_heads", context, hybrid_heads_kernel<head_dim, value_dim>,
           static_cast<unsigned>(num_blocks), kAttentionThreads,
           std::max(unit_shared_bytes<head_dim, value_dim>(units.plan), mamba.shared_bytes()),
           units, RotatedInputs<head_dim, value_dim>(args.rotary), mamba,
           Spread(num_mamba, num_blocks), num_units, num_mamba, context.tickets);
  });
}

}  // namespace hymba::cuda
