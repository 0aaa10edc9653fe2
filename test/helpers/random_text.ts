import type { Constraint } from "../../lib/grammar/constraint";
import type { Random } from "../kernels/helpers";

/** The tokens of a mask. */
export function tokensOf(mask: Uint32Array): number[] {
  const tokens: number[] = [];
  mask.forEach((word, i) => {
    for (let rest = word; rest !== 0; rest &= rest - 1) {
      tokens.push(32 * i + 31 - Math.clz32(rest & -rest));
    }
  });
  return tokens;
}

/**
 * A text of random tokens that the constraint allows, in place of a model. It ends where it may with a
 * chance that grows with its length, and prefers short tokens then, which strings end with.
 * @returns the text; undefined when it was not complete after `maxTokens`.
 */
export function randomText(
  constraint: Constraint,
  bytes: readonly (Uint8Array | undefined)[],
  numbers: Random,
  maxTokens: number,
): string | undefined {
  const parts: Uint8Array[] = [];
  // Signs are preferred every now and then: else strings of a large vocabulary hardly ever end.
  const texts = bytes.flatMap((token, id) => (token === undefined ? [] : [id]));
  const signs = texts.filter((id) => '"}],'.includes(String.fromCharCode(bytes[id]![0]!)));
  for (let i = 0; i < maxTokens; i++) {
    if (constraint.isComplete || (constraint.mayEnd && numbers.integer(0, 4) === 0)) {
      return Buffer.concat(parts).toString("utf8");
    }
    const { mask } = constraint;
    const pick = (list: readonly number[]): number | undefined => {
      const first = numbers.integer(0, list.length);
      const isAllowed = (id: number): boolean => (mask[id >> 5]! & (1 << (id & 31))) !== 0;
      return list.slice(first).find(isAllowed) ?? list.find(isAllowed);
    };
    const token = (numbers.integer(0, 60) < 10 + i ? pick(signs) : undefined) ?? pick(texts)!;
    parts.push(bytes[token]!);
    constraint.accept(token);
  }
  return undefined;
}
