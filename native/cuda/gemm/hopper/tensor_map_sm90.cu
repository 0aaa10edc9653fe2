#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include "core/error.h"
#include "cuda/gemm/hopper/tensor_map.h"
#include "cuda/runtime/check.h"

namespace hymba::cuda::hopper {
namespace {

// Asked of the runtime, so that the addon links no driver library and loads without one.
PFN_cuTensorMapEncodeTiled_v12000 find_encoder() {
  constexpr unsigned kVersion = 12000;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result{};
  check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kVersion,
                                              cudaEnableDefault, &result),
             "looking for cuTensorMapEncodeTiled");
  check(result == cudaDriverEntryPointSuccess && function != nullptr,
        "the driver has no cuTensorMapEncodeTiled");
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
}

}  // namespace

CUtensorMap make_row_map(const char* stage, const PackedOperands& operands, int box_rows) {
  static const PFN_cuTensorMapEncodeTiled_v12000 encode = find_encoder();
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(operands.cols),
                              static_cast<cuuint64_t>(operands.rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(operands.in_stride) * sizeof(BFloat16)};
  const cuuint32_t box[] = {kBlockCols, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[] = {1, 1};
  CUtensorMap map;
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<BFloat16*>(operands.in), sizes,
             strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    fail(ErrorCode::kInvalidArgument, stage, ": no tensor map for ", operands.rows, " rows of ",
         operands.cols, " elements, ", operands.in_stride, " apart (CUDA error ", result, ")");
  return map;
}

}  // namespace hymba::cuda::hopper
