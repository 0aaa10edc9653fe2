import type { ActivationDType, KernelDevice } from "../../lib/kernels";
import { compare, cpu, describeCuda, guarded, random } from "./helpers";

// Rows of a matrix, packed (for bf16 activations) or not, as fp32: exactly.

const VOCABULARY = 37;
const META = 11;

function run(
  device: KernelDevice,
  dtype: "bf16" | "f32",
  activations: ActivationDType,
  width: number,
  ids: Int32Array,
  columns: number,
): Float32Array {
  const numbers = random(width);
  const block = (rows: number) => ({
    rows,
    cols: width,
    dtype,
    data: numbers.normal(rows * width),
  });
  const out = guarded(device, "f32", [ids.length, width], { columns });
  device.embedTokens({
    tokenIds: device.tensor("i32", [ids.length], ids),
    table: device.matrix([block(VOCABULARY)], activations),
    meta: device.matrix([block(META)], activations),
    out: out.tensor,
  });
  out.check();
  return out.tensor.read();
}

const IDS = Int32Array.of(0, -1, 36, -11, 7, 7, -5, 8, 15, 16);

describeCuda("embed_tokens", (device) => {
  // Around a chunk, a 128-byte piece of a packed row, and the model's.
  const widths = [1, 8, 20, 63, 64, 65, 128, 200, 1600, 2100];

  test.each(widths)("packed, width %i", (width) => {
    for (const columns of [0, 3]) {
      const expected = run(cpu(), "bf16", "bf16", width, IDS, 0);
      compare(run(device, "bf16", "bf16", width, IDS, columns), expected, { columns: width });
    }
  });

  test.each(["bf16", "f32"] as const)("row-major, %s", (dtype) => {
    for (const width of widths) {
      const expected = run(cpu(), dtype, "f32", width, IDS, 0);
      compare(run(device, dtype, "f32", width, IDS, 3), expected, { columns: width });
      compare(run(device, dtype, "f32", width, IDS, 8), expected, { columns: width });
    }
  });

  test("without meta tokens", () => {
    const block = { rows: 3, cols: 8, dtype: "bf16", data: random(1).normal(24) } as const;
    const embed = (on: KernelDevice) => {
      const out = on.tensor("f32", [2, 8]);
      const tokenIds = on.tensor("i32", [2], [2, 0]);
      on.embedTokens({ tokenIds, table: on.matrix([block], "bf16"), out });
      return out.read();
    };
    expect(embed(device)).toEqual(embed(cpu()));
  });

  test("an id that is not there, as a padded lane may have, gives zeroes", () => {
    const ids = Int32Array.of(VOCABULARY, 0x7fffffff, -1 - META, -0x80000000);
    for (const activations of ["bf16", "f32"] as const) {
      const rows = run(device, "bf16", activations, 70, ids, 0);
      expect(rows).toEqual(new Float32Array(4 * 70));
    }
  });
});
