import type { GenerationDefaults } from "./checkpoint/generation_config";
import {
  type ChunkMaker,
  type GenerateOptions,
  type GenerationChunk,
  readGeneration,
} from "./generation";
import type { HymbaModel } from "./model";
import type { SamplingOptions } from "./sampling";

/** @internal Runs `model.generate`. */
export async function* generate(
  model: HymbaModel,
  options: GenerateOptions,
  defaults: GenerationDefaults,
): AsyncGenerator<GenerationChunk, void, undefined> {
  const generation = await readGeneration(model, options, defaults);
  const { prompt, sampling, maxTokens } = generation;
  const chunks = generation.newChunks();
  const { signal } = options;
  const sequence = options.sequence ?? model.createSequence();
  let draws: ReturnType<HymbaModel["draw"]> | undefined;
  const sample = withMask(sampling, chunks);
  try {
    let [result] = await model.prefill([{ sequence, tokens: prompt, sample }], { signal });
    const mostSteps = model.limits.maxContextTokens - sequence.length;
    for (;;) {
      const chunk = chunks.next(result!, mostSteps);
      yield chunk;
      if (chunk.finishReason !== undefined) return;
      const { token } = chunk;
      if (chunks.tokenMask !== undefined) {
        // What may be drawn next depends on this token, so that no step can be ahead of it.
        const sample = withMask(sampling, chunks);
        [result] = await model.decode([{ sequence, token, sample }], { signal });
        continue;
      }
      // A sequence of the caller's must not take more than was yielded.
      draws ??= model.draw(
        [{ sequence, token, sample: sampling }],
        Math.min(maxTokens - 1, mostSteps),
        { ahead: options.sequence === undefined, signal },
      );
      [result] = (await draws.next()).value!;
    }
  } finally {
    await draws?.return();
    if (options.sequence === undefined) sequence.dispose();
  }
}

function withMask(sampling: SamplingOptions, { tokenMask }: ChunkMaker): SamplingOptions {
  return tokenMask === undefined ? sampling : { ...sampling, tokenMask };
}
