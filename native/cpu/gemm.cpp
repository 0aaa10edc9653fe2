#include "cpu/gemm.h"

namespace hymba::cpu {
namespace {

#if defined(__x86_64__)
bool has_x86_64_v4() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
#endif

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t multiple) { return ceil_div(a, multiple) * multiple; }

}  // namespace

GemmKernel find_gemm_kernel(DType a_dtype, DType w_dtype) {
#if defined(__x86_64__)
  static const bool has_avx512 = has_x86_64_v4();
  const GemmKernel kernel =
      has_avx512 ? gemm_kernel_avx512(a_dtype, w_dtype) : gemm_kernel_avx2(a_dtype, w_dtype);
#else
  const GemmKernel kernel = gemm_kernel_generic(a_dtype, w_dtype);
#endif
  check(kernel != nullptr, "gemm: activations ", dtype_name(a_dtype), ", weights ",
        dtype_name(w_dtype));
  return kernel;
}

GemmPlan plan_gemm(int64_t rows, int64_t cols, int64_t depth, int num_threads) {
  // Reading a weight costs about as much as multiplying it by 6 rows. A task of 32 k weights is 1-3
  // µs: enough to outweigh handing it out; beyond 32 tasks a thread, more of them balance nothing.
  constexpr int64_t kRowsForFree = 6;
  constexpr int64_t kMinTaskWork = 32 * 1024;
  constexpr int64_t kMaxTasksPerThread = 32;
  constexpr int64_t kColMultiple = 4;  // the widest register tile

  GemmPlan plan;
  plan.num_row_tasks = ceil_div(rows, GemmTile::kMaxRows);
  plan.rows_per_task = ceil_div(rows, plan.num_row_tasks);
  const int64_t work = ceil_div(rows, kRowsForFree) * cols * depth;
  const int64_t num_tasks =
      std::clamp<int64_t>(work / kMinTaskWork, 1, kMaxTasksPerThread * num_threads);
  plan.cols_per_task =
      round_up(ceil_div(cols, ceil_div(num_tasks, plan.num_row_tasks)), kColMultiple);
  plan.num_col_tasks = ceil_div(cols, plan.cols_per_task);
  return plan;
}

}  // namespace hymba::cpu
