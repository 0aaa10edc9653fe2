// What Hopper's kernels take.
#pragma once

#include "core/dtype.h"
#include "cuda/gemm/hopper/plan.h"
#include "cuda/gemm/packed_operands.h"

namespace hymba::cuda::hopper {

struct Operands {
  const BFloat16* in;  // [rows, cols]
  int64_t in_stride;
  const BFloat16* weight;  // in blocks of 8 rows by 64 columns
  int rows;
  int cols;
  int groups;
  int blocks;
  int tiles;
  int row_tiles;
  int stages;

  Operands(const PackedOperands& operands, const Tiling& tiling, int num_stages)
      : in(operands.in),
        in_stride(operands.in_stride),
        weight(operands.weight),
        rows(operands.rows),
        cols(operands.cols),
        groups(operands.groups),
        blocks(operands.blocks),
        tiles(tiling.tiles),
        row_tiles(tiling.row_tiles),
        stages(num_stages) {}
};

// The groups of 8 rows of the matrix that a tile has.
struct TileGroups {
  int first;
  int count;

  HYMBA_HD TileGroups(const Operands& operands, int tile, bool paired)
      : first(first_group(tile, operands.tiles, operands.groups, paired)),
        count(first_group(tile + 1, operands.tiles, operands.groups, paired) - first) {}

  // Of the weights of 64 columns.
  HYMBA_HD int bytes() const { return count * kBlockElements * int{sizeof(BFloat16)}; }
  HYMBA_HD const BFloat16* weights(const Operands& operands, int block) const {
    return operands.weight +
           (static_cast<int64_t>(block) * operands.groups + first) * kBlockElements;
  }
};

}  // namespace hymba::cuda::hopper
