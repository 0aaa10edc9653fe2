// The instructions of sm_90a that CUDA C++ has no names for: one function each. Only files whose
// name ends in `_sm90` may include this, as they are compiled for that part alone.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/device/ptx.cuh"

namespace hymba::cuda {

// --- Barriers in shared memory that count arrivals and bytes ------------------------------------

using Barrier = uint64_t;

__device__ __forceinline__ void init_barrier(Barrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}

// After the barriers were initialised, by the same thread: makes that visible to copies.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void arrive_at(Barrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

// Arrives, and makes the phase wait for so many bytes of copies.
__device__ __forceinline__ void arrive_expecting(Barrier* barrier, int bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

// Waits for the end of the phase of this parity. A thread must not be a whole phase ahead: a
// barrier cannot tell the phase after the next from the one before.
__device__ __forceinline__ void wait_for_phase(Barrier* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// Whether that phase has ended.
__device__ __forceinline__ bool has_ended(Barrier* barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n"
      "}"
      : "=r"(done)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return done != 0;
}

// Lets kThreads threads of the block, whole warps, wait for each other, by one of 15 barriers. All
// threads of a block come to it from one place, or compute-sanitizer objects: else see Meeting.
template <int kBarrier, int kThreads>
__device__ __forceinline__ void sync_threads() {
  static_assert(1 <= kBarrier && kBarrier <= 15, "0 is that of __syncthreads");
  asm volatile("bar.sync %0, %1;" ::"n"(kBarrier), "n"(kThreads) : "memory");
}

// --- Bulk copies to shared memory ----------------------------------------------------------------

// Both addresses and the size in multiples of 16 bytes; the barrier's phase gets the bytes.
__device__ __forceinline__ void copy_bulk(void* shared, const void* global, int bytes,
                                          Barrier* barrier, L2Policy policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1], %2, [%3], %4;" ::"r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier)), "l"(static_cast<uint64_t>(policy))
      : "memory");
}

__device__ __forceinline__ void copy_bulk(void* shared, const void* global, int bytes,
                                          Barrier* barrier) {
  copy_bulk(shared, global, bytes, barrier, evict_normal_policy());
}

// The box of a tensor map that starts at (col, row); what lies outside the tensor becomes zero.
__device__ __forceinline__ void copy_box(void* shared, const CUtensorMap* map, int col, int row,
                                         Barrier* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, "
      "{%2, %3}], [%4];" ::"r"(shared_address(shared)),
      "l"(map), "r"(col), "r"(row), "r"(shared_address(barrier))
      : "memory");
}

__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// By a thread that wrote to shared memory what bulk copies are to read, before the barrier after
// which another thread asks for them.
__device__ __forceinline__ void fence_before_copies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// --- Clusters ------------------------------------------------------------------------------------

// All threads of all blocks of the cluster, but for those that have ended. Arriving publishes
// nothing that a thread wrote, which would be to wait for all of its memory, but initialised
// barriers after their fence. It does not always return before all warps of the block have arrived
// or ended, so none of them may wait meanwhile for one that has arrived.
__device__ __forceinline__ void arrive_at_cluster() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ __forceinline__ void wait_for_cluster() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// From this block's shared memory to address `to` in that of block `rank`, whose barrier at address
// `barrier` gets the bytes. Addresses and the size in multiples of 16 bytes. What is read must not
// change, nor may this block end, before the bytes have arrived.
__device__ __forceinline__ void copy_bulk_to_cluster(void* to, const void* from, int bytes,
                                                     Barrier* barrier, int rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there, signal;\n"
      "mapa.shared::cluster.u32 there, %0, %4;\n"
      "mapa.shared::cluster.u32 signal, %3, %4;\n"
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [there], [%1], %2, "
      "[signal];\n"
      "}" ::"r"(shared_address(to)),
      "r"(shared_address(from)), "r"(bytes), "r"(shared_address(barrier)), "r"(rank)
      : "memory");
}

// --- Registers -----------------------------------------------------------------------------------

// By all threads of a warpgroup, once: what one gives away others may take, up to what the block
// was launched with. Multiples of 8. Taking waits until there are so many.
template <int kRegisters>
__device__ __forceinline__ void keep_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// The value, of which the compiler knows nothing: what follows from it is not computed earlier.
__device__ __forceinline__ int opaque(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

// --- Tensor cores, a warpgroup at a time ---------------------------------------------------------

// Describes an operand in shared memory, K-major, in the 128-byte swizzle: atoms of 8 rows by 64
// bf16 elements, 1 KB each and aligned to it, `stride_bytes` apart. An operand kOperandUnit bytes
// further is one more.
inline constexpr int kOperandUnit = 16;
__device__ __forceinline__ uint64_t describe_operand(const void* shared, int stride_bytes) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  return kSwizzle128 | static_cast<uint64_t>(stride_bytes >> 4) << 32 |
         static_cast<uint64_t>((shared_address(shared) & 0x3ffff) >> 4);
}

// The same of an operand that lies transposed: rows of 64 columns of b's transpose, 128 bytes each,
// atoms of 8 such rows 1 KB apart; after 64 columns the next panel, `panel_bytes` further.
__device__ __forceinline__ uint64_t describe_transposed(const void* shared, int panel_bytes) {
  return describe_operand(shared, 1024) | static_cast<uint64_t>(panel_bytes >> 4) << 16;
}

// Before the first wgmma, and whenever other instructions touched the accumulators.
__device__ __forceinline__ void fence_accumulators() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// After products were waited for: before this, nothing that uses these accumulators is computed.
// The compiler takes them for ready where the product was asked for.
template <int kCount>
__device__ __forceinline__ void settle(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// d += a · bᵀ for 64 rows of a and kCols rows of b, 16 elements of each. Thread (warp w of the
// warpgroup, g = lane / 4, t = lane % 4) holds, for every 8 columns j, D[16w + g][8j + 2t, +1] in
// d[4j, +1] and D[16w + g + 8][8j + 2t, +1] in d[4j + 2, +3].
template <int kCols>
__device__ void multiply_async(float (&d)[kCols / 2], uint64_t a, uint64_t b);

#define HYMBA_TEN(t) \
  "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9,"
#define HYMBA_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define HYMBA_D8(i) HYMBA_D4(i), HYMBA_D4(i + 4)
#define HYMBA_D16(i) HYMBA_D8(i), HYMBA_D8(i + 8)
#define HYMBA_D32(i) HYMBA_D16(i), HYMBA_D16(i + 16)
// `sums` and the arguments at the end name the accumulators; a and b are the operands after them.
#define HYMBA_WGMMA(cols, sums, a_operand, b_operand, ...)                              \
  template <>                                                                           \
  __device__ __forceinline__ void multiply_async<cols>(float(&d)[cols / 2], uint64_t a, \
                                                       uint64_t b) {                    \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #cols "k16.f32.bf16.bf16 {" sums   \
                 "}, %" #a_operand ", %" #b_operand ", 1, 1, 1, 0, 0;"                  \
                 : __VA_ARGS__                                                          \
                 : "l"(a), "l"(b));                                                     \
  }
HYMBA_WGMMA(96,
            HYMBA_TEN() HYMBA_TEN(1) HYMBA_TEN(2) HYMBA_TEN(3) "%40,%41,%42,%43,%44,%45,%46,%47",
            48, 49, HYMBA_D32(0), HYMBA_D16(32))
HYMBA_WGMMA(104, HYMBA_TEN() HYMBA_TEN(1) HYMBA_TEN(2) HYMBA_TEN(3) HYMBA_TEN(4) "%50,%51", 52, 53,
            HYMBA_D32(0), HYMBA_D16(32), HYMBA_D4(48))
HYMBA_WGMMA(256,
            HYMBA_TEN() HYMBA_TEN(1) HYMBA_TEN(2) HYMBA_TEN(3) HYMBA_TEN(4) HYMBA_TEN(5)
                HYMBA_TEN(6) HYMBA_TEN(7) HYMBA_TEN(8) HYMBA_TEN(9) HYMBA_TEN(10)
                    HYMBA_TEN(11) "%120,%121,%122,%123,%124,%125,%126,%127",
            128, 129, HYMBA_D32(0), HYMBA_D32(32), HYMBA_D32(64), HYMBA_D32(96))
#undef HYMBA_WGMMA

// The same with a in registers, as mma_16x8x16 has it of a warp's 16 rows; they must not change
// before the product is waited for. kAdds: without it, what was in d is forgotten.
// kTransposed: b is described by `describe_transposed`.
template <int kCols, bool kAdds, bool kTransposed>
__device__ __forceinline__ void multiply_held_async(float (&d)[kCols / 2], const uint32_t (&a)[4],
                                                    uint64_t b) {
  static_assert(kCols == 64 || kCols == 128);
  if constexpr (kCols == 64)
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" HYMBA_TEN() HYMBA_TEN(1)
                     HYMBA_TEN(2) "%30,%31}, {%32,%33,%34,%35}, %36, %37, 1, 1, %38;"
                 : HYMBA_D32(0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kAdds),
                   "n"(kTransposed));
  else
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" HYMBA_TEN() HYMBA_TEN(1)
                     HYMBA_TEN(2) HYMBA_TEN(3) HYMBA_TEN(4)
                         HYMBA_TEN(5) "%60,%61,%62,%63}, {%64,%65,%66,%67}, %68, %69, 1, 1, %70;"
                 : HYMBA_D32(0), HYMBA_D32(32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kAdds),
                   "n"(kTransposed));
}
#undef HYMBA_D32
#undef HYMBA_D16
#undef HYMBA_D8
#undef HYMBA_D4
#undef HYMBA_TEN

}  // namespace hymba::cuda
