/** Text tokens of a page of the cache: `kPageTokens` in native/core/page.h. */
export const PAGE_TOKENS = 64;

/** Pages that so many text tokens take. */
export function pagesFor(tokens: number): number {
  return Math.ceil(tokens / PAGE_TOKENS);
}

/** A part of a request's tokens that goes into one step. */
export interface StepSpan {
  /** Index of the request. */
  readonly request: number;
  /** First token of the part. */
  readonly begin: number;
  /** One past its last token. */
  readonly end: number;
}

/** What one step can take. */
export interface StepLimits {
  /** Tokens of all spans together. */
  readonly maxBatchTokens: number;
  /** Spans of more than one token: each may need cache pages beyond its ring. */
  readonly maxPrefillSpans: number;
}

/**
 * Cuts requests into steps: in their order, as many tokens a step as fit. How a request is cut does
 * not change its numbers.
 * @param lengths tokens of each request, at least 1.
 */
export function planSteps(lengths: readonly number[], limits: StepLimits): StepSpan[][] {
  const done = lengths.map(() => 0);
  const steps: StepSpan[][] = [];
  let first = 0;
  while (first < lengths.length) {
    const step: StepSpan[] = [];
    let tokens = limits.maxBatchTokens;
    let prefillSpans = limits.maxPrefillSpans;
    for (let request = first; request < lengths.length && tokens > 0; request++) {
      const begin = done[request]!;
      const size = Math.min(lengths[request]! - begin, tokens);
      if (size === 0) continue;
      if (size > 1 && prefillSpans-- <= 0) continue;
      step.push({ request, begin, end: begin + size });
      done[request] = begin + size;
      tokens -= size;
    }
    while (first < lengths.length && done[first] === lengths[first]) first++;
    steps.push(step);
  }
  return steps;
}
