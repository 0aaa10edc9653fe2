import type { ActivationDType, KernelDevice, Tensor } from "../../lib/kernels";
import {
  bigTest,
  compare,
  cpu,
  describeCuda,
  expectSameBits,
  guarded,
  random,
  rounded,
} from "./helpers";
import {
  activationsOn,
  expectSameRows,
  matrixOn,
  MAX_SKINNY_ROWS,
  normalProduct,
  type Product,
  productBudget,
  type Shape,
  shapeName,
} from "./products";

interface Options {
  readonly out?: ActivationDType;
  readonly bias?: Float32Array;
  /** What `out` holds before: then the product is added to it. */
  readonly before?: Float32Array;
  /** Poisoned columns on both sides of the result. */
  readonly columns?: number;
}

/** The product on a device, in a guarded tensor that starts as poison. */
function linear(device: KernelDevice, product: Product, options: Options = {}): Tensor {
  const { out: dtype = "f32", bias, before, columns = 0 } = options;
  const out = guarded(device, dtype, [product.rows, product.outer], {
    ...(before && { data: before }),
    columns,
  });
  device.linear({
    in: activationsOn(device, product),
    weight: matrixOn(device, product),
    bias: bias && device.tensor("f32", [product.outer], bias),
    out: out.tensor,
    accumulate: before !== undefined,
  });
  out.check();
  return out.tensor;
}

function compareWithCpu(device: KernelDevice, product: Product, options: Options = {}): void {
  const { out = "f32" } = options;
  const actual = linear(device, product, options);
  const expected = linear(cpu(), product, { ...options, out: "f32" });
  compare(actual.read(), expected.read(), {
    ...productBudget(product.inner, out),
    columns: product.outer,
  });
}

// Every kernel at its edges: blocks of 64 columns, groups of 8 and tiles of 16, 32, 64 and 128 rows
// of the matrix, and of the activations.
const SHAPES: readonly Shape[] = [
  { rows: 1, inner: 1, outer: 1 },
  { rows: 1, inner: 64, outer: 16 },
  { rows: 3, inner: 7, outer: 5 },
  { rows: 7, inner: 63, outer: 15 },
  { rows: 15, inner: 65, outer: 17 },
  { rows: 16, inner: 100, outer: 24 },
  { rows: 17, inner: 71, outer: 33 },
  { rows: 31, inner: 128, outer: 31 },
  { rows: 32, inner: 200, outer: 40 },
  { rows: 33, inner: 96, outer: 132 },
  { rows: 64, inner: 129, outer: 63 },
  { rows: 65, inner: 64, outer: 47 },
  { rows: 127, inner: 40, outer: 64 },
  { rows: 255, inner: 127, outer: 29 },
  { rows: 256, inner: 72, outer: 41 },
  { rows: 257, inner: 1, outer: 1 },
  { rows: 257, inner: 64, outer: 63 },
  { rows: 300, inner: 200, outer: 65 },
  { rows: 321, inner: 321, outer: 129 },
];

// The tiles that only matrices with many rows get, at edges again.
const WIDE: readonly Shape[] = [
  { rows: 5, inner: 72, outer: 6347 },
  { rows: 16, inner: 72, outer: 6400 },
  { rows: 513, inner: 130, outer: 3203 },
];

// As deep as the model's, so that warps go around their rings of weights.
const DEEP: readonly Shape[] = [
  { rows: 2, inner: 1600, outer: 24 },
  { rows: 9, inner: 3200, outer: 17 },
  { rows: 3, inner: 5504, outer: 16 },
  { rows: 20, inner: 5504, outer: 24 },
  { rows: 40, inner: 3208, outer: 40 },
  { rows: 258, inner: 1600, outer: 16 },
];

// What Hopper's own kernels take, at the edges of their tiles: matrices whose columns are cut into
// segments, and others; few rows of activations, one warpgroup of them, two, and several tiles.
const HOPPER: readonly Shape[] = [
  { rows: 1, inner: 256, outer: 512 },
  { rows: 8, inner: 264, outer: 519 },
  { rows: 3, inner: 2056, outer: 523 },
  { rows: 9, inner: 2056, outer: 523 },
  { rows: 16, inner: 320, outer: 1037 },
  { rows: 17, inner: 2048, outer: 512 },
  { rows: 33, inner: 264, outer: 600 },
];
const HOPPER_LARGE: readonly Shape[] = [
  { rows: 33, inner: 2056, outer: 1601 },
  { rows: 65, inner: 2056, outer: 3191 },
  { rows: 129, inner: 264, outer: 9001 },
  { rows: 256, inner: 2120, outer: 803 },
  { rows: 257, inner: 2056, outer: 1601 },
  { rows: 700, inner: 264, outer: 5003 },
];

const REAL: readonly Shape[] = [
  { rows: 1, inner: 1600, outer: 8960 },
  { rows: 128, inner: 1600, outer: 8000 },
  { rows: 300, inner: 1600, outer: 8960 },
  { rows: 8, inner: 3200, outer: 1600 },
  { rows: 64, inner: 5504, outer: 1600 },
  { rows: 128, inner: 5504, outer: 1600 },
  { rows: 200, inner: 3200, outer: 1600 },
  { rows: 1024, inner: 5504, outer: 1600 },
  { rows: 2048, inner: 3200, outer: 1600 },
  { rows: 32, inner: 1600, outer: 32001 },
];

describeCuda("linear in bf16", (device) => {
  describe.each(SHAPES)("$rows x $inner x $outer", (shape) => {
    test("into fp32", () => compareWithCpu(device, normalProduct(shape)));
    test("into bf16, between columns of others", () =>
      compareWithCpu(device, normalProduct(shape), { out: "bf16", columns: 8 }));
  });
  test.each([...WIDE, ...DEEP])("$rows x $inner x $outer", (shape) =>
    compareWithCpu(device, normalProduct(shape), { out: "bf16" }),
  );
  for (const shape of [...HOPPER_LARGE, ...REAL])
    bigTest(shapeName(shape), () => compareWithCpu(device, normalProduct(shape), { out: "bf16" }));
  for (const shape of HOPPER_LARGE)
    bigTest(`${shapeName(shape)}, added to what is there`, () => {
      const before = random(4).normal(shape.rows * shape.outer);
      const bias = random(2).normal(shape.outer);
      compareWithCpu(device, normalProduct(shape), { before, bias });
    });
  test.each(HOPPER)("$rows x $inner x $outer, into both", (shape) => {
    const product = normalProduct(shape);
    compareWithCpu(device, product, { out: "bf16" });
    compareWithCpu(device, product, { out: "bf16", columns: 1 });
    const before = random(4).normal(shape.rows * shape.outer);
    compareWithCpu(device, product, { before, bias: random(2).normal(shape.outer) });
  });

  describe.each([4, 40, 300])("%i rows", (rows) => {
    const product = normalProduct({ rows, inner: 96, outer: 45 }, { seed: rows });
    const bias = random(2).normal(product.outer);
    const before = random(3).normal(rows * product.outer);
    test.each(["f32", "bf16"] as const)("with a bias into %s", (out) =>
      compareWithCpu(device, product, { out, bias }),
    );
    test("added to what is there", () => compareWithCpu(device, product, { before }));
    test("added to what is there, with a bias", () =>
      compareWithCpu(device, product, { before, bias, columns: 3 }));
    test.each(["f32", "bf16"] as const)("into columns of %s that start anywhere", (out) => {
      for (const columns of [1, 2, 5]) compareWithCpu(device, product, { out, columns });
    });
    test("the same bits again", () => {
      const [first, second] = [0, 1].map(() => linear(device, product, { out: "bf16" }));
      expectSameBits(second!.readBits(), first!.readBits());
    });
  });

  // Sums of integers this small are exact in any order.
  test.each([
    { rows: 1, inner: 511, outer: 33 },
    { rows: 24, inner: 512, outer: 40 },
    { rows: 70, inner: 300, outer: 50 },
    { rows: 290, inner: 260, outer: 70 },
  ])("exact with integers: $rows x $inner x $outer", (shape) => {
    const numbers = random(5);
    const integers = (count: number) => Float32Array.from(numbers.integers(count, -8, 9));
    const product: Product = {
      ...shape,
      act: "bf16",
      weightDType: "bf16",
      activations: integers(shape.rows * shape.inner),
      weights: [integers(shape.outer * shape.inner)],
    };
    expect(linear(device, product).read()).toEqual(linear(cpu(), product).read());
  });

  // Row t of the activations picks column t of the matrix: finds an element in a wrong place.
  test.each([
    { inner: 200, outer: 45, weightDType: "bf16" },
    { inner: 333, outer: 72, weightDType: "bf16" },
    { inner: 100, outer: 21, weightDType: "f32" },
    { inner: 104, outer: 21, weightDType: "f32" },
    { inner: 100, outer: 21, weightDType: "f16" },
    { inner: 104, outer: 21, weightDType: "f16" },
  ] as const)("picks columns of a $weightDType matrix [$outer, $inner]", (options) => {
    const { inner, outer, weightDType } = options;
    const activations = new Float32Array(inner * inner);
    for (let i = 0; i < inner; i++) activations[i * inner + i] = 1;
    // Multiples of 2^-10 below 2: exact in fp16, and with more bits than bf16 has.
    const weights = Float32Array.from(
      random(6).integers(outer * inner, -2047, 2048),
      (value) => value / 1024,
    );
    const held = rounded("bf16", weights);
    const actual = linear(device, {
      rows: inner,
      inner,
      outer,
      act: "bf16",
      weightDType,
      activations,
      weights: [weights],
    }).read();
    const expected = actual.map((_, i) => held[(i % outer) * inner + Math.floor(i / outer)]!);
    expect(actual).toEqual(expected);
  });

  // As long as the kernels are of the same kind.
  describe("the other rows of a step change no bit", () => {
    const run = (product: Product) => linear(device, product);
    test.each([
      { inner: 100, outer: 21 },
      { inner: 648, outer: 35 },
    ])(`up to ${MAX_SKINNY_ROWS} rows, [$outer, $inner]`, (shape) => {
      const product = normalProduct({ rows: MAX_SKINNY_ROWS, ...shape });
      expectSameRows(run, product, [1, 2, 16, 17, 32, 33, 64, 65, 129, 255]);
    });
    for (const shape of [
      { inner: 264, outer: 9003 },
      { inner: 2056, outer: 1603 },
    ])
      bigTest(`up to ${MAX_SKINNY_ROWS} rows, [${shape.outer}, ${shape.inner}]`, () =>
        expectSameRows(
          run,
          normalProduct({ rows: MAX_SKINNY_ROWS, ...shape }),
          [1, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 255],
        ),
      );
    test("narrow and wide tiles", () => {
      const wide = normalProduct({ rows: 3, inner: 136, outer: 6400 });
      const narrow = { ...wide, outer: 32, weights: [wide.weights[0]!.subarray(0, 32 * 136)] };
      const [wideBits, narrowBits] = [wide, narrow].map((product) => run(product).readBits());
      for (let row = 0; row < 3; row++)
        expectSameBits(
          narrowBits!.subarray(row * 32, (row + 1) * 32),
          wideBits!.subarray(row * 6400, row * 6400 + 32),
        );
    });
    test("beyond, small and large tiles", () =>
      expectSameRows(run, normalProduct({ rows: 513, inner: 72, outer: 3200 }), [
        MAX_SKINNY_ROWS + 1,
        384,
      ]));
  });

  test("keeps infinities and NaNs to their rows and columns", () => {
    for (const rows of [5, 40, 270]) {
      const product = normalProduct({ rows, inner: 72, outer: 40 });
      const expected = linear(device, product).read();
      product.activations[2 * product.inner + 71] = NaN;
      product.activations[3 * product.inner] = Infinity;
      product.weights[0]![7 * product.inner] = NaN;
      expected.forEach((_, i) => {
        const [row, column] = [Math.floor(i / product.outer), i % product.outer];
        if (row === 2 || column === 7) expected[i] = NaN;
        else if (row === 3) expected[i] = Infinity * product.weights[0]![column * product.inner]!;
      });
      compare(linear(device, product).read(), expected, { columns: product.outer });
    }
  });

  test("refuses rows that do not start on multiples of 16 bytes", () => {
    const weight = device.matrix(
      [{ rows: 8, cols: 20, dtype: "bf16", data: new Float32Array(160) }],
      "bf16",
    );
    const out = device.tensor("f32", [2, 8]);
    const wide = device.tensor("bf16", [2, 32]);
    for (const rows of [device.tensor("bf16", [2, 20]), wide.columns(4, 20)])
      expect(() => device.linear({ in: rows, weight, out })).toThrow(/multiples of 16 bytes/);
  });
});

describeCuda("linear in fp32", (device) => {
  describe.each(["f32", "bf16"] as const)("weights in %s", (weightDType) => {
    test.each([
      { rows: 1, inner: 1, outer: 1 },
      { rows: 3, inner: 7, outer: 5 },
      { rows: 31, inner: 16, outer: 63 },
      { rows: 33, inner: 33, outer: 65 },
      { rows: 64, inner: 100, outer: 132 },
      { rows: 300, inner: 17, outer: 9 },
      { rows: 2, inner: 1600, outer: 40 },
    ])("$rows x $inner x $outer", (shape) => {
      const product = normalProduct(shape, { act: "f32", weightDType });
      const bias = random(2).normal(shape.outer);
      const before = random(3).normal(shape.rows * shape.outer);
      compareWithCpu(device, product, { columns: 3 });
      compareWithCpu(device, product, { bias, before });
    });
  });
  test("the other rows of a step change no bit", () => {
    const product = normalProduct({ rows: 70, inner: 37, outer: 41 }, { act: "f32" });
    expectSameRows((some) => linear(device, some), product, [1, 32, 33]);
  });
});
