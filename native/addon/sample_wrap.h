// The sampling stages as a JavaScript function, for tests and measurements: `kernels.sample`.
#pragma once

#include "addon/napi_setup.h"

namespace hymba {

// Adds sample({ logits, vocabSize: V, rows }), which runs on the CPU, at once.
// - logits: Float32Array [K, V]; rows: K of NativeSampling (lib/sampling.ts) with `position` and,
//   perhaps, `historyTokens`: { prompt: number[], generated: number[] }.
// - It returns { tokens: Int32Array [K], logprobs: Float32Array [K], topTokens: Int32Array [K, 20],
//   topLogprobs: Float32Array [K, 20] }.
void init_sample_wrap(Napi::Env env, Napi::Object kernels);

}  // namespace hymba
