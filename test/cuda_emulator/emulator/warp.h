// What the lanes of a warp do together. The lanes that the mask names meet, the last to come
// carries the operation out for all of them.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulator/block.h"

namespace emulator {

// The arguments of the lanes that met.
template <typename Arguments>
struct Lanes {
  void* const* arguments;
  uint32_t mask;

  bool has(int lane) const { return mask >> lane & 1; }
  Arguments& operator[](int lane) const { return *static_cast<Arguments*>(arguments[lane]); }
};

// Waits for the lanes of `mask`; `all` is called once, when they are there.
void meet_warp(const char* what, const Site& site, uint32_t mask, void* arguments,
               void (*all)(void* const* arguments, uint32_t mask));

template <typename Arguments, void (*kAll)(Lanes<Arguments>)>
void meet_warp(const char* what, const Site& site, uint32_t mask, Arguments& arguments) {
  meet_warp(what, site, mask, &arguments, [](void* const* lanes, uint32_t present) {
    kAll(Lanes<Arguments>{lanes, present});
  });
}

enum class Shuffle { kIndex, kUp, kDown, kXor };

template <typename T>
struct ShuffleArguments {
  T value;
  int operand;
  int width;
  T result;
};

// The lane that `lane` reads; itself where the operand points out of its segment of `width` lanes.
inline int shuffle_source(Shuffle kind, int lane, int operand, int width) {
  const int first = lane & ~(width - 1);
  const int last = lane | (width - 1);
  switch (kind) {
    case Shuffle::kIndex:
      return first | (operand & (width - 1));
    case Shuffle::kUp:
      return lane - operand >= first ? lane - operand : lane;
    case Shuffle::kDown:
      return lane + operand <= last ? lane + operand : lane;
    default:
      return (lane ^ operand) <= last ? lane ^ operand : lane;
  }
}

template <typename T, Shuffle kKind>
void shuffle_all(Lanes<ShuffleArguments<T>> lanes) {
  for (int lane = 0; lane < 32; ++lane) {
    if (!lanes.has(lane)) continue;
    auto& own = lanes[lane];
    const int source = shuffle_source(kKind, lane, own.operand, own.width) & 31;
    // A lane that takes no part has no defined value.
    if (lanes.has(source))
      own.result = lanes[source].value;
    else
      std::memset(&own.result, 0xff, sizeof own.result);
  }
}

template <Shuffle kKind, typename T>
T shuffle(const char* what, const Site& site, uint32_t mask, T value, int operand, int width) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  ShuffleArguments<T> arguments{value, operand, width, value};
  meet_warp<ShuffleArguments<T>, shuffle_all<T, kKind>>(what, site, mask, arguments);
  return arguments.result;
}

struct VoteArguments {
  bool predicate;
  uint32_t ballot;
};
void vote_all(Lanes<VoteArguments> lanes);

inline uint32_t vote(const char* what, const Site& site, uint32_t mask, bool predicate) {
  VoteArguments arguments{predicate, 0};
  meet_warp<VoteArguments, vote_all>(what, site, mask, arguments);
  return arguments.ballot;
}

struct MatchArguments {
  uint64_t value;
  uint32_t same;
};
void match_all(Lanes<MatchArguments> lanes);

template <typename T>
uint32_t match(const char* what, const Site& site, uint32_t mask, T value) {
  MatchArguments arguments{0, 0};
  std::memcpy(&arguments.value, &value, sizeof value);
  meet_warp<MatchArguments, match_all>(what, site, mask, arguments);
  return arguments.same;
}

template <typename T>
struct ReduceArguments {
  T value;
};

template <typename T, typename Combine>
void reduce_all(Lanes<ReduceArguments<T>> lanes) {
  const int first = __builtin_ctz(lanes.mask);
  T result = lanes[first].value;
  for (int lane = first + 1; lane < 32; ++lane)
    if (lanes.has(lane)) result = Combine{}(result, lanes[lane].value);
  for (int lane = first; lane < 32; ++lane)
    if (lanes.has(lane)) lanes[lane].value = result;
}

template <typename Combine, typename T>
T reduce(const char* what, const Site& site, uint32_t mask, T value) {
  static_assert(std::is_integral_v<T> && sizeof(T) == 4);
  ReduceArguments<T> arguments{value};
  meet_warp<ReduceArguments<T>, reduce_all<T, Combine>>(what, site, mask, arguments);
  return arguments.value;
}

// Tensor cores: see device/ptx.cuh for who holds what.
struct MmaArguments {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};
void mma_16x8x16_all(Lanes<MmaArguments> lanes);

struct LoadMatrixArguments {
  uint32_t* r;
  const void* row;
};
template <bool kTransposed>
void load_matrix_x4_all(Lanes<LoadMatrixArguments> lanes);

}  // namespace emulator

#define HYMBA_EMULATOR_SITE const emulator::Site& site = emulator::Site::current()

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, HYMBA_EMULATOR_SITE) {
  return emulator::shuffle<emulator::Shuffle::kIndex>("__shfl_sync", site, mask, value, lane,
                                                      width);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, HYMBA_EMULATOR_SITE) {
  return emulator::shuffle<emulator::Shuffle::kUp>("__shfl_up_sync", site, mask, value,
                                                   static_cast<int>(delta), width);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, HYMBA_EMULATOR_SITE) {
  return emulator::shuffle<emulator::Shuffle::kDown>("__shfl_down_sync", site, mask, value,
                                                     static_cast<int>(delta), width);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, HYMBA_EMULATOR_SITE) {
  return emulator::shuffle<emulator::Shuffle::kXor>("__shfl_xor_sync", site, mask, value, lanes,
                                                    width);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, HYMBA_EMULATOR_SITE) {
  return emulator::vote("__ballot_sync", site, mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate, HYMBA_EMULATOR_SITE) {
  return emulator::vote("__any_sync", site, mask, predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate, HYMBA_EMULATOR_SITE) {
  return emulator::vote("__all_sync", site, mask, predicate != 0) == mask;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, HYMBA_EMULATOR_SITE) {
  emulator::vote("__syncwarp", site, mask, false);
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value, HYMBA_EMULATOR_SITE) {
  return emulator::match("__match_any_sync", site, mask, value);
}

template <typename T>
T __reduce_add_sync(unsigned mask, T value, HYMBA_EMULATOR_SITE) {
  struct Add {
    T operator()(T a, T b) const { return static_cast<T>(unsigned(a) + unsigned(b)); }
  };
  return emulator::reduce<Add>("__reduce_add_sync", site, mask, value);
}
template <typename T>
T __reduce_min_sync(unsigned mask, T value, HYMBA_EMULATOR_SITE) {
  struct Min {
    T operator()(T a, T b) const { return b < a ? b : a; }
  };
  return emulator::reduce<Min>("__reduce_min_sync", site, mask, value);
}
template <typename T>
T __reduce_max_sync(unsigned mask, T value, HYMBA_EMULATOR_SITE) {
  struct Max {
    T operator()(T a, T b) const { return b > a ? b : a; }
  };
  return emulator::reduce<Max>("__reduce_max_sync", site, mask, value);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, HYMBA_EMULATOR_SITE) {
  struct Or {
    unsigned operator()(unsigned a, unsigned b) const { return a | b; }
  };
  return emulator::reduce<Or>("__reduce_or_sync", site, mask, value);
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value, HYMBA_EMULATOR_SITE) {
  struct And {
    unsigned operator()(unsigned a, unsigned b) const { return a & b; }
  };
  return emulator::reduce<And>("__reduce_and_sync", site, mask, value);
}
