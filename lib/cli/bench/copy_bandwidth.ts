import type { KernelDevice } from "../../kernels";
import { RandomData } from "./random";
import { spread } from "./statistics";

/** Far more than any cache. */
const BUFFER_BYTES = { cuda: 2 ** 30, cpu: 2 ** 27 } as const;
const FLOAT_BYTES = 4;
const BLOCK_ELEMENTS = 2 ** 22;

/**
 * Bytes a second that the device copies from its memory to its memory, those read and those written
 * counted: what a stage that is bound by memory can hope for.
 * @param bufferBytes size of each of the two buffers; default 1 GiB on a GPU, 128 MiB on the CPU.
 */
export function copyBandwidth(
  device: KernelDevice,
  bufferBytes: number = BUFFER_BYTES[device.kind],
): number {
  const rows = Math.ceil(bufferBytes / FLOAT_BYTES / BLOCK_ELEMENTS);
  using from = device.tensor("f32", [rows, BLOCK_ELEMENTS]);
  using to = device.tensor("f32", [rows, BLOCK_ELEMENTS]);
  from.rows(0, 1).write(new RandomData(1).normals(BLOCK_ELEMENTS));
  for (let row = 1; row < rows; row++) device.copy(from.rows(row, 1), from.rows(0, 1));
  const times = device.timeMs(() => device.copy(to, from), { iterations: 10, warmup: 2 });
  return (2 * from.length * FLOAT_BYTES) / (spread(times).median / 1000);
}
