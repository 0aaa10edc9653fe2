import fc from "fast-check";
import { planStep, PRIORITY_MS, type Schedulable } from "../lib/engine/scheduler";
import { pagesFor } from "../lib/steps";
import { SimulatedEngine, type SimulatedLimits } from "./helpers/simulated_engine";

interface Options extends Partial<Schedulable> {
  /** Default 10. */
  readonly promptTokens?: number;
}

/** A request with the tokens given, which shares nothing; it waits unless some are in the cache. */
function request(
  name: string,
  { promptTokens = 10, ...tokens }: Options,
): Schedulable & { readonly name: string } {
  const { cachedTokens = 0, knownTokens = promptTokens } = tokens;
  return {
    name,
    knownTokens,
    cachedTokens,
    spanEnd: cachedTokens < promptTokens ? promptTokens : knownTokens,
    ownPages: pagesFor(cachedTokens),
    mostCachedTokens: 1000,
    constrained: false,
    running: cachedTokens > 0,
    deadline: Infinity,
    ...tokens,
  };
}

/** A request that has all but its last token in the cache. */
const decoding = (name: string, cachedTokens: number, more: Options = {}) =>
  request(name, { cachedTokens, knownTokens: cachedTokens + 1, ...more });

/** The plan, by names. Pages, slots and tokens are plenty but where a test says otherwise. */
function plan(
  requests: readonly ReturnType<typeof request>[],
  { freePages = 1000, freeSlots = 1000, now = 0, maxBatchTokens = 100, maxPrefillSpans = 64 } = {},
) {
  const state = {
    requests: requests.map((each) => Object.freeze(each)),
    freePages,
    freeSlots,
    now,
  };
  const limits = { maxBatchTokens, maxPrefillSpans };
  const step = planStep(state, limits);
  expect(planStep(state, limits)).toEqual(step);
  const names = (list: readonly ReturnType<typeof request>[]) => list.map(({ name }) => name);
  return {
    expired: names(step.expired),
    preempted: names(step.preempted),
    admitted: names(step.admitted),
    spans: Object.fromEntries(step.spans.map(({ request, tokens }) => [request.name, tokens])),
  };
}

const nothing = { expired: [], preempted: [], admitted: [], spans: {} };

describe("tokens", () => {
  test("a text has its next one in every step, a prompt what is left", () => {
    const requests = [
      request("long", { promptTokens: 300, cachedTokens: 64 }),
      request("next", { promptTokens: 40 }),
      decoding("a", 20),
      decoding("b", 30),
    ];
    expect(plan(requests)).toEqual({ ...nothing, spans: { long: 98, a: 1, b: 1 } });
    requests[0] = request("long", { promptTokens: 300, cachedTokens: 292 });
    expect(plan(requests)).toEqual({
      ...nothing,
      admitted: ["next"],
      spans: { long: 8, a: 1, b: 1, next: 40 },
    });
  });

  test("what was generated before a preemption is computed again in spans of its own", () => {
    const tokens = { promptTokens: 30, knownTokens: 50 };
    expect(plan([request("a", tokens)]).spans).toEqual({ a: 30 });
    expect(plan([request("a", { ...tokens, cachedTokens: 30 })]).spans).toEqual({ a: 20 });
  });

  test("a span ends where a snapshot is to be taken", () => {
    const prompt = { promptTokens: 40, spanEnd: 39 };
    expect(plan([request("a", prompt), request("b", { promptTokens: 5 })]).spans).toEqual({
      a: 39,
      b: 5,
    });
  });

  test("only so many spans have more than one", () => {
    const requests = ["a", "b", "c"].map((name) => request(name, {}));
    expect(plan(requests, { maxPrefillSpans: 1 }).spans).toEqual({ a: 10, b: 1, c: 1 });
  });

  test("no more texts run than a step has tokens for", () => {
    const requests = [decoding("a", 20), decoding("b", 20), request("c", {})];
    expect(plan(requests, { maxBatchTokens: 2 })).toEqual({ ...nothing, spans: { a: 1, b: 1 } });
  });
});

describe("a text whose next token is on the way", () => {
  /** All that is known of it is in the cache. */
  const waiting = (name: string, more: Options = {}) =>
    request(name, { cachedTokens: 20, knownTokens: 20, ...more });

  test("has no span, and its token in the next step is sure", () => {
    const requests = [waiting("a"), decoding("b", 30), request("long", { promptTokens: 300 })];
    expect(plan(requests, { maxBatchTokens: 10 })).toEqual({
      ...nothing,
      admitted: ["long"],
      spans: { b: 1, long: 8 },
    });
    expect(plan(requests, { maxBatchTokens: 2 })).toEqual({ ...nothing, spans: { b: 1 } });
  });

  test("takes nobody's pages, and may have to give its own", () => {
    const full = waiting("a", { cachedTokens: 64, knownTokens: 64 });
    expect(plan([full, decoding("b", 30)], { freePages: 0 })).toEqual({
      ...nothing,
      spans: { b: 1 },
    });
    expect(plan([decoding("b", 64), full], { freePages: 0 })).toEqual({
      ...nothing,
      preempted: ["a"],
      spans: { b: 1 },
    });
  });

  test("if it is constrained, makes the others that are so wait, so that they share steps", () => {
    const constrained = { constrained: true };
    const prompt = request("d", { promptTokens: 40, cachedTokens: 9, ...constrained });
    const others = [decoding("b", 30, constrained), decoding("c", 30), prompt];
    expect(plan([waiting("a"), ...others]).spans).toEqual({ b: 1, c: 1, d: 31 });
    expect(plan([waiting("a", constrained), ...others]).spans).toEqual({ c: 1, d: 30 });
    expect(plan([decoding("a", 20, constrained), ...others]).spans).toEqual({
      ...{ a: 1, b: 1, c: 1 },
      d: 31,
    });
  });
});

describe("admission", () => {
  test("needs a slot", () => {
    const requests = [request("a", {}), request("b", {})];
    expect(plan(requests, { freeSlots: 1 }).admitted).toEqual(["a"]);
  });

  test("needs pages for the prompt and a page of text, besides what others were promised", () => {
    const prompt = request("a", { promptTokens: 100 }); // and 64: 3 pages
    expect(plan([prompt], { freePages: 2 })).toEqual(nothing);
    expect(plan([prompt], { freePages: 3 }).admitted).toEqual(["a"]);
    // Half of the first prompt's 200 tokens is in the cache, in 2 pages; it will need 3 more.
    const first = request("first", { promptTokens: 200, cachedTokens: 100 });
    expect(plan([first, prompt], { freePages: 5, maxBatchTokens: 300 }).admitted).toEqual([]);
    expect(plan([first, prompt], { freePages: 6, maxBatchTokens: 300 }).admitted).toEqual(["a"]);
  });

  test("of several needs pages for each", () => {
    const requests = [request("a", {}), request("b", {})]; // 2 pages each
    expect(plan(requests, { freePages: 3 }).admitted).toEqual(["a"]);
    expect(plan(requests, { freePages: 4 }).admitted).toEqual(["a", "b"]);
  });

  test("needs no more pages than a text can come to have", () => {
    const short = request("a", { promptTokens: 60, mostCachedTokens: 64 });
    expect(plan([short], { freePages: 1 }).admitted).toEqual(["a"]);
  });

  test("of one that goes on from a snapshot takes its pages, which counted as free", () => {
    const hit = request("a", { promptTokens: 100, cachedTokens: 99, running: false }); // 3 pages
    expect(plan([hit], { freePages: 2 })).toEqual(nothing);
    expect(plan([hit], { freePages: 3 })).toEqual({
      ...nothing,
      admitted: ["a"],
      spans: { a: 1 },
    });
  });

  test("is in order: a small request does not overtake one that does not fit", () => {
    const requests = [request("large", { promptTokens: 300 }), request("small", {})];
    expect(plan(requests, { freePages: 4 })).toEqual(nothing);
  });
});

describe("when pages run out", () => {
  test("the last that runs makes room, and nobody comes in", () => {
    const requests = [
      decoding("a", 64),
      decoding("b", 30),
      request("small", { promptTokens: 1, mostCachedTokens: 1 }),
      decoding("last", 300),
    ];
    expect(plan(requests, { freePages: 0 })).toEqual({
      ...nothing,
      preempted: ["last"],
      spans: { a: 1, b: 1 },
    });
  });

  test("who makes room gives back what nobody else uses", () => {
    const requests = [
      decoding("a", 64),
      decoding("b", 64),
      decoding("same prompt", 300, { ownPages: 1 }),
      decoding("last", 300, { ownPages: 1 }),
    ];
    expect(plan(requests, { freePages: 0 })).toEqual({
      ...nothing,
      preempted: ["last", "same prompt"],
      spans: { a: 1, b: 1 },
    });
  });

  test("the token of who makes room goes to the prompts", () => {
    const requests = [
      decoding("a", 64),
      request("long", { promptTokens: 300, cachedTokens: 70 }),
      decoding("last", 300),
    ];
    expect(plan(requests, { freePages: 0, maxBatchTokens: 10 })).toEqual({
      ...nothing,
      preempted: ["last"],
      spans: { a: 1, long: 9 },
    });
  });

  test("nobody makes room for a prompt that has no tokens in the step anyway", () => {
    const requests = [
      request("long", { promptTokens: 300, cachedTokens: 64 }),
      request("next", { promptTokens: 300, cachedTokens: 64 }),
      decoding("last", 20),
    ];
    expect(plan(requests, { freePages: 1, maxBatchTokens: 10 })).toEqual({
      ...nothing,
      spans: { long: 9, last: 1 },
    });
  });

  test("the last keeps what it has and stands still", () => {
    const requests = [decoding("a", 30), decoding("last", 64)];
    expect(plan(requests, { freePages: 0 })).toEqual({ ...nothing, spans: { a: 1 } });
  });

  test("a prompt takes what is left before it takes others' pages", () => {
    const requests = [
      request("long", { promptTokens: 300, cachedTokens: 60 }),
      decoding("last", 64, { mostCachedTokens: 65 }),
    ];
    expect(plan(requests, { freePages: 0, maxBatchTokens: 200 }).spans).toEqual({ long: 4 });
  });
});

test("a deadline ends a request, and what it held is there for the same step", () => {
  const requests = [
    decoding("old", 100, { deadline: 5 }),
    request("late", { deadline: 6 }),
    decoding("a", 64),
  ];
  const full = { freePages: 0, freeSlots: 0 };
  expect(plan(requests, { ...full, now: 4 })).toMatchObject({ preempted: [], expired: [] });
  expect(plan(requests, { ...full, now: 5 })).toMatchObject({ expired: ["old"], spans: { a: 1 } });
  expect(plan(requests, { ...full, now: 6 }).expired).toEqual(["old", "late"]);
});

test("priority is a head start, and no more: nobody starves", () => {
  const engine = new SimulatedEngine({
    maxBatchTokens: 32,
    maxPrefillSpans: 2,
    maxSequences: 2,
    maxContextTokens: 64,
    globalPages: 2,
    slidingWindow: 32,
  });
  const job = { promptTokens: 5, maxTokens: 10, stopAfter: 10, timeoutMs: Infinity };
  const low = engine.add({ ...job, priority: 0 });
  for (let i = 0; i < 20; i++) engine.add({ ...job, priority: 2 });
  // One that is more important comes every five steps, and a step and a half is what each takes.
  for (; engine.now < 4 * PRIORITY_MS && !low.ended; engine.now += 100) {
    if (engine.now % 500 === 0) engine.add({ ...job, priority: 2 });
    if (engine.now < 2 * PRIORITY_MS) expect(low.running).toBe(false);
    engine.step();
  }
  expect(low.ended).toBe(true);
  expect(engine.requests.length).toBeGreaterThan(20);
});

/** Three times out of four the first. */
const mostly = <T>(usual: fc.Arbitrary<T>, other: fc.Arbitrary<T>): fc.Arbitrary<T> =>
  fc.oneof({ weight: 3, arbitrary: usual }, { weight: 1, arbitrary: other });

describe("any mix of requests, ends, aborts, deadlines and others' sequences", () => {
  const limits = fc
    .record({
      maxBatchTokens: mostly(fc.integer({ min: 9, max: 300 }), fc.integer({ min: 1, max: 8 })),
      maxPrefillSpans: fc.integer({ min: 1, max: 4 }),
      maxSequences: mostly(fc.integer({ min: 2, max: 9 }), fc.constant(1)),
      maxContextTokens: mostly(
        fc.integer({ min: 201, max: 1000 }),
        fc.integer({ min: 1, max: 200 }),
      ),
      slidingWindow: fc.integer({ min: 0, max: 200 }),
      spare: fc.integer({ min: 0, max: 4 }),
    })
    .map(({ spare, ...limits }): SimulatedLimits => {
      const contextPages = pagesFor(limits.maxContextTokens);
      return {
        ...limits,
        maxPrefillSpans: Math.min(limits.maxPrefillSpans, limits.maxSequences),
        globalPages: Math.min(contextPages + spare, contextPages * limits.maxSequences),
      };
    });

  /** Sizes are in thousandths of a context. */
  const event = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        kind: fc.constant("add" as const),
        prompt: mostly(fc.integer({ min: 0, max: 200 }), fc.integer({ min: 0, max: 1000 })),
        tokens: fc.integer({ min: 0, max: 1500 }),
        stop: mostly(fc.constant(1000), fc.integer({ min: 0, max: 1000 })),
        priority: fc.integer({ min: -2, max: 2 }),
        timeoutMs: mostly(fc.constant(Infinity), fc.integer({ min: 1, max: 5000 })),
        family: mostly(fc.constant(0), fc.integer({ min: -1, max: 1 })),
        constrained: mostly(fc.constant(false), fc.constant(true)),
      }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("abort" as const), which: fc.nat(20) }) },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constant("hold" as const),
        tokens: fc.integer({ min: 0, max: 1000 }),
      }),
    },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant("free" as const), which: fc.nat(20) }) },
    {
      weight: 6,
      arbitrary: fc.record({
        kind: fc.constant("steps" as const),
        count: fc.integer({ min: 1, max: 40 }),
        ms: fc.integer({ min: 1, max: 200 }),
      }),
    },
  );
  type Event = typeof event extends fc.Arbitrary<infer T> ? T : never;

  function carryOut(engine: SimulatedEngine, event: Event): void {
    const { maxContextTokens } = engine.limits;
    const tokensOf = (thousandths: number): number =>
      Math.max(1, Math.round((thousandths * maxContextTokens) / 1000));
    switch (event.kind) {
      case "add": {
        const maxTokens = tokensOf(event.tokens);
        const stopAfter = Math.max(1, Math.round((event.stop * maxTokens) / 1000));
        const { kind: _, ...rest } = event;
        engine.add({ ...rest, promptTokens: tokensOf(event.prompt), maxTokens, stopAfter });
        break;
      }
      case "abort": {
        const request = engine.requests[event.which];
        if (request !== undefined) engine.remove(request);
        break;
      }
      case "hold": {
        const tokens = tokensOf(event.tokens);
        const fits = engine.freeSlots > 0 && engine.freePages >= pagesFor(tokens);
        if (fits) engine.outside.push(tokens);
        break;
      }
      case "free":
        engine.outside.splice(event.which, 1);
        break;
      case "steps":
        for (let i = 0; i < event.count; i++) {
          engine.step();
          engine.now += event.ms;
        }
    }
  }

  test("keeps the limits in every step, and ends with every page and slot free", () => {
    const total: Record<string, number> = {};
    fc.assert(
      fc.property(limits, fc.array(event, { maxLength: 60, size: "max" }), (limits, events) => {
        const engine = new SimulatedEngine(limits);
        for (const event of events) carryOut(engine, event);
        // Once the others are gone, all end: the first one moves in every step. It may have to make
        // room for one that comes before it, but then not again.
        engine.outside.length = 0;
        const { requests } = engine;
        const tokens = requests.reduce((sum, { mostKnownTokens }) => sum + mostKnownTokens, 0);
        // Twice as many, since who is constrained draws in every other step.
        let mostSteps = 2 * tokens * (1 + requests.length);
        while (requests.length > 0) {
          expect(mostSteps--).toBeGreaterThan(0);
          engine.step();
        }
        expect(engine.freePages).toBe(limits.globalPages);
        expect(engine.freeSlots).toBe(limits.maxSequences);
        for (const [name, count] of Object.entries(engine.counts))
          total[name] = (total[name] ?? 0) + count;
      }),
      { seed: 6, numRuns: 40, endOnFailure: true },
    );
    // It was about something.
    expect(total["steps"]).toBeGreaterThanOrEqual(10_000);
    for (const count of Object.values(total)) expect(count).toBeGreaterThan(30);
  });
});
