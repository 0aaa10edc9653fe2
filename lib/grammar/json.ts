import { type CodePointRange, intersectRanges, MAX_CODE_POINT } from "./code_points";
import {
  call,
  character,
  choice,
  EMPTY,
  type Expression,
  literal,
  oneOf,
  optional,
  repeat,
  type Rule,
  sequence,
  star,
} from "./expression";

/**
 * JSON as it may be written: one space may stand behind a colon and a comma, and no other whitespace
 * between tokens. Without a bound a model could write spaces for ever.
 */
const SPACE = optional(literal(" "));
export const COLON = sequence(":", SPACE);
export const COMMA = sequence(",", SPACE);

/** Digits before the point, so that a number keeps its value as a double. */
export const MOST_DIGITS = 15;

const DIGIT = character([0x30, 0x39]);
const HEX = oneOf("0123456789abcdefABCDEF");
/** What stands for itself in a string. */
const PLAIN: readonly CodePointRange[] = [
  [0x20, 0x21],
  [0x23, 0x5b],
  [0x5d, MAX_CODE_POINT],
];
/** What a string shows by an escape. */
const ESCAPED: readonly number[] = [...Array(0x20).keys(), 0x22, 0x5c];

/** One character of a string, as one code point: a surrogate never stands alone. */
export const STRING_CHARACTER: Expression = {
  kind: "choice",
  options: [
    character(...PLAIN),
    sequence("\\", oneOf('"\\/bfnrt')),
    sequence(
      "\\u",
      choice(
        sequence(oneOf("0123456789abcefABCEF"), HEX, HEX, HEX),
        sequence(oneOf("dD"), character([0x30, 0x37]), HEX, HEX),
        sequence(
          oneOf("dD"),
          oneOf("89abAB"),
          HEX,
          HEX,
          "\\u",
          oneOf("dD"),
          oneOf("cdefCDEF"),
          HEX,
          HEX,
        ),
      ),
    ),
  ],
};

/** Rules rather than expressions, so that what can follow inside of them is worked out once. */
const STRING: Rule = { body: quoted(star(STRING_CHARACTER)) };
const INTEGER_PART = choice(
  literal("0"),
  sequence(character([0x31, 0x39]), repeat(DIGIT, 0, MOST_DIGITS - 1)),
);
const INTEGER: Rule = { body: sequence(optional(literal("-")), INTEGER_PART) };
const NUMBER: Rule = {
  body: sequence(
    call(INTEGER),
    optional(sequence(".", repeat(DIGIT, 1, MOST_DIGITS))),
    // Two digits keep it finite.
    optional(sequence(oneOf("eE"), optional(oneOf("+-")), repeat(DIGIT, 1, 2))),
  ),
};

export const ANY_STRING = call(STRING);
export const ANY_INTEGER = call(INTEGER);
export const ANY_NUMBER = call(NUMBER);
export const BOOLEAN = choice(literal("true"), literal("false"));
export const NULL = literal("null");

const VALUE: Rule = { body: EMPTY };
export const ANY_VALUE = call(VALUE);
export const ANY_OBJECT = call({ body: bracketed("{", member(ANY_STRING, ANY_VALUE), "}") });
export const ANY_ARRAY = call({ body: bracketed("[", ANY_VALUE, "]") });
VALUE.body = choice(ANY_OBJECT, ANY_ARRAY, ANY_STRING, ANY_NUMBER, BOOLEAN, NULL);

/** A name and a value. */
export function member(name: Expression, value: Expression): Expression {
  return sequence(name, COLON, value);
}

/** From `min` to `max` items with commas between them. */
export function separated(item: Expression, min: number, max: number): Expression {
  if (max === 0) return EMPTY;
  const items = sequence(item, repeat(sequence(COMMA, item), Math.max(0, min - 1), max - 1));
  return min === 0 ? optional(items) : items;
}

function bracketed(open: string, item: Expression, close: string): Expression {
  return sequence(open, separated(item, 0, Infinity), close);
}

/** A string with that content. */
export function quoted(content: Expression): Expression {
  return sequence('"', content, '"');
}

/** Text in the way that it stands in a string: each character written in one way only. */
export function escaped(text: Expression): Expression {
  switch (text.kind) {
    case "character": {
      const holds = (code: number): boolean =>
        text.ranges.some(([low, high]) => low <= code && code <= high);
      const escapes = ESCAPED.filter(holds).map((code) =>
        literal(JSON.stringify(String.fromCodePoint(code)).slice(1, -1)),
      );
      return choice(character(...intersectRanges(text.ranges, PLAIN)), ...escapes);
    }
    case "sequence":
      return sequence(...text.parts.map(escaped));
    case "choice":
      return choice(...text.options.map(escaped));
    case "repeat":
      return repeat(escaped(text.body), text.min, text.max);
    default:
      throw new Error(`no text has a ${text.kind}`);
  }
}
