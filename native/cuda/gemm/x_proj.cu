// Computes  [dt | B | C] = u · weightᵀ, then each through its own RMSNorm, if there are norms.
// Shapes    u [T, E], weight [R + 2N, E], norms [R], [N], [N] fp32, out [T, R + 2N]; rows of u and
//           out may be strided.
// Mapping   A norm needs a whole row, which several blocks of the product compute: the product goes
//           to the scratch, in fp32, and a second kernel takes a warp a row.
// Numerics  The norms see the sums unrounded; squares are added in fp32, 32 lanes and a butterfly;
//           one rounding to out's dtype.
// Cost      Beside the product, 8·T·(R + 2N) bytes through the L2.

#include "cuda/gemm/x_proj.h"

#include "cuda/device/convert.cuh"
#include "cuda/device/ptx.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/views.cuh"
#include "cuda/stages.h"

namespace hymba::cuda {
namespace {

constexpr int kNormThreads = 128;
constexpr int kSegments = 3;

// Of a row in the scratch: whole lines of the L2 as far as it goes, for pairs of columns.
constexpr int64_t scratch_stride(int64_t width) { return (width + 15) / 16 * 16; }

struct Segment {
  const float* weight;
  int count;
};
struct Segments {
  Segment segment[kSegments];
};

template <typename Act>
__global__ void __launch_bounds__(kNormThreads)
    x_proj_norm_kernel(Rows<const float> in, Segments segments, float epsilon, Rows<Act> out,
                       int rows) {
  allow_successor();
  wait_for_predecessor();
  const int row = (blockIdx.x * kNormThreads + threadIdx.x) / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= rows) return;
  const float* from = in[row];
  Act* to = out[row];
  for (int i = 0; i < kSegments; ++i) {
    const auto [weight, count] = segments.segment[i];
    float squares = 0.0f;
    for (int col = lane; col < count; col += kWarp) squares = fmaf(from[col], from[col], squares);
    const float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(count) + epsilon);
    for (int col = lane; col < count; col += kWarp)
      to[col] = as_act<Act>(weight[col] * (from[col] * scale));
    from += count;
    to += count;
  }
}

template <typename Act>
void normalize(const TensorView& in, const XProjArgs& args, const LaunchContext& context) {
  const auto segment = [](const TensorView& weight) {
    return Segment{weight.data<float>(), static_cast<int>(weight.rows())};
  };
  const int rows = static_cast<int>(in.rows());
  launch("x_proj", context, x_proj_norm_kernel<Act>, dim3(ceil_div(rows, kNormThreads / kWarp)),
         dim3(kNormThreads), 0, Rows<const float>(in),
         Segments{{segment(args.dt_norm), segment(args.b_norm), segment(args.c_norm)}},
         args.epsilon, Rows<Act>(args.out), rows);
}

}  // namespace

size_t x_proj_scratch_bytes(const StageLimits& limits) {
  return limits.max_tokens * scratch_stride(limits.x_proj_rows) * sizeof(float);
}

void x_proj(const XProjArgs& args, const LaunchContext& context) {
  const int64_t rows = args.u.rows();
  const int64_t width = args.weight.rows;
  if (rows == 0) return;
  if (args.dt_norm.empty())
    return linear({.in = args.u, .weight = args.weight, .bias = {}, .out = args.out}, context);

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
