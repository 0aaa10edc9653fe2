// Brings rows of a matrix into the packed order (cuda/packed_matrix.h).
#pragma once

#include "cuda/runtime/launch.h"
#include "ops/ops.h"

namespace hymba::cuda {

struct PackRowsArgs {
  const void* rows = nullptr;  // [num_rows, matrix->cols] dense, device or page-locked host memory
  DType dtype = DType::kBF16;  // F32, BF16 or F16; rounded to nearest even
  int64_t first_row = 0;       // of the block
  int64_t num_rows = 0;
  int block = 0;                   // of matrix->num_blocks
  const Matrix* matrix = nullptr;  // rows and cols of a block, num_blocks
  BFloat16* packed = nullptr;  // packed_elements(…), zeroes where nothing was written: padding
};

void pack_rows(const PackRowsArgs& args, const LaunchContext& context);

}  // namespace hymba::cuda
