import fc from "fast-check";
import { type EngineGenerateOptions, HymbaError, HymbaModel } from "../lib";
import { EngineRequest } from "../lib/engine/request";
import { MICRO } from "./helpers/golden";

const REQUESTS = 2000;
/** Requests that are there at a time, each with up to three texts: far more than there is room for. */
const READERS = 32;

/** How a reader leaves a request. */
type Leaving = "at the end" | "by break" | "by its signal" | "by its time";

interface Visit {
  readonly options: EngineGenerateOptions;
  readonly leaving: Leaving;
  /** Chunks after which it leaves. */
  readonly after: number;
}

const visits = fc.record({
  options: fc.record({
    prompt: fc.array(fc.nat(99), { minLength: 1, maxLength: 24, size: "max" }),
    // Few are so long that they need pages that nobody promised them.
    maxTokens: fc.oneof(
      { weight: 19, arbitrary: fc.integer({ min: 1, max: 10 }) },
      { weight: 1, arbitrary: fc.integer({ min: 100, max: 150 }) },
    ),
    seed: fc.nat(),
    n: fc.constantFrom(1, 1, 1, 2, 3),
    priority: fc.integer({ min: -1, max: 1 }),
    ignoreEos: fc.constant(true),
  }),
  leaving: fc.constantFrom<Leaving>("at the end", "by break", "by its signal", "by its time"),
  after: fc.integer({ min: 1, max: 8 }),
});

/** Long texts are read to the end. */
const leavingOf = ({ options, leaving }: Visit): Leaving =>
  options.maxTokens! > 10 ? "at the end" : leaving;

test(`${REQUESTS} requests that end in all ways give back every page and slot`, async () => {
  await using model = await HymbaModel.load(`synthetic:${MICRO}`, {
    device: "cpu",
    threads: 1,
    maxSequences: 12,
    maxContextTokens: 192,
    // Twelve texts can need 36 pages: they have 7, so that some must make room for others.
    cacheTokens: 7 * 64,
    maxBatchTokens: 128,
  });
  const fresh = model.info().cache;
  const engine = model.createEngine();
  const left = jest.spyOn(EngineRequest.prototype, "leave");

  const ended = new Map<Leaving | "early", number>();
  const visit = async (asked: Visit): Promise<Leaving | "early"> => {
    const { options, after } = asked;
    const leaving = leavingOf(asked);
    const controller = new AbortController();
    const { signal } = controller;
    let chunks = 0;
    try {
      const timed = leaving === "by its time" && { timeoutMs: after };
      for await (const _ of engine.generate({ ...options, ...timed, signal })) {
        if (++chunks < after) continue;
        if (leaving === "by break") return leaving;
        if (leaving === "by its signal") controller.abort();
      }
      return leaving === "at the end" ? leaving : "early";
    } catch (error) {
      expect(error).toBeInstanceOf(HymbaError);
      expect((error as HymbaError).code).toBe("ERR_ABORTED");
      return leaving;
    }
  };
  const all = fc.sample(visits, { seed: 1, numRuns: REQUESTS }).values();
  const reader = async (): Promise<void> => {
    for (const next of all) {
      const how = await visit(next);
      ended.set(how, (ended.get(how) ?? 0) + 1);
    }
  };
  await Promise.all(Array.from({ length: READERS }, reader));

  // They did end in all ways, and some had to make room.
  expect([...ended.values()].reduce((sum, count) => sum + count, 0)).toBe(REQUESTS);
  expect(ended.size).toBe(5);
  for (const count of ended.values()) expect(count).toBeGreaterThan(REQUESTS / 20);
  expect(left.mock.calls.length).toBeGreaterThan(0);

  while (model.info().cache.sequences.used > 0) await new Promise(setImmediate);
  const { cache } = model.info();
  for (const pool of ["sequences", "stateSlots", "globalPages", "windowPages"] as const) {
    expect(cache[pool]).toEqual({ ...fresh[pool], kept: cache[pool].kept });
  }
  await engine.close();
  expect(model.info().cache).toEqual(fresh);
}, 180_000);
