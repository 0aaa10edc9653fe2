import type { ActivationDType, KernelDevice, Tensor } from "../../lib/kernels";
import { bigTest, type Budget, compare, cpu, describeCuda, guarded, random } from "./helpers";
import {
  activationsOn,
  expectSameRows,
  matrixOn,
  normalProduct,
  type Product,
  productBudget,
  type Shape,
} from "./products";

const ACTIVATIONS = ["silu", "relu2"] as const;
type Activation = (typeof ACTIVATIONS)[number];

interface Options {
  readonly activation: Activation;
  readonly out?: ActivationDType;
  readonly columns?: number;
}

function gatedLinear(device: KernelDevice, product: Product, options: Options): Tensor {
  const { activation, out: dtype = "bf16", columns = 0 } = options;
  const out = guarded(device, dtype, [product.rows, product.outer], { columns });
  device.gatedLinear({
    in: activationsOn(device, product),
    weight: matrixOn(device, product),
    activation,
    out: out.tensor,
  });
  out.check();
  return out.tensor;
}

const mlpProduct = (
  activation: Activation,
  shape: Shape,
  options: { act?: ActivationDType; weightDType?: ActivationDType } = {},
) => normalProduct(shape, { ...options, blocks: activation === "silu" ? 2 : 1 });

/** Both factors are off by as much as a product, and each is multiplied by the other, below 6. */
function budget(inner: number, out: ActivationDType): Budget {
  const { absolute = 0, relative = 0 } = productBudget(inner, out);
  return { absolute: 12 * absolute, relative: relative + 2 ** -20 };
}

function compareWithCpu(device: KernelDevice, product: Product, options: Options): void {
  const { out = "bf16" } = options;
  const actual = gatedLinear(device, product, options);
  const expected = gatedLinear(cpu(), product, { ...options, out: "f32" });
  compare(actual.read(), expected.read(), {
    ...budget(product.inner, out),
    columns: product.outer,
  });
}

// Rows of the matrix that are no multiple of 8 pad each of the two blocks on its own.
const SHAPES: readonly Shape[] = [
  { rows: 1, inner: 1, outer: 1 },
  { rows: 2, inner: 64, outer: 8 },
  { rows: 9, inner: 63, outer: 7 },
  { rows: 16, inner: 100, outer: 20 },
  { rows: 17, inner: 65, outer: 33 },
  { rows: 64, inner: 72, outer: 16 },
  { rows: 65, inner: 128, outer: 17 },
  { rows: 256, inner: 40, outer: 12 },
  { rows: 257, inner: 64, outer: 31 },
  { rows: 300, inner: 136, outer: 65 },
];
const LARGE: readonly Shape[] = [
  { rows: 3, inner: 80, outer: 3170 },
  { rows: 3, inner: 1600, outer: 20 },
  { rows: 520, inner: 72, outer: 1605 },
  { rows: 7, inner: 264, outer: 523 },
  { rows: 40, inner: 320, outer: 601 },
];

describeCuda("gated_linear in bf16", (device) => {
  describe.each(ACTIVATIONS)("%s", (activation) => {
    test.each([...SHAPES, ...LARGE])("$rows x $inner x $outer", (shape) =>
      compareWithCpu(device, mlpProduct(activation, shape), { activation }),
    );
    test.each([5, 40, 270])("%i rows, into columns that start anywhere", (rows) => {
      const product = mlpProduct(activation, { rows, inner: 72, outer: 27 });
      for (const columns of [1, 2, 8]) compareWithCpu(device, product, { activation, columns });
    });
    test("the other rows of a step change no bit", () => {
      const product = mlpProduct(activation, { rows: 256, inner: 200, outer: 20 });
      const run = (some: Product) => gatedLinear(device, some, { activation });
      expectSameRows(run, product, [1, 16, 17, 33, 65]);
    });
    for (const rows of [1, 100, 2048])
      bigTest(`${rows} rows by the model's matrix`, () =>
        compareWithCpu(device, mlpProduct(activation, { rows, inner: 1600, outer: 5504 }), {
          activation,
        }),
      );
  });

  test("tells gate from up, row by row", () => {
    // One-hot activations: out[t][f] = silu(gate[f][t]) · up[f][t], with up powers of two.
    const [inner, outer] = [40, 21];
    const activations = new Float32Array(inner * inner);
    for (let i = 0; i < inner; i++) activations[i * inner + i] = 1;
    const numbers = random(4);
    const gate = Float32Array.from(numbers.integers(outer * inner, -60, 61), (x) => x / 16);
    const up = Float32Array.from(numbers.integers(outer * inner, -4, 5), (x) => 2 ** x);
    const product: Product = {
      rows: inner,
      inner,
      outer,
      act: "bf16",
      weightDType: "bf16",
      activations,
      weights: [gate, up],
    };
    const actual = gatedLinear(device, product, { activation: "silu" }).read();
    const expected = actual.map((_, i) => {
      const at = (i % outer) * inner + Math.floor(i / outer);
      return (gate[at]! / (1 + Math.exp(-gate[at]!))) * up[at]!;
    });
    compare(actual, expected, { relative: 2 ** -8, columns: outer });
  });
});

describeCuda("gated_linear in fp32", (device) => {
  describe.each(ACTIVATIONS)("%s", (activation) => {
    test.each([
      { rows: 1, inner: 1, outer: 1 },
      { rows: 31, inner: 33, outer: 63 },
      { rows: 33, inner: 16, outer: 65 },
      { rows: 3, inner: 1600, outer: 20 },
    ])("$rows x $inner x $outer", (shape) => {
      for (const weightDType of ["f32", "bf16"] as const)
        compareWithCpu(device, mlpProduct(activation, shape, { act: "f32", weightDType }), {
          activation,
          out: "f32",
          columns: 3,
        });
    });
  });
  test("gates far from zero are 0 or 1", () => {
    const gates = [-1000, -104, -89, -88, -87, -20, 20, 88, 89, 104, 1000];
    const product: Product = {
      rows: gates.length,
      inner: 1,
      outer: 1,
      act: "f32",
      weightDType: "f32",
      activations: Float32Array.from(gates),
      weights: [Float32Array.of(1), Float32Array.of(1)],
    };
    const actual = gatedLinear(device, product, { activation: "silu", out: "f32" }).read();
    const expected = Float32Array.from(gates, (x) => (x * x) / (1 + Math.exp(-x)));
    compare(actual, expected, { relative: 1e-5, absolute: 1e-32 });
  });
});
