import { setTimeout as sleep } from "node:timers/promises";
import type { RandomData } from "../random";

/** When requests are sent. */
export interface LoadOptions {
  /** Requests a second, at random intervals (a Poisson process); Infinity: all at once. */
  readonly requestRate: number;
  /** Requests that are under way at a time; those that would be more wait. */
  readonly maxConcurrency: number;
  /** Of the intervals. */
  readonly random: RandomData;
  readonly signal: AbortSignal;
}

/** Has all requests sent at their times, and waits for all. `send` must not fail. */
export async function sendAll<T>(
  requests: readonly T[],
  send: (request: T) => Promise<void>,
  { requestRate, maxConcurrency, random, signal }: LoadOptions,
): Promise<void> {
  const gate = new Gate(maxConcurrency);
  const sent: Promise<void>[] = [];
  let due = performance.now();
  for (const request of requests) {
    if (signal.aborted) break;
    sent.push(gate.pass(() => send(request)));
    if (requestRate === Infinity) continue;
    // Counted from the time that was planned, so that delays do not add up.
    due += random.interval(1000 / requestRate);
    await sleep(Math.max(0, due - performance.now()));
  }
  await Promise.all(sent);
}

/** Lets so many through at a time. */
class Gate {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(places: number) {
    this.#free = places;
  }

  async pass(work: () => Promise<void>): Promise<void> {
    if (this.#free > 0) this.#free -= 1;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free += 1;
      else next();
    }
  }
}
