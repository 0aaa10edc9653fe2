import { HymbaError } from "../errors";
import {
  type CodePointRange,
  complementRanges,
  MAX_CODE_POINT,
  normalizeRanges,
} from "./code_points";
import {
  character,
  choice,
  EMPTY,
  type Expression,
  oneOf,
  repeat,
  sequence,
  star,
} from "./expression";

const DIGITS: readonly CodePointRange[] = [[0x30, 0x39]];
const WORD: readonly CodePointRange[] = [...DIGITS, [0x41, 0x5a], [0x5f, 0x5f], [0x61, 0x7a]];
const LINE_ENDS: readonly CodePointRange[] = [
  [0x0a, 0x0a],
  [0x0d, 0x0d],
  [0x2028, 0x2029],
];
const SPACES: readonly CodePointRange[] = [
  [0x09, 0x0d],
  [0x20, 0x20],
  [0xa0, 0xa0],
  [0x1680, 0x1680],
  [0x2000, 0x200a],
  [0x2028, 0x2029],
  [0x202f, 0x202f],
  [0x205f, 0x205f],
  [0x3000, 0x3000],
  [0xfeff, 0xfeff],
];
const CLASSES: Readonly<Record<string, readonly CodePointRange[]>> = {
  d: DIGITS,
  w: WORD,
  s: SPACES,
  D: complementRanges(DIGITS),
  W: complementRanges(WORD),
  S: complementRanges(SPACES),
};
const CONTROLS: Readonly<Record<string, number>> = { t: 9, n: 10, v: 11, f: 12, r: 13, "0": 0 };

/** Any character at all, line breaks too. */
export const ANY_CHARACTER = character([0, MAX_CODE_POINT]);

/**
 * Reads a regular expression in the syntax of JavaScript with the flag `u`.
 *
 * Greedy and lazy quantifiers mean the same here. `^` and `$` may stand at the beginning and the end
 * of the whole pattern and of its outermost alternatives.
 * @param scope whether the pattern is about the `whole` text, or is `search`ed in it.
 * @throws HymbaError ERR_INVALID_ARGUMENT when it is malformed, or needs what an automaton cannot do:
 * backreferences, lookaround, word boundaries, `\p`.
 */
export function parseRegex(pattern: string, scope: "whole" | "search"): Expression {
  try {
    new RegExp(pattern, "u");
  } catch (cause) {
    throw new HymbaError("ERR_INVALID_ARGUMENT", (cause as Error).message, { cause });
  }
  return new Parser(pattern, scope).parse();
}

/** Parses a pattern that JavaScript has found to be well-formed. */
class Parser {
  readonly #pattern: string;
  readonly #characters: readonly string[];
  readonly #scope: "whole" | "search";
  #next = 0;

  constructor(pattern: string, scope: "whole" | "search") {
    this.#pattern = pattern;
    this.#characters = Array.from(pattern);
    this.#scope = scope;
  }

  parse(): Expression {
    const alternatives: Expression[] = [];
    do {
      const begins = this.#take("^");
      const body = this.#sequence();
      const ends = this.#take("$");
      if (this.#peek() !== undefined && this.#peek() !== "|") this.#refuse("an anchor inside");
      const around = (anchored: boolean): Expression =>
        anchored || this.#scope === "whole" ? EMPTY : star(ANY_CHARACTER);
      alternatives.push(sequence(around(begins), body, around(ends)));
    } while (this.#take("|"));
    return choice(...alternatives);
  }

  #peek(): string | undefined {
    return this.#characters[this.#next];
  }

  #take(text: string): boolean {
    const found = this.#characters.slice(this.#next, this.#next + text.length).join("") === text;
    if (found) this.#next += text.length;
    return found;
  }

  #refuse(what: string): never {
    throw new HymbaError(
      "ERR_INVALID_ARGUMENT",
      `the pattern /${this.#pattern}/ cannot be enforced: it has ${what}`,
    );
  }

  #group(): Expression {
    if (this.#take("?<")) {
      if (this.#peek() === "=" || this.#peek() === "!") this.#refuse("a lookbehind");
      while (!this.#take(">")) this.#next++;
    } else if (this.#take("?") && !this.#take(":")) {
      this.#refuse(this.#peek() === "=" || this.#peek() === "!" ? "a lookahead" : "a modifier");
    }
    const alternatives: Expression[] = [];
    do alternatives.push(this.#sequence());
    while (this.#take("|"));
    if (!this.#take(")")) this.#refuse("an anchor inside");
    return choice(...alternatives);
  }

  /** Up to the end of an alternative, or to an anchor. */
  #sequence(): Expression {
    const parts: Expression[] = [];
    for (;;) {
      const next = this.#peek();
      if (next === undefined || "|)^$".includes(next)) return sequence(...parts);
      parts.push(this.#quantified(this.#atom()));
    }
  }

  #quantified(atom: Expression): Expression {
    const range = this.#quantifier();
    if (range === undefined) return atom;
    this.#take("?");
    return repeat(atom, ...range);
  }

  #quantifier(): readonly [min: number, max: number] | undefined {
    if (this.#take("*")) return [0, Infinity];
    if (this.#take("+")) return [1, Infinity];
    if (this.#take("?")) return [0, 1];
    if (!this.#take("{")) return undefined;
    const min = this.#number();
    const max = !this.#take(",") ? min : this.#peek() === "}" ? Infinity : this.#number();
    this.#take("}");
    return [min, max];
  }

  #number(): number {
    let digits = "";
    while (/^\d$/.test(this.#peek() ?? "")) digits += this.#characters[this.#next++];
    return Number(digits);
  }

  #atom(): Expression {
    if (this.#take("(")) return this.#group();
    if (this.#take("[")) return character(...this.#class());
    if (this.#take(".")) return character(...complementRanges(LINE_ENDS));
    if (this.#take("\\")) return character(...this.#escape());
    return oneOf(this.#characters[this.#next++]!);
  }

  #class(): CodePointRange[] {
    const negated = this.#take("^");
    const ranges: CodePointRange[] = [];
    while (!this.#take("]")) {
      const first = this.#classAtom();
      const isRange = this.#peek() === "-" && this.#characters[this.#next + 1] !== "]";
      if (!isRange) {
        ranges.push(...first);
        continue;
      }
      this.#next++;
      ranges.push([first[0]![0], this.#classAtom()[0]![1]]);
    }
    return negated ? complementRanges(ranges) : normalizeRanges(ranges);
  }

  #classAtom(): readonly CodePointRange[] {
    if (this.#take("\\")) return this.#take("b") ? [[8, 8]] : this.#escape();
    const code = this.#characters[this.#next++]!.codePointAt(0)!;
    return [[code, code]];
  }

  /** What comes after a backslash. */
  #escape(): readonly CodePointRange[] {
    const letter = this.#characters[this.#next++]!;
    if (letter in CLASSES) return CLASSES[letter]!;
    if (letter === "b" || letter === "B") this.#refuse("a word boundary");
    if (letter === "k" || /^[1-9]$/.test(letter)) this.#refuse("a backreference");
    if (letter === "p" || letter === "P") this.#refuse("a Unicode property (\\p)");
    const code = this.#escapedCode(letter);
    return [[code, code]];
  }

  #escapedCode(letter: string): number {
    if (letter in CONTROLS) return CONTROLS[letter]!;
    if (letter === "c") return this.#characters[this.#next++]!.codePointAt(0)! % 32;
    if (letter === "x") return this.#hex(2);
    if (letter !== "u") return letter.codePointAt(0)!;
    if (this.#take("{")) {
      const end = this.#characters.indexOf("}", this.#next);
      const code = this.#hex(end - this.#next);
      this.#take("}");
      return code;
    }
    const unit = this.#hex(4);
    // Two escapes that are one character, as in JavaScript.
    const isPair = unit >= 0xd800 && unit <= 0xdbff && this.#take("\\u");
    return isPair ? 0x10000 + (unit - 0xd800) * 0x400 + (this.#hex(4) - 0xdc00) : unit;
  }

  #hex(digits: number): number {
    const text = this.#characters.slice(this.#next, this.#next + digits).join("");
    this.#next += digits;
    return parseInt(text, 16);
  }
}
