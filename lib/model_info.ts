import type { CacheUsage, NativeRoom, ModelDtype } from "./binding";
import type { HymbaConfig } from "./checkpoint/config";
import type { DeviceInfo } from "./device";
import type { MemoryPlan } from "./load_options";

/** Limits that a model was loaded with. */
export interface ModelLimits {
  readonly maxSequences: number;
  readonly maxContextTokens: number;
  readonly maxBatchTokens: number;
  readonly cacheTokens: number;
}

/**
 * The memory of a GPU at one moment, as its driver counts it (and `nvidia-smi` shows it): what all
 * models and all processes use.
 */
export interface DeviceMemory {
  readonly totalBytes: number;
  readonly usedBytes: number;
  /**
   * The part of `usedBytes` that is not in this model's plan: CUDA's context and the code of the
   * kernels, half a gigabyte on an H100, and what other models and other processes use.
   */
  readonly otherBytes: number;
  /** What one more model may take: what is free, but for what CUDA takes while a model runs. */
  readonly availableBytes: number;
}

/** What a model is, where it runs and what it holds. */
export interface ModelInfo {
  readonly path: string;
  readonly device: DeviceInfo;
  readonly dtype: ModelDtype;
  readonly parameters: number;
  readonly config: HymbaConfig;
  readonly limits: ModelLimits;
  readonly memory: MemoryPlan;
  /** Of the GPU; undefined on the CPU. */
  readonly deviceMemory: DeviceMemory | undefined;
  readonly cache: CacheUsage;
}

/** The memory of a device with `room`, on which a model's plan is of `plannedBytes`. */
export function deviceMemory(
  room: NativeRoom | null,
  plannedBytes: number,
): DeviceMemory | undefined {
  if (room === null) return undefined;
  const { totalBytes, freeBytes, availableBytes } = room;
  const usedBytes = totalBytes - freeBytes;
  return { totalBytes, usedBytes, otherBytes: usedBytes - plannedBytes, availableBytes };
}
