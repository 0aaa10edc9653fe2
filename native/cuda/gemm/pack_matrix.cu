// Computes  packed[packed_offset(r, c)] = bf16(rows[r, c]): rows of a matrix in the packed order.
// Shapes    rows [num_rows, K] dense, fp32, bf16 or fp16; packed as cuda/packed_matrix.h says.
// Mapping   A thread takes 8 columns of a row: 16 bytes of the packed matrix. Neighbouring threads
//           take neighbouring columns, so rows in host memory cross the bus in whole requests.
// Numerics  Rounded to nearest even.
// Limits    Padding rows and columns are left alone, but for the columns beyond the last in its own
//           8, which become zeroes.
// Cost      Reads rows once, writes as many bytes in bf16; bound by the bus or by memory.

#include "cuda/gemm/pack_matrix.h"

#include "cuda/device/convert.cuh"
#include "cuda/device/ptx.cuh"
#include "cuda/packed_matrix.h"

namespace hymba::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChunk = 8;

// As to_float of core/dtype.h: exact for every half.
__device__ __forceinline__ float as_float(Float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
  if (magnitude >= 0x0f800000u)  // infinity or NaN
    return __uint_as_float(sign | 0x7f800000u | (magnitude & 0x007fffffu));
  return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude) * 0x1p112f));
}

// A pair of elements as a register of the packed matrix.
__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
  return pack_bf16x2(low, high);
}
__device__ __forceinline__ uint32_t pack_pair(Float16 low, Float16 high) {
  return pack_bf16x2(as_float(low), as_float(high));
}
// Unchanged, NaNs included.
__device__ __forceinline__ uint32_t pack_pair(BFloat16 low, BFloat16 high) {
  return low.bits | static_cast<uint32_t>(high.bits) << 16;
}

// 8 elements at any address of T.
template <typename T>
struct Chunk {
  T x[kChunk] = {};

  __device__ __forceinline__ void load_aligned(const T* from) {
    constexpr int kVectors = sizeof(x) / (sizeof(uint4));
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const uint4 v = reinterpret_cast<const uint4*>(from)[i];
      reinterpret_cast<uint4*>(x)[i] = v;
    }
  }
  __device__ __forceinline__ void load(const T* from, int count) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i)
      if (i < count) x[i] = from[i];
  }
};

// Where rows of a block go.
struct Destination {
  BFloat16* packed;
  int64_t padded_rows;
  int64_t first_row;
  int block;
  int num_blocks;
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    pack_rows_kernel(const T* rows, int64_t num_rows, int64_t cols, bool aligned, Destination to) {
  allow_successor();
  wait_for_predecessor();
  const int64_t chunks = (cols + kChunk - 1) / kChunk;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= num_rows * chunks) return;
  const int64_t row = i / chunks;
  const int64_t col = i % chunks * kChunk;

  Chunk<T> chunk;
  const T* from = rows + row * cols + col;
  if (aligned && cols - col >= kChunk)
    chunk.load_aligned(from);
  else
    chunk.load(from, static_cast<int>(cols - col < kChunk ? cols - col : kChunk));

  const int64_t packed = packed_row(to.first_row + row, to.block, to.num_blocks);
  *reinterpret_cast<uint4*>(to.packed + packed_offset(packed, col, to.padded_rows)) = {
      pack_pair(chunk.x[0], chunk.x[1]), pack_pair(chunk.x[2], chunk.x[3]),
      pack_pair(chunk.x[4], chunk.x[5]), pack_pair(chunk.x[6], chunk.x[7])};
}

template <typename T>
void pack_rows_as(const PackRowsArgs& args, const LaunchContext& context) {
  const Matrix& matrix = *args.matrix;
  const int64_t chunks = ceil_div(matrix.cols, kChunk);
  const Destination to{
      .packed = args.packed,
      .padded_rows = packed_elements(matrix.rows, kBlockCols, matrix.num_blocks) / kBlockCols,
      .first_row = args.first_row,
      .block = args.block,
      .num_blocks = matrix.num_blocks};
  const bool aligned = reinterpret_cast<uintptr_t>(args.rows) % sizeof(uint4) == 0 &&
                       matrix.cols * sizeof(T) % sizeof(uint4) == 0;
  launch("pack_rows", context, pack_rows_kernel<T>,
         dim3(static_cast<unsigned>(ceil_div(args.num_rows * chunks, kThreads))), dim3(kThreads), 0,
         static_cast<const T*>(args.rows), args.num_rows, matrix.cols, aligned, to);
}

}  // namespace

void pack_rows(const PackRowsArgs& args, const LaunchContext& context) {
  if (args.num_rows == 0) return;
  switch (args.dtype) {
    case DType::kF32:
      return pack_rows_as<float>(args, context);
    case DType::kBF16:
      return pack_rows_as<BFloat16>(args, context);
    case DType::kF16:
      return pack_rows_as<Float16>(args, context);
    default:
      fail(ErrorCode::kInvalidArgument, "pack_rows: a matrix of ", dtype_name(args.dtype));
  }
}

}  // namespace hymba::cuda
