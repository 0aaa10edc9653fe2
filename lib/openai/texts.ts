import type { RequestMetrics } from "../engine/metrics";
import type { EngineChunk } from "../engine/request";

/** A drawn token, for log-probabilities. */
export type DrawnToken = Pick<EngineChunk, "token" | "logprob" | "topLogprobs">;

/** One of the texts of a request, as a whole. */
export interface GeneratedText {
  readonly text: string;
  /** All of its tokens, the one that ended it among them, when they were to be kept. */
  readonly tokens: readonly DrawnToken[];
  readonly finishReason: "stop" | "length";
  readonly metrics: RequestMetrics;
}

/** Puts the texts of a request together, in the order of their indices. */
export async function collectTexts(
  chunks: AsyncIterable<EngineChunk>,
  options: { readonly keepTokens: boolean },
): Promise<GeneratedText[]> {
  const parts: { text: string; tokens: DrawnToken[] }[] = [];
  const texts: GeneratedText[] = [];
  for await (const { index, text, finishReason, metrics, ...token } of chunks) {
    const part = (parts[index] ??= { text: "", tokens: [] });
    part.text += text;
    if (options.keepTokens) part.tokens.push(token);
    if (finishReason === undefined) continue;
    // A full context is a matter of length, too.
    texts[index] = {
      ...part,
      finishReason: finishReason === "stop" ? "stop" : "length",
      metrics: metrics!,
    };
  }
  return texts;
}

/** What a request took, in OpenAI's shape. */
export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
  readonly prompt_tokens_details: { readonly cached_tokens: number };
}

/** What all texts of a request took together; their prompt counts once. */
export function usageOf(texts: readonly GeneratedText[]): Usage {
  const { promptTokens, cachedTokens } = texts[0]!.metrics;
  const generated = texts.reduce((sum, { metrics }) => sum + metrics.generatedTokens, 0);
  return {
    prompt_tokens: promptTokens,
    completion_tokens: generated,
    total_tokens: promptTokens + generated,
    prompt_tokens_details: { cached_tokens: cachedTokens },
  };
}
