// Computes  out = epilogue(in · weightᵀ) by the matrix instructions of a warpgroup.
// Shapes    in [T, K] bf16, rows on multiples of 16 bytes; weight packed.
// Mapping   Tiles of 64 rows of activations a warpgroup by up to kGroups groups of 8 rows of the
//           matrix, dealt out to blocks that stay. One more warp copies: weights as they lie,
//           activations by a tensor map, which swizzles them and fills up with zeroes.
//           Split: a cluster of eight blocks takes one tile, an eighth of the columns each.
// Shared    A ring of stages of 64 columns: rows of activations and the weights of a tile; in
//           their place, the sums of a split tile.
// Numerics  As few_rows.cuh: the same bits.
// Cost      N·K·2 bytes of weights once for a tile of rows, T·K·2 bytes of activations for every
//           tile of the matrix. The first stages' weights are copied while the predecessor
//           still runs.
#pragma once

#include <cuda_runtime.h>

#include "cuda/device/ptx_sm90.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/gemm/hopper/finish.cuh"
#include "cuda/gemm/hopper/operands.h"
#include "cuda/gemm/hopper/ring.cuh"
#include "cuda/gemm/hopper/split_sums.cuh"

namespace hymba::cuda::hopper {

inline constexpr int kWarpgroupThreads = 128;
inline constexpr int kWarpgroupRows = 64;

template <int kWarpgroups_, int kGroups_, bool kIsSplit_>
struct WarpgroupConfig {
  static constexpr int kWarpgroups = kWarpgroups_;
  static constexpr int kGroups = kGroups_;
  static constexpr bool kIsSplit = kIsSplit_;
  static constexpr int kParts = kIsSplit ? kSplit : 1;  // blocks that share the columns
  static constexpr int kRows = kWarpgroupRows * kWarpgroups;
  static constexpr int kReaders = kWarpgroupThreads * kWarpgroups;
  static constexpr int kThreads = kReaders + kWarp;
  static constexpr int kRowBytes = kRows * kBlockCols * 2;  // of a stage
  static constexpr int kWeightBytes = kGroups * kBlockElements * 2;
  static constexpr int kStageBytes = kRowBytes + kWeightBytes;
  using Sums = SplitSums<kRows, kReaders>;
  // The sums of a split tile take the place of its stages.
  static constexpr int kSumBytes = kIsSplit ? Sums::kBytes : 0;
};

template <typename Config, typename Epilogue>
__global__ void __launch_bounds__(Config::kThreads, 1)
    warpgroup_gemm_kernel(const __grid_constant__ CUtensorMap in, Operands operands,
                          Epilogue epilogue) {
  constexpr bool kIsSplit = Config::kIsSplit;
  constexpr int kGroups = Config::kGroups;

  const int rank = blockIdx.x % Config::kParts;
  const int worker = blockIdx.x / Config::kParts;
  const int num_workers = gridDim.x / Config::kParts;
  const int begin = first_block(rank, Config::kParts, operands.blocks);
  const int end = first_block(rank + 1, Config::kParts, operands.blocks);
  const int stages = operands.stages;
  const int num_items = operands.row_tiles * operands.tiles;

  __shared__ RingBarriers barriers;  // `full` of weights
  __shared__ Barrier rows_arrived[kMaxStages];
  __shared__ Barrier sums_arrived;
  char* const ring = dynamic_shared<char>();
  const auto row_stage = [&](int stage) { return ring + stage * Config::kStageBytes; };
  const auto weight_stage = [&](int stage) { return row_stage(stage) + Config::kRowBytes; };
  if (threadIdx.x == 0) {
    if constexpr (kIsSplit) init_barrier(&sums_arrived, 1);
    for (int stage = 0; stage < stages; ++stage) init_barrier(&rows_arrived[stage], 1);
    barriers.init(stages, Config::kWarpgroups);
  }
  __syncthreads();

  // Items that run together share the weights, and the next ones the rows.
  const auto row_of = [&](int item) { return item % operands.row_tiles * Config::kRows; };
  const auto groups_of = [&](int item) {
    return TileGroups(operands, item / operands.row_tiles, Epilogue::kPaired);
  };

  if (threadIdx.x >= Config::kReaders) {
    if (threadIdx.x == Config::kReaders) prefetch_map(&in);
    RingPlace place(stages), row_place(stages);
    const auto load_rows = [&](int item, int block) {
      Barrier* const arrived = &rows_arrived[row_place.stage()];
      arrive_expecting(arrived, Config::kRowBytes);
      copy_box(row_stage(row_place.stage()), &in, block * kBlockCols, row_of(item), arrived);
      row_place.advance();
    };
    // Weights may be copied ahead of the predecessor's end; the rows of those stages follow then.
    CopyLimit limit(stages, Config::kWeightBytes);
    // Other tiles of rows read the same weights.
    const L2Policy policy = operands.row_tiles > 1 ? evict_normal_policy() : evict_first_policy();
    int ahead = 0;
    bool waited = false;
    const auto catch_up = [&](int item, int block) {
      if (waited) return;
      waited = true;
      wait_for_predecessor();
      for (; ahead > 0; --ahead) load_rows(item, block - ahead);
    };
    for (int item = worker; threadIdx.x == Config::kReaders && item < num_items;
         item += num_workers) {
      const TileGroups groups = groups_of(item);
      const bool is_last = item + num_workers >= num_items;
      for (int block = begin; block < end; ++block) {
        if (is_last && block == max(end - limit.copies(), begin)) allow_successor();
        if (place.reused()) {
          catch_up(item, block);
          wait_for_phase(&barriers.empty[place.stage()], place.parity() ^ 1);
        }
        if (!waited) limit.wait(barriers.full);
        Barrier* const full = &barriers.full[place.stage()];
        arrive_expecting(full, groups.bytes());
        copy_bulk(weight_stage(place.stage()), groups.weights(operands, block), groups.bytes(),
                  full, policy);
        place.advance();
        if (waited)
          load_rows(item, block);
        else
          ++ahead;
      }
      catch_up(item, end);
    }
  } else {
    // The same for all lanes, and the compiler is to know it.
    const int warpgroup = __shfl_sync(kAllLanes, threadIdx.x / kWarpgroupThreads, 0);
    const int lane = threadIdx.x % kWarp;
    const int own_row = threadIdx.x / kWarp * 16 + lane / 4;
    const uint64_t first_rows = describe_operand(
        row_stage(0) + warpgroup * (kWarpgroupRows * kBlockCols * 2), kBlockElements * 2);
    const uint64_t first_weights = describe_operand(weight_stage(0), kBlockElements * 2);
    RingPlace place(stages);
    for (int item = worker; item < num_items; item += num_workers) {
      const TileGroups groups = groups_of(item);
      float acc[kGroups][4] = {};
      const auto release = [&](int stage) {
        if (threadIdx.x % kWarpgroupThreads == 0) arrive_at(&barriers.empty[stage]);
      };
      [[maybe_unused]] int previous = 0;
      // Not unrolled: only then does the compiler keep the descriptors in uniform registers, and
      // the products follow each other without a gap.
#pragma unroll 1
      for (int block = begin; block < end; ++block) {
        wait_for_phase(&barriers.full[place.stage()], place.parity());
        wait_for_phase(&rows_arrived[place.stage()], place.parity());
        const uint32_t stage_offset = place.stage() * (Config::kStageBytes / kOperandUnit);
        fence_accumulators();
#pragma unroll
        for (int k = 0; k < kBlockCols / 16; ++k) {
          const uint32_t offset = stage_offset + k * (16 * sizeof(BFloat16) / kOperandUnit);
          multiply_async<8 * kGroups>(reinterpret_cast<float(&)[4 * kGroups]>(acc),
                                      first_rows + offset, first_weights + offset);
        }
        commit_products();
        if constexpr (kIsSplit) {
          // There are few stages: what was read is filled again at once, not when the next has
          // arrived.
          wait_for_products<0>();
          release(place.stage());
        } else {
          wait_for_products<1>();
          if (block > begin) release(previous);
          previous = place.stage();
        }
        place.advance();
      }
      if constexpr (!kIsSplit) {
        wait_for_products<0>();
        release(previous);
      }

      if constexpr (kIsSplit) {
        // The sums take the place of what all warps of this block, and of the others, have read:
        // which the copying warp has got all of, and has ended or soon will.
        sync_threads<kReadersBarrier, Config::kReaders>();
        arrive_at_cluster();
        const typename Config::Sums sums(ring, &sums_arrived);
#pragma unroll
        for (int i = 0; i < kGroups; ++i) {
          const int pair = 4 * i + lane % 4;
          sums.put(own_row, pair, {acc[i][0], acc[i][1]});
          sums.put(own_row + 8, pair, {acc[i][2], acc[i][3]});
        }
        sums.finish(rank, groups, row_of(item), min(operands.rows - row_of(item), Config::kRows),
                    epilogue);
      } else {
        wait_for_predecessor();
        finish_sums<kGroups>(acc, groups.first, groups.count, row_of(item) + own_row, operands.rows,
                             lane % 4, epilogue);
      }
    }
  }
}

}  // namespace hymba::cuda::hopper
