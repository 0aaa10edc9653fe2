// Computes  [dt | B | C] = u · weightᵀ, then each through its own RMSNorm, if there are norms.
// Shapes    u [T, E], weight [R + 2N, E], norms [R], [N], [N] fp32, out [T, R + 2N]; rows of u and
//           out may be strided.
// Numerics  sums in fp32 in the order of gemm_kernel.h; the norms see them unrounded; one rounding
//           to out's dtype.

#include <vector>

#include "cpu/dispatch.h"
#include "cpu/gemm.h"
#include "cpu/math.h"
#include "cpu/parallel.h"
#include "cpu/stages.h"

namespace hymba::cpu {
namespace {

template <typename Act>
void normalize(const float* in, const TensorView& weight_view, float epsilon, Act* out) {
  const int64_t count = weight_view.rows();
  const float* weight = weight_view.data<float>();
  const float scale = rms_scale(in, count, epsilon);
  for (int64_t i = 0; i < count; ++i) out[i] = from_float<Act>(weight[i] * (in[i] * scale));
}

}  // namespace

void x_proj(const XProjArgs& args, ThreadPool& pool) {
  const int64_t width = args.weight.rows;
  if (args.dt_norm.empty()) {
    linear({.in = args.u, .weight = args.weight, .bias = {}, .out = args.out}, pool);
    return;
  }
  // A norm needs its whole row, which several tasks compute: hence the sums of all rows first.
  thread_local std::vector<float> scratch;
  scratch.resize(args.u.rows() * width);
  const TensorView sums(scratch.data(), DType::kF32, {args.u.rows(), width});
  linear({.in = args.u, .weight = args.weight, .bias = {}, .out = sums}, pool);

  with_act_type(args.out.dtype(), [&](auto type) {
    using Act = decltype(type);
    for_rows(pool, args.out.rows(), width, [&](int64_t t) {
      const float* in = sums.row<float>(t);
      Act* out = args.out.row<Act>(t);
      for (const TensorView* norm : {&args.dt_norm, &args.b_norm, &args.c_norm}) {
        normalize(in, *norm, args.epsilon, out);
        in += norm->rows();
        out += norm->rows();
      }
    });
  });
}

}  // namespace hymba::cpu
