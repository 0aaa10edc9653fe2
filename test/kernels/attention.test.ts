import type { ActivationDType, KernelDevice, KvLayerView, Tensor } from "../../lib/kernels";
import { messageOf } from "../helpers/error";
import {
  bigTest,
  compare,
  cpu,
  describeCuda,
  emptyCache,
  fillCache,
  guarded,
  NO_PAGE,
  pageTables,
  ragged,
  random,
  rounded,
  type Span,
} from "./helpers";

interface Problem {
  readonly spans: readonly Span[];
  readonly dtype?: ActivationDType;
  readonly heads?: number;
  readonly kvHeads?: number;
  readonly headDim?: number;
  readonly valueHeadDim?: number;
  readonly numMetaTokens?: number;
  readonly window?: number;
  readonly ringColumns?: number;
  /** Columns beside the rows of q and out. */
  readonly columns?: number;
  readonly seed?: number;
}

interface Prepared {
  readonly q: Tensor<ActivationDType>;
  readonly out: Tensor<ActivationDType>;
  readonly kv: KvLayerView;
  /** Runs the stage and reads its result. */
  run(): Float32Array;
  /** Throws when it wrote beside its result. */
  check(): void;
}

/** The problem on a device, in `dtype`, with numbers that are exact in the problem's own dtype. */
function prepare(device: KernelDevice, problem: Problem, dtype: ActivationDType): Prepared {
  const { spans, heads = 2, kvHeads = 1, headDim = 64, valueHeadDim = 128 } = problem;
  const { numMetaTokens = 0, window = -1, ringColumns, columns = 0, seed = 7 } = problem;
  const exact = problem.dtype ?? "bf16";
  const lengths = spans.map(({ tokens, position = 0 }) => position + tokens);
  const tables = pageTables(lengths, {
    numMetaTokens,
    seed,
    ...(ringColumns === undefined ? {} : { ringColumns }),
  });
  const kv = emptyCache(device, dtype, tables, {
    numKvHeads: kvHeads,
    headDim,
    valueHeadDim,
    numLayers: 2,
    layerIdx: 1,
  });
  fillCache(device, kv, lengths, seed, exact);
  const host = ragged(spans);
  const batch = host.on(device);
  const shape = (dim: number) => [host.numTokens, heads, dim];
  const numbers = random(seed + 1).normal(host.numTokens * heads * headDim);
  const q = guarded(device, dtype, shape(headDim), { data: rounded(exact, numbers), columns });
  const out = guarded(device, dtype, shape(valueHeadDim), { columns });
  const scale = 1 / Math.sqrt(headDim);
  return {
    q: q.tensor,
    out: out.tensor,
    kv,
    run: () => {
      device.attention({ batch, q: q.tensor, kv, window, scale, out: out.tensor });
      return out.tensor.read();
    },
    check: () => {
      q.check();
      out.check();
    },
  };
}

/** Mean of |actual - expected| by that of |expected|. */
function meanError(actual: Float32Array, expected: Float32Array): number {
  let difference = 0;
  let size = 0;
  actual.forEach((value, i) => {
    difference += Math.abs(value - expected[i]!);
    size += Math.abs(expected[i]!);
  });
  return difference / size;
}

/** On the GPU twice, against fp32 on the CPU. */
function expectAsOnCpu(device: KernelDevice, problem: Problem): void {
  const dtype = problem.dtype ?? "bf16";
  const onGpu = prepare(device, problem, dtype);
  const actual = onGpu.run();
  const bits = onGpu.out.readBits();
  const expected = prepare(cpu(), problem, "f32").run();
  const columns = expected.length / problem.spans.reduce((sum, { tokens }) => sum + tokens, 0);
  // Values are within ±5 or so. bf16: the probabilities and the result are rounded.
  compare(actual, expected, { absolute: dtype === "bf16" ? 2e-2 : 2e-5, columns });
  expect(meanError(actual, expected)).toBeLessThan(dtype === "bf16" ? 2.2e-3 : 2e-6);
  onGpu.run();
  compare(onGpu.out.readBits(), bits, { name: "second run", columns });
  onGpu.check();
}

/**
 * The bits of one span's rows. Queries, keys and values depend on the position alone, so that every
 * span is the same in any batch, and however its sequence was cut.
 */
function spanBits(device: KernelDevice, problem: Problem, span: number): Uint16Array {
  const { q, kv, out, run } = prepare(device, problem, "bf16");
  const rowsOf = (seed: number, position: number, tokens: number, heads: number, dim: number) => {
    const data = new Float32Array(tokens * heads * dim);
    for (let t = 0; t < tokens; t++) {
      data.set(random(seed + position + t).normal(heads * dim), t * heads * dim);
    }
    return device.tensor("bf16", [tokens, heads, dim], data);
  };
  let first = 0;
  const firsts = problem.spans.map(({ tokens, position = 0 }, index) => {
    const length = position + tokens;
    device.rotaryKvWrite({
      batch: ragged([{ tokens: length }]).on(device),
      q: rowsOf(10_000, 0, length, kv.numKvHeads, kv.headDim),
      k: rowsOf(20_000, 0, length, kv.numKvHeads, kv.headDim),
      v: rowsOf(30_000, 0, length, kv.numKvHeads, kv.valueHeadDim),
      normEpsilon: 1e-6,
      kv: { ...kv, pageTable: kv.pageTable.rows(index, 1) },
    });
    q.rows(first, tokens).write(
      rowsOf(40_000, position, tokens, q.shape[1]!, kv.headDim).readBits() as Uint16Array,
    );
    return (first += tokens) - tokens;
  });
  run();
  return out.rows(firsts[span]!, problem.spans[span]!.tokens).readBits() as Uint16Array;
}

describeCuda("attention", (device) => {
  const mixed: Span[] = [
    { tokens: 1, position: 200 },
    { tokens: 70, position: 90 },
    { tokens: 1, position: 16 },
    { tokens: 33 },
    { tokens: 1 },
    { tokens: 2, position: 130 },
  ];

  describe("bf16", () => {
    test.each([
      [64, 128, 5, 1],
      [64, 64, 2, 2],
      [128, 64, 3, 1],
      [128, 128, 16, 1],
    ])("head dims %i and %i, %i heads over %i K/V heads", (headDim, valueHeadDim, heads, kvHeads) =>
      expectAsOnCpu(device, {
        spans: mixed,
        headDim,
        valueHeadDim,
        heads,
        kvHeads,
        numMetaTokens: 16,
        window: 100,
      }),
    );

    test.each([1, 2, 63, 64, 65, 129])("a prompt of %i tokens, with and without meta", (tokens) => {
      for (const numMetaTokens of [0, 64]) {
        expectAsOnCpu(device, { spans: [{ tokens }], heads: 3, numMetaTokens });
      }
    });

    test.each([0, 128])("single tokens at all edges of pages, %i meta tokens", (numMetaTokens) => {
      const positions = [0, 1, 31, 32, 62, 63, 64, 65, 127, 128, 191, 192, 255, 256, 700];
      expectAsOnCpu(device, {
        spans: positions.map((position) => ({ tokens: 1, position })),
        heads: 5,
        numMetaTokens,
      });
    });

    test("a token that sees 1,300 keys, in several units", () =>
      expectAsOnCpu(device, {
        spans: [
          { tokens: 1, position: 1299 },
          { tokens: 1, position: 3 },
        ],
        heads: 2,
        kvHeads: 2,
        numMetaTokens: 70,
      }));

    test("rings that have wrapped", () =>
      expectAsOnCpu(device, {
        spans: [
          { tokens: 1, position: 1000 },
          { tokens: 1, position: 1023 + 16 },
          { tokens: 40, position: 500 },
          { tokens: 1, position: 1024 + 16 },
          { tokens: 64, position: 16 + 64 * 9 },
        ],
        heads: 2,
        numMetaTokens: 16,
        window: 100,
        ringColumns: 4,
      }));

    test("a page table with more columns than a block has threads", () => {
      const [first, length] = [8192, 8300];
      const on = (target: KernelDevice, dtype: ActivationDType) => {
        const tables = pageTables([length]);
        expect(tables.ringColumns).toBeGreaterThan(128);
        const extents = { numKvHeads: 1, headDim: 64, valueHeadDim: 64 };
        const kv = emptyCache(target, dtype, tables, extents);
        const numbers = random(8);
        const rows = (tokens: number) =>
          target.tensor(dtype, [tokens, 1, 64], rounded("bf16", numbers.normal(tokens * 64)));
        const tokens = length - first;
        target.rotaryKvWrite({
          batch: ragged([{ tokens, position: first }]).on(target),
          q: rows(tokens),
          k: rows(tokens),
          v: rows(tokens),
          normEpsilon: 1e-6,
          kv,
        });
        const batch = ragged([{ tokens: 1, position: length - 1 }]).on(target);
        const out = target.tensor(dtype, [1, 1, 64]);
        target.attention({ batch, q: rows(1), kv, window: 80, scale: 0.125, out });
        return out.read();
      };
      compare(on(device, "bf16"), on(cpu(), "f32"), { absolute: 2e-2 });
    });

    test("more spans than one launch takes", () => {
      const spans = Array.from({ length: 259 }, (_, i) => ({
        tokens: 1,
        position: i % 129 === 0 ? 300 : i % 3,
      }));
      expectAsOnCpu(device, { spans, heads: 1, valueHeadDim: 64 });
    });

    test("rows that are not aligned", () =>
      expectAsOnCpu(device, {
        spans: [{ tokens: 1, position: 80 }, { tokens: 5 }],
        columns: 3,
        window: 20,
      }));

    test("a chunk that sees more pages than a block holds at once", () =>
      expectAsOnCpu(device, {
        spans: [{ tokens: 90, position: 1000 }, { tokens: 7 }],
        heads: 10,
        kvHeads: 2,
        numMetaTokens: 16,
      }));

    test.each([-1, 1, 63, 64, 70, 130])("long tiles of a single head, window %i", (window) =>
      expectAsOnCpu(device, {
        spans: [{ tokens: 300 }, { tokens: 2, position: 640 }, { tokens: 200, position: 333 }],
        heads: 1,
        numMetaTokens: 70,
        window,
      }),
    );

    bigTest("the real shapes", () => {
      const real = { heads: 25, kvHeads: 5, numMetaTokens: 128 };
      const spans = [
        { tokens: 1024 },
        ...[1024, 1025, 1026, 1088, 1089, 1152, 1153].map((position) => ({ tokens: 1, position })),
        { tokens: 700, position: 1500 },
        { tokens: 1, position: 8319 },
      ];
      expectAsOnCpu(device, { ...real, spans });
      expectAsOnCpu(device, { ...real, spans, window: 1024, ringColumns: 40 });
    });
  });

  describe("float32, and what tensor cores do not take", () => {
    test.each<[ActivationDType, number, number, number, number]>([
      ["f32", 64, 128, 2, 1],
      ["f32", 128, 64, 4, 2],
      ["f32", 8, 16, 2, 1],
      ["f32", 10, 7, 1, 1],
      ["bf16", 24, 40, 2, 1],
      ["bf16", 64, 128, 17, 1],
      ["bf16", 192, 64, 1, 1],
    ])(
      "%s, head dims %i and %i, %i heads over %i",
      (dtype, headDim, valueHeadDim, heads, kvHeads) =>
        expectAsOnCpu(device, {
          spans: [{ tokens: 1, position: 150 }, { tokens: 20, position: 55 }, { tokens: 3 }],
          dtype,
          headDim,
          valueHeadDim,
          heads,
          kvHeads,
          numMetaTokens: 16,
          window: 70,
        }),
    );

    test("refuses head dims that do not fit", () => {
      const { run } = prepare(
        device,
        { spans: [{ tokens: 1 }], dtype: "f32", headDim: 1504, valueHeadDim: 1504, heads: 1 },
        "f32",
      );
      expect(messageOf("ERR_MODEL_UNSUPPORTED", run)).toContain("head dims of 1504 and 1504");
    });
  });

  // All scores are 0, so that a result is the mean of the values seen; one value is 1, the rest 0.
  const seesKey = (span: Span, window: number, numMetaTokens: number, key: number): boolean => {
    const kvHeads = 1;
    const lengths = [(span.position ?? 0) + span.tokens];
    const tables = pageTables(lengths, { numMetaTokens });
    const extents = { numKvHeads: kvHeads, headDim: 64, valueHeadDim: 64 };
    const kv = emptyCache(device, "bf16", tables, extents);
    const values = new Float32Array(lengths[0]! * 64);
    values.fill(1, key * 64, key * 64 + 64);
    const zeroes = () => device.tensor("bf16", [lengths[0]!, 1, 64]);
    device.rotaryKvWrite({
      batch: ragged([{ tokens: lengths[0]! }]).on(device),
      q: zeroes(),
      k: zeroes(),
      v: device.tensor("bf16", [lengths[0]!, 1, 64], values),
      normEpsilon: 1e-6,
      kv,
    });
    const q = device.tensor("bf16", [span.tokens, 1, 64]);
    const out = device.tensor("bf16", [span.tokens, 1, 64]);
    device.attention({ batch: ragged([span]).on(device), q, kv, window, scale: 1, out });
    // The last token is the one that is asked.
    const last = out.rows(span.tokens - 1, 1).read();
    expect(new Set(last).size).toBe(1);
    return last[0]! > 0;
  };

  const windowEdges = (position: number, window: number, numMetaTokens: number): void => {
    for (const span of [
      { tokens: 1, position },
      { tokens: 3, position: position - 2 },
    ]) {
      const sees = (key: number) => seesKey(span, window, numMetaTokens, key);
      expect(sees(position)).toBe(true);
      expect(sees(position - window)).toBe(true);
      expect(sees(position - window - 1)).toBe(false);
      expect(sees(numMetaTokens - 1)).toBe(true);
      expect(sees(numMetaTokens)).toBe(false);
      expect(sees(0)).toBe(true);
    }
  };
  test("the window's edge is exact", () => {
    windowEdges(300, 100, 40);
    windowEdges(291, 99, 64); // both edges of the window are edges of pages
  });
  bigTest("the window's edge is exact at 1024", () => windowEdges(2500, 1024, 128));

  test("the last token of a prompt sees itself, and no token sees the next", () => {
    expect(seesKey({ tokens: 65 }, -1, 0, 64)).toBe(true);
    const { run } = prepare(device, { spans: [{ tokens: 1 }], heads: 1 }, "bf16");
    expect(run().every(Number.isFinite)).toBe(true);
  });

  test.each([-1, 50])("bits do not depend on how a prompt is cut (window %i)", (window) => {
    const common = { heads: 5, numMetaTokens: 16, window };
    const total = 150;
    const whole = spanBits(device, { ...common, spans: [{ tokens: total }] }, 0);
    const width = whole.length / total;
    let position = 0;
    for (const tokens of [2, 31, 64, 53]) {
      const chunk = spanBits(device, { ...common, spans: [{ tokens, position }] }, 0);
      compare(chunk, whole.slice(position * width, (position + tokens) * width), {});
      position += tokens;
    }
    expect(position).toBe(total);
  });

  test("bits do not depend on how a long prompt of a single head is cut", () => {
    const common = { heads: 1, numMetaTokens: 70, window: 90 };
    const total = 500;
    const whole = spanBits(device, { ...common, spans: [{ tokens: total }] }, 0);
    const width = whole.length / total;
    let position = 0;
    for (const tokens of [191, 5, 100, 204]) {
      const chunk = spanBits(device, { ...common, spans: [{ tokens, position }] }, 0);
      compare(chunk, whole.slice(position * width, (position + tokens) * width), {});
      position += tokens;
    }
    expect(position).toBe(total);
  });

  test("bits of a token do not depend on what else the step does", () => {
    const common = { heads: 4, kvHeads: 2, numMetaTokens: 16, ringColumns: 8 };
    const span = { tokens: 1, position: 400 };
    const others = [
      { tokens: 1, position: 30 },
      { tokens: 9, position: 3 },
      { tokens: 1, position: 511 },
    ];
    const alone = spanBits(device, { ...common, spans: [span] }, 0);
    compare(spanBits(device, { ...common, spans: [span, ...others] }, 0), alone, {});
  });

  test("bits of a prompt do not depend on what else the step does", () => {
    const common = { heads: 3, numMetaTokens: 16, window: 60, ringColumns: 8 };
    const span = { tokens: 50, position: 111 };
    const others = [{ tokens: 1, position: 30 }, { tokens: 29 }];
    const alone = spanBits(device, { ...common, spans: [span] }, 0);
    compare(spanBits(device, { ...common, spans: [span, ...others] }, 0), alone, {});
  });

  test.each<ActivationDType>(["bf16", "f32"])("padded lanes are left alone (%s)", (dtype) => {
    const spans = [
      { tokens: 1, position: 70 },
      { tokens: 1, position: 0x7ffffff, slot: -1 },
      { tokens: 3, position: 0x7ffffff, slot: -1 },
      { tokens: 2, position: 9 },
    ];
    const lengths = [71, 0, 0, 11];
    const on = (target: KernelDevice) => {
      const kv = emptyCache(target, dtype, pageTables(lengths), {
        numKvHeads: 1,
        headDim: 64,
        valueHeadDim: 64,
      });
      expect(kv.pageTable.read()).toContain(NO_PAGE);
      fillCache(target, kv, lengths, 3);
      const data = rounded(dtype, random(4).normal(7 * 64));
      const q = target.tensor(dtype, [7, 1, 64], data);
      const out = guarded(target, dtype, [7, 1, 64]).tensor;
      const untouched = out.readBits();
      const batch = ragged(spans).on(target);
      target.attention({ batch, q, kv, window: -1, scale: 0.125, out });
      expect(out.rows(1, 4).readBits()).toEqual(untouched.slice(64, 5 * 64));
      return [...out.rows(0, 1).read(), ...out.rows(5, 2).read()];
    };
    compare(on(device), on(cpu()), { absolute: dtype === "bf16" ? 2e-2 : 2e-5 });
  });
});
