import { ChunkQueue } from "../engine/chunk_queue";
import type { Engine } from "../engine/engine";
import type { EngineChunk } from "../engine/request";
import type { ApiRequest } from "./endpoint";

/**
 * Continues the prompts of a request beside one another. The texts are counted through: those of the
 * second prompt come after those of the first.
 */
export async function* continuePrompts(
  engine: Engine,
  { prompts, options }: Pick<ApiRequest, "prompts" | "options">,
  signal: AbortSignal,
): AsyncGenerator<EngineChunk, void, undefined> {
  if (prompts.length === 1) {
    yield* engine.generate({ ...options, prompt: prompts[0]!, signal });
    return;
  }
  const ended = new AbortController();
  const shared = AbortSignal.any([signal, ended.signal]);
  const output = new ChunkQueue<EngineChunk>();
  const { n = 1 } = options;
  const read = async (prompt: (typeof prompts)[number], first: number): Promise<void> => {
    const chunks = engine.generate({ ...options, prompt, signal: shared });
    for await (const chunk of chunks) output.push({ ...chunk, index: first + chunk.index });
  };
  for (const [index, prompt] of prompts.entries()) {
    read(prompt, index * n).catch((error: unknown) => output.fail(error));
  }
  try {
    for (let left = prompts.length * n; left > 0;) {
      const chunk = await output.next();
      yield chunk;
      if (chunk.finishReason !== undefined) left--;
    }
  } finally {
    // When one has failed, or nobody reads any more.
    ended.abort();
  }
}
