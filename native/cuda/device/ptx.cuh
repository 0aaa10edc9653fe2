// The instructions that CUDA C++ has no names for: one function each, nothing else. Kernels use
// these and no inline assembly of their own, so that the whole set can be read, and emulated, in
// one place.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace hymba::cuda {

// --- Programmatic dependent launch (sm_90) ----------------------------------------------------

// Until this returns, grids before this one in the stream may still run, and nothing that they
// write may be read, nothing that they read written. Constant weights may be read before. Every
// thread that touches such memory calls it.
__device__ __forceinline__ void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next grid start as soon as all blocks have said so or ended, and there is room. Harmless
// for the results; it is called early.
__device__ __forceinline__ void allow_successor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// --- Asynchronous copies from global to shared memory (sm_80) ---------------------------------

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Which of its lines the L2 gives up first: those that were read or written once and are not needed
// soon, or the oldest.
enum class L2Policy : uint64_t {};
__device__ __forceinline__ L2Policy evict_first_policy() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return L2Policy{policy};
}
__device__ __forceinline__ L2Policy evict_normal_policy() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
  return L2Policy{policy};
}

// shared[0, 16) ← global[0, valid_bytes), zeroes after that. Both 16-byte aligned; valid_bytes 0 to
// 16, with 0 nothing is read. Past the L1.
__device__ __forceinline__ void copy_16_async(void* shared, const void* global,
                                              int valid_bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(valid_bytes)
               : "memory");
}

// The same for what is not needed again soon, which the L2 then gives up first.
__device__ __forceinline__ void copy_16_async_once(void* shared, const void* global,
                                                   int valid_bytes = 16) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(valid_bytes), "l"(static_cast<uint64_t>(evict_first_policy()))
               : "memory");
}

// Closes the group of this thread's copies since the last one.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most `kPending` of this thread's groups, the newest, are under way.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// --- Barriers of a block (sm_80) --------------------------------------------------------------

// Lets all threads of a block wait for each other, wherever in the program each of them has got to:
// __syncthreads is for one place that all come to. In shared memory.
class Meeting {
 public:
  // By one thread, before the block's first __syncthreads.
  __device__ __forceinline__ void init(int threads) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(&barrier_)), "r"(threads)
                 : "memory");
  }

  __device__ __forceinline__ void meet() {
    uint64_t state;
    asm volatile("mbarrier.arrive.shared.b64 %0, [%1];"
                 : "=l"(state)
                 : "r"(shared_address(&barrier_))
                 : "memory");
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
#if __CUDA_ARCH__ >= 900
        "again: mbarrier.try_wait.shared.b64 done, [%0], %1;\n"
#else
        "again: mbarrier.test_wait.shared.b64 done, [%0], %1;\n"
#endif
        "@!done bra again;\n"
        "}" ::"r"(shared_address(&barrier_)),
        "l"(state)
        : "memory");
  }

 private:
  uint64_t barrier_;
};

// --- Tensor cores (sm_80) ---------------------------------------------------------------------

// d += a · b for a 16x16 (row-major), b 16x8 (column-major), d 16x8 tile, bf16 in, fp32 out. With
// g = lane / 4, t = lane % 4, lower index in the lower half of a register:
//   a[0] = A[g][2t, 2t+1], a[1] = A[g+8][2t, 2t+1], a[2] = A[g][2t+8, 2t+9], a[3] = A[g+8][2t+8,
//   2t+9] b[0] = B[2t, 2t+1][g], b[1] = B[2t+8, 2t+9][g] d[0] = D[g][2t], d[1] = D[g][2t+1], d[2] =
//   D[g+8][2t], d[3] = D[g+8][2t+1]
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8x8 matrices of 16-bit elements: lane 8i + r gives the address of row r of matrix i (16
// bytes, aligned); r[i] of a lane is then M_i[lane / 4][2(lane % 4), +1].
__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

// The same, each matrix transposed: r[i] of a lane is M_i[2(lane % 4), +1][lane / 4].
__device__ __forceinline__ void load_matrix_x4_transposed(uint32_t (&r)[4],
                                                          const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
}

// --- Conversions and special functions --------------------------------------------------------

// Two fp32 to bf16, rounded to nearest even: `low` in the lower half.
__device__ __forceinline__ uint32_t pack_bf16x2(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// 2^x to about 2 ulp; subnormal results are zero, -∞ gives 0.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1/x to about 1 ulp.
__device__ __forceinline__ float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// --- Memory order and cache hints -------------------------------------------------------------

// 16 bytes that are read once: weights and K/V that need not stay in the L1. Not a `.nc` load,
// which ptxas moves to either side of `griddepcontrol.wait`: weights are asked for before it, and
// K/V must not be.
__device__ __forceinline__ uint4 load_16_streaming(const void* global) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global));
  return v;
}

// 16 bytes that are not needed again soon: the L2 gives them up first.
__device__ __forceinline__ void store_16_once(float* global, float4 v) {
  asm volatile("st.global.L2::cache_hint.v4.f32 [%0], {%1,%2,%3,%4}, %5;" ::"l"(global), "f"(v.x),
               "f"(v.y), "f"(v.z), "f"(v.w), "l"(static_cast<uint64_t>(evict_first_policy()))
               : "memory");
}

// Brings the 128 bytes around an address to the L2 in the background.
__device__ __forceinline__ void prefetch_to_l2(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

// Counts an arrival at `counter`, which turns from `last` to 0: returns the count before it. What
// this thread wrote before is seen by whoever counts after it, and what those before it wrote is
// seen by this thread afterwards.
__device__ __forceinline__ uint32_t arrive(uint32_t* counter, uint32_t last) {
  __threadfence();
  const uint32_t before = atomicInc(counter, last);
  __threadfence();
  return before;
}
// The same for a thread that does not go on with what others wrote.
__device__ __forceinline__ void count_arrival(uint32_t* counter, uint32_t last) {
  __threadfence();
  atomicInc(counter, last);
}

// Until `counter` is at least `count`, which blocks of this grid bring about that are sure to run:
// those that started earlier. What they wrote before they counted (`arrive`) is there to be read.
__device__ __forceinline__ void wait_for_count(const uint32_t* counter, uint32_t count) {
  uint32_t seen;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
  } while (seen < count);
}

}  // namespace hymba::cuda
