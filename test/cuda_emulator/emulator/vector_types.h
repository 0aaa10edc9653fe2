// CUDA's vector types, aligned as on the device.
#pragma once

#include <cstdint>

#define HYMBA_EMULATOR_VECTORS(T, name, two, four)                      \
  struct name##1 { T x; };                                              \
  struct alignas(two) name##2 { T x, y; };                              \
  struct name##3 { T x, y, z; };                                        \
  struct alignas(four) name##4 { T x, y, z, w; };                       \
  constexpr name##1 make_##name##1(T x) { return {x}; }                 \
  constexpr name##2 make_##name##2(T x, T y) { return {x, y}; }         \
  constexpr name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } \
  constexpr name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

HYMBA_EMULATOR_VECTORS(signed char, char, 2, 4)
HYMBA_EMULATOR_VECTORS(unsigned char, uchar, 2, 4)
HYMBA_EMULATOR_VECTORS(short, short, 4, 8)
HYMBA_EMULATOR_VECTORS(unsigned short, ushort, 4, 8)
HYMBA_EMULATOR_VECTORS(int, int, 8, 16)
HYMBA_EMULATOR_VECTORS(unsigned, uint, 8, 16)
HYMBA_EMULATOR_VECTORS(long long, longlong, 16, 16)
HYMBA_EMULATOR_VECTORS(unsigned long long, ulonglong, 16, 16)
HYMBA_EMULATOR_VECTORS(float, float, 8, 16)
HYMBA_EMULATOR_VECTORS(double, double, 16, 16)
#undef HYMBA_EMULATOR_VECTORS

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};
