import fc from "fast-check";
import {
  CacheLedger,
  hymba15b,
  makeLayers,
  micro,
  pageTokens,
  RefcountPool,
  type Hold,
  type LayoutOptions,
  type SpanRequest,
} from "./helpers/cache_ledger";
import { CacheModel } from "./helpers/cache_model";

/** What a call throws. */
function errorOf(call: () => unknown): { readonly code?: string; readonly message: string } {
  try {
    call();
  } catch (error) {
    return error as Error;
  }
  throw new Error("nothing was thrown");
}

const span = (id: number, numTokens: number, generated = false): SpanRequest => ({
  id,
  numTokens,
  generated,
});

/** A ledger whose meta tokens have been run. */
function ledgerWithPrefix(options: LayoutOptions): CacheLedger {
  const ledger = new CacheLedger(options);
  const prefix = ledger.createCold();
  ledger.beginStep([span(prefix, options.numMetaTokens)]);
  ledger.endStep();
  ledger.adoptPrefix(prefix);
  return ledger;
}

describe("RefcountPool", () => {
  test("hands out 0, 1, 2, …, and what was freed last first", () => {
    const pool = new RefcountPool(4);
    expect([pool.acquire(), pool.acquire(), pool.acquire()]).toEqual([0, 1, 2]);
    expect([pool.release(0), pool.release(1)]).toEqual([true, true]);
    expect([pool.acquire(), pool.acquire(), pool.acquire()]).toEqual([1, 0, 3]);
  });

  test("counts holders as a map would, and refuses misuse without harm", () => {
    const call = fc.record({
      kind: fc.constantFrom("acquire", "retain", "release"),
      id: fc.integer({ min: -1, max: 4 }),
      hold: fc.constantFrom<Hold>("use", "use", "keep"),
    });
    const property = fc.property(fc.array(call, { maxLength: 60 }), (calls) => {
      const pool = new RefcountPool(4);
      const use = [0, 0, 0, 0];
      const keep = [0, 0, 0, 0];
      const total = () => use.map((count, id) => count + keep[id]!);
      for (const { kind, id, hold } of calls) {
        const counts = hold === "use" ? use : keep;
        const isHeld = ((kind === "release" ? counts : total())[id] ?? 0) > 0;
        if (kind === "acquire" && total().includes(0)) {
          const acquired = pool.acquire(hold);
          expect(total()[acquired]).toBe(0);
          counts[acquired] = 1;
        } else if (kind === "acquire") {
          expect(errorOf(() => pool.acquire(hold)).code).toBe("ERR_INTERNAL");
        } else if (!isHeld) {
          expect(errorOf(() => pool[kind](id, hold)).code).toBe("ERR_INTERNAL");
        } else {
          const freed = pool[kind](id, hold);
          counts[id]! += kind === "retain" ? 1 : -1;
          if (kind === "release") expect(freed).toBe(total()[id] === 0);
        }
        expect(use.map((_, unit) => pool.numHolders(unit))).toEqual(total());
        expect(pool.numFree()).toBe(total().filter((count) => count === 0).length);
        expect(pool.numUsed()).toBe(use.filter((count) => count > 0).length);
        expect(pool.numKept()).toBe(4 - pool.numFree() - pool.numUsed());
      }
    });
    fc.assert(property, { seed: 20, numRuns: 200 });
  });
});

describe("layout of Hymba-1.5B", () => {
  const ledger = new CacheLedger(hymba15b);
  const layout = ledger.layout();

  test("has 17 producers in two pools of 64-token pages", () => {
    expect(layout.layers.filter((layer) => layer.isProducer)).toHaveLength(17);
    expect(layout.global).toEqual({
      numLayers: 3,
      metaColumns: 2,
      ringColumns: 128,
      numPages: 64 * 128 + 2,
      pageBytes: 368_640,
      bytes: (64 * 128 + 2) * 368_640,
    });
    expect(layout.windowRingPages).toBe(17);
    expect(layout.maxPrefillSpans).toBe(64);
    expect(layout.window).toEqual({
      numLayers: 14,
      metaColumns: 2,
      ringColumns: 17 + 32 + 1,
      numPages: 64 * 17 + (32 + 64) + 2,
      pageBytes: 1_720_320,
      bytes: (64 * 17 + 96 + 2) * 1_720_320,
    });
  });

  test("takes 74.8 MB of K/V and 7.2 MB of state a sequence at 8192 tokens", () => {
    const bytes = ledger.bytesPerSequence(8192);
    expect(bytes).toEqual({
      globalKv: 8192 * 1920 * 3,
      globalKvPages: 128 * 368_640,
      windowKv: 1025 * 1920 * 14,
      windowKvPages: 17 * 1_720_320,
      ssm: 6_553_600,
      conv: 614_400,
    });
    expect(Math.abs((bytes.globalKv + bytes.windowKv) / 1e6 - 74.8)).toBeLessThan(0.1);
    expect((bytes.globalKvPages + bytes.windowKvPages) / 74.8e6).toBeLessThan(1.025);
  });

  test("counts short contexts by what they hold", () => {
    expect(ledger.bytesPerSequence(0)).toMatchObject({ globalKv: 0, windowKv: 0, ssm: 6_553_600 });
    expect(ledger.bytesPerSequence(100)).toMatchObject({
      globalKv: 100 * 1920 * 3,
      globalKvPages: 2 * 368_640,
      windowKv: 100 * 1920 * 14,
      windowKvPages: 2 * 1_720_320,
    });
    for (const context of [-1, 8193])
      expect(errorOf(() => ledger.bytesPerSequence(context))).toMatchObject({
        code: "ERR_INVALID_ARGUMENT",
        message: `contextTokens is ${context}, expected 0 to 8192`,
      });
  });

  test("keeps the meta tokens' K/V once: 4.18 MB", () => {
    expect(layout.metaKvBytes).toBe(17 * 128 * 1920);
    expect(layout.metaKvPageBytes).toBe(layout.metaKvBytes); // 128 tokens fill two pages
    expect(layout.numStateSlots).toBe(65);
    expect(layout.stateBytes).toBe(65 * (6_553_600 + 614_400));
  });

  test("can have a smaller global pool than all contexts together", () => {
    const pagesFor = (cacheTokens: number) =>
      new CacheLedger({ ...hymba15b, cacheTokens }).layout().global.numPages;
    expect(pagesFor(100_000)).toBe(1563 + 2);
    expect(pagesFor(1)).toBe(128 + 2); // one whole context
    expect(pagesFor(1e9)).toBe(64 * 128 + 2); // no more than could be used
  });
});

describe("layout", () => {
  test("maps every layer to the pool and the place of its producer", () => {
    const map = new CacheLedger(micro).layout().layers;
    expect(map.map(({ pool, poolIdx }) => `${pool} ${poolIdx}`)).toEqual([
      "global 0",
      "window 0",
      "window 0",
      "window 0",
      "global 1",
      "window 1",
      "window 1",
      "global 2",
    ]);
    expect(map.map(({ isProducer }) => Number(isProducer))).toEqual([1, 1, 0, 0, 1, 1, 0, 1]);
    expect(map.map(({ window }) => window)).toEqual([-1, 32, 32, 32, -1, 32, 32, -1]);
  });

  test("counts the meta tokens' bytes by tokens and by pages", () => {
    const { metaKvBytes, metaKvPageBytes } = new CacheLedger(micro).layout();
    expect(metaKvBytes).toBe(16 * 192 * 4 * 5);
    expect(metaKvPageBytes).toBe(64 * 192 * 4 * 5);
  });

  test("lets a window layer read a global producer, under its own window", () => {
    const layers = makeLayers(2, [0], [[0, 1]]);
    const layout = new CacheLedger({ ...micro, layers }).layout();
    expect(layout.layers[1]).toEqual({ pool: "global", poolIdx: 0, isProducer: false, window: 32 });
    expect(layout.window).toEqual({
      numLayers: 0,
      metaColumns: 0,
      ringColumns: 0,
      numPages: 0,
      pageBytes: 0,
      bytes: 0,
    });
  });

  test("needs no meta pages for a model without meta tokens", () => {
    const layout = new CacheLedger({ ...micro, numMetaTokens: 0 }).layout();
    expect([layout.global.metaColumns, layout.window.metaColumns]).toEqual([0, 0]);
    expect([layout.metaKvBytes, layout.metaKvPageBytes]).toEqual([0, 0]);
  });

  test("is never larger than whole contexts are", () => {
    const { window } = new CacheLedger({ ...micro, slidingWindow: 2 ** 31 - 1 }).layout();
    expect(window.ringColumns).toBe(8);
    expect(window.numPages).toBe(4 * 8 + 1);
  });

  const layer = (kvProducer: number, global = false) => ({ global, kvProducer });
  test.each<[string, string, Partial<LayoutOptions>]>([
    ["the number of layers is 0, expected 1 to 4096", "ERR_MODEL_FORMAT", { layers: [] }],
    [
      "layer 0 reads the K/V of layer 1, expected itself or a layer before it",
      "ERR_MODEL_FORMAT",
      { layers: [layer(1), layer(1)] },
    ],
    [
      "layer 0 reads the K/V of layer -1, expected itself or a layer before it",
      "ERR_MODEL_FORMAT",
      { layers: [layer(-1)] },
    ],
    [
      "layer 2 reads the K/V of layer 1, which has none of its own: it reads those of layer 0",
      "ERR_MODEL_FORMAT",
      { layers: [layer(0), layer(0), layer(1)] },
    ],
    [
      "layer 1 attends to all tokens but reads the K/V of layer 0, which keeps those of its sliding window only",
      "ERR_MODEL_FORMAT",
      { layers: [layer(0), layer(0, true)] },
    ],
    ["num_meta_tokens is -1, expected 0 to 1048576", "ERR_MODEL_FORMAT", { numMetaTokens: -1 }],
    ["sliding_window is -1, expected 0 to 2147483647", "ERR_MODEL_FORMAT", { slidingWindow: -1 }],
    ["num_kv_heads is 0, expected 1 to 4096", "ERR_MODEL_FORMAT", { numKvHeads: 0 }],
    ["head_dim is 0, expected 1 to 16384", "ERR_MODEL_FORMAT", { headDim: 0 }],
    ["value_head_dim is 0, expected 1 to 16384", "ERR_MODEL_FORMAT", { valueHeadDim: 0 }],
    ["inner_size is 0, expected 1 to 16777216", "ERR_MODEL_FORMAT", { innerSize: 0 }],
    ["state_size is 0, expected 1 to 16384", "ERR_MODEL_FORMAT", { stateSize: 0 }],
    ["conv_width is 0, expected 1 to 16384", "ERR_MODEL_FORMAT", { convWidth: 0 }],
    ["K/V elements of 0 bytes", "ERR_INTERNAL", { kvElementBytes: 0 }],
    ["activations of 9 bytes", "ERR_INTERNAL", { actElementBytes: 9 }],
    ["maxSequences is 0, expected 1 to 65535", "ERR_INVALID_ARGUMENT", { maxSequences: 0 }],
    ["maxSequences is 65536, expected 1 to 65535", "ERR_INVALID_ARGUMENT", { maxSequences: 65536 }],
    [
      "maxContextTokens is 2147483647, expected 1 to 2147483567",
      "ERR_INVALID_ARGUMENT",
      { maxContextTokens: 2 ** 31 - 1 },
    ],
    [
      "maxBatchTokens is 0, expected 1 to 2147483647",
      "ERR_INVALID_ARGUMENT",
      { maxBatchTokens: 0 },
    ],
    [
      "cacheTokens is -1, expected 0 to 9223372036854775743",
      "ERR_INVALID_ARGUMENT",
      { cacheTokens: -1 },
    ],
    [
      "the global K/V pool would have 1023984375001 pages, expected at most 2147483647: lower maxSequences or maxContextTokens",
      "ERR_INVALID_ARGUMENT",
      { maxSequences: 65535, maxContextTokens: 1e9 },
    ],
    [
      "the global K/V pool would take 31250001 x 51942260736 bytes, expected at most 2^60: lower maxSequences or maxContextTokens",
      "ERR_INVALID_ARGUMENT",
      { numKvHeads: 4096, headDim: 16384, maxSequences: 2000, maxContextTokens: 1e6 },
    ],
    [
      "the Mamba state would take 65536 x 35190814539776 bytes, expected at most 2^60: lower maxSequences or maxContextTokens",
      "ERR_INVALID_ARGUMENT",
      {
        layers: hymba15b.layers,
        innerSize: 2 ** 24,
        stateSize: 2 ** 14,
        maxSequences: 65535,
        maxContextTokens: 1,
      },
    ],
  ])("refuses: %s", (message, code, options) => {
    expect(errorOf(() => new CacheLedger({ ...micro, ...options }))).toMatchObject({
      code,
      message,
    });
  });
});

describe("sequences", () => {
  test("start from the shared prefix, and go on from their own state", () => {
    const ledger = ledgerWithPrefix(micro);
    const [a, b] = [ledger.create(), ledger.create()];
    ledger.beginStep([span(b, 3), span(a, 1, true)]);
    expect(ledger.tables()).toMatchObject({
      positions: Int32Array.of(16, 17, 18, 16),
      tokenSpans: Int32Array.of(0, 0, 0, 1),
      spanOffsets: Int32Array.of(0, 3, 4),
      stateSource: Int32Array.of(0, 0),
      stateSlot: Int32Array.of(2, 1),
      isGenerated: Int32Array.of(0, 1),
      fresh: Int32Array.of(1, 1),
      // Page 0 holds the meta tokens of both.
      globalPages: Int32Array.of(0, 1, ...Array(7).fill(-1), 0, 2, ...Array(7).fill(-1)),
    });
    ledger.endStep();
    ledger.beginStep([span(a, 1)]);
    expect(ledger.tables()).toMatchObject({
      positions: Int32Array.of(17),
      stateSource: Int32Array.of(1),
      stateSlot: Int32Array.of(1),
      fresh: Int32Array.of(0),
    });
    ledger.endStep();
    expect([ledger.length(a), ledger.length(b)]).toEqual([2, 3]);
    expect([ledger.position(a), ledger.position(b)]).toEqual([18, 19]);
  });

  test("may start cold and run over the meta tokens into text in one step", () => {
    const ledger = ledgerWithPrefix(micro);
    const id = ledger.createCold();
    ledger.beginStep([span(id, 16 + 65)]);
    const tables = ledger.tables();
    expect([tables.stateSource[0], tables.fresh[0], tables.positions[0]]).toEqual([-1, 1, 0]);
    expect([...tables.globalPages]).toEqual([1, 2, 3, -1, -1, -1, -1, -1, -1]);
    ledger.endStep();
    expect(ledger.length(id)).toBe(65);
  });

  test("need no prefix in a model without meta tokens", () => {
    const ledger = new CacheLedger({ ...micro, numMetaTokens: 0 });
    const id = ledger.create();
    ledger.beginStep([span(id, 1)]);
    expect(ledger.tables()).toMatchObject({
      positions: Int32Array.of(0),
      stateSource: Int32Array.of(-1),
      fresh: Int32Array.of(1),
    });
    expect(errorOf(() => ledger.adoptPrefix(id)).code).toBe("ERR_INTERNAL");
  });

  test("never have an id twice", () => {
    const ledger = ledgerWithPrefix(micro);
    const ids = Array.from({ length: 100 }, () => {
      const id = ledger.create();
      ledger.release(id);
      return id;
    });
    expect(new Set(ids).size).toBe(100);
  });

  test("never lack window pages, however many prompts share a step with full rings", () => {
    const maxSequences = 80;
    const options = { ...micro, slidingWindow: 64, maxSequences, maxBatchTokens: 64 * 2 + 16 };
    const model = new CacheModel(options);
    // Each holds the two pages that its window reaches, and steps into a third.
    const sequences = Array.from({ length: maxSequences }, () => model.create(false));
    for (const { id } of sequences) model.step([span(id, 127)], "end");
    model.step(
      sequences.map(({ id }, i) => span(id, i < 64 ? 2 : 1)),
      "end",
    );
    expect(model.live.map(({ text }) => text.window.size)).toEqual([
      ...Array(64).fill(2),
      ...Array(16).fill(1),
    ]);
  });
});

describe("a refused call", () => {
  const options: LayoutOptions = { ...micro, maxSequences: 3, cacheTokens: 9 * pageTokens };
  // 9 pages of text, of which `first` holds 4 and `second` none.
  const setUp = () => {
    const ledger = ledgerWithPrefix(options);
    const [first, second] = [ledger.create(), ledger.create()];
    ledger.beginStep([span(first, 200)]);
    ledger.endStep();
    return { ledger, first, second };
  };
  type SetUp = ReturnType<typeof setUp>;

  test.each<[string, string, string, (state: SetUp) => void]>([
    [
      "an unknown sequence",
      "ERR_DISPOSED",
      "sequence 99 was disposed or is of another model",
      ({ ledger, first }) => ledger.beginStep([span(first, 1), span(99, 1)]),
    ],
    [
      "the release of an unknown sequence",
      "ERR_DISPOSED",
      "sequence 99 was disposed or is of another model",
      ({ ledger }) => ledger.release(99),
    ],
    [
      "the length of an unknown sequence",
      "ERR_DISPOSED",
      "sequence 99 was disposed or is of another model",
      ({ ledger }) => ledger.length(99),
    ],
    [
      "a sequence twice",
      "ERR_INVALID_ARGUMENT",
      "sequence 1 is in the step twice, expected once",
      ({ ledger, first, second }) =>
        ledger.beginStep([span(first, 1), span(second, 1), span(first, 1)]),
    ],
    [
      "no sequence",
      "ERR_INVALID_ARGUMENT",
      "a step of no sequence, expected one or more",
      ({ ledger }) => ledger.beginStep([]),
    ],
    [
      "no tokens",
      "ERR_INVALID_ARGUMENT",
      "entry 1 of the step has 0 tokens, expected 1 or more",
      ({ ledger, first, second }) => ledger.beginStep([span(first, 1), span(second, 0)]),
    ],
    [
      "more than the context",
      "ERR_CONTEXT_FULL",
      "entry 0 of the step would take its sequence from 200 to 513 tokens, expected at most 512: shorten the text, or load with a larger maxContextTokens",
      ({ ledger, first }) => ledger.beginStep([span(first, 313)]),
    ],
    [
      "more than a batch",
      "ERR_INVALID_ARGUMENT",
      "a step of 257 tokens, expected at most 256: split it, or load with a larger maxBatchTokens",
      ({ ledger, first, second }) => ledger.beginStep([span(first, 1), span(second, 256)]),
    ],
    [
      "more than the pool has",
      "ERR_OUT_OF_MEMORY",
      "the global K/V pool is full: the step needs 4 pages of 64 tokens, 1 of 10 are free; dispose a sequence, or load with a larger cacheTokens",
      ({ ledger, first, second }) => {
        ledger.beginStep([span(second, 256)]);
        ledger.endStep();
        ledger.beginStep([span(first, 250)]);
      },
    ],
    [
      "one sequence too many",
      "ERR_OUT_OF_MEMORY",
      "all 3 sequences are in use: dispose one or load with a larger maxSequences",
      ({ ledger }) => {
        ledger.create();
        ledger.create();
      },
    ],
    [
      "a cold sequence without pages for its meta tokens",
      "ERR_OUT_OF_MEMORY",
      "the global K/V pool is full: a sequence with meta tokens of its own needs 1 pages of 64 tokens, 0 of 10 are free; dispose a sequence, or load with a larger cacheTokens",
      ({ ledger, first, second }) => {
        ledger.beginStep([span(first, 56), span(second, 200)]);
        ledger.endStep();
        ledger.beginStep([span(second, 120)]);
        ledger.endStep();
        ledger.createCold();
      },
    ],
    [
      "a second prefix",
      "ERR_INTERNAL",
      "adopt_prefix: there is a prefix already",
      ({ ledger, first }) => ledger.adoptPrefix(first),
    ],
    [
      "the end of no step",
      "ERR_INTERNAL",
      "end_step: no step is open",
      ({ ledger }) => ledger.endStep(),
    ],
    [
      "cancelling no step",
      "ERR_INTERNAL",
      "cancel_step: no step is open",
      ({ ledger }) => ledger.cancelStep(),
    ],
    [
      "the tables of no step",
      "ERR_INTERNAL",
      "fill: no step is open",
      ({ ledger }) => ledger.tables(),
    ],
  ])("%s", (_, code, message, call) => {
    const state = setUp();
    expect(errorOf(() => call(state))).toMatchObject({ code, message });
  });

  test.each<[string, (state: SetUp) => void]>([
    ["beginStep", ({ ledger, second }) => ledger.beginStep([span(second, 1)])],
    ["create", ({ ledger }) => ledger.create()],
    ["createCold", ({ ledger }) => ledger.createCold()],
    ["adoptPrefix", ({ ledger, second }) => ledger.adoptPrefix(second)],
    ["release", ({ ledger, second }) => ledger.release(second)],
  ])("%s while a step is open", (_, call) => {
    const state = setUp();
    state.ledger.beginStep([span(state.first, 1)]);
    expect(errorOf(() => call(state))).toMatchObject({
      code: "ERR_INTERNAL",
      message: expect.stringMatching(/: a step is open$/),
    });
    state.ledger.endStep();
    expect(state.ledger.length(state.first)).toBe(201);
  });

  test("a sequence before the meta tokens were run", () => {
    const ledger = new CacheLedger(options);
    expect(errorOf(() => ledger.create())).toMatchObject({
      code: "ERR_INTERNAL",
      message: "create: the meta tokens were not run yet",
    });
    const id = ledger.createCold();
    ledger.beginStep([span(id, 15)]);
    ledger.endStep();
    expect(errorOf(() => ledger.adoptPrefix(id))).toMatchObject({
      code: "ERR_INTERNAL",
      message: "adopt_prefix: sequence 0 is at position 15, expected 16",
    });
  });

  test("too many prompts in a step", () => {
    const ledger = ledgerWithPrefix({ ...micro, maxSequences: 65 });
    const ids = Array.from({ length: 65 }, () => ledger.create());
    expect(errorOf(() => ledger.beginStep(ids.map((id) => span(id, 2))))).toMatchObject({
      code: "ERR_INVALID_ARGUMENT",
      message: "a step with 65 sequences of more than one token, expected at most 64: split it",
    });
    ledger.beginStep(ids.map((id) => span(id, id === ids[0] ? 1 : 2)));
  });
});

describe("snapshots", () => {
  const setUp = (more: Partial<LayoutOptions> = {}) => {
    const ledger = ledgerWithPrefix({ ...micro, maxSequences: 3, ...more });
    const run = (id: number, numTokens: number) => {
      ledger.beginStep([span(id, numTokens)]);
      const tables = ledger.tables();
      ledger.endStep();
      return tables;
    };
    const id = ledger.create();
    run(id, 100);
    return { ledger, run, id };
  };

  test("share full pages, and copy the state and the page that is not full", () => {
    const { ledger, run, id } = setUp();
    const before = ledger.usage();
    const snapshot = ledger.snapshot(id, false);
    const copies = ledger.takeCopies();
    expect([copies.global.length, copies.window.length, copies.slots.length]).toEqual([1, 1, 1]);
    expect(ledger.takeCopies()).toEqual({ global: [], window: [], slots: [] });
    const after = ledger.usage();
    for (const pool of ["globalPages", "windowPages", "stateSlots"] as const) {
      expect(after[pool]).toEqual({ ...before[pool], kept: 1 });
    }
    const resumed = ledger.resume(snapshot);
    expect([ledger.length(resumed), ledger.length(snapshot)]).toEqual([100, 100]);
    const { stateSource, stateSlot, fresh, positions } = run(resumed, 1);
    expect(stateSource).toEqual(stateSlot);
    expect([fresh[0], positions[0]]).toEqual([0, micro.numMetaTokens + 100]);
  });

  test("on the edge of a page have no page to copy", () => {
    const { ledger, run, id } = setUp();
    run(id, 28);
    ledger.snapshot(id, false);
    expect(ledger.takeCopies()).toMatchObject({ global: [], window: [] });
  });

  test("make room for sequences, those that were of use least recently first", () => {
    const { ledger, run, id } = setUp({ maxSequences: 4 });
    const old = ledger.snapshot(id, false);
    run(id, 10);
    const used = ledger.snapshot(id, false);
    ledger.release(ledger.resume(old));
    expect(ledger.usage().stateSlots).toEqual({ used: 2, kept: 2, total: 5 });
    ledger.create();
    ledger.create();
    expect([ledger.isSnapshot(old), ledger.isSnapshot(used)]).toEqual([true, false]);
    const last = ledger.create();
    expect(ledger.isSnapshot(old)).toBe(false);
    expect(ledger.snapshot(id, false)).toBe(-1);
    ledger.release(last);
    expect(errorOf(() => ledger.resume(old)).code).toBe("ERR_DISPOSED");
  });

  test("of the larger group goes the one of least use: proven ones, or the others", () => {
    const { ledger, run, id } = setUp({ maxSequences: 6 });
    const take = (proven: boolean) => {
      run(id, 1);
      return ledger.snapshot(id, proven);
    };
    const [a, b, c, d, e] = [take(true), take(true), take(false), take(false), take(true)];
    const left = () => [a, b, c, d, e].map((snapshot) => ledger.isSnapshot(snapshot));
    expect(left()).toEqual([true, true, true, true, true]);
    take(true); // a had been used least recently, and four are proven
    expect(left()).toEqual([false, true, true, true, true]);
    ledger.release(ledger.resume(c)); // which proves it, and drops b for a moment's room
    expect(left()).toEqual([false, false, true, true, true]);
    take(false);
    take(false); // of c, e and another, e was used least recently
    expect(left()).toEqual([false, false, true, true, false]);
  });

  test("a sequence that retires needs no room, and the next one may take its place", () => {
    const { ledger, run, id } = setUp({ maxSequences: 1 });
    ledger.retire(id);
    expect(ledger.usage().stateSlots).toEqual({ used: 1, kept: 1, total: 2 });
    const resumed = ledger.resume(id);
    expect(ledger.isSnapshot(id)).toBe(false);
    expect(ledger.takeCopies()).toEqual({ global: [], window: [], slots: [] });
    expect(ledger.usage().stateSlots).toEqual({ used: 2, kept: 0, total: 2 });
    expect(run(resumed, 1).positions[0]).toBe(micro.numMetaTokens + 100);
  });

  test("have room of their own by prefixCacheBytes", () => {
    const { snapshotBytes } = new CacheLedger(micro).layout();
    const plain = new CacheLedger(micro).layout();
    const layout = new CacheLedger({ ...micro, prefixCacheBytes: 5.5 * snapshotBytes }).layout();
    expect(layout.numReservedSnapshots).toBe(5);
    expect(layout.numStateSlots).toBe(plain.numStateSlots + 5);
    // A window of 32 tokens touches two pages.
    expect(layout.window.numPages).toBe(plain.window.numPages + 5 * 2);
    expect(layout.global).toEqual(plain.global);
    expect(snapshotBytes).toBe(
      plain.ssmSlotBytes + plain.convSlotBytes + 2 * plain.window.pageBytes,
    );
  });

  test.each<[string, string, (ledger: CacheLedger, id: number, snapshot: number) => unknown]>([
    ["a step", "begin_step: 2 is a snapshot", (l, _, snapshot) => l.beginStep([span(snapshot, 1)])],
    ["a snapshot", "snapshot: sequence 2 is a snapshot", (l, _, s) => l.snapshot(s, false)],
    ["retiring", "retire: sequence 2 is a snapshot", (l, _, s) => l.retire(s)],
    ["going on", "resume: sequence 1 is no snapshot", (l, id) => l.resume(id)],
    ["of no tokens", "snapshot: sequence 3 has no tokens", (l) => l.snapshot(l.create(), false)],
  ])("cannot: %s", (_, message, call) => {
    const { ledger, id } = setUp();
    const snapshot = ledger.snapshot(id, false);
    expect(errorOf(() => call(ledger, id, snapshot))).toMatchObject({
      code: "ERR_INTERNAL",
      message,
    });
  });
});

describe("any history", () => {
  const limits = fc.record({
    layers: fc.constantFrom(
      micro.layers,
      makeLayers(2, [0, 1], []),
      makeLayers(3, [], [[0, 1]]),
      makeLayers(3, [0], [[0, 1]]),
    ),
    numMetaTokens: fc.constantFrom(0, 1, 16, 63, 64, 65, 128, 130),
    slidingWindow: fc.constantFrom(0, 1, 32, 63, 64, 65, 127, 128, 150, 1000),
    maxSequences: fc.integer({ min: 1, max: 5 }),
    maxContextTokens: fc.oneof(fc.integer({ min: 1, max: 900 }), fc.constant(900)),
    maxBatchTokens: fc.integer({ min: 1, max: 300 }),
    cacheTokens: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 2500 })),
    prefixCacheBytes: fc.constantFrom(0, 0, 1 << 18, 1 << 21),
  });
  const constant = <const T>(value: T) => fc.constant(value);
  const pick = fc.nat(99); // modulo the sequences that there are
  const step = fc.record({
    kind: constant("step"),
    spans: fc.array(
      fc.record({
        pick,
        numTokens: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 130 }), fc.nat(300)),
        generated: fc.boolean(),
      }),
      { minLength: 1, maxLength: 5, size: "max" },
    ),
    outcome: fc.constantFrom("end" as const, "end" as const, "cancel" as const),
    /** What it does not look after: nothing; how much room there is; anything. */
    careless: fc.oneof(
      { weight: 6, arbitrary: constant("never") },
      { weight: 1, arbitrary: constant("room") },
      { weight: 1, arbitrary: constant("always") },
    ),
  });
  const operation = fc.oneof(
    { weight: 4, arbitrary: fc.record({ kind: constant("create"), cold: fc.constant(false) }) },
    { weight: 1, arbitrary: fc.record({ kind: constant("create"), cold: fc.constant(true) }) },
    {
      weight: 2,
      arbitrary: fc.record({
        kind: constant("create at"),
        length: fc.oneof(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 1000 })),
      }),
    },
    { weight: 2, arbitrary: fc.record({ kind: constant("release"), pick }) },
    { weight: 4, arbitrary: fc.record({ kind: constant("snapshot"), pick }) },
    { weight: 1, arbitrary: fc.record({ kind: constant("retire"), pick }) },
    { weight: 4, arbitrary: fc.record({ kind: constant("resume"), pick }) },
    { weight: 1, arbitrary: fc.record({ kind: constant("drop"), pick }) },
    { weight: 12, arbitrary: step },
    { weight: 2, arbitrary: fc.record({ kind: constant("decode"), numSteps: fc.nat(70) }) },
  );
  type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;
  type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;

  /** Runs one operation after the other beside the model, and counts the outcomes. */
  class History {
    static readonly outcomes = new Map<string, number>();
    readonly #limits: LayoutOptions;
    readonly #model: CacheModel;

    constructor(limits: LayoutOptions) {
      this.#limits = limits;
      this.#model = new CacheModel(limits);
    }

    run(operations: readonly Operation[]): void {
      const idle = JSON.stringify(this.#model.ledger.usage());
      for (const operation of operations) this.#runOne(operation);
      this.#count("eviction", this.#model.evictions);
      const { live, snapshots } = this.#model;
      for (const sequence of [...live, ...snapshots]) this.#model.release(sequence);
      expect(JSON.stringify(this.#model.ledger.usage())).toBe(idle);
    }

    #runOne(operation: Operation): void {
      const { live, snapshots, ledger } = this.#model;
      switch (operation.kind) {
        case "create": {
          const codes = this.#model.createErrors(operation.cold);
          const create = () => (operation.cold ? ledger.createCold() : ledger.create());
          if (codes.size === 0) this.#model.create(operation.cold);
          else this.#refused("create", codes, create);
          break;
        }
        case "create at": {
          const { length } = operation;
          const codes = this.#model.createAtErrors(length);
          if (codes.size > 0) this.#refused("create at", codes, () => ledger.createAt(length));
          else {
            this.#model.createAt(length);
            this.#count("create at");
          }
          break;
        }
        case "release": {
          const sequence = live[operation.pick % live.length];
          if (sequence) this.#model.release(sequence);
          else
            this.#refused("release", new Set(["ERR_DISPOSED"]), () =>
              ledger.release(1e6 + operation.pick),
            );
          break;
        }
        case "snapshot": {
          const sequence = live[operation.pick % live.length];
          if (sequence?.started && !sequence.cold)
            this.#count(
              `snapshot ${String(this.#model.snapshot(sequence, operation.pick % 3 === 0))}`,
            );
          break;
        }
        case "retire": {
          const sequence = live[operation.pick % live.length];
          if (sequence?.started && !sequence.cold) this.#model.retire(sequence);
          break;
        }
        case "resume": {
          const snapshot = snapshots[operation.pick % snapshots.length];
          const codes = this.#model.createErrors(false);
          if (!snapshot) break;
          if (codes.size > 0) this.#refused("resume", codes, () => ledger.resume(snapshot.id));
          else {
            this.#model.resume(snapshot);
            this.#count(`resume, ${snapshots.includes(snapshot) ? "a copy" : "the place taken"}`);
          }
          break;
        }
        case "drop": {
          const snapshot = snapshots[operation.pick % snapshots.length];
          if (snapshot) this.#model.release(snapshot);
          break;
        }
        case "step":
          this.#step(this.#requests(operation), operation.outcome);
          break;
        case "decode":
          for (let i = 0; i < operation.numSteps; ++i) {
            const growing = live.filter((sequence) => this.#room(sequence) > 0);
            if (growing.length === 0) break;
            const requests = growing.map(({ id }) => span(id, 1, true));
            this.#step(requests.slice(0, this.#limits.maxBatchTokens), "end");
          }
          break;
      }
    }

    #room({ position }: { readonly position: number }): number {
      const { maxContextTokens, numMetaTokens } = this.#limits;
      return maxContextTokens + numMetaTokens - Math.max(position, numMetaTokens);
    }

    /** Unless careless: each sequence once, and tokens that fit its context and the batch. */
    #requests({ spans, careless }: Step): readonly SpanRequest[] {
      const { live } = this.#model;
      if (careless === "always")
        return spans.map(({ pick, ...rest }) => ({
          id: live[pick % 6]?.id ?? 1e6 + pick,
          ...rest,
        }));
      const room = (sequence: { readonly position: number }) =>
        careless === "room" ? Infinity : this.#room(sequence);
      const left = live.filter((sequence) => room(sequence) > 0);
      let batch = this.#limits.maxBatchTokens;
      const requests: SpanRequest[] = [];
      for (const { pick, numTokens, generated } of spans) {
        const [sequence] = left.splice(pick % left.length, 1);
        if (!sequence || batch === 0) break;
        const fitting = Math.min(Math.max(1, numTokens), batch, room(sequence));
        requests.push(span(sequence.id, fitting, generated));
        batch -= fitting;
      }
      return requests;
    }

    #step(requests: readonly SpanRequest[], outcome: "end" | "cancel"): void {
      const codes = this.#model.stepErrors(requests);
      if (codes.size > 0) {
        this.#refused("step", codes, () => this.#model.ledger.beginStep(requests));
      } else {
        this.#model.step(requests, outcome);
        this.#count(`${outcome} of ${requests.length > 1 ? "several" : "one"}`);
      }
    }

    #refused(what: string, codes: Set<string>, call: () => unknown): void {
      const { code } = errorOf(call);
      expect(codes).toContain(code);
      this.#model.checkUsage();
      this.#count(`${what} ${code}`);
    }

    #count(outcome: string, count = 1): void {
      History.outcomes.set(outcome, (History.outcomes.get(outcome) ?? 0) + count);
    }
  }

  test("keeps all that can be seen, shares nothing else, leaks nothing", () => {
    const operations = fc.array(operation, { maxLength: 30, size: "max" });
    const property = fc.property(limits, operations, (limits, operations) => {
      new History({ ...micro, ...limits }).run([{ kind: "create", cold: false }, ...operations]);
    });
    fc.assert(property, { seed: 21, numRuns: 600 });
    // The histories were worth running.
    for (const outcome of [
      "end of one",
      "end of several",
      "cancel of one",
      "cancel of several",
      "create ERR_OUT_OF_MEMORY",
      "create at",
      "create at ERR_OUT_OF_MEMORY",
      "create at ERR_CONTEXT_FULL",
      "release ERR_DISPOSED",
      "step ERR_DISPOSED",
      "step ERR_INVALID_ARGUMENT",
      "step ERR_CONTEXT_FULL",
      "step ERR_OUT_OF_MEMORY",
      "snapshot true",
      "snapshot false",
      "resume, a copy",
      "resume, the place taken",
      "resume ERR_OUT_OF_MEMORY",
      "eviction",
    ])
      expect(History.outcomes.get(outcome)).toBeGreaterThan(25);
  });
});
