// Computes  q, k ← rope(norm(q)), rope(norm(k)) in place, then K and V of each token into the page
// and slot of its position. Shapes    q [T, H, Dk], k [T, G, Dk], v [T, G, Dv]; cos_sin [positions,
// Dk] fp32. Layout    inside a tile of this backend V is [64, Dv], slot after slot, but K is [Dk,
// 64]: so the scores of a page are a matrix
//           product of the same form as its output, with the keys side by side.
// Numerics  norm and rotation in fp32, one rounding to the activations' dtype; the pages hold
// exactly those rounded values.

#include <algorithm>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/math.h"
#include "cpu/parallel.h"
#include "cpu/stages.h"

namespace hymba::cpu {
namespace {

// One head of q or k. `scratch` holds `dim` floats.
template <typename Act>
void norm_and_rotate(Act* head, int64_t dim, const float* norm_weight, float epsilon,
                     const float* cos_sin, float* scratch) {
  for (int64_t i = 0; i < dim; ++i) scratch[i] = to_float(head[i]);
  if (norm_weight != nullptr) {
    const float scale = rms_scale(scratch, dim, epsilon);
    for (int64_t i = 0; i < dim; ++i) scratch[i] = norm_weight[i] * (scratch[i] * scale);
  }
  if (cos_sin != nullptr) {
    const int64_t half = dim / 2;
    for (int64_t i = 0; i < half; ++i) {
      const float cosine = cos_sin[i];
      const float sine = cos_sin[half + i];
      const float low = scratch[i];
      const float high = scratch[half + i];
      scratch[i] = low * cosine - high * sine;
      scratch[half + i] = high * cosine + low * sine;
    }
  }
  for (int64_t i = 0; i < dim; ++i) head[i] = from_float<Act>(scratch[i]);
}

template <typename Act>
void run_token(const RotaryKvWriteArgs& args, int64_t t) {
  const KvLayerView& kv = args.kv;
  const int position = args.batch.positions.data<int32_t>()[t];
  const float* cos_sin = args.cos_sin.empty() ? nullptr : args.cos_sin.row<float>(position);
  thread_local std::vector<float> scratch;
  scratch.resize(kv.head_dim);

  const auto rotate = [&](const TensorView& heads, const TensorView& norm) {
    for (int64_t h = 0; h < heads.dim(1); ++h)
      norm_and_rotate(heads.row<Act>(t) + h * kv.head_dim, kv.head_dim,
                      norm.empty() ? nullptr : norm.row<float>(h), args.norm_epsilon, cos_sin,
                      scratch.data());
  };
  rotate(args.q, args.q_norm);
  if (args.k.empty()) return;
  rotate(args.k, args.k_norm);

  const int span = args.batch.token_spans.data<int32_t>()[t];
  if (args.batch.state_slot.data<int32_t>()[span] < 0) return;  // a padded lane
  const int page = kv.page_table.row<int32_t>(span)[kv.column(position)];
  check(page >= 0 && page < kv.num_pages, "rotary_kv_write: page ", page, " at position ",
        position);
  const int64_t slot = kv.slot(position);
  for (int g = 0; g < kv.num_kv_heads; ++g) {
    Act* keys = static_cast<Act*>(kv.pool) + kv.tile_offset(page, g);
    Act* values = keys + kPageTokens * kv.head_dim;
    const Act* k = args.k.row<Act>(t) + g * kv.head_dim;
    for (int i = 0; i < kv.head_dim; ++i) keys[i * kPageTokens + slot] = k[i];
    std::copy_n(args.v.row<Act>(t) + g * kv.value_head_dim, kv.value_head_dim,
                values + slot * kv.value_head_dim);
  }
}

}  // namespace

void rotary_kv_write(const RotaryKvWriteArgs& args, ThreadPool& pool) {
  with_act_type(args.q.dtype(), [&](auto type) {
    const int64_t row_work = args.q.row_elements() + args.v.row_elements();
    for_rows(pool, args.batch.num_tokens, row_work,
             [&](int64_t t) { run_token<decltype(type)>(args, t); });
  });
}

}  // namespace hymba::cpu
