// Gumbel noise as a function of (seed, position, token): no state, so any thread of any backend
// makes any value, in any order, and always the same bits.
#pragma once

#include <cmath>
#include <cstdint>

#include "ops/portable_math.h"

namespace hymba {

// A bijection of the 64-bit integers that makes every output bit depend on every input bit:
// xor-shifts bring high bits down, multiplications by odd numbers carry low bits up, twice each.
// Shifts and factors are those that David Stafford found by searching for the most even avalanche
// ("Mix13"); counting in steps of kGoldenStep through this function is SplitMix64, which passes
// BigCrush. A cipher such as Philox takes ten rounds for what two multiplications do well here.
HYMBA_HD inline uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// 2^64 divided by the golden ratio, made odd: consecutive multiples lie far apart.
inline constexpr uint64_t kGoldenStep = 0x9e3779b97f4a7c15u;

// Where the noise of one drawn token starts. Mixed twice, so that neighbouring seeds and positions
// share nothing: the stream of seed s at position p + 1 is not that of seed s + 1 at position p.
HYMBA_HD inline uint64_t noise_key(uint64_t seed, int32_t position) {
  return mix64(mix64(seed + kGoldenStep) + static_cast<uint32_t>(position) * kGoldenStep);
}

HYMBA_HD inline uint64_t noise_bits(uint64_t key, int32_t token) {
  return mix64(key + (static_cast<uint32_t>(token) + uint64_t{1}) * kGoldenStep);
}

// A uniform number in [2^-48, 1 - 2^-24] from the upper 47 of 64 bits: 24 bits before and 23 bits
// behind 2^-24. The half added to the latter keeps the number off zero; the former shrink by 2^-24
// of themselves so that the sum cannot round up to one. A float's full precision is there close to
// zero, which is where the likely winners of a draw come from.
HYMBA_HD inline float uniform_from_bits(uint64_t bits) {
  const float high = static_cast<float>(static_cast<int32_t>(bits >> 40));
  const float low = static_cast<float>(static_cast<int32_t>(bits >> 17 & 0x7fffffu)) + 0.5f;
  return std::fma(high, 0x1.fffffep-25f, low * 0x1p-47f);
}

// -log(-log(1 - v)) for v from `uniform_from_bits`: between -2.82 and 33.28, never infinite,
// correct to 1.4e-6 or better.
//
// v and 1 - v are equally uniform. Taking 1 - v makes large noise come from small v, of which
// floats have plenty; with -log(-log(v)) it would come from v near 1, 2^-24 apart: a token of
// probability 1e-6 would be drawn 6 % too often or too rarely.
HYMBA_HD inline float gumbel_from_uniform(float v) {
  const float complement = 1.0f - v;
  const float lost = (1.0f - complement) - v;  // what rounding took from 1 - v, exactly
  const float exponential = -portable_log(complement) - lost;
  return -portable_log(exponential);
}

// What is added to logit/temperature of `token`.
HYMBA_HD inline float gumbel_noise(uint64_t key, int32_t token) {
  return gumbel_from_uniform(uniform_from_bits(noise_bits(key, token)));
}

}  // namespace hymba
