import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { Tensor } from "../../lib/kernels";
import {
  type Batch,
  KernelDevice,
  type KvLayerView,
  MAX_TOP_LOGPROBS,
  packSamplingRows,
  SAMPLED_TOKEN,
  SAMPLING_ROW_WORDS,
  type StageName,
} from "../../lib/kernels";
import { fromBFloat16, toBFloat16, toFloat16 } from "../../lib/kernels/float_bits";
import { messageOf } from "../helpers/error";
import { ROOT } from "../helpers/package";
import {
  bigTest,
  compare,
  cpu,
  describeCuda,
  emptyCache,
  fillCache,
  gpu,
  guarded,
  NO_PAGE,
  pageTables,
  poisoned,
  ragged,
  random,
  rounded,
} from "./helpers";

const device = cpu();
const floats = (values: readonly number[]) => device.tensor("f32", [values.length], values);
const ints = (values: readonly number[]) => device.tensor("i32", [values.length], values);
const matrixOf = (rows: readonly (readonly number[])[], dtype: "f32" | "bf16" | "f16" = "f32") =>
  device.matrix(
    [{ rows: rows.length, cols: rows[0]!.length, dtype, data: Float32Array.from(rows.flat()) }],
    "f32",
  );
const isClose = (actual: Tensor, expected: readonly number[]) =>
  compare(actual.read(), expected, { absolute: 1e-6, relative: 1e-6 });
const silu = (x: number) => x / (1 + Math.exp(-x));

describe("16-bit numbers", () => {
  const NAN = Number.NaN;

  test("every bfloat16 survives the way to fp32 and back", () => {
    const bits = Uint16Array.from({ length: 2 ** 16 }, (_, i) => i);
    const back = toBFloat16(fromBFloat16(bits));
    bits.forEach((expected, i) => {
      const isSignallingNaN = (expected & 0x7fff) > 0x7f80 && (expected & 0x40) === 0;
      expect(back[i]).toBe(isSignallingNaN ? expected | 0x40 : expected);
    });
  });

  test.each([
    [1 + 2 ** -8, 1],
    [1 + 3 * 2 ** -8, 1 + 2 ** -6],
    [1 + 2 ** -8 + 2 ** -20, 1 + 2 ** -7],
    [-1 - 2 ** -8, -1],
    [3.4e38, Infinity],
    [-0, -0],
    [2 ** -133, 2 ** -133],
    [2 ** -134, 0],
    [NAN, NAN],
  ])("the bfloat16 of %d is %d", (value, expected) => {
    expect(fromBFloat16(toBFloat16([value]))[0]).toBe(expected);
  });

  test.each([
    [1, 0x3c00],
    [-2, 0xc000],
    [1 + 2 ** -11, 0x3c00],
    [1 + 3 * 2 ** -11, 0x3c02],
    [65504, 0x7bff],
    [65519, 0x7bff],
    [65520, 0x7c00],
    [-Infinity, 0xfc00],
    [2 ** -14, 0x0400],
    [2 ** -14 - 2 ** -26, 0x0400],
    [2 ** -24, 1],
    [2 ** -25, 0],
    [3 * 2 ** -25, 2],
    [-0, 0x8000],
    [NAN, 0x7e00],
  ])("the half of %d has bits %i", (value, bits) => {
    expect(toFloat16([value])[0]).toBe(bits);
  });
});

describe("tensors", () => {
  test("start as zeroes, and hold what is written to them", () => {
    const x = device.tensor("f32", [2, 3]);
    expect([...x.read()]).toEqual([0, 0, 0, 0, 0, 0]);
    x.write([1, 2, 3, 4, 5, 6]);
    expect([...x.read()]).toEqual([1, 2, 3, 4, 5, 6]);
    x.write(Float32Array.from([6, 5, 4, 3, 2, 1]));
    expect([...x.readBits()].map((bits) => bits.toString(16))[5]).toBe("3f800000");
    x.fill(-1);
    expect([...x.read()]).toEqual(Array(6).fill(-1));
  });

  test("convert to and from their dtype", () => {
    const half = device.tensor("bf16", [2], [1 + 2 ** -8, -1.5]);
    expect([...half.read()]).toEqual([1, -1.5]);
    expect([...half.readBits()]).toEqual([0x3f80, 0xbfc0]);
    half.write(Uint16Array.of(0x4000, 0x7fc0));
    expect([...half.read()]).toEqual([2, NaN]);
    expect([...device.tensor("i32", [2], Int32Array.of(-1, SAMPLED_TOKEN)).read()]).toEqual([
      -1,
      -(2 ** 31),
    ]);
    expect([...device.tensor("u16", [2], [0, 0xffff]).read()]).toEqual([0, 0xffff]);
  });

  test("have views that see the same memory, and leave the rest alone", () => {
    const x = device.tensor("f32", [3, 4], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    const middle = x.rows(1, 2).columns(1, 2);
    expect([middle.shape, middle.rowStride, middle.length]).toEqual([[2, 2], 4, 4]);
    expect([...middle.read()]).toEqual([5, 6, 9, 10]);
    middle.write([-5, -6, -9, -10]);
    expect([...x.read()]).toEqual([0, 1, 2, 3, 4, -5, -6, 7, 8, -9, -10, 11]);
    middle.columns(1, 1).fill(0);
    expect([...x.read()]).toEqual([0, 1, 2, 3, 4, -5, 0, 7, 8, -9, 0, 11]);
    expect(x.columns(2, 2).heads(2, 1)).toMatchObject({ shape: [3, 2, 1], rowStride: 4 });
    expect([...x.heads(2, 2).rows(1, 1).read()]).toEqual([4, -5, 0, 7]);
    expect([...floats([1, 2, 3]).rows(1, 2).read()]).toEqual([2, 3]);
  });

  test("refuse what does not fit them", () => {
    const x = device.tensor("f32", [2, 2]);
    const wrong = (value: unknown) => value as never;
    expect(() => x.write(wrong(Int32Array.of(1, 2, 3, 4)))).toThrow(TypeError);
    expect(() => x.write(wrong("1234"))).toThrow("data for f32 must be a Float32Array");
    expect(() => x.write(wrong([1, "2", 3, 4]))).toThrow("data[1] must be a number");
    expect(() => x.write([1, 2, 3])).toThrow("data must have 4 elements, shape [2, 2], got 3");
    expect(() => x.fill(wrong("1"))).toThrow(TypeError);
    expect(() => device.tensor("u16", [1], [-1])).toThrow(RangeError);
    expect(() => device.tensor("i32", [1], [0.5])).toThrow(TypeError);
    expect(() => device.tensor("bf16", [1], wrong(Int32Array.of(1)))).toThrow(
      "Uint16Array of bits",
    );
    expect(() => device.tensor(wrong("f64"), [1])).toThrow("dtype must be one of");
    expect(() => device.tensor("f32", [])).toThrow(RangeError);
    expect(() => device.tensor("f32", [1, 2, 3, 4])).toThrow(RangeError);
    expect(() => device.tensor("f32", [2, 0])).toThrow("shape[1] must be from 1 to");
    expect(() => device.tensor("f32", wrong(3))).toThrow(TypeError);
    expect(() => x.rows(1, 2)).toThrow("count must be from 1 to 1");
    expect(() => x.rows(2, 1)).toThrow(RangeError);
    expect(() => x.columns(0, 3)).toThrow(RangeError);
    expect(() => x.heads(1, 1)).toThrow("2 columns are not 1 heads of 1");
    expect(() => floats([1]).columns(0, 1)).toThrow("columns needs a tensor [rows, columns]");
    expect(
      messageOf("ERR_OUT_OF_MEMORY", () => device.tensor("f32", [2 ** 31 - 1, 2 ** 20])),
    ).toMatch(/^cannot allocate \d+ bytes/);
  });
});

describe("matrices", () => {
  test("take what checkpoints hold, and round to it", () => {
    const data = Float32Array.of(1 + 2 ** -8, 2 ** -24, 1 / 3, -65504);
    const stored = (dtype: "f32" | "bf16" | "f16") => {
      const out = device.tensor("f32", [1, 4]);
      const table = device.matrix([{ rows: 1, cols: 4, dtype, data }], "f32");
      device.embedTokens({ tokenIds: ints([0]), table, out });
      return [...out.read()];
    };
    expect(stored("f32")).toEqual([...data]);
    expect(stored("bf16")).toEqual([...fromBFloat16(toBFloat16(data))]);
    expect(stored("f16")).toEqual([1 + 2 ** -8, 2 ** -24, 0.333251953125, -65504]);
  });

  test("refuse blocks that are none or do not match", () => {
    const block = { rows: 1, cols: 2, dtype: "f32" as const, data: Float32Array.of(1, 2) };
    const matrix = (...blocks: object[]) => device.matrix(blocks as never, "f32");
    expect(matrix(block, block)).toMatchObject({
      rows: 1,
      cols: 2,
      numBlocks: 2,
      activations: "f32",
    });
    expect(() => matrix()).toThrow("blocks must have 1 or 2 elements, got 0");
    expect(() => matrix(block, block, block)).toThrow(RangeError);
    expect(() => matrix({ ...block, cols: 3 })).toThrow("blocks[0].data must have 1 · 3 elements");
    expect(() => matrix({ ...block, dtype: "i32" })).toThrow(TypeError);
    expect(() => matrix({ ...block, data: [1, 2] })).toThrow(TypeError);
    expect(() => matrix(block, { ...block, dtype: "bf16" })).toThrow(
      "blocks[1] must have the shape",
    );
    expect(() => matrix(block, { ...block, rows: 2, cols: 1 })).toThrow(RangeError);
    expect(() => device.matrix([block], "f16" as never)).toThrow(TypeError);
    expect(() => device.matrix(block as never, "f32")).toThrow(TypeError);
  });
});

describe("stages", () => {
  test("are all there, by the names of ops.h", () => {
    const header = readFileSync(join(ROOT, "native", "ops", "ops.h"), "utf8");
    const names = [...header.matchAll(/^ {2}void (\w+)\(const \w+Args& args\);$/gm)].map(
      ([, name]) => name!.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()),
    );
    expect(names.length).toBeGreaterThan(15);
    for (const name of names) expect(device[name as StageName]).toBeInstanceOf(Function);
  });

  test("embedTokens looks up tokens and meta tokens", () => {
    const out = device.tensor("f32", [3, 2]);
    device.embedTokens({
      tokenIds: ints([2, -1, 0]),
      table: matrixOf([
        [1, 2],
        [3, 4],
        [5, 6],
      ]),
      meta: matrixOf([[-1, -2]]),
      out,
    });
    expect([...out.read()]).toEqual([5, 6, -1, -2, 1, 2]);
  });

  test("gatherRows picks rows, also out of a view", () => {
    const all = device.tensor("f32", [2, 3], [1, 2, 3, 4, 5, 6]);
    const out = device.tensor("f32", [3, 2]);
    device.gatherRows({ in: all.columns(1, 2), rows: ints([1, 0, 1]), out });
    expect([...out.read()]).toEqual([5, 6, 2, 3, 5, 6]);
  });

  test("rmsNorm divides by the root of the mean square", () => {
    const x = device.tensor("bf16", [2, 2], [3, 4, 0, 0]);
    const out = device.tensor("f32", [2, 2]);
    device.rmsNorm({ in: x, weight: floats([1, 2]), epsilon: 1e-6, out });
    isClose(out, [3 / Math.sqrt(12.5), 8 / Math.sqrt(12.5), 0, 0]);
  });

  test("linear multiplies, adds the bias and accumulates", () => {
    const args = {
      in: device.tensor("f32", [2, 4], [9, 1, 2, 9, 9, 3, 4, 9]).columns(1, 2),
      weight: matrixOf([
        [1, 0],
        [1, 1],
        [0, -2],
      ]),
      bias: floats([10, 20, 30]),
      out: device.tensor("f32", [2, 3]),
    };
    device.linear(args);
    expect([...args.out.read()]).toEqual([11, 23, 26, 13, 27, 22]);
    device.linear({ ...args, bias: undefined, accumulate: true });
    expect([...args.out.read()]).toEqual([12, 26, 22, 16, 34, 14]);
  });

  test("gatedLinear has two activations", () => {
    const x = device.tensor("f32", [1, 2], [1, 2]);
    const gate = { rows: 1, cols: 2, dtype: "f32" as const, data: Float32Array.of(1, 1) };
    const up = { ...gate, data: Float32Array.of(2, -1.5) };
    const out = device.tensor("f32", [1, 1]);
    device.gatedLinear({
      in: x,
      weight: device.matrix([gate, up], "f32"),
      activation: "silu",
      out,
    });
    isClose(out, [-silu(3)]);
    device.gatedLinear({ in: x, weight: device.matrix([gate], "f32"), activation: "relu2", out });
    isClose(out, [9]);
    device.gatedLinear({ in: x, weight: device.matrix([up], "f32"), activation: "relu2", out });
    isClose(out, [0]);
  });

  test("rotaryKvWrite rotates, and attention finds what it wrote", () => {
    const tables = pageTables([3], { numMetaTokens: 1 });
    const kv = emptyCache(device, "f32", tables, { numKvHeads: 1, headDim: 2, valueHeadDim: 1 });
    const batch = ragged([{ tokens: 3 }]).on(device);
    const q = device.tensor("f32", [3, 4], [1, 2, 3, 4, 1, 2, 3, 4, 0, 0, 0, 0]).heads(2, 2);
    const k = device.tensor("f32", [3, 2], [7, 8, 7, 8, 7, 8]).heads(1, 2);
    const v = device.tensor("f32", [3, 1], [5, 10, 30]).heads(1, 1);
    // Position 0 stays, position 1 turns by a right angle, position 2 by two.
    const cosSin = device.tensor("f32", [3, 2], [1, 0, 0, 1, -1, 0]);
    device.rotaryKvWrite({ batch, q, k, v, normEpsilon: 0, cosSin, kv });
    isClose(q, [1, 2, 3, 4, -2, 1, -4, 3, 0, 0, 0, 0]);
    isClose(k, [7, 8, -8, 7, -7, -8]);

    q.fill(0); // all keys that can be seen are equally probable
    const out = device.tensor("f32", [3, 2]).heads(2, 1);
    const attend = (window: number) => {
      device.attention({ batch, q, kv, window, scale: 1, out });
      return out;
    };
    isClose(attend(-1), [5, 5, 7.5, 7.5, 15, 15]);
    isClose(attend(0), [5, 5, 7.5, 7.5, 17.5, 17.5]);

    const norm = device.tensor("f32", [2, 2], [1, 1, 2, 2]);
    q.write([3, 4, 3, 4, 3, 4, 3, 4, 3, 4, 3, 4]);
    device.rotaryKvWrite({ batch, q, qNorm: norm, normEpsilon: 0, kv });
    const [three, four] = [3 / Math.sqrt(12.5), 4 / Math.sqrt(12.5)];
    isClose(q.rows(1, 1), [three, four, 2 * three, 2 * four]);
  });

  test("attention multiplies by the scale", () => {
    const tables = pageTables([2]);
    const kv = emptyCache(device, "f32", tables, { numKvHeads: 1, headDim: 2, valueHeadDim: 1 });
    const batch = ragged([{ tokens: 2 }]).on(device);
    const q = device.tensor("f32", [2, 2], [1, 0, 1, 0]).heads(1, 2);
    const k = device.tensor("f32", [2, 2], [0, 0, Math.log(9), 0]).heads(1, 2);
    const v = device.tensor("f32", [2, 1], [0, 1]).heads(1, 1);
    device.rotaryKvWrite({ batch, q, k, v, normEpsilon: 0, kv });
    const out = device.tensor("f32", [2, 1]).heads(1, 1);
    device.attention({ batch, q, kv, window: -1, scale: 0.5, out });
    isClose(out, [0, 0.75]);
  });

  test("causalConv1d looks back into its state, and leaves a new one", () => {
    const convState = device.tensor("f32", [2, 2], [7, 8, 0, 0]).heads(1, 2);
    const args = {
      batch: ragged([{ tokens: 2, position: 5, source: 0, slot: 1 }]).on(device),
      u: device.tensor("f32", [2, 2], [1, 2, 3, 4]),
      weight: device.tensor("f32", [2, 2], [1, 10, -1, 1]),
      bias: floats([0.5, 0]),
      convState,
      out: device.tensor("f32", [2, 2]),
    };
    device.causalConv1d(args);
    isClose(args.out, [7 + 10 + 0.5, -8 + 2, 1 + 30 + 0.5, -2 + 4].map(silu));
    expect([...convState.read()]).toEqual([7, 8, 3, 4]);
  });

  test("xProj normalises the three parts, if there are norms", () => {
    const args = {
      u: device.tensor("f32", [1, 2], [3, 4]),
      weight: matrixOf([
        [1, 0],
        [0, 1],
        [-1, 0],
        [0, 2],
      ]),
      epsilon: 0,
      out: device.tensor("f32", [1, 4]),
    };
    device.xProj(args);
    expect([...args.out.read()]).toEqual([3, 4, -3, 8]);
    const [dtNorm, bNorm, cNorm] = [floats([1, 1]), floats([5]), floats([7])];
    device.xProj({ ...args, dtNorm, bNorm, cNorm });
    isClose(args.out, [3 / Math.sqrt(12.5), 4 / Math.sqrt(12.5), -5, 7]);
  });

  test("dtProj ends in a softplus", () => {
    const delta = device.tensor("f32", [1, 2]);
    const dt = device.tensor("f32", [1, 1], [2]);
    device.dtProj({ dt, weight: matrixOf([[1], [-1]]), bias: floats([-2, 1]), delta });
    isClose(delta, [Math.log(2), Math.log1p(Math.exp(-1))]);
  });

  test("selectiveScan decays its state and takes up its input", () => {
    const ssmState = device.tensor("f32", [2, 1], [8, 0]).heads(1, 1);
    const column = (values: number[]) => device.tensor("f32", [values.length, 1], values);
    const args = {
      batch: ragged([{ tokens: 2, position: 9, source: 0, slot: 1 }]).on(device),
      u: column([1, 3]),
      delta: column([1, 2]),
      b: column([1, 0.5]),
      c: column([1, 2]),
      z: column([1, -1]),
      a: column([-Math.LN2]),
      d: floats([10]),
      ssmState,
      out: column([0, 0]),
    };
    device.selectiveScan(args);
    // 8 / 2 + 1 = 5, then 5 / 4 + 2 · 0.5 · 3 = 4.25.
    isClose(args.out, [(5 + 10) * silu(1), (8.5 + 30) * silu(-1)]);
    isClose(ssmState, [8, 4.25]);
  });

  test("fuseHeads takes the mean of the normalised branches", () => {
    const out = device.tensor("f32", [1, 2]);
    device.fuseHeads({
      attention: device.tensor("f32", [1, 2], [3, 4]),
      mamba: device.tensor("f32", [1, 2], [-5, 5]),
      attentionWeight: floats([1, 1]),
      mambaWeight: floats([1, 3]),
      epsilon: 0,
      out,
    });
    isClose(out, [(3 / Math.sqrt(12.5) - 1) / 2, (4 / Math.sqrt(12.5) + 3) / 2]);
  });

  test("rememberTokens keeps what recallTokens fills in", () => {
    const lastTokens = ints([100, 101, 102]);
    device.rememberTokens({ tokens: ints([7, 8, 9]), slots: ints([2, -1, 0]), lastTokens });
    expect([...lastTokens.read()]).toEqual([9, 101, 7]);
    const tokenIds = ints([SAMPLED_TOKEN, 55, SAMPLED_TOKEN]);
    const tokenSpans = ints([0, 1, 2]);
    device.recallTokens({ tokenIds, tokenSpans, stateSlot: ints([1, 0, 2]), lastTokens });
    expect([...tokenIds.read()]).toEqual([101, 55, 7]);
  });

  test("countTokens counts, sample penalises, tokenLogprobs agrees", () => {
    const history = device.tensor("u16", [2, 3]);
    history.fill(0xffff);
    device.countTokens({
      tokenIds: ints([0, 0, -1, 2]),
      spanOffsets: ints([0, 3, 4]),
      stateSlot: ints([1, 0]),
      isGenerated: ints([1, 0]),
      fresh: ints([1, 1]),
      history,
    });
    expect([...history.read()]).toEqual([0, 0, 0x8000, 2, 0, 0]);

    const packed = packSamplingRows(
      [
        { temperature: 0, topLogprobs: 2, stateSlot: 1, frequencyPenalty: 1 },
        { temperature: 0, logitBias: { 2: 100 }, stateSlot: 0 },
      ],
      3,
    );
    const logits = device.tensor("f32", [2, 3], [3, 2, 1, 3, 2, 1]);
    const results = {
      token: device.tensor("i32", [2]),
      logprob: device.tensor("f32", [2]),
      topTokens: device.tensor("i32", [2, MAX_TOP_LOGPROBS]),
      topLogprobs: device.tensor("f32", [2, MAX_TOP_LOGPROBS]),
    };
    device.sample({
      logits,
      rows: device.tensor("i32", [2, SAMPLING_ROW_WORDS], packed.rows),
      biasTokens: device.tensor("i32", [1], packed.biasTokens),
      biasValues: device.tensor("f32", [1], packed.biasValues),
      history,
      ...results,
    });
    expect([...results.token.read()]).toEqual([1, 2]);
    expect([...results.topTokens.read()].slice(0, 3)).toEqual([0, 1, -1]);
    const logprob = device.tensor("f32", [2]);
    device.tokenLogprobs({ logits, tokens: results.token, logprob });
    expect(logprob.read()).toEqual(results.logprob.read());
    isClose(logprob.rows(0, 1), [2 - Math.log(Math.exp(3) + Math.exp(2) + Math.exp(1))]);
  });
});

describe("stages refuse", () => {
  const valid = () => ({
    in: device.tensor("f32", [2, 3]),
    weight: floats([1, 2, 3]),
    epsilon: 0,
    out: device.tensor("f32", [2, 3]),
  });
  const norm = (changed: Record<string, unknown>) => () =>
    device.rmsNorm({ ...valid(), ...changed });

  test("arguments of a wrong type, before they cross over", () => {
    expect(() => device.rmsNorm(undefined as never)).toThrow("rmsNorm must be an object");
    expect(norm({ weight: undefined })).toThrow(
      new TypeError("rmsNorm: weight must be a Tensor, got undefined"),
    );
    expect(norm({ in: new Float32Array(6) })).toThrow(TypeError);
    expect(norm({ epsilon: "0" })).toThrow(
      new TypeError('rmsNorm: epsilon must be a number, got "0"'),
    );
    expect(norm({ scale: 1 })).toThrow(new TypeError("rmsNorm has no argument scale"));
    const linear = {
      in: valid().in,
      weight: matrixOf([[1, 2, 3]]),
      out: device.tensor("f32", [2, 1]),
    };
    expect(() => device.linear({ ...linear, weight: linear.in as never })).toThrow(
      "linear: weight must be a Matrix",
    );
    expect(() => device.linear({ ...linear, accumulate: 1 as never })).toThrow(TypeError);
    expect(() => device.gatedLinear({ ...linear, activation: "gelu" as never })).toThrow(
      'gatedLinear: activation must be one of "silu", "relu2"',
    );
  });

  test("what belongs to another device", () => {
    using other = KernelDevice.open("cpu", { threads: 1 });
    expect(norm({ weight: other.tensor("f32", [3]) })).toThrow(
      new TypeError("rmsNorm: weight is a tensor of another device"),
    );
    const data = Float32Array.of(1, 2, 3);
    const weight = other.matrix([{ rows: 1, cols: 3, dtype: "f32", data }], "f32");
    expect(() =>
      device.linear({ in: valid().in, weight, out: device.tensor("f32", [2, 1]) }),
    ).toThrow("linear: weight is a matrix of another device");
  });

  test("dtypes, ranks, shapes and gaps that they do not read", () => {
    const refused = (changed: Record<string, unknown>) =>
      messageOf("ERR_INVALID_ARGUMENT", norm(changed));
    expect(refused({ weight: device.tensor("bf16", [3]) })).toBe(
      "rmsNorm: weight is bf16, expected f32",
    );
    expect(refused({ in: device.tensor("i32", [2, 3]) })).toBe(
      "rmsNorm: in is i32, expected f32 or bf16",
    );
    expect(refused({ in: floats([1, 2, 3]) })).toBe("rmsNorm: in has rank 1, expected 2");
    expect(refused({ weight: floats([1, 2]) })).toBe("rms_norm: weight is [2], expected [3]");
    expect(refused({ out: device.tensor("f32", [3, 3]) })).toBe(
      "rms_norm: out is [3, 3], expected [2, 3]",
    );
    const u = device.tensor("f32", [1, 2]);
    const wide = device.tensor("f32", [2, 3]);
    const batch = ragged([{ tokens: 1 }]).on(device);
    const convState = device.tensor("f32", [1, 2]).heads(1, 2);
    expect(
      messageOf("ERR_INVALID_ARGUMENT", () =>
        device.causalConv1d({ batch, u, weight: wide.columns(0, 2), convState, out: u }),
      ),
    ).toBe("causalConv1d: weight has rows of 2 elements 3 apart, and must have no gaps");
    const out = device.tensor("f32", [1, 1]);
    expect(
      messageOf("ERR_INVALID_ARGUMENT", () =>
        device.linear({ in: device.tensor("bf16", [1, 2]), weight: matrixOf([[1, 2]]), out }),
      ),
    ).toBe("linear: weight was imported for f32 activations, which are bf16");
  });

  test("views that reach out of their memory", () => {
    const x = device.tensor("f32", [2, 3]);
    const { memory } = x.toNative();
    const forged = (layout: { shape?: number[]; rowStride?: number; byteOffset?: number }) =>
      Object.assign(Object.create(x) as object, {
        belongsTo: () => true,
        toNative: () => ({ ...x.toNative(), memory, ...layout }),
      });
    for (const layout of [
      { byteOffset: 4 },
      { byteOffset: -4 },
      { byteOffset: 2 },
      { byteOffset: 2 ** 40 },
      { rowStride: 4 },
      { rowStride: 2 },
      { rowStride: 2 ** 53 - 1 },
      { shape: [3, 3] },
      { shape: [2, 4], rowStride: 4 },
      { shape: [2 ** 53 - 1, 3] },
      { shape: [2, 2 ** 53 - 1], rowStride: 2 ** 53 - 1 },
      { shape: [0, 3] },
      { shape: [2, -3] },
    ]) {
      const message = messageOf("ERR_INVALID_ARGUMENT", norm({ in: forged(layout) }));
      expect(message).toBe("rmsNorm: in reaches outside of its memory of 24 bytes");
    }
    expect(
      norm({ in: forged({ byteOffset: 12, shape: [1, 3] }), out: device.tensor("f32", [1, 3]) }),
    ).not.toThrow();
  });

  describe("batches and caches", () => {
    let batch: Batch;
    let kv: KvLayerView;
    const attend = (changes: { batch?: object; kv?: object; window?: number }) => () =>
      device.attention({
        batch: { ...batch, ...changes.batch },
        q: device.tensor("f32", [2, 2]).heads(1, 2),
        kv: { ...kv, ...changes.kv },
        window: changes.window ?? -1,
        scale: 1,
        out: device.tensor("f32", [2, 3]).heads(1, 3),
      });

    beforeAll(() => {
      batch = ragged([{ tokens: 2 }]).on(device);
      const extents = { numKvHeads: 1, headDim: 2, valueHeadDim: 3 };
      kv = emptyCache(device, "f32", pageTables([2], { numMetaTokens: 1 }), extents);
    });

    test("with fields of a wrong type or out of range", () => {
      expect(attend({})).not.toThrow();
      expect(attend({ batch: { positions: undefined } })).toThrow(
        new TypeError("attention: batch: positions must be a Tensor, got undefined"),
      );
      expect(attend({ batch: { numTokens: 0 } })).toThrow(RangeError);
      expect(attend({ kv: { headDim: 2.5 } })).toThrow(TypeError);
      expect(attend({ kv: { numLayers: 2 ** 15 + 1 } })).toThrow(RangeError);
      expect(attend({ window: -2 })).toThrow(RangeError);
      expect(() => device.attention({ kv, batch: undefined } as never)).toThrow(TypeError);
    });

    test("with shapes that do not match", () => {
      const refused = (changes: Parameters<typeof attend>[0]) =>
        messageOf("ERR_INVALID_ARGUMENT", attend(changes));
      expect(refused({ batch: { numTokens: 3 } })).toBe(
        "attention: positions is [2], expected [3]",
      );
      expect(refused({ kv: { numLayers: 2 } })).toBe(
        "attention: kv: pool has pages of 320 elements, expected 640: numLayers · numKvHeads · 64 · " +
          "(headDim + valueHeadDim)",
      );
      expect(refused({ kv: { numMetaTokens: 65 } })).toBe(
        "attention: kv: metaColumns is 1, too few for 65 meta tokens",
      );
      expect(refused({ kv: { layerIdx: 1 } })).toContain("K/V layer index");
      expect(refused({ kv: { ringColumns: 2 } })).toContain(
        "page_table is [1, 2], expected [1, 3]",
      );
    });
  });
});

describe("a kernel device", () => {
  test("says what it is", () => {
    expect(device).toMatchObject({ kind: "cpu", name: expect.stringMatching(/./) });
    expect(() => KernelDevice.open("tpu" as never)).toThrow(
      new TypeError('kind must be one of "cpu", "cuda", got "tpu"'),
    );
    expect(() => KernelDevice.open("cpu", { threads: 0 })).toThrow(RangeError);
  });

  test("gives its memory back: of a tensor, of a matrix, of everything", () => {
    const own = KernelDevice.open("cpu", { threads: 1 });
    const x = own.tensor("bf16", [3, 5]);
    const view = x.rows(1, 1);
    const data = new Float32Array(35);
    const matrix = own.matrix([{ rows: 7, cols: 5, dtype: "f32", data }], "bf16");
    expect(own.memoryBytes).toBe(2 * 15 + 4 * 35);
    matrix.dispose();
    expect(own.memoryBytes).toBe(2 * 15);
    const out = own.tensor("f32", [3, 7]);
    expect(messageOf("ERR_DISPOSED", () => own.linear({ in: x, weight: matrix, out }))).toBe(
      "the matrix was disposed",
    );
    x.dispose();
    x.dispose();
    for (const use of [() => view.read(), () => x.fill(0)]) {
      expect(messageOf("ERR_DISPOSED", use)).toBe("the tensor was disposed");
    }
    own.dispose();
    own.dispose();
    expect(own.memoryBytes).toBe(0);
    for (const use of [
      () => own.tensor("f32", [1]),
      () => own.matrix([{ rows: 7, cols: 5, dtype: "f32", data }], "bf16"),
      () => out.read(),
      () => out.write(new Float32Array(21)),
      () => own.gatherRows({ in: out, rows: out as never, out }),
      () => own.timeMs(() => undefined),
      () => own.synchronize(),
    ]) {
      expect(messageOf("ERR_DISPOSED", use)).toBe("the kernel device was disposed");
    }
  });

  test("loses no memory when nobody holds its tensors any more", async () => {
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc") as () => void;
    const own = KernelDevice.open("cpu", { threads: 1 });
    let kept: Tensor<"f32"> | undefined;
    for (let i = 0; i < 100; i++) {
      kept = own.tensor("f32", [4, 1000]).rows(1, 2);
      own.matrix([{ rows: 10, cols: 10, dtype: "f32", data: new Float32Array(100) }], "f32");
    }
    expect(own.memoryBytes).toBeGreaterThan(100 * 16_000);
    for (let turn = 0; turn < 100 && own.memoryBytes > 16_000; turn++) {
      collect();
      await new Promise(setImmediate);
    }
    // A view keeps the memory that it looks into.
    expect(own.memoryBytes).toBe(16_000);
    expect(kept?.read().length).toBe(2000);
    own.dispose();
  });

  test("times work, which may only call stages", () => {
    const x = device.tensor("f32", [2, 3]);
    const norm = () => device.rmsNorm({ in: x, weight: floatsOfOne, epsilon: 1, out: x });
    const floatsOfOne = floats([1, 1, 1]);
    let runs = 0;
    const times = device.timeMs(
      () => {
        norm();
        runs++;
      },
      { iterations: 4, warmup: 2 },
    );
    expect(times).toHaveLength(4);
    expect(Math.min(...times)).toBeGreaterThanOrEqual(0);
    expect(runs).toBe(6);
    device.timeMs(norm, { iterations: 1, warmup: 0, replay: true });

    for (const use of [
      () => x.read(),
      () => x.fill(1),
      () => device.tensor("f32", [1]),
      () => device.synchronize(),
      () => device.dispose(),
      () => device.timeMs(norm),
    ]) {
      expect(messageOf("ERR_BUSY", () => device.timeMs(use))).toBe(
        "work that is being timed may only call stages",
      );
    }
    const failure = new Error("of the work");
    const fail = () => {
      throw failure;
    };
    expect(() => device.timeMs(fail)).toThrow(failure);
    expect(x.read()).toHaveLength(6);
    expect(() => device.timeMs("work" as never)).toThrow(TypeError);
    expect(() => device.timeMs(norm, { iterations: 0 })).toThrow(RangeError);
  });
});

describe("the helpers of these tests", () => {
  test("compare names the worst element", () => {
    expect(() => compare([1, 2], [1, 2], {})).not.toThrow();
    expect(() => compare([NaN, Infinity], [NaN, Infinity], {})).not.toThrow();
    expect(() => compare([1.009, 100.5], [1, 100], { relative: 0.01 })).not.toThrow();
    expect(() => compare([1, 2.5, 3.2, 4], [1, 2, 3, 4], { absolute: 0.1, name: "y" })).toThrow(
      /^y\[1\] is 2\.5, expected 2: off by 0\.5, 5\.00 of what .* 2 of 4 elements fail$/,
    );
    expect(() => compare([1, 2, 3, NaN], [1, 2, 3, 4], { absolute: 9, columns: 2 })).toThrow(
      "result[1, 1] is NaN, expected 4",
    );
    expect(() => compare([1, 5], [1, Infinity], { relative: 1 })).toThrow("result[1]");
    expect(() => compare([1], [1, 2], {})).toThrow("1 elements, expected 2");
  });

  test("random numbers are the same for the same seed, and spread as they should", () => {
    expect(random(7).normal(5)).toEqual(random(7).normal(5));
    expect(random(7).normal(5)).not.toEqual(random(8).normal(5));
    const normal = random(1).normal(10_000, 2);
    const mean = normal.reduce((sum, x) => sum + x, 0) / 10_000;
    const deviation = Math.sqrt(normal.reduce((sum, x) => sum + x * x, 0) / 10_000);
    expect(Math.abs(mean)).toBeLessThan(0.1);
    expect(Math.abs(deviation - 2)).toBeLessThan(0.1);
    const uniform = random(1).uniform(10_000, 3, 5);
    expect(Math.min(...uniform)).toBeGreaterThanOrEqual(3);
    expect(Math.max(...uniform)).toBeLessThanOrEqual(5);
    expect([...random(1).distinct(20, 20)].sort((a, b) => a - b)).toEqual([...Array(20).keys()]);
    expect(rounded("bf16", Float32Array.of(1 + 2 ** -8))[0]).toBe(1);
  });

  test("poison shows where nothing was written, guards where something was", () => {
    expect([...poisoned(device, "bf16", [2]).read()]).toEqual([NaN, NaN]);
    for (const columns of [0, 8]) {
      const { tensor, check } = guarded(device, "f32", [2, 6], { columns });
      tensor.heads(2, 3).fill(1);
      check();
    }
    const { tensor, whole, check } = guarded(device, "i32", [2], { data: [1, 2] });
    expect([...tensor.read()]).toEqual([1, 2]);
    check();
    whole.rows(whole.length / 2 + 1, 1).fill(0);
    expect(check).toThrow("row 2, column 0, outside of [2], was overwritten with bits 0x0");
  });

  test("ragged lays spans one after the other", () => {
    const batch = ragged([{ tokens: 2 }, { tokens: 1, position: 70 }, { tokens: 1, slot: -1 }]);
    expect(batch).toMatchObject({ numTokens: 4, numSpans: 3 });
    expect([...batch.positions]).toEqual([0, 1, 70, 0]);
    expect([...batch.tokenSpans]).toEqual([0, 0, 1, 2]);
    expect([...batch.spanOffsets]).toEqual([0, 2, 3, 4]);
    expect([...batch.stateSource]).toEqual([-1, 1, -1]);
    expect([...batch.stateSlot]).toEqual([0, 1, -1]);
    expect([...batch.on(device).positions.read()]).toEqual([0, 1, 70, 0]);
  });

  test("pageTables share the meta pages and nothing else", () => {
    const tables = pageTables([64, 130, 400], { numMetaTokens: 2, ringColumns: 3 });
    expect(tables).toMatchObject({ metaColumns: 1, ringColumns: 3, numPages: 1 + 1 + 2 + 3 + 3 });
    const rows = [0, 1, 2].map((s) => [...tables.table.subarray(4 * s, 4 * s + 4)]);
    expect(new Set(rows.map(([meta]) => meta)).size).toBe(1);
    expect(rows.map((row) => row.filter((page) => page === NO_PAGE).length)).toEqual([2, 1, 0]);
    const pages = rows.flatMap((row) => row.slice(1)).filter((page) => page !== NO_PAGE);
    expect(new Set(pages).size).toBe(6);
    expect(Math.max(...pages)).toBeLessThan(tables.numPages);
  });

  test("fillCache writes every position that attention looks at", () => {
    const lengths = [150, 3, 700];
    const tables = pageTables(lengths, { numMetaTokens: 5, ringColumns: 4 });
    const extents = { numKvHeads: 2, headDim: 4, valueHeadDim: 6, numLayers: 2, layerIdx: 1 };
    const kv = emptyCache(device, "bf16", tables, extents);
    fillCache(device, kv, lengths, 1);
    const out = poisoned(device, "bf16", [3, 24]).heads(4, 6);
    const q = device.tensor("bf16", [3, 16], random(2).normal(48)).heads(4, 4);
    const last = lengths.map((length) => ({ tokens: 1, position: length - 1 }));
    device.attention({ batch: ragged(last).on(device), q, kv, window: 190, scale: 0.5, out });
    expect([...out.read()].filter((x) => !Number.isFinite(x))).toEqual([]);
    // The other layer's tiles are untouched.
    expect([...kv.pool.columns(0, 2 * 64 * 10).read()].every(Number.isNaN)).toBe(true);
  });
});

describe("without a GPU", () => {
  test("opening one says that there is none", () => {
    if (gpu() !== undefined) return;
    expect(messageOf("ERR_NO_DEVICE", () => KernelDevice.open("cuda"))).toMatch(/./);
  });
});

describeCuda("on a GPU", (cuda) => {
  test("tensors hold what is written to them", () => {
    const data = random(3).normal(6000);
    const x = cuda.tensor("bf16", [60, 100], data);
    expect(x.read()).toEqual(rounded("bf16", data));
    expect([...x.rows(3, 2).columns(1, 1).read()]).toEqual([
      rounded("bf16", data)[301],
      rounded("bf16", data)[401],
    ]);
    expect(cuda.kind).toBe("cuda");
  });

  bigTest("a gigabyte makes its way", () => {
    using x = cuda.tensor("f32", [2 ** 14, 2 ** 14]);
    x.rows(2 ** 14 - 1, 1).fill(1);
    expect(x.rows(2 ** 14 - 1, 1).read()[7]).toBe(1);
  });
});
