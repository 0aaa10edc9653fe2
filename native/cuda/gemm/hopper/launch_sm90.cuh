// Definitions for the files that instantiate the kernels.
#pragma once

#include <algorithm>

#include "cuda/gemm/hopper/few_rows.cuh"
#include "cuda/gemm/hopper/hopper_gemm.h"
#include "cuda/gemm/hopper/tensor_map.h"
#include "cuda/gemm/hopper/warpgroup.cuh"

namespace hymba::cuda::hopper {

// Shared memory of a block. Two blocks of neighbouring kernels share a multiprocessor, so that one
// reads its first weights while the other ends, unless the stages are too large for that.

inline constexpr int kSharedBytes = 112 * 1024;
inline constexpr int kAllSharedBytes = 224 * 1024;

inline int count_stages(int fixed_bytes, int stage_bytes, int64_t steps) {
  constexpr int kFew = 3;
  const auto room = [&](int bytes) { return (bytes - fixed_bytes) / stage_bytes; };
  const int stages = room(kSharedBytes) >= kFew ? room(kSharedBytes) : room(kAllSharedBytes);
  return static_cast<int>(std::min<int64_t>({stages, steps, kMaxStages}));
}

template <typename Config, typename Input, typename Epilogue>
void launch_few_rows(const char* stage, const PackedOperands& operands, const Tiling& tiling,
                     const Input& input, const Epilogue& epilogue, const LaunchContext& context) {
  const int64_t granule = Epilogue::kPaired ? 2 : 1;
  const int stage_bytes = static_cast<int>(ceil_div(operands.groups / granule, tiling.tiles) *
                                           granule * kBlockElements * sizeof(BFloat16));
  const int fixed_bytes = Config::fixed_bytes(operands.rows, Input::kSums, operands.blocks);
  const int stages =
      count_stages(fixed_bytes, stage_bytes, ceil_div(operands.blocks, Config::kParts));
  const int workers = tiling.workers(context.device->num_sms);
  launch_clusters(stage, context, few_rows_gemm_kernel<Config, Input, Epilogue>, Config::kParts,
                  dim3(workers * Config::kParts), dim3(Config::kThreads),
                  stages * stage_bytes + fixed_bytes, Operands(operands, tiling, stages),
                  stage_bytes, input, epilogue);
}

template <typename Input, typename Epilogue>
void few_rows_gemm(const char* stage, const PackedOperands& operands, const Tiling& tiling,
                   const Input& input, const Epilogue& epilogue, const LaunchContext& context) {
  const auto run = [&](auto config) {
    launch_few_rows<decltype(config)>(stage, operands, tiling, input, epilogue, context);
  };
  if constexpr (!Epilogue::kPaired)
    if (tiling.split > 1) return run(FewRowsConfig<2, true>{});
  if (tiling.groups <= kNarrowGroups)
    run(FewRowsConfig<2, false>{});
  else
    run(FewRowsConfig<4, false>{});
}

template <typename Config, typename Epilogue>
void launch_warpgroups(const char* stage, const PackedOperands& operands, const Tiling& tiling,
                       const Epilogue& epilogue, const LaunchContext& context) {
  const int stages = count_stages(0, Config::kStageBytes, kMaxStages);
  const int workers = tiling.workers(context.device->num_sms);
  launch_clusters(stage, context, warpgroup_gemm_kernel<Config, Epilogue>, Config::kParts,
                  dim3(workers * Config::kParts), dim3(Config::kThreads),
                  std::max(stages * Config::kStageBytes, Config::kSumBytes),
                  make_row_map(stage, operands, Config::kRows), Operands(operands, tiling, stages),
                  epilogue);
}

template <typename Epilogue>
void warpgroup_gemm(const char* stage, const PackedOperands& operands, const Tiling& tiling,
                    const Epilogue& epilogue, const LaunchContext& context) {
  const auto run = [&](auto config) {
    launch_warpgroups<decltype(config)>(stage, operands, tiling, epilogue, context);
  };
  const bool one = tiling.row_warpgroups == 1;
  if constexpr (!Epilogue::kPaired) {
    if (tiling.split > 1) {
      return one ? run(WarpgroupConfig<1, kSplitGroups, true>{})
                 : run(WarpgroupConfig<2, kSplitGroups, true>{});
    }
  }
  if (tiling.groups <= kNarrowGroups)
    one ? run(WarpgroupConfig<1, kNarrowGroups, false>{})
        : run(WarpgroupConfig<2, kNarrowGroups, false>{});
  else
    one ? run(WarpgroupConfig<1, kWideGroups, false>{})
        : run(WarpgroupConfig<2, kWideGroups, false>{});
}

template <typename Input, typename Epilogue>
void hopper_gemm(const char* stage, const PackedOperands& operands, const GemmShape& shape,
                 const Input& input, const Epilogue& epilogue, const LaunchContext& context) {
  const Tiling tiling = plan_tiling(shape, Epilogue::kPaired, context.device->num_sms);
  if constexpr (Input::kIsStored)
    if (tiling.row_warpgroups > 0)
      return warpgroup_gemm(stage, operands, tiling, epilogue, context);
  few_rows_gemm(stage, operands, tiling, input, epilogue, context);
}

}  // namespace hymba::cuda::hopper
