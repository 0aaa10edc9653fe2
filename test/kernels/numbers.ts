import type {
  ActivationDType,
  KernelDevice,
  Tensor,
  TensorData,
  TensorDType,
} from "../../lib/kernels";
import { fromBFloat16, toBFloat16 } from "../../lib/kernels/float_bits";

/** Seeded numbers: the same for the same seed and the same calls, on every machine. */
export interface Random {
  /** In [low, high), as fp32. Default [-1, 1). */
  uniform(count: number, low?: number, high?: number): Float32Array;
  /** Normally distributed around 0, as fp32. The deviation is 1 by default. */
  normal(count: number, deviation?: number): Float32Array;
  /** An integer in [low, high). */
  integer(low: number, high: number): number;
  integers(count: number, low: number, high: number): Int32Array;
  /** Different integers in [0, below), in random order. */
  distinct(count: number, below: number): Int32Array;
}

/** SplitMix32: a counter through a mixing function. */
export function random(seed: number): Random {
  let state = seed | 0;
  const next = (): number => {
    state = (state + 0x9e3779b9) | 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
  };
  const integer = (low: number, high: number) => low + Math.floor(next() * (high - low));
  const floats = (count: number, draw: () => number) => {
    const values = new Float32Array(count);
    for (let i = 0; i < count; i++) values[i] = draw();
    return values;
  };
  return {
    uniform: (count, low = -1, high = 1) => floats(count, () => low + next() * (high - low)),
    normal: (count, deviation = 1) =>
      floats(count, () => {
        const radius = Math.sqrt(-2 * Math.log(1 - next()));
        return deviation * radius * Math.cos(2 * Math.PI * next());
      }),
    integer,
    integers: (count, low, high) => Int32Array.from({ length: count }, () => integer(low, high)),
    distinct: (count, below) => {
      if (count > below) throw new Error(`${count} different integers below ${below}`);
      const all = Int32Array.from({ length: below }, (_, i) => i);
      for (let i = 0; i < count; i++) {
        const j = integer(i, below);
        [all[i], all[j]] = [all[j]!, all[i]!];
      }
      return all.slice(0, count);
    },
  };
}

/** The values as an activation of this dtype holds them: what both devices are to start from. */
export function rounded(dtype: ActivationDType, values: Float32Array): Float32Array {
  return dtype === "bf16" ? fromBFloat16(toBFloat16(values)) : values;
}

/** How far a result may be off: |actual - expected| ≤ absolute + relative · |expected|. */
export interface Budget {
  readonly absolute?: number;
  readonly relative?: number;
  /** What is compared, for the message. */
  readonly name?: string;
  /** Elements a row, for the message to say where. */
  readonly columns?: number;
}

/**
 * Compares element by element; infinities and NaNs must be at the same places.
 * @throws Error that names the element that is furthest beyond its budget.
 */
export function compare(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  { absolute = 0, relative = 0, name = "result", columns }: Budget,
): void {
  if (actual.length !== expected.length) {
    throw new Error(`${name}: ${actual.length} elements, expected ${expected.length}`);
  }
  let worst = -1;
  let worstShare = 1;
  let failures = 0;
  for (let i = 0; i < actual.length; i++) {
    if (Object.is(actual[i], expected[i]) || actual[i] === expected[i]) continue;
    const allowed = absolute + relative * Math.abs(expected[i]!);
    const share = Math.abs(actual[i]! - expected[i]!) / allowed;
    // NaN is further off than anything.
    if (share <= 1 && Number.isFinite(expected[i]!)) continue;
    failures++;
    const comparable = Number.isNaN(share) ? Infinity : share;
    if (worst < 0 || comparable > worstShare) [worst, worstShare] = [i, comparable];
  }
  if (worst < 0) return;
  const place =
    columns === undefined ? `${worst}` : `${Math.floor(worst / columns)}, ${worst % columns}`;
  throw new Error(
    `${name}[${place}] is ${actual[worst]}, expected ${expected[worst]}: off by ` +
      `${Math.abs(actual[worst]! - expected[worst]!)}, ${worstShare.toPrecision(3)} of what ` +
      `absolute ${absolute} and relative ${relative} allow; ${failures} of ${actual.length} elements fail`,
  );
}

/** Fails unless both hold the same bits; much faster than `toEqual` for many elements. */
export function expectSameBits<T extends Float32Array | Uint16Array | Uint32Array>(
  actual: T,
  expected: T,
): void {
  expect(actual.length).toBe(expected.length);
  const [actualBits, expectedBits] = [bitsOf(actual), bitsOf(expected)];
  let differences = 0;
  actualBits.forEach((bits, i) => (differences += Number(bits !== expectedBits[i])));
  expect({ differences }).toEqual({ differences: 0 });
}

const bitsOf = (values: Float32Array | Uint16Array | Uint32Array): Uint16Array | Uint32Array =>
  values instanceof Float32Array
    ? new Uint32Array(values.buffer, values.byteOffset, values.length)
    : values;

/** Bits that no stage writes: NaN as fp32 and as bfloat16, far out of range as an id. */
const POISON = {
  f32: 0x7fc0beef,
  bf16: 0x7fdb,
  i32: 0x7fc0beef,
  u16: 0xdead,
} as const;

/** A tensor of garbage: an element that a stage forgets stays NaN. */
export function poisoned<D extends TensorDType>(
  device: KernelDevice,
  dtype: D,
  shape: readonly number[],
): Tensor<D> {
  return device.tensor(
    dtype,
    shape,
    poison(
      dtype,
      shape.reduce((size, extent) => size * extent, 1),
    ),
  );
}

/** A tensor inside of a larger one that is full of poison. */
export interface Guarded<D extends TensorDType> {
  readonly tensor: Tensor<D>;
  readonly whole: Tensor<D>;
  /** @throws Error when an element outside of `tensor` was written to. */
  check(): void;
}

const GUARD_ROWS = 3;

/**
 * A tensor with poison before its first and behind its last row, and with `columns` also beside every
 * row, so that its rows lie apart. Rows begin on a multiple of 8 elements when `columns` is one.
 * @param options.data contents; default: poison.
 */
export function guarded<D extends TensorDType>(
  device: KernelDevice,
  dtype: D,
  shape: readonly number[],
  { data, columns = 0 }: { readonly data?: TensorData<D>; readonly columns?: number } = {},
): Guarded<D> {
  const [rows, ...inner] = shape;
  const width = inner.reduce((size, extent) => size * extent, 1);
  const stride = columns === 0 ? width : Math.ceil((width + 2 * columns) / 8) * 8;
  const isVector = inner.length === 0;
  const first = isVector ? GUARD_ROWS * 16 : GUARD_ROWS;
  const total = rows! + 2 * first;
  const whole = poisoned(device, dtype, isVector ? [total] : [total, stride]);
  let tensor = whole.rows(first, rows!);
  if (columns > 0) tensor = tensor.columns(columns, width);
  if (inner.length === 2) tensor = tensor.heads(inner[0]!, inner[1]!);
  if (data !== undefined) tensor.write(data);
  const check = (): void => {
    whole.readBits().forEach((bits, i) => {
      const row = Math.floor(i / stride) - first;
      const column = (i % stride) - columns;
      const isInside = row >= 0 && row < rows! && column >= 0 && column < width;
      if (!isInside && bits !== POISON[dtype]) {
        throw new Error(
          `the element at row ${row}, column ${column}, outside of [${shape.join(", ")}], was ` +
            `overwritten with bits 0x${bits.toString(16)}`,
        );
      }
    });
  };
  return { tensor, whole, check };
}

function poison<D extends TensorDType>(dtype: D, length: number): TensorData<D> {
  const is16Bit = dtype === "bf16" || dtype === "u16";
  const bits = (is16Bit ? new Uint16Array(length) : new Uint32Array(length)).fill(POISON[dtype]);
  if (dtype === "f32") return new Float32Array(bits.buffer) as TensorData<D>;
  if (dtype === "i32") return new Int32Array(bits.buffer) as TensorData<D>;
  return bits as TensorData<D>;
}
