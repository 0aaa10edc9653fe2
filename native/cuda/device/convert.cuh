// Activations in registers: fp32 whatever the storage.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "cuda/device/ptx.cuh"

namespace hymba::cuda {

__device__ __forceinline__ float as_float(float value) { return value; }
__device__ __forceinline__ float as_float(BFloat16 value) {
  return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}
// The two halves of a register.
__device__ __forceinline__ float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_bf16(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

// Rounded to nearest even.
template <typename Act>
__device__ __forceinline__ Act as_act(float value);
template <>
__device__ __forceinline__ float as_act<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ BFloat16 as_act<BFloat16>(float value) {
  return {static_cast<uint16_t>(pack_bf16x2(value, 0.0f))};
}

// `value` as it reads back after it was stored as an Act.
template <typename Act>
__device__ __forceinline__ float rounded(float value) {
  return as_float(as_act<Act>(value));
}

}  // namespace hymba::cuda
