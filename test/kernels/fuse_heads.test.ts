import type { ActivationDType, KernelDevice, Tensor } from "../../lib/kernels";
import { bigTest, compare, cpu, describeCuda, guarded, random, rounded } from "./helpers";

// The mean of two RMSNorms. A row's bits must depend on its width and its numbers alone.

const EPSILON = 1e-6;

interface Case {
  readonly dtype: ActivationDType;
  readonly rows: number;
  readonly width: number;
}

function inputs({ dtype, rows, width }: Case) {
  const numbers = random(width);
  return {
    attention: rounded(dtype, numbers.normal(rows * width, 0.1)),
    mamba: rounded(dtype, numbers.normal(rows * width, 20)),
    attentionWeight: numbers.uniform(width, -2, 2),
    mambaWeight: numbers.uniform(width, -2, 2),
  };
}

/** `columns`: garbage on both sides of each row. */
function run(device: KernelDevice, size: Case, columns: number): Tensor {
  const { dtype, rows, width } = size;
  const { attention, mamba, attentionWeight, mambaWeight } = inputs(size);
  const out = guarded(device, dtype, [rows, width], { columns });
  device.fuseHeads({
    attention: guarded(device, dtype, [rows, width], { data: attention, columns }).tensor,
    mamba: guarded(device, dtype, [rows, width], { data: mamba, columns }).tensor,
    attentionWeight: device.tensor("f32", [width], attentionWeight),
    mambaWeight: device.tensor("f32", [width], mambaWeight),
    epsilon: EPSILON,
    out: out.tensor,
  });
  out.check();
  return out.tensor;
}

function expected(size: Case): Float32Array {
  const { rows, width } = size;
  const { attention, mamba, attentionWeight, mambaWeight } = inputs(size);
  const device = cpu();
  const out = device.tensor("f32", [rows, width]);
  device.fuseHeads({
    attention: device.tensor("f32", [rows, width], attention),
    mamba: device.tensor("f32", [rows, width], mamba),
    attentionWeight: device.tensor("f32", [width], attentionWeight),
    mambaWeight: device.tensor("f32", [width], mambaWeight),
    epsilon: EPSILON,
    out,
  });
  return out.read();
}

// Both halves may cancel: what they are rounded to then counts, and both are of order 1 (|weight| ≤
// 2, so up to about 10 in a row).
const BUDGET = {
  bf16: { relative: 2 ** -7, absolute: 1e-5 },
  f32: { relative: 1e-6, absolute: 1e-5 },
} as const;

describeCuda("fuse_heads", (device) => {
  describe.each(["bf16", "f32"] as const)("%s", (dtype) => {
    test.each([1, 8, 13, 128, 256, 257, 3200, 4104])("width %i", (width) => {
      for (const rows of [1, 3]) {
        const size = { dtype, rows, width };
        const aligned = run(device, size, 8);
        compare(aligned.read(), expected(size), { ...BUDGET[dtype], columns: width });
        expect(run(device, size, 1).readBits()).toEqual(aligned.readBits());
        expect(run(device, size, 8).readBits()).toEqual(aligned.readBits());
      }
    });
  });

  test("is both norms' mean", () => {
    const size: Case = { dtype: "f32", rows: 3, width: 200 };
    const { attention, mamba, attentionWeight, mambaWeight } = inputs(size);
    const norm = (values: Float32Array, weight: Float32Array) => {
      const out = device.tensor("f32", [3, 200]);
      device.rmsNorm({
        in: device.tensor("f32", [3, 200], values),
        weight: device.tensor("f32", [200], weight),
        epsilon: EPSILON,
        out,
      });
      return out.read();
    };
    const normedMamba = norm(mamba, mambaWeight);
    const mean = norm(attention, attentionWeight).map((value, i) => (value + normedMamba[i]!) / 2);
    compare(run(device, size, 0).read(), mean, BUDGET.f32);
  });

  bigTest("8192 rows of the model's heads", () => {
    const size: Case = { dtype: "bf16", rows: 8192, width: 3200 };
    compare(run(device, size, 0).read(), expected(size), { ...BUDGET.bf16, columns: 3200 });
  });
});
