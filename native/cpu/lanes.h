// Sixteen fp32 lanes on whatever the file is compiled for: AVX-512, AVX2 with FMA, or plain C++.
// All three give the same bits.
//
// Everything here has internal linkage and calls nothing that has not: it is compiled several times
// with different instruction sets, and the linker must not take one for the other.
#pragma once

#include <stdint.h>

#if defined(__x86_64__)
// GCC 12 takes the registers that these intrinsics leave undefined on purpose for mistakes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#include "core/dtype.h"

namespace hymba::cpu {
namespace {

constexpr int kLanes = 16;

#if defined(__AVX__)
inline float sum_eight(__m256 v) {
  const __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 by2 = _mm_add_ps(by4, _mm_permute_ps(by4, 0x4e));
  return _mm_cvtss_f32(_mm_add_ps(by2, _mm_permute_ps(by2, 0xb1)));
}
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)

struct Lanes {
  __m512 v;
};

inline Lanes zero_lanes() { return {_mm512_setzero_ps()}; }

inline Lanes widen(__m256i halves, BFloat16) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
}
inline Lanes widen(__m256i halves, Float16) { return {_mm512_cvtph_ps(halves)}; }

// The sixteen elements at `p`, which need not be aligned.
inline Lanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
template <typename T>
inline Lanes load(const T* p) {
  return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), T{});
}

// The first `count` < 16 elements at `p`, then zeros; reads nothing beyond them.
inline Lanes load_part(const float* p, int64_t count) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1 << count) - 1), p)};
}
template <typename T>
inline Lanes load_part(const T* p, int64_t count) {
  return widen(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1 << count) - 1), p), T{});
}

inline Lanes multiply_add(Lanes a, Lanes b, Lanes sum) {
  return {_mm512_fmadd_ps(a.v, b.v, sum.v)};
}

// out[i] = the sum of the lanes of v[i], added up as a tree: lanes 8 apart, then 4, 2 and 1.
inline void sum_lanes(const Lanes (&v)[1], float* out) {
  *out =
      sum_eight(_mm256_add_ps(_mm512_castps512_ps256(v[0].v), _mm512_extractf32x8_ps(v[0].v, 1)));
}
inline void sum_lanes(const Lanes (&v)[4], float* out) {
  const __m512 by8_01 = _mm512_add_ps(_mm512_shuffle_f32x4(v[0].v, v[1].v, 0x44),
                                      _mm512_shuffle_f32x4(v[0].v, v[1].v, 0xee));
  const __m512 by8_23 = _mm512_add_ps(_mm512_shuffle_f32x4(v[2].v, v[3].v, 0x44),
                                      _mm512_shuffle_f32x4(v[2].v, v[3].v, 0xee));
  const __m512 by4 = _mm512_add_ps(_mm512_shuffle_f32x4(by8_01, by8_23, 0x88),
                                   _mm512_shuffle_f32x4(by8_01, by8_23, 0xdd));
  const __m512 by2 = _mm512_add_ps(by4, _mm512_permute_ps(by4, 0x4e));
  const __m512 by1 = _mm512_add_ps(by2, _mm512_permute_ps(by2, 0xb1));
  const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, by1)));
}

// Sums that fit into the registers beside their operands: 6 · 4 of 32.
constexpr int kTileRows = 6;
constexpr int kTileCols = 4;

#else

// The first `count` < 16 elements at `p`, then zeros; reads nothing beyond them.
template <typename T>
struct PaddedLanes {
  T values[kLanes] = {};
  PaddedLanes(const T* p, int64_t count) { __builtin_memcpy(values, p, count * sizeof(T)); }
};

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

struct Lanes {
  __m256 lo, hi;
};

inline Lanes zero_lanes() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }

inline __m256 widen(__m128i halves, BFloat16) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
inline __m256 widen(__m128i halves, Float16) { return _mm256_cvtph_ps(halves); }

inline Lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
template <typename T>
inline Lanes load(const T* p) {
  const __m128i* halves = reinterpret_cast<const __m128i*>(p);
  return {widen(_mm_loadu_si128(halves), T{}), widen(_mm_loadu_si128(halves + 1), T{})};
}

inline Lanes multiply_add(Lanes a, Lanes b, Lanes sum) {
  return {_mm256_fmadd_ps(a.lo, b.lo, sum.lo), _mm256_fmadd_ps(a.hi, b.hi, sum.hi)};
}

inline void sum_lanes(const Lanes (&v)[1], float* out) {
  *out = sum_eight(_mm256_add_ps(v[0].lo, v[0].hi));
}
inline void sum_lanes(const Lanes (&v)[2], float* out) {
  const __m256 by8_0 = _mm256_add_ps(v[0].lo, v[0].hi);
  const __m256 by8_1 = _mm256_add_ps(v[1].lo, v[1].hi);
  const __m256 by4 = _mm256_add_ps(_mm256_permute2f128_ps(by8_0, by8_1, 0x20),
                                   _mm256_permute2f128_ps(by8_0, by8_1, 0x31));
  const __m256 by2 = _mm256_add_ps(by4, _mm256_permute_ps(by4, 0x4e));
  const __m256 by1 = _mm256_add_ps(by2, _mm256_permute_ps(by2, 0xb1));
  _mm_store_ss(out, _mm256_castps256_ps128(by1));
  _mm_store_ss(out + 1, _mm256_extractf128_ps(by1, 1));
}

// 3 · 2 sums take 12 of 16 registers.
constexpr int kTileRows = 3;
constexpr int kTileCols = 2;

#else

struct Lanes {
  float v[kLanes];
};

inline Lanes zero_lanes() { return {}; }

template <typename T>
inline Lanes load(const T* p) {
  T values[kLanes];
  __builtin_memcpy(values, p, sizeof values);  // p need not be aligned
  Lanes lanes;
  for (int i = 0; i < kLanes; ++i) lanes.v[i] = to_float(values[i]);
  return lanes;
}

inline Lanes multiply_add(const Lanes& a, const Lanes& b, const Lanes& sum) {
  Lanes lanes;
  for (int i = 0; i < kLanes; ++i) lanes.v[i] = __builtin_fmaf(a.v[i], b.v[i], sum.v[i]);
  return lanes;
}

template <int kCount>
inline void sum_lanes(const Lanes (&v)[kCount], float* out) {
  for (int x = 0; x < kCount; ++x) {
    Lanes sums = v[x];
    for (int distance = kLanes / 2; distance > 0; distance /= 2)
      for (int i = 0; i < distance; ++i) sums.v[i] += sums.v[i + distance];
    out[x] = sums.v[0];
  }
}

constexpr int kTileRows = 2;
constexpr int kTileCols = 2;

#endif

template <typename T>
inline Lanes load_part(const T* p, int64_t count) {
  return load(PaddedLanes<T>(p, count).values);
}

#endif

}  // namespace
}  // namespace hymba::cpu
