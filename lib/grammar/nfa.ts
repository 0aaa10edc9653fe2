import { HymbaError } from "../errors";
import type { CodePointRange } from "./code_points";
import { type Expression, isNullable, type Machine, type Rule } from "./expression";
import { findProductive, type IsProductive } from "./productive";
import { type ByteRange, utf8Sequences } from "./utf8";

/** A state of a nondeterministic automaton over bytes. */
export interface NfaState {
  readonly id: number;
  /** Where a byte leads. */
  readonly edges: { readonly bytes: ByteRange; readonly target: NfaState }[];
  /** States that it is as good as. */
  readonly free: NfaState[];
  /** A part that is gone through a number of times before `after` follows. */
  repeat?: Repeat;
  /** The end of such a part, or of all. */
  readonly isEnd: boolean;
}

/** A part of the automaton, entered at `body` and left at an end: `min` to `max` times. */
export interface Repeat {
  readonly id: number;
  readonly min: number;
  readonly max: number;
  readonly body: NfaState;
  readonly after: NfaState;
}

/** An empty part that may be repeated so often would be followed as often without reading a byte. */
const MOST_EMPTY_REPEATS = 1000;

/**
 * The automaton of an expression, from whose states an end can always be reached.
 * @returns its first state; null when the expression matches nothing.
 * @throws HymbaError ERR_INVALID_ARGUMENT when a part that can be empty is repeated too often.
 */
export function buildNfa(expression: Expression): NfaState | null {
  const builder = new Builder(findProductive(expression));
  return builder.build(expression);
}

/** Builds backwards: every part is built in front of what follows it. */
class Builder {
  readonly #isProductive: IsProductive;
  readonly #end: NfaState;
  readonly #rules = new Map<Rule, NfaState>();
  /** Parts that stand in several places before the same rest are built once. */
  readonly #built = new Map<Expression, Map<NfaState, NfaState | null>>();
  #numStates = 0;

  constructor(isProductive: IsProductive) {
    this.#isProductive = isProductive;
    this.#end = this.#state(true);
  }

  build(expression: Expression): NfaState | null {
    return this.#before(this.#end, expression);
  }

  #state(isEnd = false): NfaState {
    return { id: this.#numStates++, edges: [], free: [], isEnd };
  }

  #before(next: NfaState, expression: Expression): NfaState | null {
    if (expression.kind === "character") return this.#characters(next, expression.ranges);
    if (!this.#isProductive(expression)) return null;
    let places = this.#built.get(expression);
    if (places === undefined) {
      places = new Map<NfaState, NfaState | null>();
      this.#built.set(expression, places);
    }
    let state = places.get(next);
    if (state === undefined) places.set(next, (state = this.#make(next, expression)));
    return state;
  }

  #make(next: NfaState, expression: Exclude<Expression, { kind: "character" }>): NfaState | null {
    switch (expression.kind) {
      case "sequence":
        return expression.parts.reduceRight<NfaState | null>(
          (rest, part) => rest && this.#before(rest, part),
          next,
        );
      case "choice":
        return this.#any(expression.options.map((option) => this.#before(next, option)));
      case "repeat":
        return this.#repeat(next, expression.body, expression.min, expression.max);
      case "machine":
        return this.#machine(next, expression.machine);
      case "rule":
        return this.#counted(next, this.#rule(expression.rule), 1, 1);
    }
  }

  #characters(next: NfaState, ranges: readonly CodePointRange[]): NfaState | null {
    return ranges.length === 0 ? null : this.#bytes(next, ranges.flatMap(utf8Sequences));
  }

  /** Byte sequences; their common endings are built once. */
  #bytes(next: NfaState, sequences: readonly ByteRange[][]): NfaState {
    const state = this.#state();
    const endings = new Map<string, ByteRange[][]>();
    for (const bytes of sequences) {
      const [[low, high], ...rest] = bytes as [ByteRange, ...ByteRange[]];
      if (rest.length === 0) state.edges.push({ bytes: [low, high], target: next });
      else {
        const key = JSON.stringify([low, high]);
        endings.set(key, [...(endings.get(key) ?? []), rest]);
      }
    }
    const targets = new Map<string, NfaState>();
    for (const [key, rests] of endings) {
      const ending = JSON.stringify(rests);
      let target = targets.get(ending);
      if (target === undefined) targets.set(ending, (target = this.#bytes(next, rests)));
      state.edges.push({ bytes: JSON.parse(key) as ByteRange, target });
    }
    return state;
  }

  #any(options: readonly (NfaState | null)[]): NfaState | null {
    const possible = options.filter((option) => option !== null);
    if (possible.length <= 1) return possible[0] ?? null;
    const state = this.#state();
    state.free.push(...possible);
    return state;
  }

  #repeat(next: NfaState, body: Expression, min: number, max: number): NfaState | null {
    if (max === 0 || !this.#isProductive(body)) return min === 0 || max === 0 ? next : null;
    if (max === Infinity) {
      const loop = this.#state();
      const again = this.#before(loop, body);
      if (again === null) return min === 0 ? next : null;
      loop.free.push(again, next);
      return min === 0 ? loop : min === 1 ? again : this.#repeat(loop, body, min, min);
    }
    if (max === 1) return this.#any([this.#before(next, body), min === 0 ? next : null]);
    const nullable = isNullable(body);
    if (nullable && max > MOST_EMPTY_REPEATS) {
      throw new HymbaError(
        "ERR_INVALID_ARGUMENT",
        `a part that can be empty is repeated up to ${max} times, expected at most ` +
          `${MOST_EMPTY_REPEATS}`,
      );
    }
    const start = this.#before(this.#end, body);
    if (start === null) return min === 0 ? next : null;
    return this.#counted(next, start, nullable ? 0 : min, max);
  }

  #counted(after: NfaState, body: NfaState, min: number, max: number): NfaState {
    const state = this.#state();
    state.repeat = { id: state.id, min, max, body, after };
    return state;
  }

  #rule(rule: Rule): NfaState {
    let state = this.#rules.get(rule);
    if (state === undefined) {
      state = this.#state();
      this.#rules.set(rule, state);
      state.free.push(this.#before(this.#end, rule.body)!);
    }
    return state;
  }

  #machine(next: NfaState, { edges, accepting }: Machine): NfaState {
    const states = edges.map(() => this.#state());
    for (const [i, state] of states.entries()) {
      for (const [low, high, target] of edges[i]!) {
        state.edges.push({ bytes: [low, high], target: states[target]! });
      }
      if (accepting[i]!) state.free.push(next);
    }
    return states[0]!;
  }
}
