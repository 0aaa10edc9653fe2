import { join } from "node:path";
import nodeGypBuild = require("node-gyp-build");
import type { HymbaConfig } from "./checkpoint/config";
import type { TensorEntry } from "./checkpoint/tensor_table";
import type { DeviceKind } from "./device";
import { HYMBA_ERROR_CODES, HymbaError, type HymbaErrorCode } from "./errors";
import type { NativeSampling } from "./sampling";

/** Which rows of a span's logits are wanted. */
export type LogitsWanted = "none" | "last" | "all";

/** The dtype of activations, K/V and convolution state; SSM state is always fp32. */
export type ModelDtype = "bfloat16" | "float32";

/** What a model is loaded with; everything has been validated. */
export interface NativeLoadOptions {
  readonly config: HymbaConfig;
  readonly files: readonly string[];
  readonly tensors: readonly TensorEntry[];
  readonly seed: number;
  readonly device: DeviceKind;
  readonly dtype: ModelDtype;
  readonly maxSequences: number;
  readonly maxContextTokens: number;
  readonly maxBatchTokens: number;
  /** Text tokens of all sequences together; 0: as many as they can have. */
  readonly cacheTokens: number;
  /** For snapshots, besides what sequences leave idle; -1: the native side decides. */
  readonly prefixCacheBytes: number;
  /** 0: one for each core. */
  readonly threads: number;
}

/** Sizes that the native side works out. */
export interface NativeMemory {
  readonly weightsBytes: number;
  readonly cacheBytes: number;
  readonly workspaceBytes: number;
  readonly contextTokens: number;
  readonly globalKvBytes: number;
  readonly globalKvPageBytes: number;
  readonly windowKvBytes: number;
  readonly windowKvPageBytes: number;
  readonly ssmStateBytes: number;
  readonly convStateBytes: number;
  readonly metaKvBytes: number;
  readonly snapshotBytes: number;
  readonly maxPrefillSpans: number;
  readonly maxLogitBias: number;
}

/** The memory of a GPU, everybody's use counted. */
export interface NativeRoom {
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly availableBytes: number;
}

/** How much of a pool is in use. */
export interface PoolUsage {
  readonly used: number;
  /** Held by nothing but snapshots of the prefix cache, which give it back when it is needed. */
  readonly kept: number;
  readonly total: number;
}

/** How much of the cache is in use. */
export interface CacheUsage {
  /** `kept` are the snapshots; they do not count towards `total`. */
  readonly sequences: PoolUsage;
  readonly stateSlots: PoolUsage;
  readonly globalPages: PoolUsage;
  readonly windowPages: PoolUsage;
}

/**
 * In place of a span's only token: the one that the step before drew for the sequence, whose result
 * need not have arrived yet.
 */
export const SAMPLED_TOKEN = -(2 ** 31);

/** The next tokens of one sequence, and what is wanted for them. */
export interface NativeSpan {
  readonly sequence: number;
  readonly tokens: Int32Array;
  /** Whether the tokens were generated rather than given; penalties tell the two apart. */
  readonly generated: boolean;
  readonly logits: LogitsWanted;
  readonly sampling: NativeSampling | null;
  /** One a token: the token whose log-probability after that row is wanted; -1: none. */
  readonly targets: Int32Array | null;
  /** The most probable tokens that are listed beside each target. */
  readonly targetTops: number;
}

/** What came out of a span. */
export interface NativeSpanResult {
  readonly logits?: Float32Array;
  readonly token?: number;
  readonly logprob?: number;
  readonly topTokens?: Int32Array;
  readonly topLogprobs?: Float32Array;
  /** [targets], those that are not -1. */
  readonly targetLogprobs?: Float32Array;
  /** [targets · targetTops], most probable first. */
  readonly targetTopTokens?: Int32Array;
  readonly targetTopLogprobs?: Float32Array;
}

/** One activation of a traced pass. */
export interface TracedTensor {
  /** Index of the layer. */
  readonly layer: number;
  /** What it is, after the stage that wrote it. */
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** One model on the native side. Calls are carried out in order, on a thread of its own. */
export interface NativeModel {
  load(options: NativeLoadOptions): Promise<void>;
  /** 0 to 1, to be polled while `load` runs. */
  loadProgress(): number;
  /** Makes what runs fail with ERR_ABORTED at its next layer; the model is of no use afterwards. */
  stop(): void;
  memory(): NativeMemory;
  /** At this moment; null on the CPU. */
  room(): NativeRoom | null;
  usage(): CacheUsage;
  createSequence(): number;
  /** Of a sequence or a snapshot. */
  releaseSequence(id: number): void;
  /**
   * The number of a snapshot of the sequence; -1: there was no room. `proven`: more than one text
   * begins with it.
   */
  snapshot(id: number, proven: boolean): number;
  /** Makes the sequence a snapshot, under the same number. */
  retireSequence(id: number): void;
  /** A sequence that goes on from a snapshot, which stands after `tokens`. */
  resume(snapshot: number, tokens: Int32Array): number;
  /** Whether there is such a snapshot still. */
  isSnapshot(id: number): boolean;
  /** A sequence of so many tokens, the image of which has yet to be written. */
  createSequenceAt(length: number): number;
  /** What the cache has of a sequence, after the steps that were handed over before. */
  readSequence(id: number): Promise<Uint8Array>;
  /** Brings that into a sequence of as many tokens, before the steps that are handed over later. */
  writeSequence(id: number, image: Uint8Array): Promise<void>;
  /** Pages of the global pool that no other sequence uses. */
  ownPages(id: number): number;
  /**
   * The sequences have taken the tokens, and the cache is as after the step, when this returns; it
   * throws when the step is refused, and nothing has changed then. The results come later, in the
   * order of the steps, and others may be handed over meanwhile.
   */
  step(spans: readonly NativeSpan[]): Promise<NativeSpanResult[]>;
  trace(tokens: Int32Array, layers: Int32Array): Promise<TracedTensor[]>;
  dispose(): Promise<void>;
}

/** Where a view's elements are, in a memory of a kernel device. */
export interface NativeView {
  readonly memory: number;
  readonly byteOffset: number;
  readonly dtype: "f32" | "bf16" | "i32" | "u16";
  readonly shape: readonly number[];
  /** In elements. */
  readonly rowStride: number;
}

/** A stage's arguments; a matrix is its number. */
export interface NativeStageFields {
  [name: string]: NativeView | NativeStageFields | number | string | boolean;
}

/** A device whose stages are called one by one. Memories and matrices are known by numbers. */
export interface NativeKernelDevice {
  allocate(bytes: number): number;
  importMatrix(
    blocks: readonly {
      readonly rows: number;
      readonly cols: number;
      readonly dtype: "f32" | "bf16" | "f16";
      readonly bytes: Uint8Array;
    }[],
    activations: "f32" | "bf16",
  ): number;
  /** Gives a memory or a matrix back; does nothing for one that was. */
  release(id: number): void;
  memoryBytes(): number;
  upload(memory: number, byteOffset: number, bytes: Uint8Array): void;
  download(memory: number, byteOffset: number, bytes: Uint8Array): void;
  copy(to: number, toOffset: number, from: number, fromOffset: number, bytes: number): void;
  run(stage: string, fields: NativeStageFields): void;
  /** Replayable under a key from 1 on; 0: not. */
  elapsedMs(work: () => void, replayKey: number): number;
  synchronize(): void;
  dispose(): void;
}

/** What the addon was built with. */
export type BuildInfo = Readonly<Record<string, string>>;

/** What the CUDA driver says; versions are null where there is none. */
export interface DeviceProbe {
  readonly driverVersion: string | null;
  readonly runtimeVersion: string | null;
  /** Why no GPU can be used; null when that is not so. */
  readonly problem: string | null;
  readonly devices: readonly {
    readonly name: string;
    readonly computeCapability: string;
    readonly multiprocessors: number;
    readonly memoryBytes: number;
    /** What a model may take at this moment. */
    readonly availableBytes: number;
    /** Why this one cannot be used; null when it can. */
    readonly problem: string | null;
  }[];
}

/** The addon's exports, as native/addon/addon.cpp lists them. */
export interface NativeBinding {
  readonly NativeModel: new () => NativeModel;
  readonly NativeKernelDevice: new (
    device: "cpu" | "cuda",
    /** Of the CPU; 0: one for each core. */
    threads: number,
  ) => NativeKernelDevice;
  planMemory(options: NativeLoadOptions): NativeMemory;
  buildInfo(): BuildInfo;
  probeDevices(): DeviceProbe;
  errorCodes(): string[];
}

/** Folder of the package: this file is in lib/, or compiled in dist/. */
const PACKAGE_FOLDER = join(__dirname, "..");

let loaded: NativeBinding | undefined;

/**
 * The addon, loaded at the first call.
 * @throws HymbaError ERR_INTERNAL when it is not built or does not load, with what to do.
 */
export function loadBinding(): NativeBinding {
  try {
    loaded ??= nodeGypBuild(PACKAGE_FOLDER) as NativeBinding;
    return loaded;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new HymbaError(
      "ERR_INTERNAL",
      `the native addon does not load: ${reason}; build it with \`npm rebuild hymba\``,
      { cause },
    );
  }
}

/** Where the addon is.
 * @throws HymbaError ERR_INTERNAL when there is none. */
export function bindingPath(): string {
  loadBinding();
  return nodeGypBuild.path(PACKAGE_FOLDER);
}

/** Turns an error of the addon into a HymbaError with the stack of the caller; others stay as they are. */
export function fromNative(error: unknown): unknown {
  const code = (error as { code?: unknown } | undefined)?.code;
  if (error instanceof HymbaError || !isErrorCode(code)) return error;
  return new HymbaError(code, (error as Error).message, { cause: error });
}

function isErrorCode(code: unknown): code is HymbaErrorCode {
  return (HYMBA_ERROR_CODES as readonly unknown[]).includes(code);
}

/** Calls into the addon; its errors become HymbaErrors. */
export function callNative<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw fromNative(error);
  }
}

/** The same for a call that gives a promise. */
export async function awaitNative<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    throw fromNative(error);
  }
}
