// Random weights that every backend computes alike, element by element, from nothing but a seed, a
// stream (one for each tensor) and the element's index.
//
// Why the normal values are the same bits everywhere: the random word comes from 64-bit integer
// arithmetic, which wraps in the same way on every machine. The sum of its four 16-bit fields,
// centred, is an integer below 2^18 and so exact in fp32. It is multiplied by one fp32 number,
// itself a product of two. IEEE rounds both products to nearest, and there is no sum that a
// compiler could fuse with them. What is not zero is at least scale · 2^-16, so that flushing
// subnormals changes nothing. Rounding to bf16 (core/dtype.h, to nearest even) is integer
// arithmetic again.
//
// The other two fills call the C library's log and exp, whose last bit is not the same everywhere:
// they are computed on the host only, in double precision, and a device gets the host's numbers.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace hymba {

// In the order of SyntheticFill in lib/checkpoint/tensor_table.ts.
enum class SyntheticFill { kNormal, kConstant, kLogArange, kDtBias };

// 2^64 divided by the golden ratio, made odd: its multiples are spread evenly over the 64-bit
// integers.
inline constexpr uint64_t kSyntheticStep = 0x9e3779b97f4a7c15u;

// A bijection of the 64-bit integers in which every input bit flips about half of the output bits:
// the finaliser of the SplitMix64 generator.
HYMBA_HD constexpr uint64_t synthetic_mix(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  return bits ^ (bits >> 31);
}

// 64 random bits. The first mix sends the streams of a seed to places far apart; from there a
// stream is a SplitMix64 sequence, of which any element can be had without the ones before.
// `stream` + 1 keeps stream 0 of seed 0 from starting at 0, which mixes to 0.
HYMBA_HD constexpr uint64_t synthetic_bits(uint64_t seed, uint32_t stream, uint64_t index) {
  const uint64_t start = synthetic_mix(seed + kSyntheticStep * (static_cast<uint64_t>(stream) + 1));
  return synthetic_mix(start + kSyntheticStep * index);
}

// A sum of four uniform variables, which is close to normal: mean 0, standard deviation `scale`, no
// value more than 3.47 deviations out.
HYMBA_HD inline float synthetic_normal(uint64_t seed, uint32_t stream, uint64_t index,
                                       float scale) {
  const uint64_t bits = synthetic_bits(seed, stream, index);
  const int32_t sum = static_cast<int32_t>((bits & 0xffff) + (bits >> 16 & 0xffff) +
                                           (bits >> 32 & 0xffff) + (bits >> 48));
  constexpr int32_t kMean = 2 * 0xffff;
  // 1 / sqrt(4 · (2^32 - 1) / 12): one 16-bit field has variance (2^32 - 1) / 12.
  constexpr float kInverseDeviation = 2.6428997e-05f;
  return static_cast<float>(sum - kMean) * (scale * kInverseDeviation);
}

// The bias whose softplus is a time step; the steps are log-uniform in [0.001, 0.1].
inline float synthetic_dt_bias(uint64_t seed, uint32_t stream, uint64_t index) {
  const double uniform = static_cast<double>(synthetic_bits(seed, stream, index) >> 11) * 0x1p-53;
  const double step = 1e-3 * std::exp(uniform * std::log(100.0));
  return static_cast<float>(std::log(std::expm1(step)));
}

// log 1, log 2, … log num_columns in every row: A = -exp(A_log) is then -1, -2, …
inline float synthetic_log_arange(uint64_t index, uint64_t num_columns) {
  return static_cast<float>(std::log(static_cast<double>(index % num_columns + 1)));
}

}  // namespace hymba
