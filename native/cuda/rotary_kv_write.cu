// Computes  q, k ← rope(norm(q)), rope(norm(k)) in place, then K and V of each token into the page
//           and slot of its position. A consumer layer has neither k nor v.
// Shapes    q [T, H, Dk], k [T, G, Dk], v [T, G, Dv] act, rows strided; norms [heads, Dk] fp32;
//           cos_sin [positions, Dk] fp32; pages: device/kv_pages.cuh.
// Mapping   A block a token. Fast: a thread has 8 neighbouring elements of the lower half of a head
//           and the 8 of the upper half that they rotate with, or 16 of a head of v; all accesses
//           are of 16 bytes. Otherwise: a warp a head, element by element.
// Numerics  Norm and rotation in fp32, one rounding to the activations' dtype; the pages hold
// exactly
//           those rounded values. Bits depend on the token alone.
// Limits    None.
// Cost      q read and written, k read and written twice, v read and written: bound by memory, in
//           decode by latency.

#include <algorithm>
#include <bit>

#include "cuda/device/chunk.cuh"
#include "cuda/device/kv_pages.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/rope.cuh"
#include "cuda/device/views.cuh"
#include "cuda/dispatch.h"
#include "cuda/stages.h"

namespace hymba::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kElements = kRopeElements;

template <typename Act>
struct Params {
  DeviceBatch batch;
  Rows<Act> q;
  Rows<Act> k;  // null in a consumer, and v too
  Rows<const Act> v;
  const float* q_norm;
  const float* k_norm;
  float norm_epsilon;
  Rows<const float> cos_sin;
  KvPages<Act> kv;
  int num_heads;
};

// Where a token's heads come from and go to.
template <typename Act>
struct Token {
  int index;
  int span;
  int page;  // where K and V go
  int slot;
  const float* cosines;  // null: no rotation

  __device__ __forceinline__ Token(const Params<Act>& params, int token, int token_span)
      : index(token), span(token_span) {
    const int position = params.batch.positions[token];
    page = params.k.data == nullptr ? 0 : params.kv.page(span, params.kv.column(position));
    slot = params.kv.slot(position);
    cosines = params.cos_sin.data == nullptr ? nullptr : params.cos_sin[position];
  }
};

// --- 16 bytes an access -----------------------------------------------------------------------

// `lanes`, a power of two, neighbouring threads hold a head. Called by all threads of a warp.
__device__ __forceinline__ float square_sum(const HeadPart& part, int lanes) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kElements; ++i)
    sum = fmaf(part.low[i], part.low[i], fmaf(part.high[i], part.high[i], sum));
  for (int distance = lanes / 2; distance > 0; distance /= 2)
    sum += __shfl_xor_sync(kAllLanes, sum, distance);
  return sum;
}

__device__ __forceinline__ void normalise(HeadPart& part, float scale, const float* low_weights,
                                          const float* high_weights) {
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    part.low[i] = low_weights[i] * (part.low[i] * scale);
    part.high[i] = high_weights[i] * (part.high[i] * scale);
  }
}

template <typename Act>
__device__ __forceinline__ void copy_chunk(Act* to, const Act* from) {
  store_chunk<kElements>(to, load_chunk<kElements>(from, kElements, true), kElements, true);
}

template <typename Act>
__global__ void __launch_bounds__(kThreads) chunks_kernel(const Params<Act> params) {
  allow_successor();
  wait_for_predecessor();
  const int token_idx = blockIdx.x;
  const int span = params.batch.token_spans[token_idx];
  if (params.batch.padded(span)) return;
  const Token<Act> token(params, token_idx, span);
  const KvPages<Act>& kv = params.kv;

  // Work items: of q, of k, of v.
  const bool producer = params.k.data != nullptr;
  const int half = kv.head_dim / 2;
  const int head_items = half / kElements;
  const int value_items = kv.value_head_dim / (2 * kElements);
  const int q_items = params.num_heads * head_items;
  const int qk_items = q_items + (producer ? kv.num_kv_heads * head_items : 0);
  const int items = qk_items + (producer ? kv.num_kv_heads * value_items : 0);
  const bool has_norms = params.q_norm != nullptr || (producer && params.k_norm != nullptr);

  // All threads of a block go round equally often: they meet in the sums of the norms.
  for (int first = 0; first < items; first += blockDim.x) {
    const int item = first + static_cast<int>(threadIdx.x);
    const bool is_q = item < q_items;
    if (item < qk_items || has_norms) {
      const bool valid = item < qk_items;
      const int head_item = is_q ? item : item - q_items;
      const int head = valid ? head_item / head_items : 0;
      const int low = valid ? head_item % head_items * kElements : 0;
      Act* const row = (is_q ? params.q[token_idx] : params.k[token_idx]) + head * kv.head_dim;
      HeadPart part = {};
      if (valid) {
        unpack(part.low, load_chunk<kElements>(row + low, kElements, true));
        unpack(part.high, load_chunk<kElements>(row + half + low, kElements, true));
      }
      if (has_norms) {
        const float sum = square_sum(part, head_items);
        const float* const weights = is_q ? params.q_norm : params.k_norm;
        if (valid && weights != nullptr) {
          const float scale = 1.0f / sqrtf(sum / kv.head_dim + params.norm_epsilon);
          const float* const low_weights = weights + head * kv.head_dim + low;
          normalise(part, scale, low_weights, low_weights + half);
        }
      }
      if (valid) {
        if (token.cosines != nullptr) rotate(part, token.cosines + low, token.cosines + half + low);
        store_values<kElements>(row + low, part.low, kElements, true);
        store_values<kElements>(row + half + low, part.high, kElements, true);
        if (!is_q) {
          Act* const keys = kv.tile(token.page, head);
          store_values<kElements>(keys + kv_element(token.slot, low, kv.head_dim), part.low,
                                  kElements, true);
          store_values<kElements>(keys + kv_element(token.slot, half + low, kv.head_dim), part.high,
                                  kElements, true);
        }
      }
    }
    if (item >= qk_items && item < items) {
      const int head = (item - qk_items) / value_items;
      const int d = (item - qk_items) % value_items * 2 * kElements;
      const Act* const from = params.v[token_idx] + head * kv.value_head_dim + d;
      Act* const values = kv.tile(token.page, head) + kPageTokens * kv.head_dim;
      copy_chunk(values + kv_element(token.slot, d, kv.value_head_dim), from);
      copy_chunk(values + kv_element(token.slot, d + kElements, kv.value_head_dim),
                 from + kElements);
    }
  }
}

// --- Element by element -----------------------------------------------------------------------

// A head by one warp. `keys`: null, or K of the tile that it goes to as well.
template <typename Act>
__device__ void rotate_head(Act* head, const Params<Act>& params, const Token<Act>& token,
                            const float* weights, Act* keys) {
  const int dim = params.kv.head_dim;
  const int half = dim / 2;
  const int lane = threadIdx.x % kWarp;
  float scale = 1.0f;
  if (weights != nullptr) {
    float sum = 0.0f;
    for (int d = lane; d < dim; d += kWarp) sum = fmaf(as_float(head[d]), as_float(head[d]), sum);
    scale = 1.0f / sqrtf(warp_sum(sum) / dim + params.norm_epsilon);
  }
  __syncwarp();  // other lanes have read for the sum what this one now overwrites
  for (int d = lane; d < half; d += kWarp) {
    float low = as_float(head[d]);
    float high = as_float(head[half + d]);
    if (weights != nullptr) {
      low = weights[d] * (low * scale);
      high = weights[half + d] * (high * scale);
    }
    if (token.cosines != nullptr) {
      const float cosine = token.cosines[d];
      const float sine = token.cosines[half + d];
      rotate_pair(low, high, cosine, sine);
    }
    head[d] = as_act<Act>(low);
    head[half + d] = as_act<Act>(high);
    if (keys != nullptr) {
      keys[kv_element(token.slot, d, dim)] = as_act<Act>(low);
      keys[kv_element(token.slot, half + d, dim)] = as_act<Act>(high);
    }
  }
}

template <typename Act>
__global__ void __launch_bounds__(kThreads) elements_kernel(const Params<Act> params) {
  allow_successor();
  wait_for_predecessor();
  const int token_idx = blockIdx.x;
  const int span = params.batch.token_spans[token_idx];
  if (params.batch.padded(span)) return;
  const Token<Act> token(params, token_idx, span);
  const KvPages<Act>& kv = params.kv;
  const int dim = kv.head_dim;
  const int value_dim = kv.value_head_dim;
  const int lane = threadIdx.x % kWarp;
  const int kv_heads = params.k.data != nullptr ? kv.num_kv_heads : 0;
  for (int item = threadIdx.x / kWarp; item < params.num_heads + 2 * kv_heads;
       item += blockDim.x / kWarp) {
    if (item < params.num_heads) {
      rotate_head<Act>(params.q[token_idx] + item * dim, params, token,
                       params.q_norm == nullptr ? nullptr : params.q_norm + item * dim, nullptr);
      continue;
    }
    const int head = (item - params.num_heads) % kv_heads;
    Act* const keys = kv.tile(token.page, head);
    if (item < params.num_heads + kv_heads) {
      rotate_head<Act>(params.k[token_idx] + head * dim, params, token,
                       params.k_norm == nullptr ? nullptr : params.k_norm + head * dim, keys);
    } else {
      Act* const values = keys + kPageTokens * dim;
      for (int d = lane; d < value_dim; d += kWarp)
        values[kv_element(token.slot, d, value_dim)] = params.v[token_idx][head * value_dim + d];
    }
  }
}

// A head's threads are a power of two and lie in one warp.
template <typename Act>
bool fits_chunks(const RotaryKvWriteArgs& args) {
  const auto head_items = static_cast<unsigned>(args.kv.head_dim) / (2 * kElements);
  return args.kv.head_dim % (2 * kElements) == 0 && std::has_single_bit(head_items) &&
         head_items <= kWarp && args.kv.value_head_dim % (2 * kElements) == 0 &&
         in_chunks<Act, kElements>(args.q) &&
         (args.k.empty() ||
          (in_chunks<Act, kElements>(args.k) && in_chunks<Act, kElements>(args.v))) &&
         (args.cos_sin.empty() || in_chunks<float, kElements>(args.cos_sin)) &&
         reinterpret_cast<uintptr_t>(args.kv.pool) % 16 == 0;
}

}  // namespace

void rotary_kv_write(const RotaryKvWriteArgs& args, const LaunchContext& context) {
  const int num_heads = static_cast<int>(args.q.dim(1));
  // Threads that have something to do when they have 16 elements each.
  const int64_t row_elements =
      args.q.row_elements() + (args.k.empty() ? 0 : args.k.row_elements() + args.v.row_elements());
  const int64_t busy = ceil_div(row_elements / (2 * kElements), kWarp) * kWarp;
  with_act_type(args.q.dtype(), [&](auto type) {
    using Act = decltype(type);
    const bool in_chunks = fits_chunks<Act>(args);
    const Params<Act> params{.batch = DeviceBatch(args.batch),
                             .q = Rows<Act>(args.q),
                             .k = Rows<Act>(args.k),
                             .v = Rows<const Act>(args.v),
                             .q_norm = args.q_norm.data<float>(),
                             .k_norm = args.k_norm.data<float>(),
                             .norm_epsilon = args.norm_epsilon,
                             .cos_sin = Rows<const float>(args.cos_sin),
                             .kv = KvPages<Act>(args.kv),
                             .num_heads = num_heads};
    launch("rotary_kv_write", context, in_chunks ? chunks_kernel<Act> : elements_kernel<Act>,
           args.batch.num_tokens, in_chunks ? std::min<int64_t>(busy, kThreads) : kThreads, 0,
           params);
  });
}

}  // namespace hymba::cuda
