import type {
  ActivationDType,
  FuseHeadsArgs,
  KernelDevice,
  Matrix,
  NormedProductArgs,
  RmsNormArgs,
  Tensor,
} from "../../lib/kernels";
import { relativeError } from "../helpers/golden";
import {
  bigTest,
  cpu,
  describeCuda,
  expectSameBits,
  guarded,
  random,
  realGpuTest,
} from "./helpers";
import { matrixOn, normalProduct, type Shape, shapeName } from "./products";

const EPSILON = 1e-6;

type Norm = "rmsNorm" | "fuseHeads";
type Kind = "linear" | "accumulated" | "silu" | "relu2";

interface Case extends Shape {
  readonly norm: Norm;
  readonly kind: Kind;
}

/** The weights of a case on a device. They do not depend on the rows of activations. */
const weightOf = (device: KernelDevice, { kind, inner, outer }: Omit<Case, "rows">): Matrix =>
  matrixOn(
    device,
    normalProduct({ rows: 0, inner, outer }, { act: "bf16", blocks: kind === "silu" ? 2 : 1 }),
  );

/** The arguments of a case on a device, every time the same numbers. `apart`: elements between rows. */
function argsOf(
  device: KernelDevice,
  { norm, kind, ...shape }: Case,
  weight: Matrix,
  apart: number,
): {
  readonly args: NormedProductArgs;
  readonly out: Tensor<ActivationDType>;
  readonly check: () => void;
} {
  const act: ActivationDType = device.kind === "cpu" ? "f32" : "bf16";
  const { rows, inner, outer } = shape;
  const numbers = random(7);
  const rowsOf = (dtype: ActivationDType, scale: number): Tensor<ActivationDType> =>
    guarded(device, dtype, [rows, inner], {
      data: numbers.normal(rows * inner, scale),
      columns: apart,
    }).tensor;
  const gains = (): Tensor<"f32"> =>
    device.tensor(
      "f32",
      [inner],
      numbers.normal(inner).map((gain) => 1 + gain / 4),
    );
  const normed = device.tensor(act, [rows, inner]);
  const residual = numbers.normal(rows * outer);
  const out = guarded(device, kind === "accumulated" ? "f32" : act, [rows, outer], {
    ...(kind === "accumulated" && { data: residual }),
    columns: 8,
  });
  const first: { rmsNorm: RmsNormArgs } | { fuseHeads: FuseHeadsArgs } =
    norm === "rmsNorm"
      ? { rmsNorm: { in: rowsOf("f32", 3), weight: gains(), epsilon: EPSILON, out: normed } }
      : {
          fuseHeads: {
            attention: rowsOf(act, 0.5),
            mamba: rowsOf(act, 20),
            attentionWeight: gains(),
            mambaWeight: gains(),
            epsilon: EPSILON,
            out: normed,
          },
        };
  const second =
    kind === "silu" || kind === "relu2"
      ? { gatedLinear: { in: normed, weight, activation: kind, out: out.tensor } }
      : {
          linear: { in: normed, weight, out: out.tensor, accumulate: kind === "accumulated" },
        };
  return { args: { ...first, ...second }, out: out.tensor, check: () => out.check() };
}

function runOneByOne(device: KernelDevice, args: NormedProductArgs): void {
  if (args.rmsNorm) device.rmsNorm(args.rmsNorm);
  if (args.fuseHeads) device.fuseHeads(args.fuseHeads);
  if (args.linear) device.linear(args.linear);
  if (args.gatedLinear) device.gatedLinear(args.gatedLinear);
}

/** As one call and as two: the same bits. */
function expectBitsOfBoth(
  device: KernelDevice,
  some: Case,
  weight = weightOf(device, some),
  apart = 8,
): Tensor<ActivationDType> {
  const together = argsOf(device, some, weight, apart);
  const apartFromIt = argsOf(device, some, weight, apart);
  device.normedProduct(together.args);
  runOneByOne(device, apartFromIt.args);
  together.check();
  expectSameBits(together.out.readBits(), apartFromIt.out.readBits());
  return together.out;
}

const NORMS: readonly Norm[] = ["rmsNorm", "fuseHeads"];
const KINDS: readonly Kind[] = ["linear", "accumulated", "silu", "relu2"];

// Around what one of Hopper's kernels does: rows, pieces of a row, and the columns that its blocks share.
const SHAPES: readonly Shape[] = [
  { rows: 1, inner: 256, outer: 520 },
  { rows: 2, inner: 264, outer: 512 },
  { rows: 4, inner: 2056, outer: 603 },
  { rows: 5, inner: 2304, outer: 520 },
  { rows: 8, inner: 1000, outer: 3301 },
  { rows: 9, inner: 264, outer: 520 },
  { rows: 1, inner: 4096, outer: 512 },
  { rows: 1, inner: 4104, outer: 512 },
];

describeCuda("normed_product", (device) => {
  describe.each(NORMS)("%s", (norm) => {
    describe.each(KINDS)("%s", (kind) => {
      test("the bits of both stages", () => {
        expectBitsOfBoth(device, { norm, kind, rows: 3, inner: 72, outer: 24 });
      });
      for (const shape of SHAPES)
        realGpuTest(`${shapeName(shape)}: the same`, () => {
          expectBitsOfBoth(device, { norm, kind, ...shape });
        });
    });

    test("close to fp32 arithmetic", () => {
      const some: Case = { norm, kind: "linear", rows: 3, inner: 264, outer: 40 };
      const expected = argsOf(cpu(), some, weightOf(cpu(), some), 0);
      cpu().normedProduct(expected.args);
      const actual = expectBitsOfBoth(device, some).read();
      // Activations are rounded to bf16 twice, and the result once.
      expect(relativeError(actual, expected.out.read())).toBeLessThan(2 ** -8);
    });

    realGpuTest("rows that start anywhere", () => {
      const some: Case = { norm, kind: "linear", rows: 3, inner: 520, outer: 520 };
      expectBitsOfBoth(device, some, weightOf(device, some), 3);
    });

    const real: readonly Omit<Case, "rows">[] =
      norm === "fuseHeads"
        ? [{ norm, kind: "accumulated", inner: 3200, outer: 1600 }]
        : [
            { norm, kind: "linear", inner: 1600, outer: 8960 },
            { norm, kind: "silu", inner: 1600, outer: 5504 },
          ];
    for (const some of real)
      bigTest(`the model's [${some.outer}, ${some.inner}], ${some.kind}`, () => {
        const weight = weightOf(device, some);
        for (const rows of [1, 3, 4, 5, 8, 9, 40])
          expectBitsOfBoth(device, { ...some, rows }, weight);
      });
  });
});

describe("normed_product on the CPU", () => {
  test.each(NORMS)("%s, then the product", (norm) => {
    expectBitsOfBoth(cpu(), { norm, kind: "silu", rows: 3, inner: 24, outer: 10 });
  });

  test.each<[RegExp, (args: NormedProductArgs) => NormedProductArgs]>([
    [/takes rmsNorm or fuseHeads/, ({ rmsNorm: _, ...args }) => args],
    [/takes linear or gatedLinear/, ({ linear: _, ...args }) => args],
    [
      /takes linear or gatedLinear/,
      ({ linear, ...args }) => {
        const { in: input, weight, out } = linear!;
        return { ...args, linear, gatedLinear: { in: input, weight, out, activation: "relu2" } };
      },
    ],
    [
      /the product's input is not the norm's output/,
      (args) => ({
        ...args,
        linear: { ...args.linear!, in: cpu().tensor("f32", [1, 8]) },
      }),
    ],
    [
      /the product's output is what the norm reads/,
      (args) => ({ ...args, linear: { ...args.linear!, out: args.rmsNorm!.in } }),
    ],
    [/no argument extra/, (args) => ({ ...args, extra: 1 }) as NormedProductArgs],
    [
      /rmsNorm: epsilon/,
      (args) => ({ ...args, rmsNorm: { ...args.rmsNorm!, epsilon: "1" as never } }),
    ],
  ])("refuses: %s", (message, change) => {
    const some: Case = { norm: "rmsNorm", kind: "linear", rows: 1, inner: 8, outer: 8 };
    const { args } = argsOf(cpu(), some, weightOf(cpu(), some), 0);
    expect(() => cpu().normedProduct(change(args))).toThrow(message);
  });
});
