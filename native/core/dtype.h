// Element types, and the conversions between fp32 and the two 16-bit formats.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace hymba {

enum class DType : uint8_t { kF32, kBF16, kF16, kI32, kU16 };

constexpr size_t dtype_bytes(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kI32 ? 4 : 2;
}

constexpr const char* dtype_name(DType dtype) {
  constexpr const char* kNames[] = {"F32", "BF16", "F16", "I32", "U16"};
  return kNames[static_cast<size_t>(dtype)];
}

// bfloat16: the upper half of an fp32.
struct BFloat16 {
  uint16_t bits;
};

// IEEE half, as read from checkpoints; we never store activations in it.
struct Float16 {
  uint16_t bits;
};

inline float to_float(float value) { return value; }

inline float to_float(BFloat16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

// Exact for every half. Shifting the exponent and mantissa into an fp32 leaves the exponent too
// small by the difference of the biases (127 - 15 = 112); multiplying by 2^112 mends it for normals
// and subnormals alike.
inline float to_float(Float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
  if (magnitude >= 0x0f800000u)  // infinity or NaN
    return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x007fffffu));
  return std::bit_cast<float>(sign |
                              std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f));
}

template <typename T>
T from_float(float value);

template <>
inline float from_float<float>(float value) {
  return value;
}

// Round to nearest even; a NaN stays a NaN.
template <>
inline BFloat16 from_float<BFloat16>(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return {static_cast<uint16_t>((is_nan ? bits | 0x00400000u : rounded) >> 16)};
}

}  // namespace hymba
