// Computes  out = epilogue(in · weightᵀ) for up to 8 rows of activations.
// Shapes    in [T, K] bf16, K a multiple of 8, rows on multiples of 16 bytes; weight packed.
// Mapping   A block takes a tile of the matrix: kGroupsPerWarp groups of 8 rows each for its eight
//           warps, over all columns. Split: a cluster of eight blocks takes one, an eighth of the
//           columns each. A ninth warp copies weights. The activations are brought by the eight
//           warps (row_inputs.cuh): behind the weights that wait for memory they would come late.
// Shared    The block's columns of all rows of activations, padded so that the rows of an ldmatrix
//           lie in different banks, and the gains of their norm; a ring of stages, each a tile's
//           weights of 64 columns; the sums of a split tile.
// Numerics  A block's columns are added in order, in fp32; what is split is then added as a tree
//           (split_sums.cuh). A row's bits do not depend on the other rows.
// Cost      N·K·2 bytes of weights, once: bound by memory. The first stages are copied while the
//           predecessor still runs.
#pragma once

#include <cuda_runtime.h>

#include "cuda/device/ptx_sm90.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/gemm/hopper/finish.cuh"
#include "cuda/gemm/hopper/operands.h"
#include "cuda/gemm/hopper/ring.cuh"
#include "cuda/gemm/hopper/row_inputs.cuh"
#include "cuda/gemm/hopper/split_sums.cuh"

namespace hymba::cuda::hopper {

template <int kGroupsPerWarp_, bool kIsSplit_>
struct FewRowsConfig {
  static constexpr int kGroupsPerWarp = kGroupsPerWarp_;
  static constexpr bool kIsSplit = kIsSplit_;
  static constexpr int kWarps = 8;
  static constexpr int kReaders = kWarps * kWarp;
  static constexpr int kThreads = kReaders + kWarp;
  static constexpr int kParts = kIsSplit ? kSplit : 1;  // blocks that share the columns
  using Sums = SplitSums<kMaxFewRows, kThreads>;

  HYMBA_HD static constexpr int row_bytes(int blocks) {
    return static_cast<int>(ceil_div(blocks, kParts)) * kBlockCols * 2 + 16;
  }
  // Of the rows of activations.
  HYMBA_HD static constexpr int rows_bytes(int rows, int blocks) {
    return static_cast<int>(ceil_div(rows * row_bytes(blocks), 128) * 128);
  }
  // Of what they are multiplied by first (row_inputs.cuh).
  HYMBA_HD static constexpr int gain_bytes(int gains, int blocks) {
    return gains * static_cast<int>(ceil_div(blocks, kParts)) * kBlockCols * int{sizeof(float)};
  }
  HYMBA_HD static constexpr int fixed_bytes(int rows, int gains, int blocks) {
    return rows_bytes(rows, blocks) + gain_bytes(gains, blocks) + (kIsSplit ? Sums::kBytes : 0);
  }
};

template <typename Config, typename Input, typename Epilogue>
__global__ void __launch_bounds__(Config::kThreads, 2)
    few_rows_gemm_kernel(Operands operands, int stage_bytes, Input input, Epilogue epilogue) {
  constexpr int kSumGroups = Config::kGroupsPerWarp;

  const int rank = blockIdx.x % Config::kParts;
  const int worker = blockIdx.x / Config::kParts;
  const int num_workers = gridDim.x / Config::kParts;
  const int begin = first_block(rank, Config::kParts, operands.blocks);
  const int steps = first_block(rank + 1, Config::kParts, operands.blocks) - begin;
  const int stages = operands.stages;

  __shared__ RingBarriers barriers;
  __shared__ Barrier sums_arrived;
  __shared__ Barrier rows_arrived;
  // The ring first: its tiles must lie on multiples of 1 KB.
  char* const ring = dynamic_shared<char>();
  char* const rows = ring + stages * stage_bytes;
  const int row_bytes = Config::row_bytes(operands.blocks);
  auto* const gains =
      reinterpret_cast<float*>(rows + Config::rows_bytes(operands.rows, operands.blocks));
  [[maybe_unused]] typename Config::Sums sums(
      reinterpret_cast<char*>(gains) + Config::gain_bytes(Input::kSums, operands.blocks),
      &sums_arrived);

  const int warp = threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (threadIdx.x == 0) {
    if constexpr (Config::kIsSplit) init_barrier(&sums_arrived, 1);
    init_barrier(&rows_arrived, 1);
    barriers.init(stages, Config::kReaders);
  }
  // Columns beyond the last are zeroes in the weights, but 0 · NaN is not.
  const int valid_cols = min(operands.cols - begin * kBlockCols, steps * kBlockCols);
  for (int i = valid_cols * 2 + threadIdx.x * 4; i < steps * kBlockCols * 2;
       i += Config::kThreads * 4)
    for (int row = 0; row < operands.rows; ++row)
      *reinterpret_cast<uint32_t*>(rows + row * row_bytes + i) = 0;
  __syncthreads();
  // Nobody sends sums to a block that has not started.
  if constexpr (Config::kIsSplit) arrive_at_cluster();

  const bool is_copier = warp == Config::kWarps;
  RingPlace place(stages);
  CopyLimit limit(stages, stage_bytes);
  const L2Policy policy = evict_first_policy();
  bool has_allowed = false;
  const auto copy_weights = [&](const TileGroups& groups, bool is_last) {
    for (int step = 0; step < steps; ++step) {
      // Not before the rows are there: they would wait behind what the successor reads ahead.
      if (is_last && !has_allowed && step >= steps - limit.copies() &&
          has_ended(&rows_arrived, 0)) {
        allow_successor();
        has_allowed = true;
      }
      if (place.reused()) wait_for_phase(&barriers.empty[place.stage()], place.parity() ^ 1);
      limit.wait(barriers.full);
      Barrier* const full = &barriers.full[place.stage()];
      arrive_expecting(full, groups.bytes());
      copy_bulk(ring + place.stage() * stage_bytes, groups.weights(operands, begin + step),
                groups.bytes(), full, policy);
      place.advance();
    }
    if (is_last && !has_allowed) {
      wait_for_phase(&rows_arrived, 0);
      allow_successor();
    }
  };

  const int own_group = warp * kSumGroups;
  // ldmatrix: lane 8i + r gives the address of row r of matrix i: two steps of 16 columns. Rows
  // beyond the last are the last one again; nobody stores what comes of them.
  const int matrix_row = lane % 8;
  const int matrix = lane / 8;
  const char* const row_at = rows + min(matrix_row, operands.rows - 1) * row_bytes + matrix * 16;
  // Every lane says that it has read a stage, once it comes to the next one: what one lane says for
  // its warp compute-sanitizer does not believe of the others.
  int last_read = -1;
  const auto release_last = [&] {
    if (last_read >= 0) arrive_at(&barriers.empty[last_read]);
  };
  const auto multiply = [&](float(&acc)[kSumGroups][4], int own_groups) {
    for (int step = 0; step < steps; ++step) {
      const char* const weights = ring + place.stage() * stage_bytes;
      uint32_t a[4][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t r[4];
        load_matrix_x4(r, row_at + step * kBlockCols * 2 + half * 64);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          // Rows 8 to 15 are those of 0 to 7 again.
          a[2 * half + i / 2][i % 2 * 2] = r[i];
          a[2 * half + i / 2][i % 2 * 2 + 1] = r[i];
        }
      }
      wait_for_phase(&barriers.full[place.stage()], place.parity());
      release_last();
      last_read = place.stage();
#pragma unroll
      for (int i = 0; i < kSumGroups; ++i) {
        if (i >= own_groups) break;
        const char* const group = weights + (own_group + i) * kBlockElements * 2 + matrix_row * 128;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t b[4];
          load_matrix_x4(b, group + (((matrix + 4 * half) ^ matrix_row) * 16));
          mma_16x8x16(acc[i], a[2 * half], {b[0], b[1]});
          mma_16x8x16(acc[i], a[2 * half + 1], {b[2], b[3]});
        }
      }
      place.advance();
    }
  };

  if (!is_copier) {
    bring_rows<Config::kReaders>(input, operands, begin * kBlockCols, valid_cols, rows, row_bytes,
                                 gains, [] { sync_threads<kReadersBarrier, Config::kReaders>(); });
    if (threadIdx.x == 0) arrive_at(&rows_arrived);
  }
  for (int tile = worker; tile < operands.tiles; tile += num_workers) {
    const TileGroups groups(operands, tile, Epilogue::kPaired);
    const int own_groups = min(groups.count - own_group, kSumGroups);
    float acc[kSumGroups][4] = {};
    if (!is_copier)
      multiply(acc, own_groups);
    else if (lane == 0)
      copy_weights(groups, tile + num_workers >= operands.tiles);
    __syncwarp();

    if constexpr (Config::kIsSplit) {
      if (!is_copier) {
#pragma unroll
        for (int i = 0; i < kSumGroups; ++i)
          if (i < own_groups)
            sums.put(lane / 4, (own_group + i) * 4 + lane % 4, {acc[i][0], acc[i][1]});
      }
      sums.finish(rank, groups, 0, operands.rows, epilogue);
    } else if (!is_copier) {
      wait_for_predecessor();
      finish_sums<kSumGroups>(acc, groups.first + own_group, own_groups, lane / 4, operands.rows,
                              lane % 4, epilogue);
    }
  }
}

}  // namespace hymba::cuda::hopper
