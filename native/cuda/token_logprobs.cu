// Computes  logprob[i] = log softmax(logits[i])[tokens[i]].
// Shapes    logits [K, V] fp32, rows of any stride and alignment; tokens and logprob [K].
// Mapping   one block of 1024 threads a row; a thread takes 8 logits at a time, 1024 apart, so that
//           a warp's loads are consecutive and 32 KB are in flight.
// Shared    one float a warp.
// Numerics  one pass: exponentials and their sum in fp32, relative to the largest logit so far; the
//           difference in fp64. Within 1e-5 of the CPU's.
// Limits    a token outside the vocabulary gets -∞.
// Cost      4·V bytes and V exponentials a row; bound by latency and memory.

#include "cuda/device/log_sum_exp.cuh"
#include "cuda/device/ptx.cuh"
#include "cuda/device/views.cuh"
#include "cuda/stages.h"

namespace hymba::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kPerThread = 8;

__global__ void __launch_bounds__(kThreads)
    token_logprobs_kernel(Rows<const float> logits, int vocab_size, const int32_t* tokens,
                          float* logprob) {
  __shared__ float slots[kThreads / kWarp];
  allow_successor();
  wait_for_predecessor();
  const float* row = logits[blockIdx.x];
  LogSumExp part{-INFINITY, 0.0f};
  for (int first = threadIdx.x; first < vocab_size; first += kThreads * kPerThread) {
    float values[kPerThread];
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const int token = first + i * kThreads;
      values[i] = token < vocab_size ? row[token] : -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) values[i] = clean_logit(values[i]);
    part.add(values);
  }
  const LogSumExp total = block_total(part, slots);
  if (threadIdx.x != 0) return;
  const int token = tokens[blockIdx.x];
  const bool known = token >= 0 && token < vocab_size;
  logprob[blockIdx.x] = known ? log_probability(row[token], total.value()) : -INFINITY;
}

}  // namespace

void token_logprobs(const TokenLogprobsArgs& args, const LaunchContext& context) {
  launch("token_logprobs", context, token_logprobs_kernel,
         dim3(static_cast<unsigned>(args.logits.rows())), dim3(kThreads), 0,
         Rows<const float>(args.logits), static_cast<int>(args.logits.dim(1)),
         args.tokens.data<const int32_t>(), args.logprob.data<float>());
}

}  // namespace hymba::cuda
