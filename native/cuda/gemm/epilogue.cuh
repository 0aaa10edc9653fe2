// What becomes of a product's sums: one functor a stage, the same for every kernel.
//
// A kernel hands over the sums of two neighbouring columns of a row, of which the first is even,
// and stores their `value` where it belongs. Columns beyond the last one may be among them, rows
// may not. `kPaired` functors get the sums of both blocks of a matrix (gate and up). With `kAdds`,
// `addend` says what is to be added to a sum first: a kernel asks for several at once, so that it
// waits for memory only once.
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

__device__ __forceinline__ float2 load_pair(const float* from) {
  return *reinterpret_cast<const float2*>(from);
}
__device__ __forceinline__ float2 load_pair(const BFloat16* from) {
  const uint32_t pair = *reinterpret_cast<const uint32_t*>(from);
  return {low_bf16(pair), high_bf16(pair)};
}

// Rows of T that are accessed two columns at a time.
template <typename T>
struct PairRows {
  T* data;
  int64_t stride;
  int cols;
  bool aligned;  // whether two columns can be accessed as one
  bool chunked;  // whether 16 bytes can be

  explicit PairRows(const TensorView& view)
      : data(view.data<T>()),
        stride(view.row_stride()),
        cols(static_cast<int>(view.dim(1))),
        aligned(starts_on(view, 2)),
        chunked(starts_on(view, 16 / sizeof(T))) {}

  __device__ __forceinline__ void store(int64_t row, int col, float2 x) const {
    T* to = data + row * stride + col;
    if (aligned && col + 1 < cols) {
      store_pair(to, x);
    } else {
      if (col < cols) to[0] = as_act<T>(x.x);
      if (col + 1 < cols) to[1] = as_act<T>(x.y);
    }
  }

  __device__ __forceinline__ float2 load(int64_t row, int col) const {
    const T* from = data + row * stride + col;
    if (aligned && col + 1 < cols) return load_pair(from);
    return {col < cols ? as_float(from[0]) : 0.0f, col + 1 < cols ? as_float(from[1]) : 0.0f};
  }

 private:
  // Whether all rows start on multiples of so many elements.
  static bool starts_on(const TensorView& view, int elements) {
    return reinterpret_cast<uintptr_t>(view.raw()) % (elements * sizeof(T)) == 0 &&
           view.row_stride() % elements == 0;
  }
};

__device__ __forceinline__ float2 load_bias(const float* bias, int cols, int col) {
  return {col < cols ? bias[col] : 0.0f, col + 1 < cols ? bias[col + 1] : 0.0f};
}

__device__ __forceinline__ float2 operator+(float2 a, float2 b) { return {a.x + b.x, a.y + b.y}; }

// out = sum (+ bias) (+ out)
template <typename T>
struct StoreEpilogue {
  static constexpr bool kPaired = false;
  static constexpr bool kAdds = true;
  PairRows<T> out;
  const float* bias;  // or null
  bool accumulate;

  __device__ __forceinline__ float2 addend(int64_t row, int col) const {
    // Without both there is no sum here, which would wait for what is loaded.
    if (bias == nullptr) return accumulate ? out.load(row, col) : float2{};
    const float2 some = load_bias(bias, out.cols, col);
    return accumulate ? some + out.load(row, col) : some;
  }
  static __device__ __forceinline__ float2 value(float2 sum) { return sum; }
};

// out = silu(gate) · up, silu(x) = x / (1 + e^-x). Where e^-x is infinite, its reciprocal is 0.
template <typename T>
struct GatedSiluEpilogue {
  static constexpr bool kPaired = true;
  static constexpr bool kAdds = false;
  PairRows<T> out;

  static __device__ __forceinline__ float silu(float x) {
    return x * reciprocal_approx(1.0f + expf(-x));
  }
  static __device__ __forceinline__ float2 value(float2 gate, float2 up) {
    return {silu(gate.x) * up.x, silu(gate.y) * up.y};
  }
};

// out = relu(sum)²
template <typename T>
struct Relu2Epilogue {
  static constexpr bool kPaired = false;
  static constexpr bool kAdds = false;
  PairRows<T> out;

  // A comparison, not fmaxf: a NaN counts as not positive, as in the CPU backend.
  static __device__ __forceinline__ float relu2(float x) { return x > 0.0f ? x * x : 0.0f; }
  static __device__ __forceinline__ float2 value(float2 sum) {
    return {relu2(sum.x), relu2(sum.y)};
  }
};

// out = softplus(sum + bias)
template <typename T>
struct SoftplusEpilogue {
  static constexpr bool kPaired = false;
  static constexpr bool kAdds = true;
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
  __device__ __forceinline__ float2 addend(int64_t, int col) const {
    return load_bias(bias, out.cols, col);
  }
  static __device__ __forceinline__ float2 value(float2 sum) {
    return {softplus(sum.x), softplus(sum.y)};
  }
};

// The columns 2t and 2t + 1 of both groups of a unit, which is 16 rows of a packed matrix: 8 of
// each block where there are two.
template <typename Epilogue>
struct UnitColumns {
  int first;
  int second;

  __device__ __forceinline__ UnitColumns(int unit, int t)
      : first(unit * (Epilogue::kPaired ? 8 : 16) + 2 * t), second(first + 8) {}

  // What is to be added to the sums of both groups.
  struct Addends {
    float2 first;
    float2 second;
  };
  __device__ __forceinline__ Addends addends(const Epilogue& epilogue, int64_t row) const {
    static_assert(!(Epilogue::kPaired && Epilogue::kAdds));
    if constexpr (Epilogue::kAdds)
      return {epilogue.addend(row, first), epilogue.addend(row, second)};
    return {};
  }

  __device__ __forceinline__ void finish(const Epilogue& epilogue, int64_t row, float2 first_sum,
                                         float2 second_sum, const Addends& addends) const {
    if constexpr (Epilogue::kPaired) {
      epilogue.out.store(row, first, epilogue.value(first_sum, second_sum));
    } else if constexpr (Epilogue::kAdds) {
      epilogue.out.store(row, first, epilogue.value(first_sum + addends.first));
      epilogue.out.store(row, second, epilogue.value(second_sum + addends.second));
    } else {
      epilogue.out.store(row, first, epilogue.value(first_sum));
      epilogue.out.store(row, second, epilogue.value(second_sum));
    }
  }
};

}  // namespace hymba::cuda
