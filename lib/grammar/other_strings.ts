import { character, choice, EMPTY, type Expression, NOTHING, sequence, star } from "./expression";
import { complementRanges } from "./code_points";
import { ANY_CHARACTER } from "./regex";
import { escaped } from "./json";

/** The contents of strings that are none of the names. */
export function otherStrings(names: readonly string[]): Expression {
  return escaped(otherThan(names.map((name) => Array.from(name))));
}

function otherThan(names: readonly (readonly string[])[]): Expression {
  if (names.length === 0) return star(ANY_CHARACTER);
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
    sequence(character(...complementRanges(firsts)), star(ANY_CHARACTER)),
    ...[...byFirst].map(([first, rest]) => sequence(first, otherThan(rest))),
  );
}
