import type { GenerationDefaults } from "./checkpoint/generation_config";
import { type GenerateOptions, type GenerationChunk, readGeneration } from "./generation";
import type { HymbaModel } from "./model";
import type { SamplingOptions } from "./sampling";

/** @internal Runs `model.generate`. */
export async function* generate(
  model: HymbaModel,
  options: GenerateOptions,
  defaults: GenerationDefaults,
): AsyncGenerator<GenerationChunk, void, undefined> {
  const generation = await readGeneration(model, options, defaults);
  const { prompt, sampling, minTokens, maxTokens } = generation;
  const chunks = generation.newChunks();
  const { signal } = options;
  const sequence = options.sequence ?? model.createSequence();
  let draws: ReturnType<HymbaModel["draw"]> | undefined;
  const sampleOf = (i: number): SamplingOptions => {
    const tokenMask = chunks.tokenMask(i);
    return tokenMask === undefined ? sampling : { ...sampling, tokenMask };
  };
  try {
    const first = { sequence, tokens: prompt, sample: sampleOf(0) };
    let [result] = await model.prefill([first], { signal });
    const mostSteps = model.limits.maxContextTokens - sequence.length;
    for (let count = 1; ; count++) {
      const chunk = chunks.next(result!, mostSteps);
      yield chunk;
      if (chunk.finishReason !== undefined) return;
      const next = { sequence, token: chunk.token, sample: sampleOf(count) };
      if (chunks.constrained) {
        // What may be drawn next depends on this token, so that no step can be ahead of it.
        [result] = await model.decode([next], { signal });
        continue;
      }
      let step = await draws?.next();
      if (step === undefined || step.done === true) {
        // Up to where the mask changes, if it does.
        const end = Math.min(count < minTokens ? minTokens : maxTokens, mostSteps + 1);
        // A sequence of the caller's must not take more than was yielded.
        const ahead = options.sequence === undefined;
        draws = model.draw([next], end - count, { ahead, signal });
        step = await draws.next();
      }
      [result] = step.value!;
    }
  } finally {
    await draws?.return();
    if (options.sequence === undefined) sequence.dispose();
  }
}
