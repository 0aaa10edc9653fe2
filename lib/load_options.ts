import type { ModelDtype, NativeLoadOptions, NativeMemory } from "./binding";
import type { Checkpoint } from "./checkpoint/checkpoint";
import type { DeviceRequest } from "./device";
import {
  checkBoolean,
  checkCallback,
  checkChoice,
  checkInteger,
  checkObject,
  checkSignal,
} from "./validate";

/** How far the loading of a model is. */
export interface LoadProgress {
  /** What is being done, for people to read. */
  readonly stage: string;
  /** 0 to 1. */
  readonly fraction: number;
}

/** Where a model runs, its limits and its precision; together they decide how much memory it takes. */
export interface MemoryOptions {
  /** Where to run. Default `auto`: a usable GPU, else the CPU. */
  readonly device?: DeviceRequest;
  /** Precision of activations, K/V and convolution state. Default `bfloat16`. */
  readonly dtype?: ModelDtype;
  /** Sequences that can exist at a time, 1 to 65,535. Default 16. */
  readonly maxSequences?: number;
  /** Text tokens that a sequence can have, from 1. Default the model's `max_position_embeddings`. */
  readonly maxContextTokens?: number;
  /** Tokens that are worked through together, from 1. Default 2,048. */
  readonly maxBatchTokens?: number;
  /**
   * Text tokens of all sequences together that the layers with full attention have room for.
   * Default `maxSequences · maxContextTokens`, so that the cache is never full; with less, a call
   * can fail with ERR_OUT_OF_MEMORY.
   */
  readonly cacheTokens?: number;
  /**
   * Memory for snapshots of the prefix cache of engines, besides what sequences leave idle: as many
   * as it holds of `memoryPlan().snapshotBytes` each are there even when `maxSequences` run. From 0.
   * Default that of `maxSequences` snapshots, but no more than 8.
   */
  readonly prefixCacheBytes?: number;
}

/** Options of `HymbaModel.load`. */
export interface LoadOptions extends MemoryOptions {
  /** Threads of the CPU backend, 1 to 1,024. Default one for each core. */
  readonly threads?: number;
  /**
   * Fails when the model has no tokenizer, before its weights are loaded. Default false: it is
   * missed when text is first used.
   */
  readonly requireTokenizer?: boolean;
  /** Called now and then while the model is loading. */
  readonly onProgress?: (progress: LoadProgress) => void;
  /** Gives up loading. */
  readonly signal?: AbortSignal;
}

/** Bytes that a model takes. */
export interface MemoryPlan {
  /** Weights in their stored precision, and what is derived from them. On the CPU most of it is the mapped file. */
  readonly weightsBytes: number;
  /** All pages and state slots. */
  readonly cacheBytes: number;
  readonly workspaceBytes: number;
  readonly totalBytes: number;
  /** K/V of the meta tokens, which all sequences share; part of `cacheBytes`. */
  readonly metaKvBytes: number;
  /** States and window K/V of a snapshot, the unit of `prefixCacheBytes`. */
  readonly snapshotBytes: number;
  /** What one sequence of `contextTokens` tokens holds. */
  readonly perSequence: {
    readonly contextTokens: number;
    readonly globalKvBytes: number;
    readonly windowKvBytes: number;
    /** Both K/V together. */
    readonly kvBytes: number;
    /** The same in whole pages, as it is allocated. */
    readonly kvPageBytes: number;
    readonly ssmStateBytes: number;
    readonly convStateBytes: number;
    /** K/V and states. */
    readonly totalBytes: number;
  };
}

const MAX_INT32 = 2 ** 31 - 1;

/**
 * What the addon is told about a checkpoint besides the device, with defaults filled in.
 * @throws TypeError, RangeError when an option is wrong.
 */
export function nativeLoadOptions(
  checkpoint: Checkpoint,
  options: LoadOptions,
): Omit<NativeLoadOptions, "device"> {
  checkObject("options", options);
  checkSignal("options.signal", options.signal);
  checkCallback("options.onProgress", options.onProgress);
  checkBoolean("options.requireTokenizer", options.requireTokenizer ?? false);
  const integer = (name: keyof LoadOptions, fallback: number, max: number, min = 1): number =>
    checkInteger(`options.${name}`, options[name] ?? fallback, min, max);
  const maxSequences = integer("maxSequences", 16, 65_535);
  const maxContextTokens = integer(
    "maxContextTokens",
    checkpoint.config.maxPositionEmbeddings,
    MAX_INT32,
  );
  return {
    config: checkpoint.config,
    files: checkpoint.files,
    tensors: checkpoint.tensors,
    seed: checkpoint.seed,
    dtype: checkChoice("options.dtype", options.dtype ?? "bfloat16", ["bfloat16", "float32"]),
    maxSequences,
    maxContextTokens,
    maxBatchTokens: integer("maxBatchTokens", 2048, MAX_INT32),
    cacheTokens: options.cacheTokens === undefined ? 0 : integer("cacheTokens", 0, 2 ** 53 - 1),
    prefixCacheBytes:
      options.prefixCacheBytes === undefined ? -1 : integer("prefixCacheBytes", 0, 2 ** 53 - 1, 0),
    threads: options.threads === undefined ? 0 : integer("threads", 0, 1024),
  };
}

/** What `options.device` asks for. */
export function deviceRequest({ device = "auto" }: MemoryOptions): DeviceRequest {
  return checkChoice("options.device", device, ["auto", "cpu", "cuda"]);
}

/** The plan in the words of the public API. */
export function toMemoryPlan(memory: NativeMemory): MemoryPlan {
  const { weightsBytes, cacheBytes, workspaceBytes, metaKvBytes, snapshotBytes } = memory;
  const { contextTokens, globalKvBytes, windowKvBytes, ssmStateBytes, convStateBytes } = memory;
  const kvBytes = globalKvBytes + windowKvBytes;
  return {
    weightsBytes,
    cacheBytes,
    workspaceBytes,
    totalBytes: weightsBytes + cacheBytes + workspaceBytes,
    metaKvBytes,
    snapshotBytes,
    perSequence: {
      contextTokens,
      globalKvBytes,
      windowKvBytes,
      kvBytes,
      kvPageBytes: memory.globalKvPageBytes + memory.windowKvPageBytes,
      ssmStateBytes,
      convStateBytes,
      totalBytes: kvBytes + ssmStateBytes + convStateBytes,
    },
  };
}
