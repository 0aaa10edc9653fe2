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
  for (let i = 0; i < maxTokens; i++) {
    if (constraint.isComplete || (constraint.mayEnd && numbers.integer(0, 4) === 0)) {
      return Buffer.concat(parts).toString("utf8");
    }
    const allowed = tokensOf(constraint.mask).filter((token) => bytes[token] !== undefined);
    // Now and then a sign: else strings of a large vocabulary hardly ever end.
    const signs = allowed.filter((token) =>
      '"}],'.includes(String.fromCharCode(bytes[token]![0]!)),
    );
    const ending = signs.length > 0 && numbers.integer(0, 60) < 10 + i;
    const from = ending ? signs : allowed;
    const token = from[numbers.integer(0, from.length)]!;
    parts.push(bytes[token]!);
    constraint.accept(token);
  }
  return undefined;
}
