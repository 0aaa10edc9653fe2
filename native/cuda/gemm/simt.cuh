// Computes  out = epilogue(in · weightᵀ) in fp32 throughout: for models that run in float32, where
//           what counts is that the numbers are right.
// Shapes    in [T, K] fp32, weight row-major [N, K] in one or two blocks, fp32 or bf16; any sizes
//           and strides.
// Mapping   A block of 128 threads computes 32 rows by 64 columns, a thread 4 rows by 2 pairs of
//           neighbouring columns, of both blocks of the matrix where there are two.
// Shared    [16][32] activations and [blocks][16][64] weights of 16 columns, transposed, and padded
//           against bank conflicts.
// Numerics  Fused multiply-adds in fp32 over the columns in order, whatever T.
// Cost      2·T·N·K flops at the rate of the fp32 units, less what waits for memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/device/convert.cuh"
#include "cuda/device/ptx.cuh"
#include "cuda/gemm/epilogue.cuh"
#include "cuda/runtime/launch.h"
#include "ops/ops.h"

namespace hymba::cuda {

inline constexpr int kSimtRows = 32;
inline constexpr int kSimtCols = 64;
inline constexpr int kSimtDepth = 16;
inline constexpr int kSimtThreads = 128;

template <typename Weight>
struct RowMajorOperands {
  const float* in;
  int64_t in_stride;
  const Weight* weight[Matrix::kMaxBlocks];
  int rows;
  int cols;
  int weight_rows;  // of a block

  RowMajorOperands(const TensorView& activations, const Matrix& matrix)
      : in(activations.data<float>()),
        in_stride(activations.row_stride()),
        weight{static_cast<const Weight*>(matrix.blocks[0]),
               static_cast<const Weight*>(matrix.blocks[1])},
        rows(static_cast<int>(activations.rows())),
        cols(static_cast<int>(matrix.cols)),
        weight_rows(static_cast<int>(matrix.rows)) {}
};

template <typename Weight, typename Epilogue>
__global__ void __launch_bounds__(kSimtThreads)
    simt_gemm_kernel(RowMajorOperands<Weight> operands, Epilogue epilogue) {
  constexpr int kBlocks = Epilogue::kPaired ? 2 : 1;
  __shared__ __align__(16) float in[kSimtDepth][kSimtRows + 4];
  __shared__ __align__(16) float weight[kBlocks][kSimtDepth][kSimtCols + 2];
  allow_successor();

  const int first_row = blockIdx.x * kSimtRows;
  const int first_col = blockIdx.y * kSimtCols;
  const int x = threadIdx.x % 16;  // columns 2x, 2x + 1, 32 + 2x, 32 + 2x + 1
  const int y = threadIdx.x / 16;  // rows 4y to 4y + 3
  float2 sums[kBlocks][4][2] = {};

  wait_for_predecessor();
  for (int first = 0; first < operands.cols; first += kSimtDepth) {
    for (int i = threadIdx.x; i < kSimtRows * kSimtDepth; i += kSimtThreads) {
      const int row = first_row + i / kSimtDepth;
      const int col = first + i % kSimtDepth;
      in[i % kSimtDepth][i / kSimtDepth] = row < operands.rows && col < operands.cols
                                               ? operands.in[row * operands.in_stride + col]
                                               : 0.0f;
    }
#pragma unroll
    for (int block = 0; block < kBlocks; ++block)
      for (int i = threadIdx.x; i < kSimtCols * kSimtDepth; i += kSimtThreads) {
        const int64_t row = first_col + i / kSimtDepth;
        const int col = first + i % kSimtDepth;
        weight[block][i % kSimtDepth][i / kSimtDepth] =
            row < operands.weight_rows && col < operands.cols
                ? as_float(operands.weight[block][row * operands.cols + col])
                : 0.0f;
      }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kSimtDepth; ++k)
#pragma unroll
      for (int block = 0; block < kBlocks; ++block)
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
          const float2 w = *reinterpret_cast<const float2*>(&weight[block][k][pair * 32 + 2 * x]);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            float2& sum = sums[block][i][pair];
            sum.x = fmaf(in[k][4 * y + i], w.x, sum.x);
            sum.y = fmaf(in[k][4 * y + i], w.y, sum.y);
          }
        }
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = first_row + 4 * y + i;
    if (row >= operands.rows) continue;
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const int col = first_col + pair * 32 + 2 * x;
      if constexpr (Epilogue::kPaired)
        epilogue.out.store(row, col, epilogue.value(sums[0][i][pair], sums[1][i][pair]));
      else if constexpr (Epilogue::kAdds)
        epilogue.out.store(row, col, epilogue.value(sums[0][i][pair] + epilogue.addend(row, col)));
      else
        epilogue.out.store(row, col, epilogue.value(sums[0][i][pair]));
    }
  }
}

template <typename Weight, typename Epilogue>
void simt_gemm(const char* stage, const TensorView& in, const Matrix& matrix,
               const Epilogue& epilogue, const LaunchContext& context) {
  const RowMajorOperands<Weight> operands(in, matrix);
  launch(stage, context, simt_gemm_kernel<Weight, Epilogue>,
         dim3(ceil_div(operands.rows, kSimtRows), ceil_div(operands.weight_rows, kSimtCols)),
         dim3(kSimtThreads), 0, operands, epilogue);
}

}  // namespace hymba::cuda
