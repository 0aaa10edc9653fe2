import { toBFloat16 } from "../../kernels/float_bits";

/** Numbers that are drawn; longer data repeats them from a random place on. */
const POOL = 2 ** 18;

/** Seeded input of benches: zeroes would let hardware run faster than real data does. */
export class RandomData {
  readonly #normals = new Float32Array(POOL);
  #bits: Uint16Array | undefined;
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0;
    for (let i = 0; i < POOL; i += 2) {
      const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
      const angle = 2 * Math.PI * this.uniform();
      this.#normals[i] = radius * Math.cos(angle);
      this.#normals[i + 1] = radius * Math.sin(angle);
    }
  }

  /** Normally distributed numbers. */
  normals(count: number, deviation = 1): Float32Array {
    const values = this.#repeat(this.#normals, new Float32Array(count));
    if (deviation === 1) return values;
    for (let i = 0; i < count; i++) values[i]! *= deviation;
    return values;
  }

  /** The same as bits of bfloat16. */
  bfloat16(count: number): Uint16Array {
    this.#bits ??= toBFloat16(this.#normals);
    return this.#repeat(this.#bits, new Uint16Array(count));
  }

  /** Token ids. */
  tokens(count: number, vocabSize: number): Int32Array {
    return Int32Array.from({ length: count }, () => this.integer(vocabSize));
  }

  /** An integer in [0, below). */
  integer(below: number): number {
    return Math.floor(this.uniform() * below);
  }

  /** A time between two events that come independently of one another, `mean` apart. */
  interval(mean: number): number {
    return -Math.log(1 - this.uniform()) * mean;
  }

  #repeat<T extends Float32Array | Uint16Array>(pool: T, data: T): T {
    let begin = this.integer(POOL);
    for (let done = 0; done < data.length; begin = 0) {
      const part = pool.subarray(begin, begin + data.length - done);
      data.set(part, done);
      done += part.length;
    }
    return data;
  }

  /** A number in [0, 1), by SplitMix32. */
  uniform(): number {
    this.#state = (this.#state + 0x9e3779b9) | 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
  }
}
