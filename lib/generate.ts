import type { GenerationDefaults } from "./checkpoint/generation_config";
import { type GenerateOptions, type GenerationChunk, readGeneration } from "./generation";
import type { HymbaModel } from "./model";

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
  try {
    let [result] = await model.prefill([{ sequence, tokens: prompt, sample: sampling }], {
      signal,
    });
    const mostSteps = model.limits.maxContextTokens - sequence.length;
    for (;;) {
      const chunk = chunks.next(result!, mostSteps);
      yield chunk;
      if (chunk.finishReason !== undefined) return;
      // A sequence of the caller's must not take more than was yielded.
      draws ??= model.draw(
        [{ sequence, token: chunk.token, sample: sampling }],
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
