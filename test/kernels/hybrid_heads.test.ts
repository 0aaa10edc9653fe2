import type {
  ActivationDType,
  HybridHeadsArgs,
  KernelDevice,
  KvLayerView,
  Tensor,
} from "../../lib/kernels";
import { messageOf } from "../helpers/error";
import {
  bigTest,
  compare,
  cpu,
  describeCuda,
  emptyCache,
  expectSameBits,
  fillCache,
  guarded,
  pageTables,
  poisoned,
  ragged,
  random,
  rounded,
  type Span,
} from "./helpers";
import {} from "./products";

// All heads of a layer in one call, against the CPU and against the six stages on the same device.
// The steps of decoding have kernels of their own; what those cannot do must come out the same.

interface Shape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly valueHeadDim: number;
  readonly channels: number;
  readonly rank: number;
  readonly states: number;
  readonly convWidth: number;
}

const SMALL: Shape = {
  heads: 2,
  kvHeads: 1,
  headDim: 64,
  valueHeadDim: 128,
  channels: 72,
  rank: 8,
  states: 16,
  convWidth: 4,
};

const MODEL: Shape = {
  heads: 25,
  kvHeads: 5,
  headDim: 64,
  valueHeadDim: 128,
  channels: 3200,
  rank: 100,
  states: 16,
  convWidth: 4,
};

interface Problem {
  readonly spans: readonly Span[];
  readonly shape?: Shape;
  readonly dtype?: ActivationDType;
  /** Default true: k and v are there. */
  readonly isProducer?: boolean;
  readonly window?: number;
  readonly ringColumns?: number;
  readonly numMetaTokens?: number;
  /** Default true. */
  readonly rotates?: boolean;
  readonly headNorms?: boolean;
  /** Default true. */
  readonly innerNorms?: boolean;
  /** Columns of poison beside the rows of activations. */
  readonly columns?: number;
  readonly seed?: number;
}

/** What the call leaves behind: bits of the activations' dtype, and of fp32. */
interface Result {
  readonly attention: Tensor;
  readonly mamba: Tensor;
  readonly pool: Tensor;
  readonly convState: Tensor;
  readonly ssmState: Tensor;
}

interface Prepared extends Result {
  readonly args: HybridHeadsArgs;
  /** Throws when something was written beside a result. */
  check(): void;
}

const filledPools = new Map<string, Uint16Array | Uint32Array>();

afterEach(() => filledPools.clear());

/** `fillCache`, but by a copy where the same cache was filled before: it takes the emulator long. */
function fillOnce(
  device: KernelDevice,
  kv: KvLayerView,
  lengths: readonly number[],
  seed: number,
  exact: ActivationDType,
): void {
  const { pool, pageTable, ...extents } = kv;
  const key = JSON.stringify([
    device.kind,
    pool.dtype,
    pool.shape,
    [...pageTable.read()],
    extents,
    lengths,
    seed,
    exact,
  ]);
  const filled = filledPools.get(key);
  if (filled === undefined) {
    fillCache(device, kv, lengths, seed, exact);
    filledPools.set(key, pool.readBits());
  } else if (filled instanceof Uint16Array) {
    (pool as Tensor<"bf16">).write(filled);
  } else {
    (pool as Tensor<"f32">).write(new Float32Array(filled.buffer));
  }
}

/**
 * The problem on a device, in `dtype`, with numbers that are exact in the problem's own. Of spans
 * `first` to `first + count - 1` alone if that is said: their rows, with everything else as it is.
 */
function prepare(
  device: KernelDevice,
  problem: Problem,
  dtype: ActivationDType,
  first = 0,
  count = problem.spans.length - first,
): Prepared {
  const { spans, shape = SMALL, isProducer = true, window = -1, numMetaTokens = 16 } = problem;
  const { rotates = true, headNorms = false, innerNorms = true, columns = 0, seed = 1 } = problem;
  const { heads, kvHeads, headDim, valueHeadDim, channels, rank, states, convWidth } = shape;
  const exact = problem.dtype ?? "bf16";
  const held = spans.map(({ position = 0, slot }) => (slot === -1 ? 0 : position));
  const ends = spans.map(({ tokens, slot }, i) => (slot === -1 ? 0 : held[i]! + tokens));
  const { ringColumns } = problem;
  const tables = pageTables(ends, {
    numMetaTokens,
    seed,
    ...(ringColumns === undefined ? {} : { ringColumns }),
  });
  const cache = emptyCache(device, dtype, tables, {
    numKvHeads: kvHeads,
    headDim,
    valueHeadDim,
    numLayers: 2,
    layerIdx: 1,
  });
  fillOnce(device, cache, isProducer ? held : ends, seed, exact);

  const before = spans.slice(0, first).reduce((sum, { tokens }) => sum + tokens, 0);
  const batch = ragged(
    spans.slice(first, first + count).map((span, i) => ({ slot: first + i, ...span })),
  ).on(device);
  const total = spans.reduce((sum, { tokens }) => sum + tokens, 0);
  const numbers = random(seed + 77);
  const checks: (() => void)[] = [];
  // Rows that begin on multiples of 16 bytes, with poison between them when they are not as wide.
  const rows = (width: number, data?: Float32Array) => {
    const beside = width % 8 === 0 ? columns : Math.max(columns, 8);
    const guard = guarded(device, dtype, [total, width], {
      ...(data && { data }),
      columns: beside,
    });
    checks.push(() => guard.check());
    return guard.tensor.rows(before, batch.numTokens);
  };
  const input = (width: number, deviation = 1) =>
    rows(width, rounded(exact, numbers.normal(total * width, deviation)));
  const floats = (size: readonly number[], low: number, high: number) =>
    device.tensor(
      "f32",
      size,
      numbers.uniform(
        size.reduce((a, b) => a * b, 1),
        low,
        high,
      ),
    );
  const matrix = (outer: number, inner: number) =>
    device.matrix(
      [
        {
          rows: outer,
          cols: inner,
          dtype: "bf16",
          data: rounded("bf16", numbers.normal(outer * inner, 1 / Math.sqrt(inner))),
        },
      ],
      dtype,
    );
  const q = input(heads * headDim).heads(heads, headDim);
  const k = input(kvHeads * headDim).heads(kvHeads, headDim);
  const v = input(kvHeads * valueHeadDim).heads(kvHeads, valueHeadDim);
  const x = input(channels);
  const z = input(channels, 2);
  const longest = Math.max(...ends, 64);
  const angles = numbers.uniform(longest * headDim, -1, 1);
  const headNorm = (count: number) => floats([count, headDim], 0.5, 1.5);
  const slotsOf = ({ slot = 0, source = 0 }: Span) => Math.max(slot, source);
  const allSlots = Math.max(spans.length, ...spans.map(slotsOf)) + 1;
  const attention = rows(heads * valueHeadDim).heads(heads, valueHeadDim);
  const conv = rows(channels);
  const projected = rows(rank + 2 * states);
  const delta = rows(channels);
  const mamba = rows(channels);
  const convState = guarded(device, dtype, [allSlots, convWidth - 1, channels], {
    data: rounded(exact, numbers.normal(allSlots * (convWidth - 1) * channels)),
  });
  const ssmState = guarded(device, "f32", [allSlots, channels, states], {
    data: numbers.normal(allSlots * channels * states),
  });
  checks.push(
    () => convState.check(),
    () => ssmState.check(),
  );
  const kv = { ...cache, pageTable: cache.pageTable.rows(first, count) };
  const args: HybridHeadsArgs = {
    rotaryKvWrite: {
      batch,
      q,
      ...(isProducer && { k, v }),
      ...(headNorms && { qNorm: headNorm(heads), kNorm: headNorm(kvHeads) }),
      normEpsilon: 1e-6,
      ...(rotates && { cosSin: device.tensor("f32", [longest, headDim], angles) }),
      kv,
    },
    attention: { batch, q, kv, window, scale: 1 / Math.sqrt(headDim), out: attention },
    causalConv1d: {
      batch,
      u: x,
      weight: floats([channels, convWidth], -1, 1),
      bias: floats([channels], -0.5, 0.5),
      convState: convState.tensor,
      out: conv,
    },
    xProj: {
      u: conv,
      weight: matrix(rank + 2 * states, channels),
      ...(innerNorms && {
        dtNorm: floats([rank], 0.5, 1.5),
        bNorm: floats([states], 0.5, 1.5),
        cNorm: floats([states], 0.5, 1.5),
      }),
      epsilon: 1e-6,
      out: projected,
    },
    dtProj: {
      dt: projected.columns(0, rank),
      weight: matrix(channels, rank),
      bias: floats([channels], -3, 0),
      delta,
    },
    selectiveScan: {
      batch,
      u: conv,
      delta,
      b: projected.columns(rank, states),
      c: projected.columns(rank + states, states),
      z,
      a: floats([channels, states], -8, -0.1),
      d: floats([channels], -1, 1),
      ssmState: ssmState.tensor,
      out: mamba,
    },
  };
  return {
    args,
    attention,
    mamba,
    pool: kv.pool,
    convState: convState.tensor,
    ssmState: ssmState.tensor,
    check: () => checks.forEach((check) => check()),
  };
}

const STAGES = [
  "rotaryKvWrite",
  "attention",
  "causalConv1d",
  "xProj",
  "dtProj",
  "selectiveScan",
] as const;

function runOneByOne(device: KernelDevice, args: HybridHeadsArgs): void {
  for (const stage of STAGES) device[stage](args[stage] as never);
}

/** Rows of spans that are no padded lanes. */
function realRows({ spans }: Problem, tensor: Tensor): Float32Array {
  const values = tensor.read() as Float32Array;
  const width = values.length / tensor.shape[0]!;
  const rows: number[] = [];
  let row = 0;
  for (const { tokens, slot } of spans) {
    if (slot !== -1) rows.push(...Array.from({ length: tokens }, (_, t) => row + t));
    row += tokens;
  }
  const picked = new Float32Array(rows.length * width);
  rows.forEach((from, to) =>
    picked.set(values.subarray(from * width, (from + 1) * width), to * width),
  );
  return picked;
}

function meanError(actual: Float32Array, expected: Float32Array): number {
  let difference = 0;
  let size = 0;
  actual.forEach((value, i) => {
    difference += Math.abs(value - expected[i]!);
    size += Math.abs(expected[i]!);
  });
  return size === 0 ? difference : difference / size;
}

/**
 * On both devices the same roundings to bf16 happen at the same places, but where a sum lies between
 * two numbers of bf16 they may choose differently: rarely, and by one unit of the last place.
 */
const TOLERANCE = { bf16: { absolute: 0.05, mean: 3e-3 }, f32: { absolute: 5e-5, mean: 5e-6 } };

function compareResults(problem: Problem, actual: Result, expected: Result): void {
  const { absolute, mean } = TOLERANCE[problem.dtype ?? "bf16"];
  for (const name of ["attention", "mamba", "convState", "ssmState"] as const) {
    const rowsOf = (result: Result) =>
      name === "attention" || name === "mamba"
        ? realRows(problem, result[name])
        : (result[name].read() as Float32Array);
    const [ours, theirs] = [rowsOf(actual), rowsOf(expected)];
    const columns = theirs.length / expected[name].shape[0]!;
    compare(ours, theirs, { absolute, relative: absolute, name, columns });
    expect(meanError(ours, theirs)).toBeLessThan(mean);
  }
}

/**
 * Like the CPU, and the bits of the stages one by one. The kernels of decoding steps are
 * told from the stages by what they have no use for: the delta in memory.
 */
function expectAsOnCpu(device: KernelDevice, problem: Problem, way: "fused" | "stages"): void {
  const dtype = problem.dtype ?? "bf16";
  const fused = prepare(device, problem, dtype);
  const { delta } = fused.args.dtProj;
  const untouched = delta.readBits();
  device.hybridHeads(fused.args);
  fused.check();
  const unchanged = delta.readBits().every((bits, i) => bits === untouched[i]);
  expect(unchanged ? "fused" : "stages").toBe(way);

  const reference = prepare(cpu(), problem, dtype);
  cpu().hybridHeads(reference.args);
  compareResults(problem, fused, reference);

  const single = prepare(device, problem, dtype);
  runOneByOne(device, single.args);
  expectSameResults(fused, single);
}

function expectSameResults(actual: Result, expected: Result): void {
  for (const name of ["attention", "mamba", "pool", "convState", "ssmState"] as const) {
    expectSameBits(actual[name].readBits(), expected[name].readBits());
  }
}

/** Positions from the first text token to several windows of 60 on, and at the edges of pages. */
const POSITIONS = [16, 150, 79, 80, 17, 340, 20, 47, 48, 81, 25];

/**
 * A step of decoding: from zeroes, from the slot of a prefix that several share, in place. Span i
 * ends in slot i, so the prefix has a slot that no span has.
 */
function decoding(count: number): Span[] {
  return Array.from({ length: count }, (_, i) => ({
    tokens: 1,
    position: POSITIONS[i % POSITIONS.length]!,
    slot: i,
    source: [i, count, -1, i, count][i % 5]!,
  }));
}

describeCuda("hybrid_heads", (device) => {
  describe.each([true, false])("K/V of its own: %s", (isProducer) => {
    test.each([1, 2, 15, 16, 17, 23, 33])("%i sequences, all keys", (count) =>
      expectAsOnCpu(device, { spans: decoding(count), isProducer }, "fused"),
    );

    test.each([1, 17])("%i sequences, a window", (count) =>
      expectAsOnCpu(
        device,
        { spans: decoding(count), isProducer, window: 60, ringColumns: 3 },
        "fused",
      ),
    );
  });

  test("every slot of a page, with and without meta tokens", () => {
    const edges = [0, 1, 31, 32, 63, 64, 95, 127, 128, 255, 256, 319];
    for (const numMetaTokens of [0, 128]) {
      const spans = edges.map((edge) => ({
        tokens: 1,
        position: numMetaTokens + edge,
        source: -1,
      }));
      expectAsOnCpu(device, { spans, numMetaTokens }, "fused");
    }
  });

  test("padded lanes are left alone", () => {
    const lane = { tokens: 1, position: 50, slot: -1, source: 3 };
    const [a, b, c] = decoding(3);
    const spans = [a!, lane, { ...b!, slot: 2, source: 2 }, lane, { ...c!, slot: 1 }, lane];
    expectAsOnCpu(device, { spans }, "fused");
    expectAsOnCpu(device, { spans: [lane, lane] }, "fused");
  });

  test.each<Partial<Shape>>([
    { heads: 1 },
    { heads: 4, kvHeads: 2 },
    { heads: 16, headDim: 128 },
    { heads: 3, kvHeads: 3, valueHeadDim: 64 },
    { headDim: 128, valueHeadDim: 64 },
    { channels: 8 },
    { channels: 40, rank: 1 },
    { channels: 71, rank: 3, states: 8 },
    { channels: 200, rank: 100, states: 4 },
    { channels: 64, rank: 64, states: 12 },
    { channels: 130, rank: 128 },
  ])("%o", (shape) =>
    expectAsOnCpu(
      device,
      { spans: decoding(5), shape: { ...SMALL, ...shape }, window: 60 },
      "fused",
    ),
  );

  test("rows that lie apart", () =>
    expectAsOnCpu(device, { spans: decoding(6), columns: 8 }, "fused"));

  test("a window of the token alone", () =>
    expectAsOnCpu(device, { spans: decoding(4), window: 0 }, "fused"));

  test("without rotation", () =>
    expectAsOnCpu(device, { spans: decoding(3), rotates: false }, "fused"));

  test("as wide as the model", () =>
    expectAsOnCpu(device, { spans: decoding(2), shape: MODEL, numMetaTokens: 128 - 112 }, "fused"));

  test("twice, the same bits", () => {
    const problem = { spans: decoding(17), shape: { ...SMALL, heads: 6, kvHeads: 2 } };
    const [once, again] = [prepare(device, problem, "bf16"), prepare(device, problem, "bf16")];
    for (const { args } of [once, again]) device.hybridHeads(args);
    expectSameResults(again, once);
  });

  // Blocks count each other, where a step of another size counts something else: whoever comes last
  // leaves zeroes behind.
  test("one call after another, of any sizes", () => {
    const run = (count: number) =>
      prepare(device, { spans: decoding(count), window: 60, ringColumns: 3 }, "bf16");
    const sizes = [1, 20, 17, 5, 4];
    const [once, again] = [sizes.map(run), sizes.map(run).toReversed()];
    for (const { args } of [...once, ...again]) device.hybridHeads(args);
    again.toReversed().forEach((result, i) => expectSameResults(result, once[i]!));
  });

  test("other sequences of a step change no bit", () => {
    const problem = { spans: decoding(21), window: 60, ringColumns: 3 };
    const whole = prepare(device, problem, "bf16");
    device.hybridHeads(whole.args);
    for (const [first, count] of [
      [0, 1],
      [3, 1],
      [20, 1],
      [5, 9],
      [1, 17],
    ] as const) {
      const part = prepare(device, problem, "bf16", first, count);
      device.hybridHeads(part.args);
      for (const name of ["attention", "mamba"] as const) {
        expectSameBits(part[name].readBits(), whole[name].rows(first, count).readBits());
      }
      for (const name of ["convState", "ssmState"] as const) {
        expectSameBits(
          part[name].rows(first, count).readBits(),
          whole[name].rows(first, count).readBits(),
        );
      }
    }
  });

  describe("what the fused kernels do not do", () => {
    const prompt: Span[] = [
      { tokens: 1, position: 80, slot: 0 },
      { tokens: 20, position: 16, slot: 1, source: -1 },
      { tokens: 2, position: 300, slot: 2 },
    ];
    test.each<[string, Partial<Problem>]>([
      ["prompts among the tokens", { spans: prompt }],
      ["fp32", { dtype: "f32" }],
      ["fp32 prompts", { dtype: "f32", spans: prompt }],
      ["norms of the heads", { headNorms: true }],
      ["no inner norms", { innerNorms: false }],
      ["other head dims", { shape: { ...SMALL, headDim: 24, valueHeadDim: 40 } }],
      ["large groups", { shape: { ...SMALL, heads: 17 } }],
      ["short convolutions", { shape: { ...SMALL, convWidth: 3 } }],
      ["20 states", { shape: { ...SMALL, states: 20 } }],
      ["6 states", { shape: { ...SMALL, states: 6 } }],
      ["a rank of 129", { shape: { ...SMALL, rank: 129 } }],
      ["a rank of 300", { shape: { ...SMALL, rank: 300 } }],
    ])("%s", (_, problem) => expectAsOnCpu(device, { spans: decoding(4), ...problem }, "stages"));

    test("rows of q that are not aligned", () => {
      const problem = { spans: decoding(3) };
      const on = (target: KernelDevice) => {
        const prepared = prepare(target, problem, "bf16");
        const { rotaryKvWrite, attention } = prepared.args;
        const q = poisoned(target, "bf16", [3, 2 * 64 + 4]).columns(1, 2 * 64);
        q.write(rotaryKvWrite.q.read());
        const apart = q.heads(2, 64);
        target.hybridHeads({
          ...prepared.args,
          rotaryKvWrite: { ...rotaryKvWrite, q: apart },
          attention: { ...attention, q: apart },
        });
        return prepared;
      };
      compareResults(problem, on(device), on(cpu()));
    });

    test("more sequences than one launch takes", () => {
      const spans = Array.from({ length: 259 }, (_, i) => ({
        tokens: 1,
        position: i % 3,
        slot: i,
        source: -1,
      }));
      const shape = { ...SMALL, heads: 1, valueHeadDim: 64, channels: 8, rank: 1 };
      expectAsOnCpu(device, { spans, shape, numMetaTokens: 0 }, "stages");
    });
  });

  bigTest("the model's shapes", () => {
    const spans = Array.from({ length: 128 }, (_, i) => ({
      tokens: 1,
      position: 128 + ((i * 97) % 3000),
      slot: i,
    }));
    expectAsOnCpu(device, { spans, shape: MODEL, numMetaTokens: 128 }, "fused");
    expectAsOnCpu(
      device,
      {
        spans,
        shape: MODEL,
        numMetaTokens: 128,
        window: 1024,
        ringColumns: 17,
        isProducer: false,
      },
      "fused",
    );
  });
});

describe("stages that do not fit together", () => {
  const refusal = (change: (args: HybridHeadsArgs) => Partial<HybridHeadsArgs>): string => {
    const { args } = prepare(cpu(), { spans: decoding(2) }, "bf16");
    return messageOf("ERR_INVALID_ARGUMENT", () => cpu().hybridHeads({ ...args, ...change(args) }));
  };
  const other = (tensor: Tensor<ActivationDType>) => poisoned(cpu(), "bf16", tensor.shape);

  test.each<[RegExp, (args: HybridHeadsArgs) => Partial<HybridHeadsArgs>]>([
    [/attention's q/, ({ attention }) => ({ attention: { ...attention, q: other(attention.q) } })],
    [
      /attention's K\/V/,
      ({ attention }) => ({ attention: { ...attention, kv: { ...attention.kv, layerIdx: 0 } } }),
    ],
    [
      /hybrid_heads: the stages' batches differ/,
      ({ causalConv1d }) => ({
        causalConv1d: { ...causalConv1d, batch: ragged(decoding(2)).on(cpu()) },
      }),
    ],
    [/x_proj's u/, ({ xProj }) => ({ xProj: { ...xProj, u: other(xProj.u) } })],
    [
      /the scan's u/,
      ({ selectiveScan: scan }) => ({ selectiveScan: { ...scan, u: other(scan.u) } }),
    ],
    [
      /the scan's delta/,
      ({ selectiveScan: scan }) => ({ selectiveScan: { ...scan, delta: other(scan.delta) } }),
    ],
    [/dt, B and C/, ({ dtProj }) => ({ dtProj: { ...dtProj, dt: other(dtProj.dt) } })],
    [/dt, B and C/, ({ selectiveScan: scan }) => ({ selectiveScan: { ...scan, c: scan.b } })],
    [
      /hybridHeads: causalConv1d: bias|causal_conv1d: bias/,
      ({ causalConv1d }) => ({
        causalConv1d: { ...causalConv1d, bias: cpu().tensor("f32", [1]) },
      }),
    ],
  ])("are refused: %s", (message, change) => expect(refusal(change)).toMatch(message));

  test("arguments have the types of the stages'", () => {
    const { args } = prepare(cpu(), { spans: decoding(2) }, "bf16");
    expect(() => cpu().hybridHeads({ ...args, xProj: undefined as never })).toThrow(
      /hybridHeads: xProj/,
    );
    const dtProj = { ...args.dtProj, extra: 1 };
    expect(() => cpu().hybridHeads({ ...args, dtProj })).toThrow(
      /hybridHeads: dtProj has no argument extra/,
    );
  });
});
