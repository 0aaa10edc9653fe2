import type { ActivationDType, KernelDevice, Tensor } from "../../lib/kernels";
import { bigTest, compare, cpu, describeCuda, guarded, poisoned, random, rounded } from "./helpers";

// RMSNorm. A row's bits must depend on its width and its numbers alone.

const EPSILON = 1e-5;
/** One unit in the last place of the output. */
const BUDGET = { bf16: { relative: 2 ** -7 }, f32: { relative: 1e-6 } } as const;

interface Case {
  readonly rows: number;
  readonly width: number;
  readonly inType: ActivationDType;
  readonly outType: ActivationDType;
}

function inputs({ rows, width, inType }: Case) {
  const numbers = random(width);
  const values = numbers.normal(rows * width, 3);
  // A row of zeroes has a norm of its own: epsilon alone.
  values.fill(0, 0, width);
  return { values: rounded(inType, values), weight: numbers.uniform(width, 0.5, 2) };
}

function expected(size: Case): Float32Array {
  const { values, weight } = inputs(size);
  const device = cpu();
  const out = device.tensor("f32", [size.rows, size.width]);
  device.rmsNorm({
    in: device.tensor("f32", [size.rows, size.width], values),
    weight: device.tensor("f32", [size.width], weight),
    epsilon: EPSILON,
    out,
  });
  return out.read();
}

/** `columns`: garbage on both sides of each row of both tensors. */
function run(device: KernelDevice, size: Case, columns: number): Tensor {
  const { rows, width, inType, outType } = size;
  const { values, weight } = inputs(size);
  const input = guarded(device, inType, [rows, width], { data: values, columns });
  const out = guarded(device, outType, [rows, width], { columns });
  device.rmsNorm({
    in: input.tensor,
    weight: device.tensor("f32", [width], weight),
    epsilon: EPSILON,
    out: out.tensor,
  });
  input.check();
  out.check();
  return out.tensor;
}

describeCuda("rms_norm", (device) => {
  const types: [ActivationDType, ActivationDType][] = [
    ["f32", "bf16"],
    ["bf16", "bf16"],
    ["f32", "f32"],
    ["bf16", "f32"],
  ];
  // Around a chunk of 8 elements, a warp of chunks, one chunk a thread of 512; and the model's.
  const widths = [1, 7, 8, 9, 100, 255, 256, 257, 264, 1600, 4096, 4097];

  describe.each(types)("%s to %s", (inType, outType) => {
    test.each(widths)("width %i", (width) => {
      for (const rows of [1, 3]) {
        const size = { rows, width, inType, outType };
        const reference = expected(size);
        const aligned = run(device, size, 8);
        compare(aligned.read(), reference, { ...BUDGET[outType], columns: width });
        // Off by an element, so that nothing is aligned: the same bits.
        expect(run(device, size, 3).readBits()).toEqual(aligned.readBits());
        expect(run(device, size, 8).readBits()).toEqual(aligned.readBits());
      }
    });
  });

  test("in place", () => {
    const size: Case = { rows: 4, width: 100, inType: "bf16", outType: "bf16" };
    const { values, weight } = inputs(size);
    const x = device.tensor("bf16", [4, 100], values);
    const weights = device.tensor("f32", [100], weight);
    device.rmsNorm({ in: x, weight: weights, epsilon: EPSILON, out: x });
    expect(x.readBits()).toEqual(run(device, size, 0).readBits());
  });

  test("a row's bits do not depend on the rows beside it", () => {
    for (const width of [64, 200, 1600]) {
      const size: Case = { rows: 9, width, inType: "f32", outType: "bf16" };
      const { values, weight } = inputs(size);
      const together = run(device, size, 0).readBits();
      const weights = device.tensor("f32", [width], weight);
      for (const row of [0, 3, 8]) {
        const alone = poisoned(device, "bf16", [1, width]);
        const input = values.slice(row * width, (row + 1) * width);
        device.rmsNorm({
          in: device.tensor("f32", [1, width], input),
          weight: weights,
          epsilon: EPSILON,
          out: alone,
        });
        expect(alone.readBits()).toEqual(together.slice(row * width, (row + 1) * width));
      }
    }
  });

  test("refuses rows that do not fit into a block's registers", () => {
    const x = device.tensor("f32", [1, 16385]);
    const weight = device.tensor("f32", [16385]);
    expect(() => device.rmsNorm({ in: x, weight, epsilon: EPSILON, out: x })).toThrow(
      expect.objectContaining({
        code: "ERR_MODEL_UNSUPPORTED",
        message: "rms_norm: rows of 16385 elements, at most 16384 on CUDA",
      }),
    );
  });

  bigTest("8192 rows of the model's residual stream", () => {
    const size: Case = { rows: 8192, width: 1600, inType: "f32", outType: "bf16" };
    compare(run(device, size, 0).read(), expected(size), { ...BUDGET.bf16, columns: 1600 });
  });
});
