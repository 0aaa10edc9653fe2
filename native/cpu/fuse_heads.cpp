// Computes  out = (rms(attention, attention_weight) + rms(mamba, mamba_weight)) / 2, row by row.
// Shapes    attention, mamba, out [T, E]; weights [E] fp32.
// Numerics  everything in fp32; one rounding to the output's dtype.

#include "cpu/dispatch.h"
#include "cpu/math.h"
#include "cpu/parallel.h"
#include "cpu/stages.h"

namespace hymba::cpu {

void fuse_heads(const FuseHeadsArgs& args, ThreadPool& pool) {
  const int64_t width = args.attention.dim(1);
  const float* attention_weight = args.attention_weight.data<float>();
  const float* mamba_weight = args.mamba_weight.data<float>();
  with_act_type(args.out.dtype(), [&](auto type) {
    using Act = decltype(type);
    for_rows(pool, args.out.rows(), width, [&](int64_t t) {
      const Act* attention = args.attention.row<Act>(t);
      const Act* mamba = args.mamba.row<Act>(t);
      Act* out = args.out.row<Act>(t);
      const float attention_scale = rms_scale(attention, width, args.epsilon);
      const float mamba_scale = rms_scale(mamba, width, args.epsilon);
      for (int64_t i = 0; i < width; ++i) {
        const float normed_attention =
            attention_weight[i] * (to_float(attention[i]) * attention_scale);
        const float normed_mamba = mamba_weight[i] * (to_float(mamba[i]) * mamba_scale);
        out[i] = from_float<Act>(0.5f * (normed_attention + normed_mamba));
      }
    });
  });
}

}  // namespace hymba::cpu
