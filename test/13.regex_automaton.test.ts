import fc from "fast-check";
import { HymbaError } from "../lib";
import { Automaton, type Configuration } from "../lib/grammar/automaton";
import { complementRanges, intersectRanges } from "../lib/grammar/code_points";
import { type Expression } from "../lib/grammar/expression";
import { both } from "../lib/grammar/intersect";
import { buildNfa } from "../lib/grammar/nfa";
import { parseRegex } from "../lib/grammar/regex";
import { utf8Sequences } from "../lib/grammar/utf8";

// JavaScript's own RegExp is the reference, with the whole text anchored.

const automatonOf = (expression: Expression): Automaton => new Automaton(buildNfa(expression)!);

function accepts(automaton: Automaton, text: string): boolean {
  let at: Configuration | null = automaton.start;
  for (const byte of Buffer.from(text, "utf8")) at = at && automaton.advance(at, byte);
  return at?.accepts ?? false;
}

const regex = (pattern: string): Automaton => automatonOf(parseRegex(pattern, "whole"));

function messageOf(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    expect(error).toBeInstanceOf(HymbaError);
    expect((error as HymbaError).code).toBe("ERR_INVALID_ARGUMENT");
    return (error as Error).message;
  }
  throw new Error("expected an error");
}

/** Patterns made of parts over a small alphabet, so that texts match every now and then. */
const patterns = fc.letrec<{ pattern: string; atom: string }>((tie) => ({
  atom: fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom("a", "b", "é", "😀", "\\.", "\\n") },
    { weight: 2, arbitrary: fc.constantFrom("[ab]", "[^a]", "[a-c😀]", ".", "\\w", "\\D", "\\s") },
    {
      weight: 1,
      arbitrary: fc.constantFrom("[^\\s\\d]", "\\u00e9", "\\u{1f600}", "[\\x61-\\x63]"),
    },
    { weight: 2, arbitrary: tie("pattern").map((inner) => `(?:${inner})`) },
    { weight: 1, arbitrary: tie("pattern").map((inner) => `(${inner})`) },
  ),
  pattern: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    tie("atom"),
    fc
      .tuple(
        tie("atom"),
        fc.constantFrom("*", "+", "?", "{2}", "{1,}", "{0,3}", "{2,4}", "*?", "{0}"),
      )
      .map(([atom, quantifier]) => atom + quantifier),
    fc.tuple(tie("pattern"), tie("pattern")).map(([a, b]) => a + b),
    fc.tuple(tie("pattern"), tie("pattern")).map(([a, b]) => `(?:${a}|${b})`),
    fc.constant(""),
  ),
})).pattern;

const texts = fc.oneof(
  fc.string({ unit: fc.constantFrom("a", "b", "c", "é", "😀", ".", "\n", " ", "1"), maxLength: 8 }),
  fc
    .string({ unit: "binary", maxLength: 4 })
    .filter((text) => Buffer.from(text).toString() === text),
);

describe("regular expressions", () => {
  test("match what JavaScript matches", () => {
    let matches = 0;
    fc.assert(
      fc.property(
        patterns,
        fc.array(texts, { minLength: 5, maxLength: 20 }),
        (pattern, several) => {
          const automaton = regex(pattern);
          const reference = new RegExp(`^(?:${pattern})$`, "u");
          for (const text of several) {
            expect({ text, matches: accepts(automaton, text) }).toEqual({
              text,
              matches: reference.test(text),
            });
            if (reference.test(text)) matches++;
          }
        },
      ),
      { seed: 13, numRuns: 600 },
    );
    expect(matches).toBeGreaterThan(300);
  });

  test("find what JavaScript finds, when they are searched for", () => {
    const parts = fc.tuple(fc.constantFrom("", "^"), patterns, fc.constantFrom("", "$"));
    fc.assert(
      fc.property(
        fc.array(parts, { minLength: 1, maxLength: 3 }),
        fc.array(texts),
        (several, all) => {
          const pattern = several.map((part) => part.join("")).join("|");
          const automaton = automatonOf(parseRegex(pattern, "search"));
          const reference = new RegExp(pattern, "u");
          for (const text of all) expect(accepts(automaton, text)).toBe(reference.test(text));
        },
      ),
      { seed: 14, numRuns: 200 },
    );
  });

  test.each<[string, readonly string[], readonly string[]]>([
    ["", [""], ["a"]],
    ["a{0,100000}", ["", "a", "a".repeat(5000)], ["b"]],
    ["(?:ab){2,3}", ["abab", "ababab"], ["ab", "abababab"]],
    ["(?:a?){3}b", ["b", "aaab"], ["aaaab"]],
    ["(?:a{2}|b{3}){2}", ["aabbb", "aaaa"], ["aab"]],
    ["(?<year>\\d{4})-\\d\\d", ["1878-01"], ["187-01"]],
    ["^ab$|^c$", ["ab", "c"], ["abc"]],
    ["[\\]\\-^]+", ["]-^"], ["a"]],
    ["\\ud83d\\ude00\\t\\cA\\0\\/", ["😀\t\u0001\0/"], ["😀"]],
    ["[\\b]", ["\b"], ["b"]],
  ])("%s", (pattern, matching, others) => {
    for (const text of matching) expect(accepts(regex(pattern), text)).toBe(true);
    for (const text of others) expect(accepts(regex(pattern), text)).toBe(false);
  });

  test.each([
    ["a(?=b)", "lookahead"],
    ["(?<!b)a", "lookbehind"],
    ["\\ba", "word boundary"],
    ["(a)\\1", "backreference"],
    ["(?<x>a)\\k<x>", "backreference"],
    ["\\p{L}", "Unicode property"],
    ["(?:^a)", "an anchor inside"],
    ["a$b", "an anchor inside"],
    ["(a", "Unterminated group"],
    ["(?:a?){5000}", "5000"],
  ])("%s is refused by name", (pattern, name) => {
    expect(messageOf(() => regex(pattern))).toContain(name);
  });

  test("a pattern that can be understood in too many ways is an error, and not a hang", () => {
    const automaton = regex("(?:a{0,99}){0,99}");
    expect(messageOf(() => accepts(automaton, "a".repeat(99)))).toContain("ambiguous");
  });

  test("nothing can match an empty class", () => {
    expect(buildNfa(parseRegex("a[^\\s\\S]", "whole"))).toBeNull();
    const automaton = regex("a[^\\s\\S]*b|[^\\s\\S]{2,3}");
    expect([accepts(automaton, "ab"), accepts(automaton, "")]).toEqual([true, false]);
  });

  test("every place from which nothing more can follow is an end", () => {
    fc.assert(
      fc.property(patterns, texts, (pattern, text) => {
        const automaton = regex(pattern);
        let at: Configuration | null = automaton.start;
        for (const byte of Buffer.from(text)) {
          at = automaton.advance(at, byte);
          if (at === null) return;
          expect(at.accepts || at.groups.length > 0).toBe(true);
        }
      }),
      { seed: 15 },
    );
  });
});

describe("intersections", () => {
  test("match what both match", () => {
    fc.assert(
      fc.property(patterns, patterns, fc.array(texts), (a, b, several) => {
        const parse = (pattern: string): Expression => parseRegex(pattern, "whole");
        const start = buildNfa(both(parse(a), parse(b)));
        for (const text of several) {
          const expected = [a, b].every((p) => new RegExp(`^(?:${p})$`, "u").test(text));
          expect(start !== null && accepts(new Automaton(start), text)).toBe(expected);
        }
      }),
      { seed: 16, numRuns: 200 },
    );
  });

  test("are null when nothing is left, and have a limit", () => {
    const start = (a: string, b: string) =>
      buildNfa(both(parseRegex(a, "whole"), parseRegex(b, "whole")));
    expect(start("a+", "b+")).toBeNull();
    expect(start("(?:ab)*", "a*")).not.toBeNull();
    expect(messageOf(() => start("(?:abc)*", "[a-c]{0,20000}"))).toContain("4000");
  });
});

describe("characters", () => {
  const code = fc.integer({ min: 0, max: 0x10ffff });
  const ranges = fc.array(
    fc.tuple(code, code).map(([a, b]) => [Math.min(a, b), Math.max(a, b)] as const),
    { maxLength: 5 },
  );
  const isIn = (list: readonly (readonly [number, number])[], at: number): boolean =>
    list.some(([low, high]) => low <= at && at <= high);

  test("ranges have complements and intersections", () => {
    fc.assert(
      fc.property(ranges, ranges, code, (a, b, at) => {
        const edges = [at, ...a.flat(), ...b.flat()];
        for (const one of edges) {
          expect(isIn(complementRanges(a), one)).toBe(!isIn(a, one));
          expect(isIn(intersectRanges(a, b), one)).toBe(isIn(a, one) && isIn(b, one));
        }
      }),
      { seed: 17 },
    );
  });

  test("UTF-8 forms are those of the range, and surrogates have none", () => {
    fc.assert(
      fc.property(code, code, code, (a, b, at) => {
        const [low, high] = [Math.min(a, b), Math.max(a, b)];
        const sequences = utf8Sequences([low, high]);
        for (const one of [at, low, high, low - 1, high + 1]) {
          if (one < 0 || one > 0x10ffff || (one >= 0xd800 && one <= 0xdfff)) continue;
          const bytes = [...Buffer.from(String.fromCodePoint(one))];
          const found = sequences.filter(
            (ranges) =>
              ranges.length === bytes.length &&
              ranges.every(([from, to], i) => from <= bytes[i]! && bytes[i]! <= to),
          );
          expect(found).toHaveLength(low <= one && one <= high ? 1 : 0);
        }
      }),
      { seed: 18, numRuns: 1000 },
    );
    expect(utf8Sequences([0xd800, 0xdfff])).toEqual([]);
  });
});
