// Computes  for each token t of a span, each channel e and state n:
//             s[e, n] ← exp(delta[t, e] · a[e, n]) · s[e, n] + delta[t, e] · b[t, n] · u[t, e]
//             out[t, e] = (Σ_n s[e, n] · c[t, n] + d[e] · u[t, e]) · silu(z[t, e])
// Shapes    u, delta, z, out [T, E]; b, c [T, N]; a [E, N], d [E] fp32; ssm_state [slots, E, N]
// fp32. Mapping   one task for (span, block of channels); tokens one after the other. A single
// token is just a span of length 1, so that
//           prefill in any chunks and decode give the same bits.
// Numerics  state and arithmetic in fp32; one rounding of the output.
// Cost      N exponentials and 4·N multiply-adds a token and channel; 8·N bytes of state a channel
// and span.

#include <algorithm>
#include <type_traits>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/math.h"
#include "cpu/stages.h"

namespace hymba::cpu {
namespace {

constexpr int64_t kChannels = 32;

// One span, channels [first, first + count). NumStates is an integral_constant where N is known, so
// that the inner loops unroll.
template <typename Act, typename NumStates>
void run_block(const SelectiveScanArgs& args, NumStates num_states, int span, int64_t first,
               int64_t count) {
  const int32_t* offsets = args.batch.span_offsets.data<int32_t>();
  const int source = args.batch.state_source.data<int32_t>()[span];
  const int slot = args.batch.state_slot.data<int32_t>()[span];
  if (slot < 0) return;  // a padded lane
  const float* a = args.a.row<float>(first);
  const float* d = args.d.data<float>() + first;

  thread_local std::vector<float> states;
  states.assign(count * num_states, 0.0f);
  if (source >= 0)
    std::copy_n(args.ssm_state.row<float>(source) + first * num_states, count * num_states,
                states.data());
  thread_local std::vector<float> bc;
  bc.resize(2 * num_states);
  float* b = bc.data();
  float* c = b + num_states;

  for (int64_t t = offsets[span]; t < offsets[span + 1]; ++t) {
    for (int64_t n = 0; n < num_states; ++n) {
      b[n] = to_float(args.b.row<Act>(t)[n]);
      c[n] = to_float(args.c.row<Act>(t)[n]);
    }
    const Act* u = args.u.row<Act>(t) + first;
    const Act* delta = args.delta.row<Act>(t) + first;
    const Act* z = args.z.row<Act>(t) + first;
    Act* out = args.out.row<Act>(t) + first;
    for (int64_t e = 0; e < count; ++e) {
      const float u_e = to_float(u[e]);
      const float delta_e = to_float(delta[e]);
      const float delta_u = delta_e * u_e;
      float* s = states.data() + e * num_states;
      float y = 0.0f;
      for (int64_t n = 0; n < num_states; ++n)
        s[n] = exp_approx(delta_e * a[e * num_states + n]) * s[n] + delta_u * b[n];
      for (int64_t n = 0; n < num_states; ++n) y += s[n] * c[n];
      out[e] = from_float<Act>((y + d[e] * u_e) * silu(to_float(z[e])));
    }
  }
  std::copy_n(states.data(), count * num_states,
              args.ssm_state.row<float>(slot) + first * num_states);
}

}  // namespace

void selective_scan(const SelectiveScanArgs& args, ThreadPool& pool) {
  const int64_t channels = args.u.dim(1);
  const int64_t num_states = args.a.dim(1);
  const int64_t blocks = (channels + kChannels - 1) / kChannels;
  with_act_type(args.u.dtype(), [&](auto type) {
    using Act = decltype(type);
    pool.parallel_for(args.batch.num_spans * blocks, [&](int64_t task) {
      const int span = static_cast<int>(task / blocks);
      const int64_t first = task % blocks * kChannels;
      const int64_t count = std::min(kChannels, channels - first);
      if (num_states == 16)
        run_block<Act>(args, std::integral_constant<int64_t, 16>{}, span, first, count);
      else
        run_block<Act>(args, num_states, span, first, count);
    });
  });
}

}  // namespace hymba::cpu
