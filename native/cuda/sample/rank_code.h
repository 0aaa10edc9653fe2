// The ranking of ops/sampling.h as an order of integers.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace hymba::cuda {

// A token and its logit (or score) in one integer: of two tokens the one that ranks first, by a
// larger logit or among equals by a lower id, has the smaller code. Sorting, selecting and argmax
// become those of unsigned integers without ties. 32 bits of logit stand above kTokenBits of id.
using RankCode = uint64_t;

inline constexpr int kTokenBits = 18;
inline constexpr int kMaxToken = (1 << kTokenBits) - 1;

// After all codes.
inline constexpr RankCode kNoToken = ~RankCode{0};

// `logit` is not NaN. The bits of positive floats grow with them, those of negative floats grow
// with their magnitude; inverting the former's and leaving the latter's makes all of them fall.
HYMBA_HD inline RankCode rank_code(float logit, int token) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, logit + 0.0f);  // -0, equal to 0, becomes 0
  const uint32_t falling = bits >> 31 != 0 ? bits : bits ^ 0x7fffffffu;
  return static_cast<RankCode>(falling) << kTokenBits | static_cast<uint32_t>(token);
}

HYMBA_HD inline float logit_of(RankCode code) {
  const uint32_t falling = static_cast<uint32_t>(code >> kTokenBits);
  return __builtin_bit_cast(float, falling >> 31 != 0 ? falling : falling ^ 0x7fffffffu);
}

HYMBA_HD inline int token_of(RankCode code) { return static_cast<int>(code & kMaxToken); }

HYMBA_HD inline RankCode first_of(RankCode a, RankCode b) { return a < b ? a : b; }

}  // namespace hymba::cuda
