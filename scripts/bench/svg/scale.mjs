// From values to pixels, and the ticks between which the values lie.

/**
 * @typedef {readonly [number, number]} Range
 * @typedef {(value: number) => number} Scale
 */

/** Maps the ends of a domain to those of a range. @param {Range} domain @param {Range} range @returns {Scale} */
export function linearScale([low, high], [from, to]) {
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

/** The same, by ratios. @param {Range} domain @param {Range} range @returns {Scale} */
export function logScale([low, high], range) {
  const linear = linearScale([Math.log(low), Math.log(high)], range);
  return (value) => linear(Math.log(value));
}

/** The powers of two around some values, at least two. @param {readonly number[]} values @returns {number[]} */
export function powersOfTwo(values) {
  const first = Math.floor(Math.log2(Math.min(...values)));
  const last = Math.max(Math.ceil(Math.log2(Math.max(...values))), first + 1);
  return Array.from({ length: last - first + 1 }, (_, i) => 2 ** (first + i));
}

/** The numbers 1, 2, 5, 10, 20, … around some values, at least two. @param {readonly number[]} values @returns {number[]} */
export function oneTwoFive(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const decades = [Math.floor(Math.log10(low)), Math.floor(Math.log10(high))];
  /** @type {number[]} */
  const steps = [];
  for (let decade = decades[0] ?? 0; decade <= (decades[1] ?? 0); decade++) {
    for (const digit of [1, 2, 5]) steps.push(digit * 10 ** decade);
  }
  steps.push(10 ** ((decades[1] ?? 0) + 1));
  const first = steps.findLastIndex((step) => step <= low);
  const last = Math.max(
    steps.findIndex((step) => step >= high),
    first + 1,
  );
  return steps.slice(first, last + 1);
}

/** From 0 to what no value exceeds, in six or so round steps. @param {readonly number[]} values @returns {number[]} */
export function fromZero(values) {
  const high = Math.max(...values);
  const rough = high / 6;
  const decade = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5].find((digit) => digit * decade >= rough) ?? 10) * decade;
  return Array.from({ length: Math.ceil(high / step) + 1 }, (_, i) => i * step);
}
