import { HymbaError } from "../errors";
import { Automaton, type Configuration } from "./automaton";
import { type Expression, type Machine, NOTHING } from "./expression";
import { buildNfa, type NfaState } from "./nfa";

/** Enough for a pattern and a bound of its length; more would take too long to build. */
const MOST_STATES = 4000;

interface Pair {
  readonly a: Configuration;
  readonly b: Configuration;
  readonly edges: { readonly low: number; readonly high: number; readonly target: number }[];
}

/**
 * What both expressions match.
 * @throws HymbaError ERR_INVALID_ARGUMENT when it takes too many states.
 */
export function both(a: Expression, b: Expression): Expression {
  const startA = buildNfa(a);
  const startB = buildNfa(b);
  const machine = startA && startB && intersect(startA, startB);
  return machine === null ? NOTHING : { kind: "machine", machine };
}

function intersect(a: NfaState, b: NfaState): Machine | null {
  const left = new Automaton(a);
  const right = new Automaton(b);
  const bounds = [...new Set([...left.representatives, ...right.representatives])].sort(
    (x, y) => x - y,
  );
  const pairs: Pair[] = [];
  const numbers = new Map<number, number>();
  const numberOf = (a: Configuration, b: Configuration): number => {
    const key = a.id * 2 ** 20 + b.id;
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
