import type { CodePointRange } from "./code_points";

/** Bytes from `low` to `high`, both included. */
export type ByteRange = readonly [low: number, high: number];

/** Code points of the same number of UTF-8 bytes; surrogates have none. */
const LENGTHS: readonly CodePointRange[] = [
  [0, 0x7f],
  [0x80, 0x7ff],
  [0x800, 0xd7ff],
  [0xe000, 0xffff],
  [0x10000, 0x10ffff],
];

/** The UTF-8 forms of a range of code points: each a sequence of byte ranges, any of which may follow. */
export function utf8Sequences([low, high]: CodePointRange): ByteRange[][] {
  if (high < 0x80) return [[[low, high]]];
  return LENGTHS.flatMap(([from, to]) => {
    const first = Math.max(low, from);
    const last = Math.min(high, to);
    return first > last ? [] : splitSequences(first, last);
  });
}

/** Splits until the ranges of the single bytes are independent of one another. */
function splitSequences(low: number, high: number): ByteRange[][] {
  const first = encode(low);
  const last = encode(high);
  for (let tail = 1; tail < first.length; tail++) {
    // What the last `tail` bytes hold.
    const mask = 64 ** tail - 1;
    if (Math.floor(low / (mask + 1)) === Math.floor(high / (mask + 1))) continue;
    if (low % (mask + 1) !== 0) {
      const end = low - (low % (mask + 1)) + mask;
      return [...splitSequences(low, end), ...splitSequences(end + 1, high)];
    }
    if (high % (mask + 1) !== mask) {
      const begin = high - (high % (mask + 1));
      return [...splitSequences(low, begin - 1), ...splitSequences(begin, high)];
    }
  }
  return [first.map((byte, i): ByteRange => [byte, last[i]!])];
}

function encode(codePoint: number): number[] {
  return [...Buffer.from(String.fromCodePoint(codePoint), "utf8")];
}
