import type { HymbaConfig } from "../../checkpoint/config";
import { addKeys, visibleKeys, type VisibleKeys } from "../../cost/keys";
import type {
  ActivationDType,
  Batch,
  KernelDevice,
  KvLayerView,
  Matrix,
  Tensor,
  TensorDType,
} from "../../kernels";
import { PAGE_TOKENS, pagesFor } from "../../steps";
import type { RandomData } from "./random";

/** Tokens that a stage works on: one of each of many sequences, or prompts. */
export interface Load {
  readonly mode: "decode" | "prefill";
  /** T, of all sequences together. */
  readonly tokens: number;
  /** S. */
  readonly sequences: number;
  /** Text tokens that each sequence has before these. */
  readonly context: number;
}

/** Tokens of each sequence. In a prefill the lengths are as 1 to 2 to 3 and so on. */
export function lengthsOf({ mode, tokens, sequences }: Load): number[] {
  if (mode === "decode") return Array<number>(sequences).fill(1);
  const end = (span: number) =>
    Math.floor((tokens * span * (span + 1)) / (sequences * (sequences + 1)));
  return Array.from({ length: sequences }, (_, span) => end(span + 1) - end(span));
}

/** Rows that a GEMM reads begin on a multiple of 16 bytes. */
const ROW_ELEMENTS = 8;

/** What all inputs of one bench have in common. */
export interface InputSource {
  readonly device: KernelDevice;
  readonly dtype: ActivationDType;
  readonly config: HymbaConfig;
  readonly random: RandomData;
}

/** Matrices by name: they serve several loads, and take long to bring to the device. */
export class Weights {
  readonly #source: InputSource;
  readonly #matrices = new Map<string, Matrix>();

  constructor(source: InputSource) {
    this.#source = source;
  }

  /** A random matrix [rows, cols], or several stacked: always the same one by the same name. */
  get(name: string, rows: number, cols: number, blocks = 1): Matrix {
    const { device, dtype, random } = this.#source;
    const known = this.#matrices.get(name);
    if (known !== undefined) return known;
    const block = { rows, cols, dtype: "bf16" as const };
    const matrix = device.matrix(
      Array.from({ length: blocks }, () => ({
        ...block,
        data: random.normals(rows * cols, 1 / Math.sqrt(cols)),
      })),
      dtype,
    );
    this.#matrices.set(name, matrix);
    return matrix;
  }

  [Symbol.dispose](): void {
    for (const matrix of this.#matrices.values()) matrix.dispose();
  }
}

/**
 * Random arguments for one call of a stage, shaped as in the forward pass of a model. Gives all
 * memory but that of the weights back when it is disposed of.
 */
export class Inputs {
  readonly config: HymbaConfig;
  readonly load: Load;
  readonly #source: InputSource;
  readonly #weights: Weights;
  readonly #copy: number;
  readonly #tensors: Tensor[] = [];
  readonly #activations: Tensor<ActivationDType>[] = [];
  readonly #shared: readonly Tensor<ActivationDType>[];

  /**
   * @param copy number of this set of arguments: each has matrices and a cache of its own.
   * @param first the first set of the same call, whose activations all share: in a step, the stage before has just
   * written them, and caches hold them.
   */
  constructor(source: InputSource, weights: Weights, load: Load, copy: number, first?: Inputs) {
    this.config = source.config;
    this.load = load;
    this.#source = source;
    this.#weights = weights;
    this.#copy = copy;
    this.#shared = first === undefined ? [] : first.#activations;
  }

  /** A weight matrix. */
  matrix(rows: number, cols: number, blocks = 1): Matrix {
    return this.#weights.get(`${this.#copy}: ${rows} ${cols}`, rows, cols, blocks);
  }

  /** Activations [rows, cols]; rows are T unless said otherwise. */
  activations(cols: number, rows = this.load.tokens): Tensor<ActivationDType> {
    const shared = this.#shared[this.#activations.length];
    const activations = shared ?? this.#newActivations(cols, rows);
    this.#activations.push(activations);
    return activations;
  }

  #newActivations(cols: number, rows: number): Tensor<ActivationDType> {
    const { dtype, random } = this.#source;
    const stride = Math.ceil(cols / ROW_ELEMENTS) * ROW_ELEMENTS;
    const whole: Tensor<ActivationDType> = this.#tensor(dtype, [rows, stride]);
    if (dtype === "bf16") (whole as Tensor<"bf16">).write(random.bfloat16(whole.length));
    else whole.write(random.normals(whole.length));
    return stride === cols ? whole : whole.columns(0, cols);
  }

  /** Random fp32 numbers. */
  floats(shape: readonly number[], deviation = 1): Tensor<"f32"> {
    const tensor = this.#tensor("f32", shape);
    tensor.write(this.#source.random.normals(tensor.length, deviation));
    return tensor;
  }

  /** Integers [n], or [n, columns]. */
  integers(values: Int32Array | readonly number[], columns?: number): Tensor<"i32"> {
    const shape = columns === undefined ? [values.length] : [values.length / columns, columns];
    const tensor = this.#tensor("i32", shape);
    tensor.write(Int32Array.from(values));
    return tensor;
  }

  /** Zeroes, for what a stage writes or counts in. */
  zeroes<D extends TensorDType>(dtype: D, shape: readonly number[]): Tensor<D> {
    return this.#tensor(dtype, shape);
  }

  /** Random token ids [T]. */
  tokenIds(): Tensor<"i32"> {
    return this.integers(this.#source.random.tokens(this.load.tokens, this.config.vocabSize));
  }

  /** The sequences; each goes on from its own state slot. */
  batch(): Batch {
    const { tokens, sequences, context } = this.load;
    const first = this.config.numMetaTokens + context;
    const offsets = [0];
    const positions: number[] = [];
    const tokenSpans: number[] = [];
    for (const [span, length] of lengthsOf(this.load).entries()) {
      offsets.push(offsets[span]! + length);
      for (let t = 0; t < length; t++) {
        positions.push(first + t);
        tokenSpans.push(span);
      }
    }
    const slots = Array.from({ length: sequences }, (_, span) => span);
    return {
      numTokens: tokens,
      numSpans: sequences,
      positions: this.integers(positions),
      tokenSpans: this.integers(tokenSpans),
      spanOffsets: this.integers(offsets),
      stateSource: this.integers(slots),
      stateSlot: this.integers(slots),
    };
  }

  /** A full cache, and what the queries see of it. @param window -1: all. */
  cache(window: number): { readonly kv: KvLayerView; readonly keys: VisibleKeys } {
    const { numKvHeads, headDim, valueHeadDim, numMetaTokens } = this.config;
    const { sequences, context, mode } = this.load;
    const lengths = lengthsOf(this.load);
    const metaColumns = pagesFor(numMetaTokens);
    const textPages = pagesFor(context + Math.max(...lengths));
    const ring = pagesFor(window) + 1;
    const ringColumns = window >= 0 && mode === "decode" ? Math.min(textPages, ring) : textPages;
    const pages = metaColumns + sequences * ringColumns;
    // All sequences share the meta pages, which come first.
    const table = Array.from({ length: sequences }, (_, sequence) =>
      Array.from({ length: metaColumns + ringColumns }, (_, column) =>
        column < metaColumns ? column : column + sequence * ringColumns,
      ),
    );
    const kv = {
      pool: this.activations(numKvHeads * PAGE_TOKENS * (headDim + valueHeadDim), pages),
      numLayers: 1,
      layerIdx: 0,
      numKvHeads,
      headDim,
      valueHeadDim,
      pageTable: this.integers(table.flat(), metaColumns + ringColumns),
      numMetaTokens,
      metaColumns,
      ringColumns,
    };
    const seen = lengths.map((length) => visibleKeys(context, length, window, numMetaTokens));
    return { kv, keys: addKeys(seen) };
  }

  [Symbol.dispose](): void {
    for (const tensor of this.#tensors) tensor.dispose();
  }

  #tensor<D extends TensorDType>(dtype: D, shape: readonly number[]): Tensor<D> {
    const tensor = this.#source.device.tensor(dtype, shape);
    this.#tensors.push(tensor);
    return tensor;
  }
}
