import type { KernelDevice } from "../../lib/kernels";
import { describeCuda, guarded, random } from "./helpers";

// Chosen rows, bit for bit.

function run(device: KernelDevice, width: number, rows: Int32Array, columns: number): Float32Array {
  const data = random(width).normal(9 * width);
  const out = guarded(device, "f32", [rows.length, width], { columns });
  device.gatherRows({
    in: guarded(device, "f32", [9, width], { data, columns }).tensor,
    rows: device.tensor("i32", [rows.length], rows),
    out: out.tensor,
  });
  out.check();
  return out.tensor.read();
}

describeCuda("gather_rows", (device) => {
  test.each([1, 7, 8, 9, 64, 1600, 2049])("width %i", (width) => {
    const data = random(width).normal(9 * width);
    for (const rows of [[0], [8], [3, 0, 8, 3, 3, 1, 2, 7, 5, 4, 6]]) {
      const expected = rows.flatMap((row) => [...data.slice(row * width, (row + 1) * width)]);
      for (const columns of [0, 5, 8]) {
        expect(run(device, width, Int32Array.from(rows), columns)).toEqual(
          Float32Array.from(expected),
        );
      }
    }
  });
});
