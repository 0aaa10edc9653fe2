// log and exp whose results are the same bits on every backend and for every compiler flag: nothing
// but single IEEE operations, with each fused multiply-add spelled out and no product left that a
// compiler could fuse with a sum. No branches, so that loops over them vectorise.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace hymba {

// log x to a relative error of 1e-7, for normal x > 0; near 1 too, where log x is small.
//
// x = 2^n · (1 + r) with √½ - 1 ≤ r < √2 - 1, log x = n·ln 2 + r + r²·q(r); q is a minimax
// polynomial, exact to 3e-8 of the sum.
HYMBA_HD inline float portable_log(float x) {
  constexpr int32_t kSqrtHalf = 0x3f3504f3;  // the bits of √½
  constexpr float kLn2High = 0.693359375f;   // few bits: n·kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;

  const int32_t offset = __builtin_bit_cast(int32_t, x) - kSqrtHalf;
  const float n = static_cast<float>(offset >> 23);
  const float r = __builtin_bit_cast(float, (offset & 0x007fffff) + kSqrtHalf) - 1.0f;
  float q = 0.0873484313f;
  q = std::fma(q, r, -0.143075213f);
  q = std::fma(q, r, 0.149179742f);
  q = std::fma(q, r, -0.165705085f);
  q = std::fma(q, r, 0.199620724f);
  q = std::fma(q, r, -0.250017554f);
  q = std::fma(q, r, 0.333339512f);
  q = std::fma(q, r, -0.499999911f);
  const float square = r * r;
  const float tail = std::fma(n, kLn2Low, std::fma(square, q, r));
  return std::fma(n, kLn2High, tail);
}

// e^x to a relative error of 2e-7 for -87.3 ≤ x ≤ 0, and 0 for x ≤ -88 (in between, less exact).
// Not for x > 88 or NaN.
//
// x = n·ln 2 + r with |r| ≤ ln 2 / 2, e^x = 2^n · (1 + r + r²·q(r)); q is a minimax polynomial,
// exact to 3e-9 of the sum.
HYMBA_HD inline float portable_exp(float x) {
  constexpr float kLowest = -88.0f;  // its n is -127, whose power of two comes out as zero
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  // Added to a small number, leaves its nearest integer in the low mantissa bits.
  constexpr float kToInteger = 0x1.8p23f;

  x = x < kLowest ? kLowest : x;
  const float shifted = std::fma(x, kLog2E, kToInteger);
  const float n = shifted - kToInteger;
  const float r = std::fma(n, -kLn2Low, std::fma(n, -kLn2High, x));
  float q = 1.39504788e-3f;
  q = std::fma(q, r, 8.36888235e-3f);
  q = std::fma(q, r, 4.16662060e-2f);
  q = std::fma(q, r, 0.166665196f);
  q = std::fma(q, r, 0.5f);
  const float square = r * r;
  const float fraction = std::fma(square, q, r) + 1.0f;
  const int32_t exponent =
      __builtin_bit_cast(int32_t, shifted) - __builtin_bit_cast(int32_t, kToInteger) + 127;
  return fraction * __builtin_bit_cast(float, exponent << 23);
}

}  // namespace hymba
