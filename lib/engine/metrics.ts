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

/** Notes what happens to a request. */
export class RequestMeter {
  readonly #arrival: number;
  #entry: { readonly time: number; readonly cachedTokens: number } | undefined;
  #first = 0;
  #last = 0;
  #longestGap = 0;
  #tokens = 0;

  /** @param arrival in the time of `performance.now()`, like all times. */
  constructor(arrival: number) {
    this.#arrival = arrival;
  }

  /** It comes into a step, with so many tokens from the prefix cache; only the first time counts. */
  enter(cachedTokens: number, now = performance.now()): void {
    this.#entry ??= { time: now, cachedTokens };
  }

  /** A token has been drawn. */
  token(now = performance.now()): void {
    if (this.#tokens === 0) this.#first = now;
    else this.#longestGap = Math.max(this.#longestGap, now - this.#last);
    this.#last = now;
    this.#tokens += 1;
  }

  /** After the last token. */
  read(promptTokens: number): RequestMetrics {
    const gaps = this.#tokens - 1;
    return {
      promptTokens,
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
