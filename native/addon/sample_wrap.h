// The sampling stages as a JavaScript function, for tests and measurements: `kernels.sample`.
#pragma once

#include "addon/napi_setup.h"

namespace hymba {

// Adds sample({ logits: Float32Array [K·V], vocabSize: V, rows: K of { …NativeSampling, position, historyTokens?: { prompt: number[],
// generated: number[] } } }) → { tokens: Int32Array [K], logprobs: Float32Array [K], topTokens: Int32Array [K·20], topLogprobs:
// Float32Array [K·20] }. It runs on the CPU, at once.
void init_sample_wrap(Napi::Env env, Napi::Object kernels);

}  // namespace hymba
