// Computes  out = silu(in · gateᵀ) ⊙ (in · upᵀ), or relu(in · upᵀ)² where there is no gate.
// Shapes    in [T, C], gate and up [F, C], out [T, F]; rows of in and out may be strided.
// Numerics  sums in fp32 in the order of gemm_kernel.h; activation and product in fp32; one
//           rounding to out's dtype.

#include "cpu/dispatch.h"
#include "cpu/gemm.h"
#include "cpu/math.h"
#include "cpu/stages.h"

namespace hymba::cpu {
namespace {

template <typename Out>
void finish_silu(const TensorView& out_view, const GemmTile& tile) {
  for (int64_t i = 0; i < tile.rows; ++i) {
    const float* gate = tile.row(i, 0);
    const float* up = tile.row(i, 1);
    Out* out = out_view.row<Out>(tile.first_row + i) + tile.first_col;
    for (int64_t j = 0; j < tile.cols; ++j) out[j] = from_float<Out>(silu(gate[j]) * up[j]);
  }
}

template <typename Out>
void finish_relu2(const TensorView& out_view, const GemmTile& tile) {
  for (int64_t i = 0; i < tile.rows; ++i) {
    const float* up = tile.row(i);
    Out* out = out_view.row<Out>(tile.first_row + i) + tile.first_col;
    for (int64_t j = 0; j < tile.cols; ++j) {
      const float positive = up[j] > 0.0f ? up[j] : 0.0f;
      out[j] = from_float<Out>(positive * positive);
    }
  }
}

}  // namespace

void gated_linear(const GatedLinearArgs& args, ThreadPool& pool) {
  with_act_type(args.out.dtype(), [&](auto type) {
    using Out = decltype(type);
    gemm(args.in, args.weight, pool, [&](const GemmTile& tile) {
      switch (args.activation) {
        case MlpActivation::kSilu:
          return finish_silu<Out>(args.out, tile);
        case MlpActivation::kRelu2:
          return finish_relu2<Out>(args.out, tile);
      }
    });
  });
}

}  // namespace hymba::cpu
