// Computes  [dt | B | C] = u · weightᵀ, then each through its own RMSNorm, if there are norms.
// Shapes    u [T, E], weight [R + 2N, E], norms [R], [N], [N] fp32, out [T, R + 2N]; rows of u and
//           out may be strided.
// Mapping   A norm needs a whole row, which several blocks of the product compute. Up to 256 tokens
//           of bf16: x_proj_split.cuh, one kernel. Otherwise the product goes to the scratch, in
//           fp32, and a second kernel takes a warp a row.
// Numerics  The norms see the sums unrounded; squares are added in fp32, 32 lanes and a butterfly;
//           one rounding to out's dtype.
// Cost      Beside the product, 8·T·(R + 2N) bytes through the L2; split, as many for every 128
// columns.

#include "cuda/gemm/x_proj.h"

#include <algorithm>

#include "cuda/device/ptx.cuh"
#include "cuda/device/views.cuh"
#include "cuda/gemm/gemm.cuh"
#include "cuda/gemm/x_proj_norm.cuh"
#include "cuda/gemm/x_proj_split.cuh"
#include "cuda/stages.h"

namespace hymba::cuda {
namespace {

constexpr int kNormThreads = 128;

// Of a row in the scratch: whole lines of the L2 as far as it goes, for pairs of columns.
constexpr int64_t scratch_stride(int64_t width) { return (width + 15) / 16 * 16; }

template <typename Act>
__global__ void __launch_bounds__(kNormThreads)
    x_proj_norm_kernel(Rows<const float> in, XProjNorms norms, Rows<Act> out, int rows) {
  allow_successor();
  wait_for_predecessor();
  const int row = (blockIdx.x * kNormThreads + threadIdx.x) / kWarp;
  if (row >= rows) return;
  for (int segment = 0; segment < XProjNorms::kSegments; ++segment)
    normalize_x_proj(in[row], norms, segment, out[row]);
}

template <typename Act>
void normalize(const TensorView& in, const XProjArgs& args, const LaunchContext& context) {
  const int rows = static_cast<int>(in.rows());
  launch("x_proj", context, x_proj_norm_kernel<Act>, dim3(ceil_div(rows, kNormThreads / kWarp)),
         dim3(kNormThreads), 0, Rows<const float>(in), XProjNorms(args), Rows<Act>(args.out), rows);
}

// Rows of u as they are.
struct StoredColumns {
  Rows<const BFloat16> u;
  int width;

  struct Reader {
    Rows<const BFloat16> columns;
    int valid;

    __device__ __forceinline__ Chunk<BFloat16, kChunkElements> chunk(int token) const {
      return load_chunk<kChunkElements>(columns[token], valid, true);
    }
  };
  __device__ __forceinline__ Reader columns(int first) const {
    Reader reader{u, width - first};
    reader.columns.data += first;
    return reader;
  }
};

__global__ void __launch_bounds__(kSplitThreads)
    x_proj_split_kernel(SplitXProj params, StoredColumns input) {
  project_columns(params, blockIdx.x, input);
}

void launch_split(const XProjArgs& args, const LaunchContext& context) {
  check_aligned_rows("x_proj", args.u);
  float* const contributions = context.scratch_for<float>(
      contribution_floats(args.u.rows(), args.weight.rows, args.weight.cols), "x_proj");
  const SplitXProj params(args, contributions, context.counters);
  launch("x_proj", context, x_proj_split_kernel, dim3(params.num_blocks()), dim3(kSplitThreads),
         params.shared_bytes(), params,
         StoredColumns{Rows<const BFloat16>(args.u), static_cast<int>(args.u.dim(1))});
}

}  // namespace

size_t x_proj_scratch_bytes(const StageLimits& limits) {
  const int64_t split = contribution_floats(std::min(limits.max_tokens, kMaxSkinnyRows),
                                            limits.x_proj_rows, limits.inner_size);
  const int64_t whole = limits.max_tokens * scratch_stride(limits.x_proj_rows);
  return std::max(split, whole) * sizeof(float);
}

void x_proj(const XProjArgs& args, const LaunchContext& context) {
  const int64_t rows = args.u.rows();
  const int64_t width = args.weight.rows;
  if (rows == 0) return;
  if (args.dt_norm.empty())
    return linear({.in = args.u, .weight = args.weight, .bias = {}, .out = args.out}, context);
  if (splits_x_proj(args)) return launch_split(args, context);

  const int64_t stride = scratch_stride(width);
  const TensorView sums =
      TensorView(context.scratch_for<float>(rows * stride, "x_proj"), DType::kF32, {rows, stride})
          .slice_columns(0, width);
  linear({.in = args.u, .weight = args.weight, .bias = {}, .out = sums}, context);
  if (args.out.dtype() == DType::kF32)
    normalize<float>(sums, args, context);
  else
    normalize<BFloat16>(sums, args, context);
}

}  // namespace hymba::cuda
