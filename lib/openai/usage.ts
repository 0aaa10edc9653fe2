import type { RequestMetrics } from "../engine/metrics";

/** What a request took, in OpenAI's shape. */
export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
  readonly prompt_tokens_details: { readonly cached_tokens: number };
}

/** Adds up what the texts of a request take, as they end. */
export class UsageCounter {
  readonly #n: number;
  #prompts = 0;
  #cached = 0;
  #generated = 0;

  /** @param n texts of a prompt, which counts once, with the first of them. */
  constructor(n = 1) {
    this.#n = n;
  }

  /** A text has ended. */
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
