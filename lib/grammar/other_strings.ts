import { complementRanges } from "./code_points";
import {
  character,
  choice,
  EMPTY,
  type Expression,
  literal,
  NOTHING,
  sequence,
  star,
} from "./expression";
import { escaped, STRING_CHARACTER } from "./json";

const ANY_CONTENT = star(STRING_CHARACTER);

/** The contents of strings that are none of the names, whose characters are written in one way. */
export function otherStrings(names: readonly string[]): Expression {
  return otherThan(names.map((name) => Array.from(name)));
}

function otherThan(names: readonly (readonly string[])[]): Expression {
  if (names.length === 0) return ANY_CONTENT;
  const byFirst = new Map<string, (readonly string[])[]>();
  for (const [first, ...rest] of names) {
    if (first !== undefined) byFirst.set(first, [...(byFirst.get(first) ?? []), rest]);
  }
  const firsts = [...byFirst.keys()].map((first): [number, number] => {
    const code = first.codePointAt(0)!;
    return [code, code];
  });
  return choice(
    names.some((name) => name.length === 0) ? NOTHING : EMPTY,
    sequence(escaped(character(...complementRanges(firsts))), ANY_CONTENT),
    ...[...byFirst].map(([first, rest]) => sequence(escaped(literal(first)), otherThan(rest))),
  );
}
