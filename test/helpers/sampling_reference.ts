/** Sampling as native/ops/sampling.h words it, in double precision and as plainly as possible. */

import type { SamplingOptions } from "../../lib/sampling";

/** The options whose effect on a distribution is computed here. */
export type ReferenceOptions = Pick<SamplingOptions, "temperature" | "topK" | "topP" | "minP">;

/** Probability of each token, of logits that biases and penalties have been applied to. */
export function distribution(logits: readonly number[], options: ReferenceOptions): number[] {
  const { temperature = 1, topK = 0, topP = 1, minP = 0 } = options;
  const ranked = logits.map((_, id) => id).sort((a, b) => logits[b]! - logits[a]! || a - b);
  const weight = (id: number) => Math.exp((logits[id]! - logits[ranked[0]!]!) / temperature);
  const sum = (ids: readonly number[]) => ids.reduce((total, id) => total + weight(id), 0);

  let kept = topK > 0 ? ranked.slice(0, topK) : ranked;
  if (topP < 1) {
    const total = sum(kept);
    const end = kept.findIndex((_, i) => sum(kept.slice(0, i + 1)) >= topP * total);
    kept = kept.slice(0, end + 1);
  }
  kept = kept.filter((id) => weight(id) >= minP);
  const total = sum(kept);
  return logits.map((_, id) => (kept.includes(id) ? weight(id) / total : 0));
}

const MASK = 2n ** 64n - 1n;
const GOLDEN_STEP = 0x9e3779b97f4a7c15n;

function mix64(x: bigint): bigint {
  x = ((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  x = ((x ^ (x >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return x ^ (x >> 31n);
}

/** The noise that native/ops/gumbel.h adds to a token's logit. */
export function gumbel(seed: bigint, position: number, token: number): number {
  const key = mix64((mix64((seed + GOLDEN_STEP) & MASK) + BigInt(position) * GOLDEN_STEP) & MASK);
  const bits = mix64((key + BigInt(token + 1) * GOLDEN_STEP) & MASK);
  const uniform = (Number(bits >> 17n) + 0.5) / 2 ** 47;
  return -Math.log(-Math.log1p(-uniform));
}

/** The token of the largest value, the lowest id among equals. */
export const argmax = (values: readonly number[]): number => values.indexOf(Math.max(...values));

/** log softmax. */
export function logSoftmax(logits: readonly number[]): number[] {
  const largest = Math.max(...logits);
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - largest), 0);
  return logits.map((logit) => logit - largest - Math.log(sum));
}

/**
 * How far counts are from their expectation: Pearson's chi-square over its 99.9 % quantile (by Wilson
 * and Hilferty's approximation), so that above 1 means p < 0.001. Infinity when a token was drawn
 * that has no probability.
 */
export function chiSquareRatio(
  counts: readonly number[],
  probabilities: readonly number[],
): number {
  const draws = counts.reduce((a, b) => a + b, 0);
  const possible = probabilities.filter((probability) => probability > 0).length;
  const chiSquare = counts.reduce((total, count, token) => {
    const expected = draws * probabilities[token]!;
    return total + (expected > 0 ? (count - expected) ** 2 / expected : count > 0 ? Infinity : 0);
  }, 0);
  const freedom = Math.max(1, possible - 1);
  const spread = 2 / (9 * freedom);
  return chiSquare / (freedom * (1 - spread + 3.0902 * Math.sqrt(spread)) ** 3);
}
