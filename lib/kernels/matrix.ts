import { callNative, type NativeKernelDevice } from "../binding";
import { checkChoice, checkInteger, checkObject, show } from "../validate";
import { toBFloat16, toFloat16 } from "./float_bits";
import type { ActivationDType } from "./tensor";

/** The dtypes that checkpoints store weights in. */
export type WeightDType = "f32" | "bf16" | "f16";

/** Rows of a weight matrix, on the host. */
export interface MatrixBlock {
  /** Output features. */
  readonly rows: number;
  /** Input features. */
  readonly cols: number;
  /** What a checkpoint would store it in. */
  readonly dtype: WeightDType;
  /** [rows, cols], row after row; rounded to the nearest value of `dtype`, to even between two. */
  readonly data: Float32Array;
}

const MAX_EXTENT = 2 ** 31 - 1;
const MAX_BLOCKS = 2;

// As for tensors: a matrix goes when nobody can use it any more.
const collected = new FinalizationRegistry<{
  readonly native: NativeKernelDevice;
  readonly id: number;
}>(({ native, id }) => native.release(id));

/**
 * A weight matrix in the form that its device multiplies by. Made by {@link KernelDevice.matrix};
 * given back when it is collected, or by `dispose`.
 */
export class Matrix {
  /** Output features of one block. */
  readonly rows: number;
  /** Input features. */
  readonly cols: number;
  /** Two when a gate and an up projection are stacked, else one. */
  readonly numBlocks: number;
  /** What its elements were stored in. */
  readonly dtype: WeightDType;
  /** The dtype of the activations that it can be multiplied by. */
  readonly activations: ActivationDType;
  readonly #native: NativeKernelDevice;
  readonly #id: number;

  /** @internal */
  constructor(
    native: NativeKernelDevice,
    blocks: readonly MatrixBlock[],
    activations: ActivationDType,
  ) {
    const first = checkBlocks(blocks);
    this.rows = first.rows;
    this.cols = first.cols;
    this.numBlocks = blocks.length;
    this.dtype = first.dtype;
    this.activations = checkChoice("activations", activations, ["f32", "bf16"]);
    this.#native = native;
    const nativeBlocks = blocks.map(({ rows, cols, dtype, data }) => {
      const { buffer, byteOffset, byteLength } = toWeightBits(dtype, data);
      return { rows, cols, dtype, bytes: new Uint8Array(buffer, byteOffset, byteLength) };
    });
    this.#id = callNative(() => native.importMatrix(nativeBlocks, activations));
    collected.register(this, { native, id: this.#id });
  }

  /** Gives the memory back at once. Idempotent. */
  dispose(): void {
    this.#native.release(this.#id);
  }

  /** `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal Whether it was imported on this device. */
  belongsTo(native: NativeKernelDevice): boolean {
    return this.#native === native;
  }

  /** @internal */
  toNative(): number {
    return this.#id;
  }
}

function checkBlocks(blocks: readonly MatrixBlock[]): MatrixBlock {
  if (!Array.isArray(blocks)) throw new TypeError(`blocks must be an array, got ${show(blocks)}`);
  const first = (blocks as readonly MatrixBlock[])[0];
  if (first === undefined || blocks.length > MAX_BLOCKS) {
    throw new RangeError(`blocks must have 1 or ${MAX_BLOCKS} elements, got ${blocks.length}`);
  }
  (blocks as readonly MatrixBlock[]).forEach((block, i) => {
    const name = `blocks[${i}]`;
    checkObject(name, block);
    checkInteger(`${name}.rows`, block.rows, 1, MAX_EXTENT);
    checkInteger(`${name}.cols`, block.cols, 1, MAX_EXTENT);
    checkChoice(`${name}.dtype`, block.dtype, ["f32", "bf16", "f16"]);
    if (!(block.data instanceof Float32Array)) {
      throw new TypeError(`${name}.data must be a Float32Array, got ${show(block.data)}`);
    }
    if (block.data.length !== block.rows * block.cols) {
      throw new RangeError(
        `${name}.data must have ${block.rows} · ${block.cols} elements, got ${block.data.length}`,
      );
    }
    if (block.rows !== first.rows || block.cols !== first.cols || block.dtype !== first.dtype) {
      throw new RangeError(`${name} must have the shape and the dtype of blocks[0]`);
    }
  });
  return first;
}

function toWeightBits(dtype: WeightDType, data: Float32Array): Float32Array | Uint16Array {
  switch (dtype) {
    case "f32":
      return data;
    case "bf16":
      return toBFloat16(data);
    case "f16":
      return toFloat16(data);
  }
}
