// Tensor maps for bulk copies of activations.
#pragma once

#include <cuda.h>

#include "cuda/gemm/packed_operands.h"

namespace hymba::cuda::hopper {

// Boxes of `box_rows` rows by 64 columns of in [rows, cols], swizzled by 128 bytes; zeroes outside.
// Throws what the driver says when it refuses.
CUtensorMap make_row_map(const char* stage, const PackedOperands& operands, int box_rows);

}  // namespace hymba::cuda::hopper
