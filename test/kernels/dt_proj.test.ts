import type { ActivationDType, KernelDevice, Tensor } from "../../lib/kernels";
import {
  bigTest,
  compare,
  cpu,
  describeCuda,
  expectSameBits,
  guarded,
  poisoned,
  random,
} from "./helpers";
import {
  activationsOn,
  expectSameRows,
  matrixOn,
  normalProduct,
  type Product,
  productBudget,
} from "./products";

interface Options {
  readonly bias: Float32Array;
  readonly out?: ActivationDType;
  readonly columns?: number;
}

function dtProj(device: KernelDevice, product: Product, options: Options): Tensor {
  const { bias, out: dtype = product.act, columns = 0 } = options;
  const delta = guarded(device, dtype, [product.rows, product.outer], { columns });
  device.dtProj({
    dt: activationsOn(device, product),
    weight: matrixOn(device, product),
    bias: device.tensor("f32", [product.outer], bias),
    delta: delta.tensor,
  });
  delta.check();
  return delta.tensor;
}

/** Softplus has a slope of at most 1, and its own relative error. */
function compareWithCpu(device: KernelDevice, product: Product, options: Options): void {
  const actual = dtProj(device, product, options);
  // The CPU's activations are fp32, its result too.
  const expected = dtProj(cpu(), { ...product, act: "f32" }, options);
  const { absolute = 0, relative = 0 } = productBudget(product.inner, product.act);
  compare(actual.read(), expected.read(), {
    absolute,
    relative: relative + 2e-6,
    columns: product.outer,
  });
}

const productOf = (
  rows: number,
  rank: number,
  channels: number,
  act: ActivationDType = "bf16",
  weightDType: ActivationDType = act,
) => normalProduct({ rows, inner: rank, outer: channels }, { act, weightDType });
const biasOf = (channels: number) => random(3).normal(channels, 3);

const SHAPES = [
  { rank: 100, channels: 40 },
  { rank: 1, channels: 1 },
  { rank: 7, channels: 33 },
  { rank: 64, channels: 24 },
  { rank: 130, channels: 70 },
];

describeCuda("dt_proj in bf16", (device) => {
  describe.each(SHAPES)("rank $rank, $channels channels", ({ rank, channels }) => {
    test.each([1, 16, 17, 64, 65, 256, 257, 300])("%i rows", (rows) =>
      compareWithCpu(device, productOf(rows, rank, channels), { bias: biasOf(channels) }),
    );
  });
  test("into columns that start anywhere", () => {
    for (const rows of [3, 300])
      for (const columns of [1, 2, 8])
        compareWithCpu(device, productOf(rows, 100, 27), { bias: biasOf(27), columns });
  });
  test("reads the first columns of wider rows, as x_proj leaves them", () => {
    // [dt | B | C] and padding: B and C are numbers, the padding is not.
    for (const rows of [2, 70, 260]) {
      const product = productOf(rows, 100, 24);
      const bias = biasOf(24);
      const wide = poisoned(device, "bf16", [rows, 136]);
      wide.columns(100, 32).write(random(8).normal(rows * 32, 1e30));
      wide.columns(0, 100).write(product.activations);
      const delta = device.tensor("bf16", [rows, 24]);
      device.dtProj({
        dt: wide.columns(0, 100),
        weight: matrixOn(device, product),
        bias: device.tensor("f32", [24], bias),
        delta,
      });
      expectSameBits(delta.readBits(), dtProj(device, product, { bias }).readBits());
    }
  });
  test("the other rows of a step change no bit", () => {
    const bias = biasOf(40);
    const run = (some: Product) => dtProj(device, some, { bias });
    expectSameRows(run, productOf(256, 100, 40), [1, 16, 17, 64, 65]);
  });
  for (const rows of [1, 128, 2048])
    bigTest(`${rows} rows of the model`, () =>
      compareWithCpu(device, productOf(rows, 100, 3200), { bias: biasOf(3200) }),
    );
});

describeCuda("dt_proj in fp32", (device) => {
  test.each(SHAPES)("rank $rank, $channels channels", ({ rank, channels }) => {
    for (const rows of [1, 33, 257])
      for (const weightDType of ["f32", "bf16"] as const)
        compareWithCpu(device, productOf(rows, rank, channels, "f32", weightDType), {
          bias: biasOf(channels),
          columns: 3,
        });
  });
  test("softplus from -100 to 100", () => {
    const values = Float32Array.from({ length: 2001 }, (_, i) => (i - 1000) / 10);
    const near20 = Float32Array.from({ length: 200 }, (_, i) => 20 + (i - 100) * 2 ** -14);
    const near0 = Float32Array.from({ length: 200 }, (_, i) => (i - 100) * 2 ** -10);
    const bias = Float32Array.of(...values, ...near20, ...near0);
    const product: Product = {
      rows: 1,
      inner: 1,
      outer: bias.length,
      act: "f32",
      weightDType: "f32",
      activations: Float32Array.of(0),
      weights: [new Float32Array(bias.length)],
    };
    const actual = dtProj(device, product, { bias }).read();
    const expected = Float64Array.from(
      bias,
      (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))),
    );
    compare(actual, expected, { relative: 1e-6, absolute: 2 ** -146 });
  });
});
