import type { KernelDevice } from "../../kernels";
import { RandomData } from "./random";
import { spread } from "./statistics";

/** Far more than any cache. */
const BUFFER_BYTES = { cuda: 2 ** 30, cpu: 2 ** 26 } as const;
const FLOAT_BYTES = 4;
const BLOCK_ELEMENTS = 2 ** 22;
const RUNS = { iterations: 7, warmup: 1 } as const;

/**
 * Bytes a second that the device copies from its memory to its memory, those read and those written
 * counted: what a stage that is bound by memory can hope for.
 */
export function copyBandwidth(device: KernelDevice): number {
  const rows = BUFFER_BYTES[device.kind] / FLOAT_BYTES / BLOCK_ELEMENTS;
  using from = device.tensor("f32", [rows, BLOCK_ELEMENTS]);
  using to = device.tensor("f32", [rows, BLOCK_ELEMENTS]);
  from.rows(0, 1).write(new RandomData(1).normals(BLOCK_ELEMENTS));
  for (let row = 1; row < rows; row++) device.copy(from.rows(row, 1), from.rows(0, 1));
  const times = device.timeMs(() => device.copy(to, from), RUNS);
  return (2 * from.length * FLOAT_BYTES) / (spread(times).median / 1000);
}
