import type { ActivationDType, KernelDevice, KvLayerView } from "../../lib/kernels";
import {
  compare,
  cpu,
  describeCuda,
  emptyCache,
  type Guarded,
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
  readonly ringColumns?: number;
  /** Default true. */
  readonly rotates?: boolean;
  readonly norms?: "q" | "k" | "both";
  /** Default true: k and v are there. */
  readonly isProducer?: boolean;
  /** Columns beside the rows of q, k and v. */
  readonly columns?: number;
}

const PAGE_TOKENS = 64;
const EPSILON = 1e-6;

interface Result {
  readonly q: Guarded<ActivationDType>;
  readonly k: Guarded<ActivationDType>;
  readonly v: Guarded<ActivationDType>;
  readonly kv: KvLayerView;
}

/** Runs the problem on a device, in `dtype`, with numbers that are exact in the problem's own dtype. */
function run(device: KernelDevice, problem: Problem, dtype: ActivationDType): Result {
  const { spans, heads = 3, kvHeads = 2, headDim = 64, valueHeadDim = 128 } = problem;
  const { numMetaTokens = 16, ringColumns, columns = 0 } = problem;
  const exact = problem.dtype ?? "bf16";
  const lengths = spans.map(({ tokens, position = 0, slot }) =>
    slot === -1 ? 0 : position + tokens,
  );
  const tables = pageTables(lengths, {
    numMetaTokens,
    ...(ringColumns === undefined ? {} : { ringColumns }),
  });
  const kv = emptyCache(device, dtype, tables, {
    numKvHeads: kvHeads,
    headDim,
    valueHeadDim,
    numLayers: 2,
    layerIdx: 1,
  });
  const host = ragged(spans);
  const numbers = random(5);
  const floats = (shape: readonly [number, number]) =>
    device.tensor("f32", shape, numbers.normal(shape[0] * shape[1]));
  const activations = (count: number, dim: number) =>
    guarded(device, dtype, [host.numTokens, count, dim], {
      data: rounded(exact, numbers.normal(host.numTokens * count * dim, 3)),
      columns,
    });
  const q = activations(heads, headDim);
  const k = activations(kvHeads, headDim);
  const v = activations(kvHeads, valueHeadDim);
  const qNorm = floats([heads, headDim]);
  const kNorm = floats([kvHeads, headDim]);
  const { norms, rotates = true, isProducer = true } = problem;
  device.rotaryKvWrite({
    batch: host.on(device),
    q: q.tensor,
    ...(isProducer ? { k: k.tensor, v: v.tensor } : {}),
    ...(norms === "q" || norms === "both" ? { qNorm } : {}),
    ...(norms === "k" || norms === "both" ? { kNorm } : {}),
    normEpsilon: EPSILON,
    ...(rotates ? { cosSin: floats([Math.max(...lengths), headDim]) } : {}),
    kv,
  });
  return { q, k, v, kv };
}

/** Where CUDA keeps element d of a slot in K or V of a tile: `kv_element` of device/kv_pages.cuh. */
function kvElement(slot: number, d: number, dim: number): number {
  if (dim % 64 !== 0) return slot * dim + d;
  const chunk = (Math.floor(d / 8) % 8) ^ (slot % 8);
  return Math.floor(d / 64) * PAGE_TOKENS * 64 + slot * 64 + chunk * 8 + (d % 8);
}

/** The bits of the pool after k and v, as they are now, went to their pages; poison elsewhere. */
function expectedPool(
  spans: readonly Span[],
  { k, v, kv }: Result,
  untouched: Uint16Array | Uint32Array,
): Uint16Array | Uint32Array {
  const { numKvHeads, numLayers, layerIdx, headDim, valueHeadDim } = kv;
  const { numMetaTokens, metaColumns, ringColumns } = kv;
  const pool = untouched.slice();
  const table = kv.pageTable.read();
  const keys = k.tensor.readBits();
  const values = v.tensor.readBits();
  const { positions, tokenSpans, stateSlot } = ragged(spans);
  positions.forEach((position, token) => {
    const span = tokenSpans[token]!;
    if (stateSlot[span]! < 0) return;
    const text = position - numMetaTokens;
    const column =
      text < 0
        ? Math.floor(position / PAGE_TOKENS)
        : metaColumns + (Math.floor(text / PAGE_TOKENS) % ringColumns);
    const slot = (text < 0 ? position : text) % PAGE_TOKENS;
    const page = table[span * (metaColumns + ringColumns) + column]!;
    for (let head = 0; head < numKvHeads; head++) {
      const tile =
        ((page * numLayers + layerIdx) * numKvHeads + head) *
        PAGE_TOKENS *
        (headDim + valueHeadDim);
      const row = token * numKvHeads + head;
      for (let d = 0; d < headDim; d++) {
        pool[tile + kvElement(slot, d, headDim)] = keys[row * headDim + d]!;
      }
      for (let d = 0; d < valueHeadDim; d++) {
        pool[tile + PAGE_TOKENS * headDim + kvElement(slot, d, valueHeadDim)] =
          values[row * valueHeadDim + d]!;
      }
    }
  });
  return pool;
}

/** On the GPU twice, against fp32 on the CPU, and every element of the pool. */
function expectAsOnCpu(device: KernelDevice, problem: Problem): void {
  const dtype = problem.dtype ?? "bf16";
  const actual = run(device, problem, dtype);
  const expected = run(cpu(), problem, "f32");
  // Angles are far from rounding errors: numbers up to 15, one rounding of the result in bf16.
  const budget = { absolute: 2e-5, relative: dtype === "bf16" ? 2 ** -8 : 2e-6 };
  for (const name of ["q", "k"] as const) {
    compare(actual[name].tensor.read(), expected[name].tensor.read(), { ...budget, name });
  }
  compare(actual.v.tensor.read(), expected.v.tensor.read(), { name: "v" });

  const { kv } = actual;
  const untouched = emptyCache(
    device,
    dtype,
    {
      table: new Int32Array(1 + kv.metaColumns),
      numPages: kv.pool.shape[0]!,
      numMetaTokens: kv.numMetaTokens,
      metaColumns: kv.metaColumns,
      ringColumns: 1,
    },
    kv,
  ).pool.readBits();
  const isProducer = problem.isProducer ?? true;
  const pool = kv.pool.readBits();
  const written = isProducer ? expectedPool(problem.spans, actual, untouched) : untouched;
  compare(pool, written, { name: "pool", columns: kv.pool.shape[1]! });

  const again = run(device, problem, dtype);
  for (const name of ["q", "k", "v"] as const) {
    compare(again[name].tensor.readBits(), actual[name].tensor.readBits(), { name });
    actual[name].check();
  }
  compare(again.kv.pool.readBits(), pool, { name: "pool, second run" });
}

describeCuda("rotary_kv_write", (device) => {
  const spans: Span[] = [
    { tokens: 1, position: 79 },
    { tokens: 1, position: 80 },
    { tokens: 21, position: 70 },
    { tokens: 17 },
    { tokens: 1, position: 16 },
  ];

  test.each<[ActivationDType, number, number]>([
    ["bf16", 64, 128],
    ["bf16", 128, 64],
    ["bf16", 16, 16],
    ["bf16", 256, 48],
    ["bf16", 48, 64],
    ["bf16", 64, 20],
    ["bf16", 10, 7],
    ["f32", 64, 128],
    ["f32", 32, 64],
    ["f32", 6, 6],
  ])("%s, head dims %i and %i", (dtype, headDim, valueHeadDim) => {
    for (const norms of [undefined, "both"] as const) {
      const dims = { dtype, headDim, valueHeadDim };
      expectAsOnCpu(device, { spans, ...dims, ...(norms === undefined ? {} : { norms }) });
    }
  });

  test.each<["q" | "k"]>([["q"], ["k"]])("a norm of %s alone", (norms) =>
    expectAsOnCpu(device, { spans, norms }),
  );

  test("no rotation", () => expectAsOnCpu(device, { spans, rotates: false }));
  test("no rotation, element by element", () =>
    expectAsOnCpu(device, { spans, rotates: false, headDim: 10 }));

  test.each([64, 10])("a consumer leaves the cache alone, head dim %i", (headDim) =>
    expectAsOnCpu(device, { spans, isProducer: false, headDim, norms: "both" }),
  );

  test("as many heads as make several rounds of a block", () =>
    expectAsOnCpu(device, { spans: [{ tokens: 2 }], heads: 75, kvHeads: 5, norms: "both" }));

  test("the real shape, strided", () =>
    expectAsOnCpu(device, {
      spans: [{ tokens: 3, position: 130 }],
      heads: 25,
      kvHeads: 5,
      columns: 8,
    }));
  test("rows that are not aligned", () => expectAsOnCpu(device, { spans, columns: 3 }));

  test("a ring that has wrapped, without meta tokens", () =>
    expectAsOnCpu(device, {
      spans: [
        { tokens: 70, position: 64 * 3 - 6 },
        { tokens: 1, position: 64 * 7 },
      ],
      numMetaTokens: 0,
      ringColumns: 3,
    }));

  test.each<ActivationDType>(["bf16", "f32"])("padded lanes touch no cache (%s)", (dtype) => {
    const padded = { position: 0x7ffffff, slot: -1 };
    const mixed = [
      { tokens: 1, position: 5 },
      { tokens: 1, ...padded },
      { tokens: 3, ...padded },
    ];
    for (const headDim of [64, 10]) {
      const result = run(device, { spans: mixed, dtype, headDim, numMetaTokens: 0 }, dtype);
      expect([...result.kv.pageTable.read()]).toEqual([expect.any(Number), NO_PAGE, NO_PAGE]);
      const alone = run(
        device,
        { spans: mixed.slice(0, 1), dtype, headDim, numMetaTokens: 0 },
        dtype,
      );
      const written = (of: Result) => of.kv.pool.read().filter((value) => !Number.isNaN(value));
      expect(written(result)).toHaveLength(written(alone).length);
    }
  });
});
