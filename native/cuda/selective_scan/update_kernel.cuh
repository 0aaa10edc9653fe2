// Spans of one token, the decode step: a block takes 32 channels of four spans.
//
// All the state of a thread, four times 16 bytes and more, is under way at once. Lane j of a quad
// reads u, delta and z of span j and shares them; the transposed sum gives it that span's output
// back.
#pragma once

#include "cuda/selective_scan/recurrence.cuh"

namespace hymba::cuda::scan {

inline constexpr int kBlockSpans = kQuad;

template <typename Act, int kStates>
__global__ void __launch_bounds__(kThreads) update_kernel(Params<Act> params) {
  allow_successor();
  const int own = threadIdx.x % kQuad;
  const int channel = blockIdx.x * kBlockChannels + threadIdx.x / kQuad;
  const bool channel_present = channel < params.channels;
  const Lane<Act, kStates> lane(params, channel, own);
  wait_for_predecessor();

  // Of this lane's span; token -1: nothing to do.
  const DeviceBatch& batch = params.batch;
  const int own_span = blockIdx.y * kBlockSpans + own;
  int own_token = -1, own_slot = -1, own_source = -1;
  if (own_span < batch.num_spans) {
    const int begin = batch.span_offsets[own_span];
    if (batch.span_offsets[own_span + 1] - begin == 1) own_token = begin;
    own_slot = batch.state_slot[own_span];
    own_source = own_slot < 0 ? -1 : batch.state_source[own_span];
  }
  const bool own_present = own_token >= 0 && channel_present;
  const float u = own_present ? as_float(params.u[own_token][channel]) : 0.0f;
  const float delta = own_present ? as_float(params.delta[own_token][channel]) : 0.0f;
  const float z = own_present ? as_float(params.z[own_token][channel]) : 0.0f;

  float h[kBlockSpans][kStates];
  Chunk<Act, kStates> b[kBlockSpans], c[kBlockSpans];
#pragma unroll
  for (int i = 0; i < kBlockSpans; ++i) {
    const int token = of_lane(own_token, i);
    lane.load_states(h[i], token < 0 ? -1 : of_lane(own_source, i));
    b[i] = token < 0 ? zero_chunk<Act, kStates>() : lane.load_part(params.b[token]);
    c[i] = token < 0 ? zero_chunk<Act, kStates>() : lane.load_part(params.c[token]);
  }

  const float delta_u = delta * u;
  float parts[kBlockSpans];
#pragma unroll
  for (int i = 0; i < kBlockSpans; ++i) {
    float b_part[kStates], c_part[kStates];
    unpack(b_part, b[i]);
    unpack(c_part, c[i]);
    parts[i] = advance_one_of_four(lane, i, h[i], delta, delta_u, b_part, c_part);
    const int slot = of_lane(own_slot, i);
    lane.store_states(h[i], of_lane(own_token, i) < 0 ? -1 : slot);
  }
  const float sum = quad_sums(parts);
  if (own_present) params.out[own_token][channel] = as_act<Act>(lane.output(sum, u, silu(z)));
}

}  // namespace hymba::cuda::scan
