/**
 * The generator of native/core/synthetic.h once more, from its description: what it says about
 * reproducibility is tested by two implementations giving the same bits.
 */

const STEP = 0x9e3779b97f4a7c15n;

const wrap = (value: bigint): bigint => BigInt.asUintN(64, value);

function mix(bits: bigint): bigint {
  bits = wrap((bits ^ (bits >> 30n)) * 0xbf58476d1ce4e5b9n);
  bits = wrap((bits ^ (bits >> 27n)) * 0x94d049bb133111ebn);
  return bits ^ (bits >> 31n);
}

/** 64 random bits of element `index` of a stream. */
export function syntheticBits(seed: number, stream: number, index: number): bigint {
  const start = mix(wrap(BigInt(seed) + STEP * BigInt(stream + 1)));
  return mix(wrap(start + STEP * BigInt(index)));
}

/** Element `index` of a tensor filled with `normal`, in fp32. */
export function syntheticNormal(
  seed: number,
  stream: number,
  index: number,
  scale: number,
): number {
  const bits = syntheticBits(seed, stream, index);
  let sum = -2 * 0xffff;
  for (let shift = 0n; shift < 64n; shift += 16n) sum += Number((bits >> shift) & 0xffffn);
  const inverseDeviation = Math.fround(2.6428997e-5);
  return Math.fround(sum * Math.fround(Math.fround(scale) * inverseDeviation));
}

/** A number rounded to bfloat16, to nearest even. */
export function toBfloat16(value: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value);
  const bits = view.getUint32(0);
  view.setUint32(0, ((bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000) >>> 0);
  return view.getFloat32(0);
}
