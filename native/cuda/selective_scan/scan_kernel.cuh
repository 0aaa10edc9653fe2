// Spans of two and more tokens: a block walks through one span for 32 channels, token after token,
// the states in registers.
//
// Tiles of 32 tokens pass through shared memory, where they lie as the inner loop wants them: fp32,
// with delta·u and silu(z) already computed, once for the four lanes of a quad. While a tile is
// worked on, the next one's numbers are on their way to registers. In the inner loop the
// exponentials of four tokens are started before the sums and outputs of the four before them, so
// that the latter have something to hide behind: the chain from token to token is a single
// multiply-add.
#pragma once

#include "cuda/device/shared.cuh"
#include "cuda/selective_scan/recurrence.cuh"

namespace hymba::cuda::scan {

inline constexpr int kTileTokens = 32;
static_assert(kThreads == kTileTokens * kQuad, "each thread stages a quarter of a token's row");
static_assert(kBlockChannels == kChannelChunk * kQuad);

template <int kStates>
struct Tile {
  // A row is 16 bytes longer than its channels, so that two rows start in different banks.
  static constexpr int kRow = kBlockChannels + 2;

  float2 delta[kTileTokens][kRow];  // delta, delta·u
  float2 gate[kTileTokens][kRow];   // u, silu(z)
  float b[kTileTokens][kQuad][kStates];
  float c[kTileTokens][kQuad][kStates];
};

template <int kStates>
__device__ __forceinline__ void read_part(float (&to)[kStates], const float (&from)[kStates]) {
#pragma unroll
  for (int i = 0; i < kStates; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(from + i);
    to[i] = four.x;
    to[i + 1] = four.y;
    to[i + 2] = four.z;
    to[i + 3] = four.w;
  }
}

// What one thread stages of a tile: 8 channels and a quarter of the states of one token.
template <typename Act, int kStates>
struct Staged {
  Chunk<Act, kChannelChunk> u, delta, z;
  Chunk<Act, kStates> b, c;

  // Token t, channels [first, first + 8); zeroes when the token is not there.
  __device__ __forceinline__ void fetch(const Params<Act>& params, const Lane<Act, kStates>& lane,
                                        int t, bool present, int first) {
    const int valid = present ? params.channels - first : 0;
    u = load_chunk<kChannelChunk>(params.u[t] + first, valid, params.rows_aligned);
    delta = load_chunk<kChannelChunk>(params.delta[t] + first, valid, params.rows_aligned);
    z = load_chunk<kChannelChunk>(params.z[t] + first, valid, params.rows_aligned);
    b = present ? lane.load_part(params.b[t]) : zero_chunk<Act, kStates>();
    c = present ? lane.load_part(params.c[t]) : zero_chunk<Act, kStates>();
  }

  // Into row `token`, its quarter `part`.
  __device__ __forceinline__ void stage(Tile<kStates>& tile, int token, int part,
                                        bool present) const {
#pragma unroll
    for (int i = 0; i < kChannelChunk; i += 2) {
      float4 deltas, gates;
      const auto set = [&](int j, float& d, float& d_u, float& skip, float& gate) {
        d = element(delta, j);
        skip = element(u, j);
        // A token that is not there must not change a bit of the state: 1·h - 0 is h, even for -0.
        d_u = present ? d * skip : -0.0f;
        gate = silu(element(z, j));
      };
      set(i, deltas.x, deltas.y, gates.x, gates.y);
      set(i + 1, deltas.z, deltas.w, gates.z, gates.w);
      const int channel = part * kChannelChunk + i;
      *reinterpret_cast<float4*>(&tile.delta[token][channel]) = deltas;
      *reinterpret_cast<float4*>(&tile.gate[token][channel]) = gates;
    }
#pragma unroll
    for (int n = 0; n < kStates; n += 4) {
      *reinterpret_cast<float4*>(&tile.b[token][part][n]) =
          make_float4(element(b, n), element(b, n + 1), element(b, n + 2), element(b, n + 3));
      *reinterpret_cast<float4*>(&tile.c[token][part][n]) =
          make_float4(element(c, n), element(c, n + 1), element(c, n + 2), element(c, n + 3));
    }
  }
};

template <typename Act, int kStates>
__global__ void __launch_bounds__(kThreads) scan_kernel(Params<Act> params) {
  allow_successor();
  Tile<kStates>* const tiles = dynamic_shared<Tile<kStates>>();
  const int part = threadIdx.x % kQuad;
  const int row = threadIdx.x / kQuad;  // channel of the block in the loop, token when staging
  const int first_channel = blockIdx.x * kBlockChannels;
  const int channel = first_channel + row;
  const int staged_channel = first_channel + part * kChannelChunk;
  const Lane<Act, kStates> lane(params, channel);
  wait_for_predecessor();

  const int span = blockIdx.y;
  const int begin = params.batch.span_offsets[span];
  const int num_tokens = params.batch.span_offsets[span + 1] - begin;
  if (num_tokens < 2) return;
  const int slot = params.batch.state_slot[span];
  float h[kStates];
  lane.load_states(h, slot < 0 ? -1 : params.batch.state_source[span]);

  Staged<Act, kStates> staged;
  staged.fetch(params, lane, begin + row, row < num_tokens, staged_channel);
  for (int first = 0; first < num_tokens; first += kTileTokens) {
    Tile<kStates>& tile = tiles[first / kTileTokens % 2];
    staged.stage(tile, row, part, first + row < num_tokens);
    // One barrier a tile: whoever is past it has left the tile before, whose place the next one
    // takes.
    __syncthreads();
    const int next = first + kTileTokens + row;
    staged.fetch(params, lane, begin + next, next < num_tokens, staged_channel);

    const int tile_tokens = min(kTileTokens, num_tokens - first);
    float parts[kQuad] = {};
    // Of the four tokens from t on, lane j of a quad puts out token t + j. Before the first four
    // there is nothing to put out, but no branch either: the loop's body stays one block of
    // instructions for the compiler to interleave.
    const int wanted = channel < params.channels ? tile_tokens : 0;
    Act* out = params.out[begin + first + part - kQuad] + channel;
    const auto put_out = [&](int t) {
      const int token = t + part;
      const float sum = quad_sums(parts);
      const float2 gate = tile.gate[token & (kTileTokens - 1)][row];
      const Act result = as_act<Act>(lane.output(sum, gate.x, gate.y));
      if (token >= 0 && token < wanted) *out = result;
      out += kQuad * params.out.stride;
    };
#pragma unroll 2
    for (int t = 0; t < tile_tokens; t += kQuad) {
      float decay[kQuad][kStates], delta_u[kQuad];
#pragma unroll
      for (int i = 0; i < kQuad; ++i) {
        const float2 delta = tile.delta[t + i][row];
        delta_u[i] = delta.y;
        lane.decays(decay[i], delta.x);
      }
      put_out(t - kQuad);
#pragma unroll
      for (int i = 0; i < kQuad; ++i) {
        float b[kStates], c[kStates];
        read_part(b, tile.b[t + i][part]);
        read_part(c, tile.c[t + i][part]);
        parts[i] = advance(h, decay[i], delta_u[i], b, c);
      }
    }
    put_out((tile_tokens - 1) / kQuad * kQuad);
  }
  lane.store_states(h, slot);
}

}  // namespace hymba::cuda::scan
