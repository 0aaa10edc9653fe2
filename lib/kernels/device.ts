import os from "node:os";
import { callNative, loadBinding, type NativeKernelDevice } from "../binding";
import { checkBoolean, checkChoice, checkInteger, checkObject, show } from "../validate";
import { Matrix, type MatrixBlock } from "./matrix";
import { toNativeFields } from "./stage_fields";
import type {
  AttentionArgs,
  CausalConv1dArgs,
  CountTokensArgs,
  DtProjArgs,
  EmbedTokensArgs,
  FuseHeadsArgs,
  GatedLinearArgs,
  GatherRowsArgs,
  HybridHeadsArgs,
  LinearArgs,
  NormedProductArgs,
  RecallTokensArgs,
  RememberTokensArgs,
  RmsNormArgs,
  RotaryKvWriteArgs,
  SampleArgs,
  SelectiveScanArgs,
  StageArgs,
  StageName,
  TokenLogprobsArgs,
  XProjArgs,
} from "./stages";
import { type ActivationDType, Tensor, type TensorData, type TensorDType } from "./tensor";

/** How a device is opened. */
export interface KernelDeviceOptions {
  /** Threads of the CPU, 1 to 1024. Default: one for each core. */
  readonly threads?: number;
}

/** How work is timed. */
export interface TimeOptions {
  /** How often it is timed: 1 to 1,000,000. Default 20. */
  readonly iterations?: number;
  /** How often it runs before that: 0 to 1,000,000. Default 3. */
  readonly warmup?: number;
  /**
   * Lets a GPU record the work and replay it, so that the time between two stages is not that of
   * JavaScript. The work must then call the same stages with the same arguments every time; it is
   * called at most twice, within a warm-up of at least two. Default false. On the CPU it changes
   * nothing.
   */
  readonly replay?: boolean;
}

const MAX_RUNS = 1_000_000;
const MAX_THREADS = 1024;
/** Runs until a GPU replays: the first loads the kernels, the second is recorded. */
const RUNS_BEFORE_REPLAY = 2;

/**
 * A device whose memory and stages are at hand one by one.
 *
 * Stages run in the order of their calls. On a GPU they run asynchronously: `read` and `synchronize`
 * wait for them. Calls block the JavaScript thread.
 *
 * A stage throws
 * - TypeError and RangeError when an argument is missing, of the wrong type, of another device or out
 *   of range;
 * - HymbaError ERR_INVALID_ARGUMENT when dtypes, shapes or gaps between rows are not what the stage
 *   takes, ERR_MODEL_UNSUPPORTED when this device cannot do that size, ERR_DISPOSED, ERR_DEVICE_LOST.
 *
 * Numbers that stages read from memory (token ids, positions, page ids, slots, offsets) are trusted:
 * wrong ones are undefined behaviour on CUDA, and in part on the CPU.
 */
export class KernelDevice {
  /** Where it is. */
  readonly kind: "cpu" | "cuda";
  /** Name of the processor. */
  readonly name: string;
  readonly #native: NativeKernelDevice;
  #lastReplayKey = 0;

  private constructor(kind: "cpu" | "cuda", name: string, native: NativeKernelDevice) {
    this.kind = kind;
    this.name = name;
    this.#native = native;
  }

  /**
   * Opens a device: `cpu`, or `cuda`, the first GPU.
   * @throws TypeError, RangeError when an argument is wrong; HymbaError ERR_NO_DEVICE when there is
   * no such device, or none in this build; ERR_UNSUPPORTED_DEVICE, ERR_OUT_OF_MEMORY.
   */
  static open(kind: "cpu" | "cuda", options: KernelDeviceOptions = {}): KernelDevice {
    checkChoice("kind", kind, ["cpu", "cuda"]);
    checkObject("options", options);
    const { threads } = options;
    if (threads !== undefined) checkInteger("options.threads", threads, 1, MAX_THREADS);
    const binding = loadBinding();
    const native = callNative(() => new binding.NativeKernelDevice(kind, threads ?? 0));
    const name =
      kind === "cpu" ? os.cpus()[0]?.model.trim() : binding.probeDevices().devices[0]?.name;
    return new KernelDevice(kind, name ?? kind, native);
  }

  /** Bytes that tensors and matrices hold. */
  get memoryBytes(): number {
    return this.#native.memoryBytes();
  }

  /**
   * A tensor of `shape` [rows, …], one to three extents, without gaps.
   * @param data its elements, row after row; without it they are zeroes.
   * @throws TypeError, RangeError when an argument is wrong; HymbaError ERR_OUT_OF_MEMORY,
   * ERR_DISPOSED, ERR_BUSY.
   */
  tensor<D extends TensorDType>(
    dtype: D,
    shape: readonly number[],
    data?: TensorData<D>,
  ): Tensor<D> {
    const tensor = Tensor.allocate(this.#native, dtype, shape);
    if (data !== undefined) tensor.write(data);
    return tensor;
  }

  /**
   * A weight matrix: one block, or gate and up, which must have the same shape and dtype.
   * @param activations dtype of the activations that it will be multiplied by.
   * @throws TypeError, RangeError when an argument is wrong; HymbaError ERR_OUT_OF_MEMORY,
   * ERR_DISPOSED, ERR_BUSY; ERR_MODEL_UNSUPPORTED for a dtype that the device does not take.
   */
  matrix(blocks: readonly MatrixBlock[], activations: ActivationDType): Matrix {
    return new Matrix(this.#native, blocks, activations);
  }

  /**
   * Copies `from` to `to`, in the order of the stages. They must not overlap.
   * @throws TypeError, RangeError when one is no tensor of this device, when dtype or shape differ, or
   * when there are gaps between rows; HymbaError ERR_DISPOSED.
   */
  copy<D extends TensorDType>(to: Tensor<D>, from: Tensor<D>): void {
    for (const [name, tensor] of [
      ["to", to],
      ["from", from],
    ] as const) {
      if (!(tensor instanceof Tensor)) {
        throw new TypeError(`${name} must be a Tensor, got ${show(tensor)}`);
      }
      if (!tensor.belongsTo(this.#native)) {
        throw new TypeError(`${name} is a tensor of another device`);
      }
    }
    if (to.dtype !== from.dtype || to.shape.join() !== from.shape.join()) {
      const describe = ({ dtype, shape }: Tensor): string => `${dtype} [${shape.join(", ")}]`;
      throw new RangeError(`to is ${describe(to)}, from is ${describe(from)}`);
    }
    const target = to.contiguousBytes("to");
    const source = from.contiguousBytes("from");
    callNative(() =>
      this.#native.copy(
        target.memory,
        target.byteOffset,
        source.memory,
        source.byteOffset,
        source.bytes,
      ),
    );
  }

  /** Embeds tokens: {@link EmbedTokensArgs}. */
  embedTokens(args: EmbedTokensArgs): void {
    this.#run("embedTokens", args);
  }

  /** Picks rows: {@link GatherRowsArgs}. */
  gatherRows(args: GatherRowsArgs): void {
    this.#run("gatherRows", args);
  }

  /** Normalises rows: {@link RmsNormArgs}. */
  rmsNorm(args: RmsNormArgs): void {
    this.#run("rmsNorm", args);
  }

  /** Multiplies by a matrix: {@link LinearArgs}. */
  linear(args: LinearArgs): void {
    this.#run("linear", args);
  }

  /** The first half of an MLP: {@link GatedLinearArgs}. */
  gatedLinear(args: GatedLinearArgs): void {
    this.#run("gatedLinear", args);
  }

  /** Normalises and rotates queries and keys, and writes keys and values to the cache: {@link RotaryKvWriteArgs}. */
  rotaryKvWrite(args: RotaryKvWriteArgs): void {
    this.#run("rotaryKvWrite", args);
  }

  /** Attends to the cache: {@link AttentionArgs}. */
  attention(args: AttentionArgs): void {
    this.#run("attention", args);
  }

  /** Convolves over time: {@link CausalConv1dArgs}. */
  causalConv1d(args: CausalConv1dArgs): void {
    this.#run("causalConv1d", args);
  }

  /** Projects to dt, B and C: {@link XProjArgs}. */
  xProj(args: XProjArgs): void {
    this.#run("xProj", args);
  }

  /** Projects to the step size: {@link DtProjArgs}. */
  dtProj(args: DtProjArgs): void {
    this.#run("dtProj", args);
  }

  /** Runs the recurrence: {@link SelectiveScanArgs}. */
  selectiveScan(args: SelectiveScanArgs): void {
    this.#run("selectiveScan", args);
  }

  /** Runs all heads of a layer, attention and Mamba: {@link HybridHeadsArgs}. */
  hybridHeads(args: HybridHeadsArgs): void {
    this.#run("hybridHeads", args);
  }

  /** Takes the mean of both normalised branches: {@link FuseHeadsArgs}. */
  fuseHeads(args: FuseHeadsArgs): void {
    this.#run("fuseHeads", args);
  }

  /** Normalises rows and multiplies them by a matrix: {@link NormedProductArgs}. */
  normedProduct(args: NormedProductArgs): void {
    this.#run("normedProduct", args);
  }

  /** Fills in tokens that were drawn before: {@link RecallTokensArgs}. */
  recallTokens(args: RecallTokensArgs): void {
    this.#run("recallTokens", args);
  }

  /** Keeps tokens that were drawn: {@link RememberTokensArgs}. */
  rememberTokens(args: RememberTokensArgs): void {
    this.#run("rememberTokens", args);
  }

  /** Counts tokens for the penalties: {@link CountTokensArgs}. */
  countTokens(args: CountTokensArgs): void {
    this.#run("countTokens", args);
  }

  /** Draws tokens: {@link SampleArgs}. */
  sample(args: SampleArgs): void {
    this.#run("sample", args);
  }

  /** Log-probabilities of given tokens: {@link TokenLogprobsArgs}. */
  tokenLogprobs(args: TokenLogprobsArgs): void {
    this.#run("tokenLogprobs", args);
  }

  /**
   * Times what `work` makes the device do, again and again. On a GPU its own clock is read before and
   * after the stages.
   * @param work calls stages, and nothing else of this device or its tensors.
   * @returns milliseconds, one number an iteration.
   * @throws TypeError, RangeError when an argument is wrong; what `work` throws; HymbaError ERR_BUSY
   * within work that is being timed.
   */
  timeMs(work: () => void, options: TimeOptions = {}): number[] {
    if (typeof work !== "function") {
      throw new TypeError(`work must be a function, got ${show(work)}`);
    }
    checkObject("options", options);
    const { iterations = 20, warmup = 3, replay = false } = options;
    checkInteger("options.iterations", iterations, 1, MAX_RUNS);
    checkInteger("options.warmup", warmup, 0, MAX_RUNS);
    checkBoolean("options.replay", replay);
    const replayKey = replay ? ++this.#lastReplayKey : 0;
    const time = (): number => callNative(() => this.#native.elapsedMs(work, replayKey));
    const runsBefore = replay ? Math.max(warmup, RUNS_BEFORE_REPLAY) : warmup;
    for (let i = 0; i < runsBefore; i++) time();
    return Array.from({ length: iterations }, time);
  }

  /**
   * Waits until the device has done everything.
   * @throws HymbaError ERR_DISPOSED, ERR_BUSY, ERR_DEVICE_LOST.
   */
  synchronize(): void {
    callNative(() => this.#native.synchronize());
  }

  /**
   * Gives back the device and all memory on it. Idempotent.
   * @throws HymbaError ERR_BUSY within work that is being timed.
   */
  dispose(): void {
    callNative(() => this.#native.dispose());
  }

  /** `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #run<Stage extends StageName>(stage: Stage, args: StageArgs[Stage]): void {
    const fields = toNativeFields(stage, args, this.#native);
    callNative(() => this.#native.run(stage, fields));
  }
}
