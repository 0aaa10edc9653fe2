// Computes  logprob[i] = log softmax(logits[i])[tokens[i]].
// Shapes    logits [K, V], tokens and logprob [K].
// Mapping   one task a row.
// Numerics  exponentials in fp32; their sum, its logarithm and the difference in fp64.

#include "cpu/log_sum_exp.h"
#include "cpu/stages.h"

namespace hymba::cpu {

void token_logprobs(const TokenLogprobsArgs& args, ThreadPool& pool) {
  const int64_t vocab_size = args.logits.dim(1);
  pool.parallel_for(args.logits.rows(), [&](int64_t i) {
    const int32_t token = args.tokens.data<int32_t>()[i];
    check(token >= 0 && token < vocab_size, "token_logprobs: token ", token, " of ", vocab_size);
    const float* logits = args.logits.row<float>(i);
    args.logprob.data<float>()[i] = log_probability(logits[token], log_sum_exp(logits, vocab_size));
  });
}

}  // namespace hymba::cpu
