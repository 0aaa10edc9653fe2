import type { RequestMetrics } from "../engine/metrics";
import type { EngineChunk } from "../engine/request";
import type { FinishReason } from "../generation";

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
    texts[index] = { ...part, finishReason: apiFinishReason(finishReason), metrics: metrics! };
  }
  return texts;
}

/** Why a text ended, in OpenAI's words: a full context is a matter of length, too. */
export function apiFinishReason(reason: FinishReason): "stop" | "length" {
  return reason === "stop" ? "stop" : "length";
}

/** What a request took, in OpenAI's shape. */
export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
  readonly prompt_tokens_details: { readonly cached_tokens: number };
}

/**
 * What all texts of a request took together.
 * @param n texts of a prompt, which counts once.
 */
export function usageOf(texts: readonly GeneratedText[], n = 1): Usage {
  const counter = new UsageCounter(n);
  for (const [index, { metrics }] of texts.entries()) counter.add(index, metrics);
  return counter.total;
}

/** Adds up what the texts of a request take, as they end. */
export class UsageCounter {
  readonly #n: number;
  #prompts = 0;
  #cached = 0;
  #generated = 0;

  /** @param n texts of a prompt. */
  constructor(n = 1) {
    this.#n = n;
  }

  /** A text has ended. A prompt counts once, with the first of its texts. */
  add(index: number, { promptTokens, cachedTokens, generatedTokens }: RequestMetrics): void {
    this.#generated += generatedTokens;
    if (index % this.#n !== 0) return;
    this.#prompts += promptTokens;
    this.#cached += cachedTokens;
  }

  /** In OpenAI's shape. */
  get total(): Usage {
    return {
      prompt_tokens: this.#prompts,
      completion_tokens: this.#generated,
      total_tokens: this.#prompts + this.#generated,
      prompt_tokens_details: { cached_tokens: this.#cached },
    };
  }
}
