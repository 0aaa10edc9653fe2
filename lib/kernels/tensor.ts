import { callNative, type NativeKernelDevice, type NativeView } from "../binding";
import { checkInteger, show } from "../validate";
import { fromBFloat16, toBFloat16 } from "./float_bits";

/**
 * Element types on a device: `f32` and `bf16` for numbers, `i32` for ids, positions and tables,
 * `u16` for the history of tokens.
 */
export type TensorDType = "f32" | "bf16" | "i32" | "u16";

/** Element types that activations have. */
export type ActivationDType = "f32" | "bf16";

/** What the elements of a tensor are on the host. */
export type TensorValues<D extends TensorDType> = D extends "i32"
  ? Int32Array
  : D extends "u16"
    ? Uint16Array
    : Float32Array;

/**
 * What can be written to a tensor, one element after the other: its values; for `bf16` also the
 * bits, as a `Uint16Array`; for all dtypes an array of numbers.
 */
export type TensorData<D extends TensorDType> =
  TensorValues<D> | (D extends "bf16" ? Uint16Array : never) | readonly number[];

const MAX_EXTENT = 2 ** 31 - 1;
const MAX_RANK = 3;
const VALUE_ARRAYS = {
  f32: Float32Array,
  bf16: Float32Array,
  i32: Int32Array,
  u16: Uint16Array,
} as const;

/** @internal The tensors' memory on one device. */
export interface TensorMemory {
  readonly native: NativeKernelDevice;
  readonly id: number;
}

interface Layout {
  readonly shape: readonly number[];
  /** Elements between the beginnings of two rows. */
  readonly rowStride: number;
  /** Of the first element, within the memory. */
  readonly byteOffset: number;
}

// Memory goes when the last tensor that sees it is collected.
const collected = new FinalizationRegistry<TensorMemory>(({ native, id }) => native.release(id));

/**
 * Numbers in a device's memory: [rows, …], each row dense, the rows `rowStride` elements apart. Made
 * by {@link KernelDevice.tensor}; `rows`, `columns` and `heads` give further tensors that see the
 * same memory. The memory is given back when all of them have been collected, or by `dispose`.
 *
 * All methods throw a HymbaError ERR_DISPOSED once the tensor or its device was disposed, and
 * ERR_BUSY, but for those that only look at shapes, within work that is being timed.
 */
export class Tensor<D extends TensorDType = TensorDType> {
  readonly dtype: D;
  /** One to three extents, rows first. */
  readonly shape: readonly number[];
  /** Distance of two rows, in elements; more than a row has in a view of some columns. */
  readonly rowStride: number;
  readonly #memory: TensorMemory;
  readonly #byteOffset: number;

  /** @internal */
  constructor(memory: TensorMemory, dtype: D, layout: Layout) {
    this.dtype = dtype;
    this.shape = layout.shape;
    this.rowStride = layout.rowStride;
    this.#memory = memory;
    this.#byteOffset = layout.byteOffset;
  }

  /** @internal New memory, which reads as zeroes. */
  static allocate<D extends TensorDType>(
    native: NativeKernelDevice,
    dtype: D,
    shape: readonly number[],
  ): Tensor<D> {
    checkShape(shape);
    if (!(dtype in VALUE_ARRAYS)) {
      throw new TypeError(
        `dtype must be one of ${Object.keys(VALUE_ARRAYS).join(", ")}, got ${show(dtype)}`,
      );
    }
    const bytes = product(shape) * elementBytes(dtype);
    const memory = { native, id: callNative(() => native.allocate(bytes)) };
    collected.register(memory, { native, id: memory.id });
    return new Tensor(memory, dtype, {
      shape: [...shape],
      rowStride: product(shape.slice(1)),
      byteOffset: 0,
    });
  }

  /** How many elements it has. */
  get length(): number {
    return product(this.shape);
  }

  /** @internal Where its bytes are. @throws RangeError when there are gaps between them. */
  contiguousBytes(name: string): { memory: number; byteOffset: number; bytes: number } {
    if (this.rowStride !== this.#rowElements) {
      throw new RangeError(`${name} must have no gaps between its rows`);
    }
    const bytes = this.length * elementBytes(this.dtype);
    return { memory: this.#memory.id, byteOffset: this.#byteOffset, bytes };
  }

  /** The elements in order, copied to the host; `bf16` as fp32. Waits for the stages before. */
  read(): TensorValues<D> {
    const bits = this.readBits();
    if (this.dtype === "bf16") return fromBFloat16(bits) as TensorValues<D>;
    const ValueArray = VALUE_ARRAYS[this.dtype];
    return new ValueArray(bits.buffer as ArrayBuffer) as TensorValues<D>;
  }

  /** The same as unsigned integers: 16 bits of `bf16` and `u16`, else 32. */
  readBits(): Uint16Array | Uint32Array {
    const whole = this.#download();
    const width = this.#rowElements;
    if (this.rowStride === width) return whole;
    const bits = newBits(this.dtype, this.length);
    for (let row = 0; row < this.#rows; row++) {
      const first = row * this.rowStride;
      bits.set(whole.subarray(first, first + width), row * width);
    }
    return bits;
  }

  /**
   * Overwrites all elements, in order; what lies between the rows of a view stays as it is.
   * @param data numbers are rounded to the dtype: to the nearest `bf16`, to even between two.
   * @throws TypeError when `data` is of another type; RangeError when it has another length.
   */
  write(data: TensorData<D>): void {
    const bits = toBits(this.dtype, data);
    if (bits.length !== this.length) {
      throw new RangeError(
        `data must have ${this.length} elements, shape [${this.shape.join(", ")}], got ${bits.length}`,
      );
    }
    this.#upload(bits);
  }

  /** Sets all elements to one number. */
  fill(value: number): void {
    if (typeof value !== "number") {
      throw new TypeError(`value must be a number, got ${show(value)}`);
    }
    const [one] = toBits(this.dtype, [value]);
    this.#upload(newBits(this.dtype, this.length).fill(one ?? 0));
  }

  /**
   * Rows [first, first + count), as a view.
   * @throws RangeError when there are not that many.
   */
  rows(first: number, count: number): Tensor<D> {
    checkInteger("first", first, 0, this.#rows - 1);
    checkInteger("count", count, 1, this.#rows - first);
    return this.#view([count, ...this.shape.slice(1)], first * this.rowStride);
  }

  /**
   * Columns [first, first + count) of a tensor [rows, columns], as a view with gaps.
   * @throws RangeError when there are not that many.
   */
  columns(first: number, count: number): Tensor<D> {
    const [rows, columns] = this.#matrixShape("columns");
    checkInteger("first", first, 0, columns - 1);
    checkInteger("count", count, 1, columns - first);
    return this.#view([rows, count], first);
  }

  /**
   * A tensor [rows, heads · dim] seen as [rows, heads, dim].
   * @throws RangeError when it has another number of columns.
   */
  heads(heads: number, dim: number): Tensor<D> {
    const [rows, columns] = this.#matrixShape("heads");
    checkInteger("heads", heads, 1, columns);
    checkInteger("dim", dim, 1, columns);
    if (heads * dim !== columns) {
      throw new RangeError(`heads: ${columns} columns are not ${heads} heads of ${dim}`);
    }
    return this.#view([rows, heads, dim], 0);
  }

  /** Gives the memory back at once, also that of the views of it. Idempotent. */
  dispose(): void {
    this.#memory.native.release(this.#memory.id);
  }

  /** `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal Whether it is memory of this device. */
  belongsTo(native: NativeKernelDevice): boolean {
    return this.#memory.native === native;
  }

  /** @internal */
  toNative(): NativeView {
    return {
      memory: this.#memory.id,
      byteOffset: this.#byteOffset,
      dtype: this.dtype,
      shape: this.shape,
      rowStride: this.rowStride,
    };
  }

  get #rows(): number {
    return this.shape[0] ?? 0;
  }

  get #rowElements(): number {
    return product(this.shape.slice(1));
  }

  /** Elements from the first to the last, with the gaps between rows. */
  get #span(): number {
    return (this.#rows - 1) * this.rowStride + this.#rowElements;
  }

  #matrixShape(method: string): readonly [number, number] {
    const [rows, columns] = this.shape;
    if (this.shape.length !== 2 || rows === undefined || columns === undefined) {
      throw new RangeError(
        `${method} needs a tensor [rows, columns], this one is [${this.shape.join(", ")}]`,
      );
    }
    return [rows, columns];
  }

  #view(shape: readonly number[], firstElement: number): Tensor<D> {
    const byteOffset = this.#byteOffset + firstElement * elementBytes(this.dtype);
    // A vector has no stride to speak of.
    const rowStride = shape.length === 1 ? 1 : this.rowStride;
    return new Tensor(this.#memory, this.dtype, { shape, rowStride, byteOffset });
  }

  #download(): Uint16Array | Uint32Array {
    const bits = newBits(this.dtype, this.#span);
    const { native, id } = this.#memory;
    callNative(() => native.download(id, this.#byteOffset, asBytes(bits)));
    return bits;
  }

  #upload(bits: Uint16Array | Uint32Array): void {
    const { native, id } = this.#memory;
    const width = this.#rowElements;
    let whole = bits;
    if (this.rowStride !== width) {
      whole = this.#download();
      for (let row = 0; row < this.#rows; row++) {
        whole.set(bits.subarray(row * width, (row + 1) * width), row * this.rowStride);
      }
    }
    callNative(() => native.upload(id, this.#byteOffset, asBytes(whole)));
  }
}

function checkShape(shape: readonly number[]): void {
  if (!Array.isArray(shape)) throw new TypeError(`shape must be an array, got ${show(shape)}`);
  if (shape.length < 1 || shape.length > MAX_RANK) {
    throw new RangeError(`shape must have 1 to ${MAX_RANK} extents, got ${shape.length}`);
  }
  shape.forEach((extent, i) => checkInteger(`shape[${i}]`, extent, 1, MAX_EXTENT));
}

/** The elements' bits, rounded to the dtype. */
function toBits(dtype: TensorDType, data: unknown): Uint16Array | Uint32Array {
  const values = Array.isArray(data) ? fromNumbers(dtype, data) : data;
  if (dtype === "bf16" && values instanceof Uint16Array) return values;
  const ValueArray = VALUE_ARRAYS[dtype];
  if (!(values instanceof ValueArray)) {
    const also = dtype === "bf16" ? ", a Uint16Array of bits" : "";
    throw new TypeError(
      `data for ${dtype} must be a ${ValueArray.name}${also} or an array of numbers, got ${show(data)}`,
    );
  }
  if (values instanceof Uint16Array) return values;
  if (dtype === "bf16") return toBFloat16(values);
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}

function fromNumbers(dtype: TensorDType, data: readonly unknown[]) {
  for (const [i, value] of data.entries()) {
    if (typeof value !== "number") {
      throw new TypeError(`data[${i}] must be a number, got ${show(value)}`);
    }
    if (dtype === "i32") checkInteger(`data[${i}]`, value, -(2 ** 31), 2 ** 31 - 1);
    if (dtype === "u16") checkInteger(`data[${i}]`, value, 0, 2 ** 16 - 1);
  }
  return VALUE_ARRAYS[dtype].from(data as readonly number[]);
}

function newBits(dtype: TensorDType, length: number): Uint16Array | Uint32Array {
  return elementBytes(dtype) === 2 ? new Uint16Array(length) : new Uint32Array(length);
}

function asBytes(bits: Uint16Array | Uint32Array): Uint8Array {
  return new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength);
}

function elementBytes(dtype: TensorDType): number {
  return dtype === "f32" || dtype === "i32" ? 4 : 2;
}

function product(extents: readonly number[]): number {
  return extents.reduce((size, extent) => size * extent, 1);
}
