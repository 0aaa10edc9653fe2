import { readFileSync } from "node:fs";
import { join } from "node:path";

/** Folder of the golden model. */
export const MICRO = join(__dirname, "..", "golden", "micro");

/** A tensor of a safetensors file that holds F32, BF16 and I32 only. */
export interface GoldenTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array;
}

/** Reads all tensors of a small safetensors file; BF16 is widened to fp32. */
export function readSafetensors(path: string): Map<string, GoldenTensor> {
  const bytes = readFileSync(path);
  const headerLength = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + headerLength)) as Record<
    string,
    { dtype: "F32" | "BF16" | "I32"; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors = new Map<string, GoldenTensor>();
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [begin, end] = data_offsets.map((offset) => 8 + headerLength + offset);
    const { buffer } = Uint8Array.from(bytes.subarray(begin, end));
    tensors.set(name, { shape, data: toNumbers(dtype, buffer) });
  }
  return tensors;
}

function toNumbers(dtype: "F32" | "BF16" | "I32", buffer: ArrayBuffer): Float32Array | Int32Array {
  if (dtype === "I32") return new Int32Array(buffer);
  if (dtype === "F32") return new Float32Array(buffer);
  const bits = Uint32Array.from(new Uint16Array(buffer), (half) => half << 16);
  return new Float32Array(bits.buffer);
}

/** ‖out − ref‖ / ‖ref‖, in float64. NaN and a wrong length give infinity. */
export function relativeError(out: ArrayLike<number>, ref: ArrayLike<number>): number {
  if (out.length !== ref.length || ref.length === 0) return Infinity;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < ref.length; i++) {
    difference += (out[i]! - ref[i]!) ** 2;
    norm += ref[i]! ** 2;
  }
  const error = Math.sqrt(difference / norm);
  return Number.isNaN(error) ? Infinity : error;
}

/** Swaps the two dimensions of a [rows, columns] array. */
export function transpose(data: ArrayLike<number>, rows: number, columns: number): Float32Array {
  const out = new Float32Array(rows * columns);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) out[c * rows + r] = data[r * columns + c]!;
  }
  return out;
}

/** Index of the largest value, the first among equals. */
export function argmax(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}
