/** Conversions between fp32 and the two 16-bit formats, as native/core/dtype.h does them. */

/**
 * Bits of the nearest bfloat16 of each number, to even between two equally near ones. NaN stays NaN.
 * @param values rounded to fp32 first.
 */
export function toBFloat16(values: ArrayLike<number>): Uint16Array {
  return roundEach(values, (word) => {
    const isNaN = (word & 0x7fffffff) > 0x7f800000;
    return (isNaN ? word | 0x00400000 : word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  });
}

/** The numbers whose bfloat16 bits are given: exact. */
export function fromBFloat16(bits: ArrayLike<number>): Float32Array {
  const words = new Uint32Array(bits.length);
  for (let i = 0; i < words.length; i++) words[i] = (bits[i] ?? 0) << 16;
  return new Float32Array(words.buffer);
}

/**
 * Bits of the nearest IEEE half of each number, to even between two equally near ones. NaN stays
 * NaN; from 65520 on it is infinity.
 * @param values rounded to fp32 first.
 */
export function toFloat16(values: ArrayLike<number>): Uint16Array {
  return roundEach(values, (word, value) => {
    const sign = (word >>> 16) & 0x8000;
    const magnitude = word & 0x7fffffff;
    if (magnitude > 0x7f800000) return sign | 0x7e00;
    if (magnitude >= 0x477ff000) return sign | 0x7c00;
    // Below 2^-14: multiples of 2^-24.
    if (magnitude < 0x38800000) return sign | roundToEven(Math.abs(value) * 2 ** 24);
    return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
  });
}

/** The nearest integer of a number from 0 to 2^51: beyond 2^52 doubles have no fraction left. */
function roundToEven(value: number): number {
  return value + 2 ** 52 - 2 ** 52;
}

/** What `round` makes of the bits and the value of each number as fp32. */
function roundEach(
  values: ArrayLike<number>,
  round: (word: number, value: number) => number,
): Uint16Array {
  const floats = values instanceof Float32Array ? values : Float32Array.from(values);
  const words = new Uint32Array(floats.buffer, floats.byteOffset, floats.length);
  const bits = new Uint16Array(floats.length);
  for (let i = 0; i < bits.length; i++) bits[i] = round(words[i] ?? 0, floats[i] ?? 0);
  return bits;
}
