// Computes  out[t, h] = softmax(scale · q[t, h] · Kᵀ + mask) · V for all that the tensor-core
// kernels
//           do not take: fp32, other head dims, larger groups, rows that are not aligned.
// Shapes    q [T, H, Dk] act, out [T, H, Dv] act, rows strided; K and V in pages.
// Mapping   A warp a (token, head), which goes through the pages that the token sees: a lane scores
//           two keys of a page, then adds up every 32nd column of the output.
// Shared    For each warp its query, scaled, the probabilities of a page and its output, all fp32.
// Numerics  Everything in fp32; probabilities are rounded to the activations' dtype before they
// meet
//           V, as in the other kernels. A token's result depends on nothing but itself.
// Limits    Dk + Dv up to 3,000.
// Cost      2·(Dk + Dv) flops a head, token and key, on the ordinary cores: right, not fast.

#include "cuda/attention/kernels.h"
#include "cuda/attention/visible_pages.cuh"
#include "cuda/device/convert.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/device/views.cuh"
#include "cuda/dispatch.h"

namespace hymba::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kKeysALane = kPageTokens / kWarp;
constexpr int kMaxDims = 3000;

// Σ query[d] · key[d]; elements from a multiple of 8 on lie side by side up to the next, or all do.
template <typename Act>
__device__ __forceinline__ float dot(const float* query, const Act* keys, int slot, int dim) {
  float sum = 0.0f;
  for (int first = 0; first < dim; first += 8) {
    const Act* chunk = keys + kv_element(slot, first, dim);
    const int count = min(8, dim - first);
    for (int i = 0; i < count; ++i) sum = fmaf(query[first + i], as_float(chunk[i]), sum);
  }
  return sum;
}

template <typename Act>
__global__ void __launch_bounds__(kWarps* kWarp)
    generic_kernel(Rows<const Act> q, Rows<Act> out, KvPages<Act> kv, DeviceBatch batch, int window,
                   int num_heads, float scale) {
  allow_successor();
  wait_for_predecessor();
  const int lane = threadIdx.x % kWarp;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const int token = static_cast<int>(item / num_heads);
  const int head = static_cast<int>(item % num_heads);
  if (token >= batch.num_tokens) return;
  const int span = batch.token_spans[token];
  if (batch.padded(span)) return;

  const int dim = kv.head_dim;
  const int value_dim = kv.value_head_dim;
  float* const query =
      dynamic_shared<float>() + threadIdx.x / kWarp * (dim + value_dim + kPageTokens);
  float* const sums = query + dim;
  float* const probabilities = sums + value_dim;
  for (int d = lane; d < dim; d += kWarp)
    query[d] = scale * as_float(q[token][static_cast<int64_t>(head) * dim + d]);
  for (int d = lane; d < value_dim; d += kWarp) sums[d] = 0.0f;
  __syncwarp();

  const int position = batch.positions[token];
  const VisiblePages pages(kv, window, position, position);
  const int kv_head = head / (num_heads / kv.num_kv_heads);
  const float negative_infinity = __uint_as_float(0xff800000u);
  float max = negative_infinity;
  float sum = 0.0f;
  for (int page = 0; page < pages.count(); ++page) {
    const Act* const keys = kv.tile(kv.page(span, pages.column(page)), kv_head);
    const Act* const values = keys + kPageTokens * dim;
    const int first = pages.first_slot(page, position);
    const int end = pages.end_slot(page, position);
    float scores[kKeysALane];
    float page_max = negative_infinity;
#pragma unroll
    for (int i = 0; i < kKeysALane; ++i) {
      const int slot = lane + i * kWarp;
      const bool visible = slot >= first && slot < end;
      scores[i] = visible ? dot(query, keys, slot, dim) : negative_infinity;
      page_max = fmaxf(page_max, scores[i]);
    }
    const float new_max = fmaxf(max, warp_max(page_max));
    const float rescale = expf(max - new_max);  // the first page: e^-∞
    float page_sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kKeysALane; ++i) {
      const float probability = expf(scores[i] - new_max);
      page_sum += probability;
      probabilities[lane + i * kWarp] = rounded<Act>(probability);
    }
    sum = fmaf(sum, rescale, warp_sum(page_sum));
    max = new_max;
    __syncwarp();
    for (int d = lane; d < value_dim; d += kWarp) {
      float column = sums[d] * rescale;
      for (int slot = first; slot < end; ++slot)
        column =
            fmaf(probabilities[slot], as_float(values[kv_element(slot, d, value_dim)]), column);
      sums[d] = column;
    }
    __syncwarp();
  }

  const float inverse = 1.0f / sum;
  for (int d = lane; d < value_dim; d += kWarp)
    out[token][static_cast<int64_t>(head) * value_dim + d] = as_act<Act>(sums[d] * inverse);
}

}  // namespace

void attend_generic(const AttentionArgs& args, const LaunchContext& context) {
  const int dims = args.kv.head_dim + args.kv.value_head_dim;
  if (dims > kMaxDims)
    fail(ErrorCode::kModelUnsupported, "attention: head dims of ", args.kv.head_dim, " and ",
         args.kv.value_head_dim, ", expected no more than ", kMaxDims, " together");
  const int num_heads = static_cast<int>(args.q.dim(1));
  const int64_t items = static_cast<int64_t>(args.batch.num_tokens) * num_heads;
  with_act_type(args.q.dtype(), [&](auto type) {
    using Act = decltype(type);
    launch("attention", context, generic_kernel<Act>,
           static_cast<unsigned>(ceil_div(items, kWarps)), kWarps * kWarp,
           kWarps * (dims + kPageTokens) * sizeof(float), Rows<const Act>(args.q),
           Rows<Act>(args.out), KvPages<Act>(args.kv), DeviceBatch(args.batch), args.window,
           num_heads, args.scale);
  });
}

}  // namespace hymba::cuda
