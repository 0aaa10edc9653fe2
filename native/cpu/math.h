// Functions that the stages share, in fp32, written so that loops over them vectorise: no branches
// and no library calls. Fused multiply-adds are spelled out, so that a value does not depend on how
// the compiler cut its loop.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/dtype.h"

#if defined(__x86_64__) && !defined(__FMA__)
#error "compile native/cpu with -march=x86-64-v3: without it std::fma is a library call"
#endif

namespace hymba::cpu {

// e^x to a relative error of 2e-7 for -87.3 ≤ x ≤ 88.3; 0 below -87.7, infinity above 88.4 (in
// between, less exact), NaN for NaN.
//
// x = n·ln 2 + r with |r| ≤ ln 2 / 2, e^x = 2^n · (1 + r + r²·q(r)); q is a minimax polynomial,
// exact to 4e-9.
inline float exp_approx(float x) {
  constexpr float kLowest = -88.0f;  // its n is -127, whose power of two comes out as zero
  constexpr float kHighest = 88.5f;  // its n is 128, whose power of two comes out as infinity
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;  // few bits: n·kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  // Added to a small number, leaves its nearest integer in the low bits of the mantissa.
  constexpr float kToInteger = 0x1.8p23f;

  x = x < kLowest ? kLowest : x;
  x = x > kHighest ? kHighest : x;
  const float shifted = std::fma(x, kLog2E, kToInteger);
  const float n = shifted - kToInteger;
  const float r = std::fma(n, -kLn2Low, std::fma(n, -kLn2High, x));
  float q = 1.38145988e-3f;
  q = std::fma(q, r, 8.36871658e-3f);
  q = std::fma(q, r, 4.16683890e-2f);
  q = std::fma(q, r, 0.166665211f);
  q = std::fma(q, r, 0.49999994f);
  const float fraction = std::fma(r * r, q, r) + 1.0f;
  const int32_t exponent =
      std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kToInteger) + 127;
  return fraction * std::bit_cast<float>(static_cast<uint32_t>(exponent) << 23);
}

// x · sigmoid(x).
inline float silu(float x) { return x / (1.0f + exp_approx(-x)); }

// log(1 + e^x) to a relative error of 4e-7, as max(x, 0) + log(1 + t) with t = e^-|x| ≤ 1. Equals x
// for x > 20, which is where the published model switches over: t is then too small to count.
//
// log(1 + t) = 2·atanh(s) = 2s·(1 + s²·g(s²)) with s = t / (2 + t) ≤ 1/3; g is a minimax
// polynomial, exact to 5e-9.
inline float softplus(float x) {
  const float t = exp_approx(-std::fabs(x));
  const float s = t / (2.0f + t);
  const float s2 = s * s;
  float g = 0.140122324f;
  g = std::fma(g, s2, 0.139995694f);
  g = std::fma(g, s2, 0.200108498f);
  g = std::fma(g, s2, 0.333332062f);
  const float log1p_t = std::fma(s + s, s2 * g, s + s);
  return (x > 0.0f ? x : 0.0f) + log1p_t;
}

// 1 / sqrt(mean(row²) + epsilon). The squares are added up in fp32, in sixteen lanes (element i in
// lane i mod 16), and the lanes as a tree: one fixed order, whatever the machine.
template <typename T>
float rms_scale(const T* row, int64_t count, float epsilon) {
  constexpr int kLanes = 16;
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) {
      const float value = to_float(row[i + lane]);
      sums[lane] = std::fma(value, value, sums[lane]);
    }
  for (int lane = 0; i + lane < count; ++lane) {
    const float value = to_float(row[i + lane]);
    sums[lane] = std::fma(value, value, sums[lane]);
  }
  for (int distance = kLanes / 2; distance > 0; distance /= 2)
    for (int lane = 0; lane < distance; ++lane) sums[lane] += sums[lane + distance];
  return 1.0f / std::sqrt(sums[0] / static_cast<float>(count) + epsilon);
}

}  // namespace hymba::cpu
