import type { FinishReason } from "../generation";

/** How a request of an engine went. Times are in milliseconds. */
export interface RequestMetrics {
  readonly promptTokens: number;
  /** Tokens of the prompt that came from the prefix cache. */
  readonly cachedTokens: number;
  readonly generatedTokens: number;
  /** From its arrival until it came into a step. */
  readonly queueMs: number;
  /** From its arrival until its first token was there. */
  readonly timeToFirstTokenMs: number;
  /** Between one token and the next; 0 when there was but one. */
  readonly interTokenMs: { readonly mean: number; readonly max: number };
  /** From its arrival until its last token was there. */
  readonly totalMs: number;
}

/** Why a text of an engine ended: `abort` when it was withdrawn, out of time, or the engine failed. */
export type EndReason = FinishReason | "abort";

/**
 * What an engine tells about its texts as it happens, such as for metrics. Its methods are called
 * between two steps: they must be quick and must not throw. Times are in milliseconds.
 */
export interface EngineObserver {
  /** A text came into a step for the first time. `cachedTokens` of its prompt were in the prefix cache. */
  entered(text: {
    readonly promptTokens: number;
    readonly cachedTokens: number;
    readonly queueMs: number;
  }): void;
  /** A text's first token was there, so long after the text had come into a step. */
  firstToken(text: { readonly timeToFirstTokenMs: number; readonly prefillMs: number }): void;
  /** A further token was there, so long after the one before. */
  nextToken(gapMs: number): void;
  /**
   * A text ended; every one that was queued does, once, be it that it never came into a step. `decodeMs` counts from
   * its first token to its last, and is undefined when there was none.
   */
  ended(
    reason: EndReason,
    text: { readonly totalMs: number; readonly decodeMs: number | undefined },
  ): void;
}

/** Notes what happens to a request. */
export class RequestMeter {
  readonly #arrival: number;
  readonly #promptTokens: number;
  readonly #observer: EngineObserver | undefined;
  #entry: { readonly time: number; readonly cachedTokens: number } | undefined;
  #first = 0;
  #last = 0;
  #longestGap = 0;
  #tokens = 0;

  /** @param arrival in the time of `performance.now()`, like all times. */
  constructor(arrival: number, promptTokens: number, observer?: EngineObserver) {
    this.#arrival = arrival;
    this.#promptTokens = promptTokens;
    this.#observer = observer;
  }

  /** It comes into a step, with so many tokens from the prefix cache; only the first time counts. */
  enter(cachedTokens: number, now = performance.now()): void {
    if (this.#entry !== undefined) return;
    this.#entry = { time: now, cachedTokens };
    const queueMs = now - this.#arrival;
    this.#observer?.entered({ promptTokens: this.#promptTokens, cachedTokens, queueMs });
  }

  /** A token has been drawn. */
  token(now = performance.now()): void {
    if (this.#tokens === 0) {
      this.#first = now;
      this.#observer?.firstToken({
        timeToFirstTokenMs: now - this.#arrival,
        prefillMs: now - this.#entry!.time,
      });
    } else {
      const gap = now - this.#last;
      this.#longestGap = Math.max(this.#longestGap, gap);
      this.#observer?.nextToken(gap);
    }
    this.#last = now;
    this.#tokens += 1;
  }

  /** It has ended. */
  end(reason: EndReason, now = performance.now()): void {
    this.#observer?.ended(reason, {
      totalMs: now - this.#arrival,
      decodeMs: this.#tokens === 0 ? undefined : this.#last - this.#first,
    });
  }

  /** After the last token. */
  read(): RequestMetrics {
    const gaps = this.#tokens - 1;
    return {
      promptTokens: this.#promptTokens,
      cachedTokens: this.#entry!.cachedTokens,
      generatedTokens: this.#tokens,
      queueMs: this.#entry!.time - this.#arrival,
      timeToFirstTokenMs: this.#first - this.#arrival,
      interTokenMs: {
        mean: gaps === 0 ? 0 : (this.#last - this.#first) / gaps,
        max: this.#longestGap,
      },
      totalMs: this.#last - this.#arrival,
    };
  }
}
