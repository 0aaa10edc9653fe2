import type { ActivationDType, KernelDevice, Matrix, Tensor, WeightDType } from "../../lib/kernels";
import { type Budget, expectSameBits, guarded, random, rounded } from "./helpers";

/** Extents of a product: rows of activations [rows, inner] by a matrix [outer, inner]. */
export interface Shape {
  readonly rows: number;
  readonly inner: number;
  readonly outer: number;
}

/** A shape in the name of a test. */
export const shapeName = ({ rows, inner, outer }: Shape): string =>
  `[${rows}, ${inner}] by [${outer}, ${inner}]`;

/** The numbers of a product, as both devices are to see them. */
export interface Product extends Shape {
  readonly act: ActivationDType;
  readonly weightDType: WeightDType;
  /** [rows, inner] */
  readonly activations: Float32Array;
  /** One or two of [outer, inner]. */
  readonly weights: readonly Float32Array[];
}

/** Up to here a step is one of few rows, for which other kernels run: see docs/kernels.md. */
export const MAX_SKINNY_ROWS = 256;

/**
 * Normal activations and weights, so that results are about normal too. Weights are values of bf16
 * when the activations are, because that is what a packed matrix holds.
 */
export function normalProduct(
  shape: Shape,
  {
    act = "bf16",
    weightDType = act,
    blocks = 1,
    seed = 1,
  }: {
    readonly act?: ActivationDType;
    readonly weightDType?: WeightDType;
    readonly blocks?: number;
    readonly seed?: number;
  } = {},
): Product {
  const { rows, inner, outer } = shape;
  const numbers = random(seed);
  const held = act === "bf16" || weightDType === "bf16" ? "bf16" : "f32";
  return {
    ...shape,
    act,
    weightDType,
    activations: rounded(act, numbers.normal(rows * inner)),
    weights: Array.from({ length: blocks }, () =>
      rounded(held, numbers.normal(outer * inner, 1 / Math.sqrt(inner))),
    ),
  };
}

/**
 * The activations on a device. On a GPU rows lie apart, with NaNs between them; for bf16 they start
 * on multiples of 16 bytes.
 */
export function activationsOn(
  device: KernelDevice,
  { rows, inner, activations, act }: Product,
): Tensor<ActivationDType> {
  if (device.kind === "cpu") return device.tensor("f32", [rows, inner], activations);
  return guarded(device, act, [rows, inner], { data: activations, columns: 8 }).tensor;
}

/** The matrix on a device; the CPU multiplies it by fp32 activations. */
export function matrixOn(device: KernelDevice, product: Product): Matrix {
  const { inner, outer, weights, weightDType, act } = product;
  return device.matrix(
    weights.map((data) => ({ rows: outer, cols: inner, dtype: weightDType, data })),
    device.kind === "cpu" ? "f32" : act,
  );
}

/**
 * How far a result may be from that of fp32 arithmetic. `scale` is √Σa²b² of a sum's factors, about 1
 * for a normal product: 8 times the error that the sum of so many rounded terms is likely to have,
 * and half a unit of the last place of bf16 (at most 2^-8 of a number), where that is what is stored.
 */
export function productBudget(inner: number, out: ActivationDType, scale = 1): Budget {
  return {
    absolute: 8 * 2e-6 * Math.sqrt(inner) * scale,
    relative: out === "bf16" ? 1.01 * 2 ** -8 : 2 ** -22,
  };
}

/** The first rows of a product as a product of their own. */
export const firstRows = (product: Product, rows: number): Product => ({
  ...product,
  rows,
  activations: product.activations.subarray(0, rows * product.inner),
});

/**
 * Fails unless a row is the same whatever else is in the step: in steps of only the first `rows`, for
 * each of them.
 */
export function expectSameRows(
  run: (product: Product) => Tensor,
  product: Product,
  steps: readonly number[],
): void {
  const all = run(product).readBits();
  for (const rows of steps)
    expectSameBits(run(firstRows(product, rows)).readBits(), all.subarray(0, rows * product.outer));
}
