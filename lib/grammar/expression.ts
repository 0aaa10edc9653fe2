import type { CodePointRange } from "./code_points";

/**
 * What a text may look like: a regular expression, and rules that may refer to themselves. Texts are
 * sequences of code points, which {@link buildNfa} turns into bytes.
 */
export type Expression =
  /** One code point of the ranges. */
  | { readonly kind: "character"; readonly ranges: readonly CodePointRange[] }
  /** The parts, one after the other. */
  | { readonly kind: "sequence"; readonly parts: readonly Expression[] }
  /** Any of the options; without options it matches nothing. */
  | { readonly kind: "choice"; readonly options: readonly Expression[] }
  /** The body, `min` to `max` times; `max` may be Infinity. */
  | {
      readonly kind: "repeat";
      readonly body: Expression;
      readonly min: number;
      readonly max: number;
    }
  /** A deterministic automaton over bytes. */
  | { readonly kind: "machine"; readonly machine: Machine }
  | { readonly kind: "rule"; readonly rule: Rule };

/** An expression that can be referred to, also from inside of itself; it does not match the empty text. */
export interface Rule {
  body: Expression;
}

/** States by number, the first one is 0. From each of them an accepting one can be reached. */
export interface Machine {
  readonly edges: readonly (readonly (readonly [low: number, high: number, target: number])[])[];
  readonly accepting: readonly boolean[];
}

export const NOTHING: Expression = { kind: "choice", options: [] };
export const EMPTY: Expression = { kind: "sequence", parts: [] };

export function character(...ranges: readonly CodePointRange[]): Expression {
  return { kind: "character", ranges };
}

/** One of the characters of a string. */
export function oneOf(characters: string): Expression {
  return character(
    ...Array.from(characters, (c): CodePointRange => [c.codePointAt(0)!, c.codePointAt(0)!]),
  );
}

export function literal(text: string): Expression {
  return sequence(...Array.from(text, oneOf));
}

/** Strings stand for themselves. */
export function sequence(...parts: readonly (Expression | string)[]): Expression {
  if (parts.length === 1 && typeof parts[0] !== "string") return parts[0]!;
  return {
    kind: "sequence",
    parts: parts.map((part) => (typeof part === "string" ? literal(part) : part)),
  };
}

export function choice(...options: readonly Expression[]): Expression {
  return options.length === 1 ? options[0]! : { kind: "choice", options };
}

export function repeat(body: Expression, min: number, max: number): Expression {
  return min === 1 && max === 1 ? body : { kind: "repeat", body, min, max };
}

export function optional(body: Expression): Expression {
  return repeat(body, 0, 1);
}

export function star(body: Expression): Expression {
  return repeat(body, 0, Infinity);
}

export function call(rule: Rule): Expression {
  return { kind: "rule", rule };
}

/** Whether the expression matches the empty text. */
export function isNullable(expression: Expression): boolean {
  switch (expression.kind) {
    case "character":
      return false;
    case "sequence":
      return expression.parts.every(isNullable);
    case "choice":
      return expression.options.some(isNullable);
    case "repeat":
      return expression.min === 0 || isNullable(expression.body);
    case "machine":
      return expression.machine.accepting[0]!;
    case "rule":
      return false;
  }
}
