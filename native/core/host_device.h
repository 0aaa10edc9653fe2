// Marks functions that the CPU code and CUDA kernels share.
#pragma once

#ifdef __CUDACC__
#define HYMBA_HD __host__ __device__
#else
#define HYMBA_HD
#endif
