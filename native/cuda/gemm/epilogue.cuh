// What becomes of a product's sums: one functor a stage, the same for every kernel.
//
// A kernel hands over the sums of two neighbouring columns of a row, of which the first is even.
// Columns beyond the last one may be among them, rows may not. `kPaired` functors get the sums of
// both blocks of a matrix (gate and up).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/tensor_view.h"
#include "cuda/device/convert.cuh"
#include "cuda/device/ptx.cuh"

namespace hymba::cuda {

__device__ __forceinline__ void store_pair(float* to, float2 x) {
  *reinterpret_cast<float2*>(to) = x;
}
__device__ __forceinline__ void store_pair(BFloat16* to, float2 x) {
  *reinterpret_cast<uint32_t*>(to) = pack_bf16x2(x.x, x.y);
}

// Rows of T that are written two columns at a time.
template <typename T>
struct PairRows {
  T* data;
  int64_t stride;
  int cols;
  bool aligned;  // whether two columns can be accessed as one

  explicit PairRows(const TensorView& view)
      : data(view.data<T>()),
        stride(view.row_stride()),
        cols(static_cast<int>(view.dim(1))),
        aligned(reinterpret_cast<uintptr_t>(view.raw()) % (2 * sizeof(T)) == 0 &&
                view.row_stride() % 2 == 0) {}

  __device__ __forceinline__ void store(int64_t row, int col, float2 x) const {
    T* to = data + row * stride + col;
    if (aligned && col + 1 < cols) {
      store_pair(to, x);
    } else {
      if (col < cols) to[0] = as_act<T>(x.x);
      if (col + 1 < cols) to[1] = as_act<T>(x.y);
    }
  }

  __device__ __forceinline__ void add(int64_t row, int col, float2 x) const
    requires(sizeof(T) == sizeof(float))
  {
    T* to = data + row * stride + col;
    if (aligned && col + 1 < cols) {
      const float2 before = *reinterpret_cast<const float2*>(to);
      store_pair(to, {before.x + x.x, before.y + x.y});
    } else {
      if (col < cols) to[0] += x.x;
      if (col + 1 < cols) to[1] += x.y;
    }
  }
};

__device__ __forceinline__ float2 plus_bias(const float* bias, int cols, int col, float2 x) {
  if (col < cols) x.x += bias[col];
  if (col + 1 < cols) x.y += bias[col + 1];
  return x;
}

// out = sum (+ bias) (+ out)
template <typename T>
struct StoreEpilogue {
  static constexpr bool kPaired = false;
  PairRows<T> out;
  const float* bias;  // or null
  bool accumulate;    // fp32 only

  __device__ __forceinline__ void operator()(int64_t row, int col, float2 sum) const {
    if (bias != nullptr) sum = plus_bias(bias, out.cols, col, sum);
    if constexpr (sizeof(T) == sizeof(float)) {
      if (accumulate) {
        out.add(row, col, sum);
        return;
      }
    }
    out.store(row, col, sum);
  }
};

// out = silu(gate) · up, silu(x) = x / (1 + e^-x). Where e^-x is infinite, its reciprocal is 0.
template <typename T>
struct GatedSiluEpilogue {
  static constexpr bool kPaired = true;
  PairRows<T> out;

  static __device__ __forceinline__ float silu(float x) {
    return x * reciprocal_approx(1.0f + expf(-x));
  }
  __device__ __forceinline__ void operator()(int64_t row, int col, float2 gate, float2 up) const {
    out.store(row, col, {silu(gate.x) * up.x, silu(gate.y) * up.y});
  }
};

// out = relu(sum)²
template <typename T>
struct Relu2Epilogue {
  static constexpr bool kPaired = false;
  PairRows<T> out;

  // A comparison, not fmaxf: a NaN counts as not positive, as in the CPU backend.
  static __device__ __forceinline__ float relu2(float x) { return x > 0.0f ? x * x : 0.0f; }
  __device__ __forceinline__ void operator()(int64_t row, int col, float2 sum) const {
    out.store(row, col, {relu2(sum.x), relu2(sum.y)});
  }
};

// out = softplus(sum + bias)
template <typename T>
struct SoftplusEpilogue {
  static constexpr bool kPaired = false;
  PairRows<T> out;
  const float* bias;

  // log(1 + e^x) to a relative error below 1e-6, as max(x, 0) + log(1 + t) with t = e^-|x|. Equals
  // x above 20, where the published model switches over: t is then too small to count.
  //
  // log(1 + t) = 2·atanh(s) = 2s·(1 + s²·g(s²)) with s = t / (2 + t) ≤ 1/3; g is the polynomial of
  // the CPU backend.
  static __device__ __forceinline__ float softplus(float x) {
    const float t = expf(-fabsf(x));
    const float s = t * reciprocal_approx(2.0f + t);
    const float s2 = s * s;
    float g = 0.140122324f;
    g = fmaf(g, s2, 0.139995694f);
    g = fmaf(g, s2, 0.200108498f);
    g = fmaf(g, s2, 0.333332062f);
    const float log1p_t = fmaf(s + s, s2 * g, s + s);
    return (x > 0.0f ? x : 0.0f) + log1p_t;
  }
  __device__ __forceinline__ void operator()(int64_t row, int col, float2 sum) const {
    sum = plus_bias(bias, out.cols, col, sum);
    out.store(row, col, {softplus(sum.x), softplus(sum.y)});
  }
};

// Hands over the columns 2t and 2t+1 of a unit's two groups: a unit is 16 rows of a packed matrix,
// 8 of each block where there are two.
template <typename Epilogue>
__device__ __forceinline__ void finish_unit(const Epilogue& epilogue, int64_t row, int unit, int t,
                                            float2 first, float2 second) {
  if constexpr (Epilogue::kPaired) {
    epilogue(row, unit * 8 + 2 * t, first, second);
  } else {
    epilogue(row, unit * 16 + 2 * t, first);
    epilogue(row, unit * 16 + 8 + 2 * t, second);
  }
}

}  // namespace hymba::cuda
