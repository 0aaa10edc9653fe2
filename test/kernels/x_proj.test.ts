import type { ActivationDType, KernelDevice, Tensor } from "../../lib/kernels";
import { bigTest, compare, cpu, describeCuda, guarded, random } from "./helpers";
import { activationsOn, expectSameRows, matrixOn, normalProduct, type Product } from "./products";

interface Widths {
  readonly rank: number;
  readonly states: number;
}

interface Options extends Widths {
  readonly norms?: boolean;
  readonly out?: ActivationDType;
  readonly columns?: number;
}

function xProj(device: KernelDevice, product: Product, options: Options): Tensor {
  const { rank, states, norms = true, out: dtype = product.act, columns = 0 } = options;
  const numbers = random(9);
  const norm = (size: number) => device.tensor("f32", [size], numbers.uniform(size, 0.5, 1.5));
  const out = guarded(device, dtype, [product.rows, product.outer], { columns });
  device.xProj({
    u: activationsOn(device, product),
    weight: matrixOn(device, product),
    ...(norms && { dtNorm: norm(rank), bNorm: norm(states), cNorm: norm(states) }),
    epsilon: 1e-6,
    out: out.tensor,
  });
  out.check();
  return out.tensor;
}

const productOf = (
  rows: number,
  inner: number,
  { rank, states }: Widths,
  act: ActivationDType = "bf16",
  weightDType: ActivationDType = act,
) => normalProduct({ rows, inner, outer: rank + 2 * states }, { act, weightDType });

/**
 * One unit of the last place of bf16 after the norm; what it divides by is about 1, but for short
 * rows may be near 0, so that errors of the sums grow.
 */
function compareWithCpu(device: KernelDevice, product: Product, options: Options): void {
  const actual = xProj(device, product, options);
  const expected = xProj(cpu(), product, { ...options, out: "f32" });
  const isSmall = options.states < 8;
  compare(actual.read(), expected.read(), {
    absolute: (isSmall ? 20 : 4) * 2e-6 * Math.sqrt(product.inner),
    relative: product.act === "bf16" ? 2 ** -8 : 1e-5,
    columns: product.outer,
  });
}

const MODEL: Widths = { rank: 100, states: 16 };
const WIDTHS: readonly Widths[] = [MODEL, { rank: 1, states: 1 }, { rank: 33, states: 12 }];

describeCuda("x_proj in bf16", (device) => {
  describe.each(WIDTHS)("rank $rank, $states states", (widths) => {
    test.each([1, 3, 16, 17, 65, 256, 257, 300])("%i rows", (rows) => {
      const product = productOf(rows, 104, widths);
      compareWithCpu(device, product, widths);
      compareWithCpu(device, product, { ...widths, norms: false, columns: 4 });
    });
  });
  test.each([2, 65])("%i rows as deep as the model's", (rows) =>
    compareWithCpu(device, productOf(rows, 3200, MODEL), { ...MODEL, columns: 1 }),
  );
  test("the other rows of a step change no bit", () =>
    expectSameRows(
      (some) => xProj(device, some, MODEL),
      productOf(256, 200, MODEL),
      [1, 16, 17, 64, 65],
    ));
  test("a row of zeroes stays zero", () => {
    const product = productOf(3, 64, MODEL);
    product.activations.fill(0, 64, 128);
    const actual = xProj(device, product, MODEL).read();
    expect(actual.subarray(132, 264).every((value) => value === 0)).toBe(true);
  });
  for (const rows of [1, 128, 2048])
    bigTest(`${rows} rows of the model`, () =>
      compareWithCpu(device, productOf(rows, 3200, MODEL), MODEL),
    );
});

describeCuda("x_proj in fp32", (device) => {
  describe.each(WIDTHS)("rank $rank, $states states", (widths) => {
    test.each([1, 5, 33, 257])("%i rows", (rows) => {
      for (const weightDType of ["f32", "bf16"] as const) {
        const product = productOf(rows, 57, widths, "f32", weightDType);
        compareWithCpu(device, product, { ...widths, columns: 3 });
        compareWithCpu(device, product, { ...widths, norms: false });
      }
    });
  });
});
