// Computes  delta = softplus(dt · weightᵀ + bias).
// Shapes    dt [T, R], weight [E, R], bias [E] fp32, delta [T, E]; rows of dt and delta may be
//           strided.
// Numerics  sums in fp32 in the order of gemm_kernel.h; bias and softplus in fp32; one rounding to
//           delta's dtype.

#include "cpu/dispatch.h"
#include "cpu/gemm.h"
#include "cpu/math.h"
#include "cpu/stages.h"

namespace hymba::cpu {

void dt_proj(const DtProjArgs& args, ThreadPool& pool) {
  with_act_type(args.delta.dtype(), [&](auto type) {
    using Act = decltype(type);
    gemm(args.dt, args.weight, pool, [&](const GemmTile& tile) {
      const float* bias = args.bias.data<float>() + tile.first_col;
      for (int64_t i = 0; i < tile.rows; ++i) {
        const float* sums = tile.row(i);
        Act* delta = args.delta.row<Act>(tile.first_row + i) + tile.first_col;
        for (int64_t j = 0; j < tile.cols; ++j)
          delta[j] = from_float<Act>(softplus(sums[j] + bias[j]));
      }
    });
  });
}

}  // namespace hymba::cpu
