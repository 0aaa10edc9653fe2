import { HymbaError } from "../errors";
import { Automaton, type Configuration } from "./automaton";
import type { Machine } from "./expression";
import type { NfaState } from "./nfa";

/** Enough for a pattern and a bound of its length; more would take too long to build. */
const MOST_STATES = 4000;

interface Pair {
  readonly a: Configuration;
  readonly b: Configuration;
  readonly edges: { readonly low: number; readonly high: number; readonly target: number }[];
}

/**
 * What both automata match; null when that is nothing.
 * @throws HymbaError ERR_INVALID_ARGUMENT when it takes too many states.
 */
export function intersect(a: NfaState | null, b: NfaState | null): Machine | null {
  if (a === null || b === null) return null;
  const left = new Automaton(a);
  const right = new Automaton(b);
  const bounds = byteBounds([a, b]);
  const pairs: Pair[] = [];
  const numbers = new Map<string, number>();
  const numberOf = (a: Configuration, b: Configuration): number => {
    const key = `${a.id} ${b.id}`;
    let number = numbers.get(key);
    if (number === undefined) {
      if (pairs.length >= MOST_STATES) {
        throw new HymbaError(
          "ERR_INVALID_ARGUMENT",
          `two constraints of the same text take more than ${MOST_STATES} states together: drop ` +
            "one of them, or use smaller bounds",
        );
      }
      numbers.set(key, (number = pairs.length));
      pairs.push({ a, b, edges: [] });
    }
    return number;
  };
  numberOf(left.start, right.start);
  for (const { a, b, edges } of pairs) {
    for (const [i, low] of bounds.entries()) {
      const nextA = left.advance(a, low);
      const nextB = nextA && right.advance(b, low);
      if (nextA === null || nextB === null) continue;
      const high = (bounds[i + 1] ?? 256) - 1;
      edges.push({ low, high, target: numberOf(nextA, nextB) });
    }
  }
  return withoutDeadEnds(pairs);
}

/** First bytes of ranges within which all bytes mean the same. */
function byteBounds(starts: readonly NfaState[]): number[] {
  const bounds = new Set<number>([0]);
  const states = new Set<NfaState>(starts);
  for (const { edges, free, repeat } of states) {
    for (const { bytes, target } of edges) {
      bounds.add(bytes[0]).add(bytes[1] + 1);
      states.add(target);
    }
    for (const state of free) states.add(state);
    if (repeat !== undefined) states.add(repeat.body).add(repeat.after);
  }
  bounds.delete(256);
  return [...bounds].sort((x, y) => x - y);
}

function withoutDeadEnds(pairs: readonly Pair[]): Machine | null {
  const accepting = pairs.map(({ a, b }) => a.accepts && b.accepts);
  const sources: number[][] = pairs.map(() => []);
  for (const [i, { edges }] of pairs.entries()) {
    for (const { target } of edges) sources[target]!.push(i);
  }
  const live = new Set(accepting.flatMap((accepts, i) => (accepts ? [i] : [])));
  for (const state of live) for (const source of sources[state]!) live.add(source);
  if (!live.has(0)) return null;
  return {
    accepting,
    edges: pairs.map(({ edges }) =>
      edges
        .filter(({ target }) => live.has(target))
        .map(({ low, high, target }) => [low, high, target] as const),
    ),
  };
}
