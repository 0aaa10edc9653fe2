/** Code points from `low` to `high`, both included. */
export type CodePointRange = readonly [low: number, high: number];

export const MAX_CODE_POINT = 0x10ffff;

/** Sorted, without overlaps or neighbours. */
export function normalizeRanges(ranges: readonly CodePointRange[]): CodePointRange[] {
  const merged: [number, number][] = [];
  for (const [low, high] of [...ranges].sort((a, b) => a[0] - b[0])) {
    const last = merged.at(-1);
    if (last !== undefined && low <= last[1] + 1) last[1] = Math.max(last[1], high);
    else merged.push([low, high]);
  }
  return merged;
}

/** All code points that are not in the ranges. */
export function complementRanges(ranges: readonly CodePointRange[]): CodePointRange[] {
  const rest: CodePointRange[] = [];
  let next = 0;
  for (const [low, high] of normalizeRanges(ranges)) {
    if (low > next) rest.push([next, low - 1]);
    next = high + 1;
  }
  if (next <= MAX_CODE_POINT) rest.push([next, MAX_CODE_POINT]);
  return rest;
}

/** The code points that are in both. */
export function intersectRanges(
  a: readonly CodePointRange[],
  b: readonly CodePointRange[],
): CodePointRange[] {
  return complementRanges([...complementRanges(a), ...complementRanges(b)]);
}
