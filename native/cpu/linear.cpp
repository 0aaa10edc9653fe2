// Computes  out = in · weightᵀ (+ bias), or out += in · weightᵀ (+ bias).
// Shapes    in [T, K], weight [N, K], bias [N] fp32, out [T, N]; rows of in and out may be strided.
// Numerics  sums in fp32 in the order of gemm_kernel.h; bias and the former out are added in fp32;
//           one rounding to out's dtype.

#include "cpu/dispatch.h"
#include "cpu/gemm.h"
#include "cpu/stages.h"

namespace hymba::cpu {
namespace {

template <typename Out>
void finish(const LinearArgs& args, const GemmTile& tile) {
  const float* bias = args.bias.empty() ? nullptr : args.bias.data<float>() + tile.first_col;
  for (int64_t i = 0; i < tile.rows; ++i) {
    const float* sums = tile.row(i);
    Out* out = args.out.row<Out>(tile.first_row + i) + tile.first_col;
    if (args.accumulate)
      for (int64_t j = 0; j < tile.cols; ++j)
        out[j] = from_float<Out>(to_float(out[j]) + (sums[j] + (bias ? bias[j] : 0.0f)));
    else
      for (int64_t j = 0; j < tile.cols; ++j)
        out[j] = from_float<Out>(sums[j] + (bias ? bias[j] : 0.0f));
  }
}

}  // namespace

void linear(const LinearArgs& args, ThreadPool& pool) {
  with_act_type(args.out.dtype(), [&](auto type) {
    gemm(args.in, args.weight, pool,
         [&](const GemmTile& tile) { finish<decltype(type)>(args, tile); });
  });
}

}  // namespace hymba::cpu
