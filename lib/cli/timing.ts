import type { HymbaModel } from "../model";
import { formatBytes, formatCount, formatTable, tokensPerSecond } from "./format";

/** How long the two phases of an answer took, and what it holds in the cache. */
export interface GenerationStats {
  readonly promptTokens: number;
  readonly prefillMs: number;
  readonly prefillTokensPerSecond: number;
  readonly generatedTokens: number;
  readonly decodeMs: number;
  /** The first generated token comes with the prefill and is not counted. */
  readonly decodeTokensPerSecond: number;
  /** Bytes that the cache holds for this sequence. */
  readonly sequenceCacheBytes: number;
  /** Bytes reserved for the cache when the model was loaded. */
  readonly cacheBytes: number;
}

/** Takes the times of one answer. */
export class GenerationTimer {
  readonly #startedAt = performance.now();
  #firstTokenAt: number | undefined;
  #lastTokenAt = 0;
  #tokens = 0;

  /** Number of tokens so far. */
  get tokens(): number {
    return this.#tokens;
  }

  /** To be called when a token arrives. */
  countToken(): void {
    this.#lastTokenAt = performance.now();
    this.#firstTokenAt ??= this.#lastTokenAt;
    this.#tokens++;
  }

  /**
   * @param promptTokens tokens that were prefilled for this answer.
   * @param sequenceTokens tokens that the sequence holds now.
   */
  stats(model: HymbaModel, promptTokens: number, sequenceTokens: number): GenerationStats {
    const firstTokenAt = this.#firstTokenAt ?? performance.now();
    const prefillMs = firstTokenAt - this.#startedAt;
    const decodeMs = Math.max(this.#lastTokenAt - firstTokenAt, 0);
    const { memory } = model.info();
    return {
      promptTokens,
      prefillMs,
      prefillTokensPerSecond: tokensPerSecond(promptTokens, prefillMs),
      generatedTokens: this.#tokens,
      decodeMs,
      decodeTokensPerSecond: tokensPerSecond(Math.max(this.#tokens - 1, 0), decodeMs),
      sequenceCacheBytes: sequenceCacheBytes(model, sequenceTokens),
      cacheBytes: memory.cacheBytes,
    };
  }
}

/** Statistics as a person reads them. */
export function formatStats(model: HymbaModel, stats: GenerationStats): string {
  const { device, dtype } = model.info();
  const phase = (tokens: number, ms: number, rate: number): string =>
    `${formatCount(tokens)} tokens in ${(ms / 1000).toFixed(2)} s, ${formatCount(rate)} tokens/s`;
  return formatTable([
    ["device", `${device.kind}: ${device.name}, ${dtype} (${device.reason})`],
    ["prefill", phase(stats.promptTokens, stats.prefillMs, stats.prefillTokensPerSecond)],
    ["decode", phase(stats.generatedTokens, stats.decodeMs, stats.decodeTokensPerSecond)],
    [
      "cache",
      `${formatBytes(stats.sequenceCacheBytes)} for this sequence, ` +
        `${formatBytes(stats.cacheBytes)} reserved`,
    ],
  ]);
}

function sequenceCacheBytes(model: HymbaModel, tokens: number): number {
  if (tokens === 0) return 0;
  return model.memoryPlan({ maxContextTokens: tokens }).perSequence.totalBytes;
}
