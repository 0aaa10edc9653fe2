// Computes  out[t, h] = softmax(scale · q[t, h] · Kᵀ + mask) · V for spans of exactly one token: a
//           step of decoding.
// Shapes    q [T, H, Dk] bf16, rows strided, out [T, H, Dv] bf16; Dk and Dv 64 or 128; K and V in
//           pages (device/kv_pages.cuh).
// Mapping   A block a unit of a token's keys and K/V head: unit_attention.cuh.
// Cost      (Dk + Dv)·2 bytes a K/V head and visible key, once: bound by memory. At 64/128 a block
//           keeps 48 KB under way, four blocks fit on an SM of an H100.

#include "cuda/attention/unit_attention.cuh"

namespace hymba::cuda {
namespace {

// Queries as they are.
template <int kHeadDim>
struct StoredInputs {
  static constexpr bool kBringsKeys = false;

  Rows<const BFloat16> q;
  const int32_t* span_offsets;

  __device__ __forceinline__ int token(int span) const {
    const int token = span_offsets[span];
    return span_offsets[span + 1] - token == 1 ? token : -1;
  }

  __device__ __forceinline__ void bring(BFloat16* queries, const UnitToken& at, int group,
                                        const OwnSlot*) const {
    constexpr int kRowChunks = kHeadDim / kChunkElements;
    const BFloat16* const from = q[at.token] + at.kv_head * group * kHeadDim;
#pragma unroll
    for (int i = 0; i < kRowTile * kRowChunks; i += kAttentionThreads) {
      const int row = (i + static_cast<int>(threadIdx.x)) / kRowChunks;
      const int chunk = threadIdx.x % kRowChunks;
      *reinterpret_cast<uint4*>(queries + shared_chunk<kRowTile>(row, chunk)) =
          row < group
              ? *reinterpret_cast<const uint4*>(from + row * kHeadDim + chunk * kChunkElements)
              : uint4{};
    }
  }
};

template <int kHeadDim, int kValueDim>
__global__ void __launch_bounds__(kAttentionThreads, UnitMemory<kHeadDim, kValueDim>::kBlocksAnSm)
    single_tokens_kernel(UnitParams params, StoredInputs<kHeadDim> inputs) {
  wait_for_predecessor();
  attend_unit<kHeadDim, kValueDim>(params, blockIdx.x, inputs);
}

}  // namespace

void attend_single_tokens(const AttentionArgs& args, const LaunchContext& context) {
  const int kv_heads = args.kv.num_kv_heads;
  const int spans_a_launch = std::min(kMaxLaunchSpans, context.num_counters / kv_heads);
  if (spans_a_launch == 0)
    fail(ErrorCode::kModelUnsupported, "attention: ", kv_heads, " K/V heads, expected at most ",
         context.num_counters);

  const int most_spans = std::min(args.batch.num_spans, spans_a_launch);
  UnitParams params = unit_params(args, context, most_spans);
  params.partials = partials_in(
      context.scratch_for<float>(partial_floats(args, params.plan, most_spans), "attention"), args,
      params.plan, most_spans);
  for (int first = 0; first < args.batch.num_spans; first += spans_a_launch) {
    params.first_span = first;
    const int num_spans = std::min(spans_a_launch, args.batch.num_spans - first);
    with_head_dims(args.kv, [&](auto head_dim, auto value_dim) {
      launch("attention", context, single_tokens_kernel<head_dim, value_dim>,
             static_cast<unsigned>(params.num_units(num_spans)), kAttentionThreads,
             unit_shared_bytes<head_dim, value_dim>(params.plan), params,
             StoredInputs<head_dim>{Rows<const BFloat16>(args.q),
                                    args.batch.span_offsets.data<int32_t>()});
    });
  }
}

}  // namespace hymba::cuda
