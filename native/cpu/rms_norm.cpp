// Computes  out = weight · in / sqrt(mean(in²) + epsilon), row by row.
// Shapes    in, out [T, D], weight [D] fp32.
// Numerics  everything in fp32 (rms_scale sums in a fixed order); one rounding to the output's
// dtype.

#include "cpu/dispatch.h"
#include "cpu/math.h"
#include "cpu/parallel.h"
#include "cpu/stages.h"

namespace hymba::cpu {

void rms_norm(const RmsNormArgs& args, ThreadPool& pool) {
  const int64_t width = args.in.dim(1);
  const float* weight = args.weight.data<float>();
  with_act_type(args.in.dtype(), [&](auto in_type) {
    with_act_type(args.out.dtype(), [&](auto out_type) {
      using In = decltype(in_type);
      using Out = decltype(out_type);
      for_rows(pool, args.in.rows(), width, [&](int64_t t) {
        const In* in = args.in.row<In>(t);
        Out* out = args.out.row<Out>(t);
        const float scale = rms_scale(in, width, args.epsilon);
        for (int64_t i = 0; i < width; ++i)
          out[i] = from_float<Out>(weight[i] * (to_float(in[i]) * scale));
      });
    });
  });
}

}  // namespace hymba::cpu
