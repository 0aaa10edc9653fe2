// CUDA's keywords.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
// The C++ library writes __attribute__((__noinline__)), which stays valid with nothing inside.
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __builtin_assume(condition)

// One block runs at a time, and all its threads on one thread of the CPU.
#define __shared__ static
