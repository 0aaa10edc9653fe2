// Spans of two and more tokens: a block walks through one span for 32 channels, token after token,
// the states in registers.
//
// A sequence is a chain, and one of them no more than a warp for each scheduler: what is not the
// recurrence is kept away from it. Four warps carry it, a lane for each channel and a warp for each
// quarter of the states, so that nothing passes between lanes: a warp reads its part of b and c by
// broadcast, and leaves its part of the sums in shared memory. The other warps, tile by tile of
// tokens, stage the one after the next, ask for the one after that, and put out the one before. All
// meet once a tile.
//
// In the recurrence, a chain of multiply-adds, the exponentials of the next tokens stand between
// the multiply-adds of these, and what is read from shared memory is wanted a group of tokens
// later: a warp that has its scheduler for itself hardly waits.
#pragma once

#include "cuda/device/shared.cuh"
#include "cuda/selective_scan/recurrence.cuh"

namespace hymba::cuda::scan {

// A warp has a lane for each channel.
static_assert(kBlockChannels == kWarp && kBlockChannels == kChannelChunk * kQuarters);
inline constexpr int kRecurrenceThreads = kWarp * kQuarters;

// The sizes of a block's work, and its shared memory.
template <typename Act, int kStates>
struct Scan {
  static constexpr int kTileTokens = kStates <= 8 ? 32 : 16;
  // Each stages a quarter of a token's row.
  static constexpr int kStagingThreads = kTileTokens * kQuarters;
  static constexpr int kThreads = kRecurrenceThreads + kStagingThreads;
  // Exponentials are worked out for a group of tokens while the group before is worked on. Several
  // groups make a step of the loop: in the last one of a step the compiler puts the exponentials
  // after all the rest, where they wait for each other.
  static constexpr int kGroup = kStates <= 8 ? 2 : 1;
  static constexpr int kGroups = 8;
  static constexpr int kStep = kGroups * kGroup;
  static_assert(kTileTokens % kStep == 0 && kGroups >= 2);

  // What the recurrence reads of a token.
  struct Token {
    // delta, delta·u; channels in the order of `place`.
    float2 delta[kBlockChannels];
    // A quarter of b, and of c.
    alignas(16) Act bc[kQuarters][2 * kStates];
  };
  static constexpr int kRingTokens = 3 * kTileTokens;
  static constexpr int kSumTokens = 2 * kTileTokens;

  Meeting tile_done;
  Token ring[kRingTokens];
  // [quarter][channel]; 16 bytes more, so that two rows start in different banks.
  alignas(16) float sums[kSumTokens][kQuarters * kBlockChannels + 4];

  // Where Token::delta has a channel: the pairs of channels that the four threads of a token store
  // together are neighbours, and two tokens' in other banks.
  __device__ __forceinline__ static constexpr int place(int channel) {
    const int chunk = channel / kChannelChunk, pair = channel % kChannelChunk / 2;
    return (pair * kQuarters + chunk) * 2 + channel % 2;
  }
};

// What one staging thread stages of a tile: 8 channels and a quarter of the states of one token.
template <typename Act, int kStates>
struct Staged {
  using Token = typename Scan<Act, kStates>::Token;

  Chunk<Act, kChannelChunk> u, delta;
  Chunk<Act, kStates> b, c;

  // Token t, channels [first, first + 8); zeroes when the token is not there.
  __device__ __forceinline__ void fetch(const Params<Act>& params, int t, bool present, int first,
                                        int quarter) {
    const int valid = present ? params.channels - first : 0;
    u = load_chunk<kChannelChunk>(params.u[t] + first, valid, params.rows_aligned);
    delta = load_chunk<kChannelChunk>(params.delta[t] + first, valid, params.rows_aligned);
    const int first_state = quarter * kStates;
    const int states = present ? params.num_states - first_state : 0;
    b = load_chunk<kStates>(params.b[t] + first_state, states, params.bc_aligned);
    c = load_chunk<kStates>(params.c[t] + first_state, states, params.bc_aligned);
  }

  __device__ __forceinline__ void stage(Token& token, int quarter, bool present) const {
    const auto set = [&](int i, float4 deltas) {
      const int place = Scan<Act, kStates>::place(quarter * kChannelChunk + i);
      *reinterpret_cast<float4*>(&token.delta[place]) = deltas;
    };
#pragma unroll
    for (int i = 0; i < kChannelChunk; i += 2) {
      const float first = element(delta, i), second = element(delta, i + 1);
      set(i, make_float4(first, first * element(u, i), second, second * element(u, i + 1)));
    }
    // A token that is not there must not change a bit of the state: 1·h - 0 is h, even for -0.
    if (!present) {
#pragma unroll
      for (int i = 0; i < kChannelChunk; i += 2) set(i, make_float4(0.0f, -0.0f, 0.0f, -0.0f));
    }
    store_chunk<kStates>(token.bc[quarter], b, kStates, true);
    store_chunk<kStates>(token.bc[quarter] + kStates, c, kStates, true);
  }
};

// The staging warps.
template <typename Act, int kStates>
class Staging {
  using Shared = Scan<Act, kStates>;
  static constexpr int kTile = Shared::kTileTokens;
  // Of the prefetch: a tile takes about a microsecond, as memory does when it is busy.
  static constexpr int kAhead = 5 * kTile;

 public:
  __device__ __forceinline__ Staging(const Params<Act>& params, Shared& shared, int first_channel)
      : params_(params),
        shared_(shared),
        row_((threadIdx.x - kRecurrenceThreads) / kQuarters),
        quarter_(threadIdx.x % kQuarters),
        first_(first_channel + quarter_ * kChannelChunk) {
#pragma unroll
    for (int j = 0; j < kChannelChunk; ++j)
      d_[j] = first_ + j < params.channels ? params.d[first_ + j] : 0.0f;
    ahead_ = quarter_ == 0   ? params.u
             : quarter_ == 1 ? params.delta
             : quarter_ == 2 ? params.z
                             : params.b;
    if (quarter_ < 3) ahead_.data += first_channel;
  }

  // Of the span [begin, begin + num_tokens).
  __device__ __forceinline__ void run(int begin, int num_tokens) {
    Staged<Act, kStates> staged, second;
    const auto fetch = [&](Staged<Act, kStates>& to, int first) {
      to.fetch(params_, begin + first + row_, first + row_ < num_tokens, first_, quarter_);
    };
    const auto stage = [&](const Staged<Act, kStates>& from, int first) {
      from.stage(shared_.ring[(first + row_) % Shared::kRingTokens], quarter_,
                 first + row_ < num_tokens);
    };
    fetch(staged, 0);
    fetch(second, kTile);
    stage(staged, 0);
    stage(second, kTile);
    fetch(staged, 2 * kTile);
    for (int first = 3 * kTile; first < kAhead; first += kTile) prefetch(begin, first, num_tokens);
    shared_.tile_done.meet();
    for (int first = 0; first < num_tokens; first += kTile) {
      if (first > 0) put_out(begin, first - kTile, num_tokens);
      fetch_gate(begin, first, num_tokens);
      prefetch(begin, first + kAhead, num_tokens);
      if (first + 2 * kTile < num_tokens) {
        stage(staged, first + 2 * kTile);
        fetch(staged, first + 3 * kTile);
      }
      shared_.tile_done.meet();
    }
    put_out(begin, (num_tokens - 1) / kTile * kTile, num_tokens);
  }

 private:
  // Each of a token's four threads brings its row of one input to the L2; b and c are neighbours.
  __device__ __forceinline__ void prefetch(int begin, int first, int num_tokens) const {
    if (first + row_ < num_tokens) prefetch_to_l2(ahead_[begin + first + row_]);
  }

  __device__ __forceinline__ void fetch_gate(int begin, int first, int num_tokens) {
    const int t = begin + first + row_;
    const int valid = first + row_ < num_tokens ? params_.channels - first_ : 0;
    u_ = load_chunk<kChannelChunk>(params_.u[t] + first_, valid, params_.rows_aligned);
    z_ = load_chunk<kChannelChunk>(params_.z[t] + first_, valid, params_.rows_aligned);
  }

  // Token `first` + row of the span, whose u and z have been fetched.
  __device__ __forceinline__ void put_out(int begin, int first, int num_tokens) {
    if (first + row_ >= num_tokens) return;
    const float* const from = &shared_.sums[(first + row_) % Shared::kSumTokens][0];
    float values[kChannelChunk];
#pragma unroll
    for (int j = 0; j < kChannelChunk; j += 4) {
      float4 parts[kQuarters];
#pragma unroll
      for (int i = 0; i < kQuarters; ++i)
        parts[i] = *reinterpret_cast<const float4*>(from + i * kBlockChannels +
                                                    quarter_ * kChannelChunk + j);
      values[j] = sum_quarters(parts[0].x, parts[1].x, parts[2].x, parts[3].x);
      values[j + 1] = sum_quarters(parts[0].y, parts[1].y, parts[2].y, parts[3].y);
      values[j + 2] = sum_quarters(parts[0].z, parts[1].z, parts[2].z, parts[3].z);
      values[j + 3] = sum_quarters(parts[0].w, parts[1].w, parts[2].w, parts[3].w);
    }
#pragma unroll
    for (int j = 0; j < kChannelChunk; ++j)
      values[j] = output(values[j], d_[j], element(u_, j), silu(element(z_, j)));
    store_values(params_.out[begin + first + row_] + first_, values, params_.channels - first_,
                 params_.rows_aligned);
  }

  const Params<Act>& params_;
  Shared& shared_;
  const int row_;          // token of a tile
  const int quarter_;      // of the block's channels, and of the states
  const int first_;        // channel
  Rows<const Act> ahead_;  // what it prefetches
  float d_[kChannelChunk];
  Chunk<Act, kChannelChunk> u_, z_;
};

// The recurrence of one channel's quarter of states.
template <typename Act, int kStates>
__device__ __forceinline__ void carry(Scan<Act, kStates>& shared, const Lane<Act, kStates>& lane,
                                      float (&h)[kStates], int num_tokens) {
  using Shared = Scan<Act, kStates>;
  using Token = typename Shared::Token;
  constexpr int kGroup = Shared::kGroup, kGroups = Shared::kGroups;
  const int channel = threadIdx.x % kWarp;
  const int quarter = threadIdx.x / kWarp;
  const int place = Shared::place(channel);
  const auto read_deltas = [&](float2(&to)[kGroup], const Token* from) {
#pragma unroll
    for (int i = 0; i < kGroup; ++i) to[i] = from[i].delta[place];
  };
  const auto read_bc = [&](Chunk<Act, 2 * kStates>(&to)[kGroup], const Token* from) {
#pragma unroll
    for (int i = 0; i < kGroup; ++i)
      to[i] = load_chunk<2 * kStates>(from[i].bc[quarter], 2 * kStates, true);
  };

  // Of this group, the next one, and delta also of the one after that.
  float2 delta[3][kGroup];
  Chunk<Act, 2 * kStates> bc[2][kGroup];
  float decay[2][kGroup][kStates];

  shared.tile_done.meet();
  const Token* token = shared.ring;
  read_deltas(delta[0], token);
  read_deltas(delta[1], token + kGroup);
  read_bc(bc[0], token);
#pragma unroll
  for (int i = 0; i < kGroup; ++i) lane.decays(decay[0][i], delta[0][i].x);

  for (int first = 0; first < num_tokens; first += Shared::kTileTokens) {
    const int tile_tokens = min(Shared::kTileTokens, num_tokens - first);
    float* sums = &shared.sums[first % Shared::kSumTokens][threadIdx.x];
    // Beyond the span's last token there are a few that change nothing, and beyond those, which
    // are read ahead for nothing, anything.
#pragma unroll 1
    for (int t = 0; t < tile_tokens; t += Shared::kStep) {
      const Token* const next_step = token + Shared::kStep == shared.ring + Shared::kRingTokens
                                         ? shared.ring
                                         : token + Shared::kStep;
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const auto ahead = [&](int groups) {
          const int to = group + groups;
          return to < kGroups ? token + to * kGroup : next_step + (to - kGroups) * kGroup;
        };
        read_deltas(delta[2], ahead(2));
        read_bc(bc[1], ahead(1));
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
          lane.decays(decay[1][i], delta[1][i].x);
          float b[kStates], c[kStates];
#pragma unroll
          for (int n = 0; n < kStates; ++n) {
            b[n] = element(bc[0][i], n);
            c[n] = element(bc[0][i], kStates + n);
          }
          *sums = advance(h, decay[0][i], delta[0][i].y, b, c);
          sums += sizeof(shared.sums[0]) / sizeof(float);
        }
#pragma unroll
        for (int i = 0; i < kGroup; ++i) {
          delta[0][i] = delta[1][i];
          delta[1][i] = delta[2][i];
          bc[0][i] = bc[1][i];
#pragma unroll
          for (int n = 0; n < kStates; ++n) decay[0][i][n] = decay[1][i][n];
        }
      }
      token = next_step;
    }
    shared.tile_done.meet();
  }
}

template <typename Act, int kStates>
__global__ void __launch_bounds__(Scan<Act, kStates>::kThreads, kStates == 4 ? 2 : 1)
    scan_kernel(Params<Act> params) {
  allow_successor();
  Scan<Act, kStates>& shared = *dynamic_shared<Scan<Act, kStates>>();
  if (threadIdx.x == 0) shared.tile_done.init(blockDim.x);
  __syncthreads();
  const int first_channel = blockIdx.x * kBlockChannels;
  const int span = blockIdx.y;
  // {begin, tokens}: of spans of one token none.
  const auto tokens_of_span = [&] {
    const int begin = params.batch.span_offsets[span];
    return int2{begin, params.batch.span_offsets[span + 1] - begin};
  };
  if (threadIdx.x >= kRecurrenceThreads) {
    Staging<Act, kStates> staging(params, shared, first_channel);
    wait_for_predecessor();
    const int2 tokens = tokens_of_span();
    if (tokens.y > 1) staging.run(tokens.x, tokens.y);
  } else {
    const Lane<Act, kStates> lane(params, first_channel + threadIdx.x % kWarp, threadIdx.x / kWarp);
    wait_for_predecessor();
    const int2 tokens = tokens_of_span();
    if (tokens.y < 2) return;
    const int slot = params.batch.state_slot[span];
    float h[kStates];
    lane.load_states(h, slot < 0 ? -1 : params.batch.state_source[span]);
    carry(shared, lane, h, tokens.y);
    lane.store_states(h, slot);
  }
}

}  // namespace hymba::cuda::scan
