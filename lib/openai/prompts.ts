import { setMaxListeners } from "node:events";
import { ChunkQueue } from "../engine/chunk_queue";
import type { Engine } from "../engine/engine";
import type { EngineChunk } from "../engine/request";
import type { AskedTexts } from "./texts";

/**
 * Continues the prompts of a request beside one another. The texts are counted through: those of the
 * second prompt come after those of the first. When one fails, the others are given up.
 */
export async function* continuePrompts(
  engine: Engine,
  { prompts, promptsOnly, options }: AskedTexts,
  signal: AbortSignal,
): AsyncGenerator<EngineChunk, void, undefined> {
  for await (const chunk of generateAll(engine, { prompts, options }, signal)) {
    yield promptsOnly ? withoutText(chunk) : chunk;
  }
}

async function* generateAll(
  engine: Engine,
  { prompts, options }: Pick<AskedTexts, "prompts" | "options">,
  signal: AbortSignal,
): AsyncGenerator<EngineChunk, void, undefined> {
  if (prompts.length === 1) {
    yield* engine.generate({ ...options, prompt: prompts[0]!, signal });
    return;
  }
  const ended = new AbortController();
  const shared = AbortSignal.any([signal, ended.signal]);
  // Each prompt has one.
  setMaxListeners(0, shared);
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
    ended.abort();
  }
}

/** Who asks for no tokens gets none, although one was drawn. */
function withoutText(chunk: EngineChunk): EngineChunk {
  const metrics = { ...chunk.metrics!, generatedTokens: 0 };
  return { ...chunk, text: "", finishReason: "length", metrics };
}
