import { join } from "node:path";

/** What the native cache is laid out for: `KvLayoutOptions` of native/cache/kv_layout.h. */
export interface LayoutOptions {
  readonly layers: readonly { readonly global: boolean; readonly kvProducer: number }[];
  readonly numMetaTokens: number;
  readonly slidingWindow: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly valueHeadDim: number;
  readonly innerSize: number;
  readonly stateSize: number;
  readonly convWidth: number;
  readonly kvElementBytes: number;
  readonly actElementBytes: number;
  readonly maxSequences: number;
  readonly maxContextTokens: number;
  readonly maxBatchTokens: number;
  readonly cacheTokens: number;
  readonly prefixCacheBytes: number;
}

export type PoolName = "global" | "window";

export interface PoolLayout {
  readonly numLayers: number;
  readonly metaColumns: number;
  readonly ringColumns: number;
  readonly numPages: number;
  readonly pageBytes: number;
  readonly bytes: number;
}

export interface Layout extends Readonly<Record<PoolName, PoolLayout>> {
  readonly layers: readonly {
    readonly pool: PoolName;
    readonly poolIdx: number;
    readonly isProducer: boolean;
    readonly window: number;
  }[];
  readonly windowRingPages: number;
  readonly maxPrefillSpans: number;
  readonly numReservedSnapshots: number;
  readonly snapshotBytes: number;
  readonly numStateSlots: number;
  readonly ssmSlotBytes: number;
  readonly convSlotBytes: number;
  readonly stateBytes: number;
  readonly metaKvBytes: number;
  readonly metaKvPageBytes: number;
}

export interface SpanRequest {
  readonly id: number;
  readonly numTokens: number;
  readonly generated: boolean;
}

export interface StepTables {
  readonly positions: Int32Array;
  readonly tokenSpans: Int32Array;
  readonly spanOffsets: Int32Array;
  readonly stateSource: Int32Array;
  readonly stateSlot: Int32Array;
  readonly isGenerated: Int32Array;
  readonly fresh: Int32Array;
  readonly globalPages: Int32Array;
  readonly windowPages: Int32Array;
}

type Usage = { readonly used: number; readonly kept: number; readonly total: number };
type Copies = readonly { readonly from: number; readonly to: number }[];

export interface CacheLedger {
  layout(): Layout;
  bytesPerSequence(contextTokens: number): {
    readonly globalKv: number;
    readonly globalKvPages: number;
    readonly windowKv: number;
    readonly windowKvPages: number;
    readonly ssm: number;
    readonly conv: number;
  };
  create(): number;
  createCold(): number;
  adoptPrefix(id: number): void;
  release(id: number): void;
  /** -1: there was no room. */
  snapshot(id: number, proven: boolean): number;
  retire(id: number): void;
  resume(snapshot: number): number;
  isSnapshot(id: number): boolean;
  takeCopies(): Readonly<Record<PoolName | "slots", Copies>>;
  createAt(length: number): number;
  holdings(id: number): Readonly<Record<PoolName, readonly number[]>> & { readonly slot: number };
  ownPages(id: number): number;
  length(id: number): number;
  position(id: number): number;
  beginStep(requests: readonly SpanRequest[]): void;
  tables(): StepTables;
  endStep(): void;
  cancelStep(): void;
  usage(): {
    readonly sequences: Usage;
    readonly stateSlots: Usage;
    readonly globalPages: Usage;
    readonly windowPages: Usage;
  };
}

/** Default `use`. */
export type Hold = "use" | "keep";

export interface RefcountPool {
  acquire(hold?: Hold): number;
  retain(id: number, hold?: Hold): void;
  release(id: number, hold?: Hold): boolean;
  numHolders(id: number): number;
  numFree(): number;
  numUsed(): number;
  numKept(): number;
}

interface NativeCache {
  readonly CacheLedger: new (options: LayoutOptions) => CacheLedger;
  readonly RefcountPool: new (capacity: number) => RefcountPool;
}

const loadAddon = jest.requireActual<(root: string) => NativeCache>("node-gyp-build");

/** The addon's doors to the cache's bookkeeping. */
export const { CacheLedger, RefcountPool } = loadAddon(join(__dirname, "..", ".."));

/** Tokens in a page. */
export const pageTokens = 64;

/** Layers that attend to everything where `global` says so, and share K/V within `groups`. */
export function makeLayers(
  numLayers: number,
  global: readonly number[],
  groups: readonly (readonly number[])[],
): LayoutOptions["layers"] {
  return Array.from({ length: numLayers }, (_, layer) => ({
    global: global.includes(layer),
    kvProducer: groups.find((group) => group.includes(layer))?.[0] ?? layer,
  }));
}

/** Hymba-1.5B in bfloat16. */
export const hymba15b: LayoutOptions = {
  layers: makeLayers(
    32,
    [0, 15, 31],
    [
      ...[1, 3, 5, 7, 9, 11, 13].map((first) => [first, first + 1]),
      [16, 17, 18],
      ...[19, 21, 23, 25, 27, 29].map((first) => [first, first + 1]),
    ],
  ),
  numMetaTokens: 128,
  slidingWindow: 1024,
  numKvHeads: 5,
  headDim: 64,
  valueHeadDim: 128,
  innerSize: 3200,
  stateSize: 16,
  convWidth: 4,
  kvElementBytes: 2,
  actElementBytes: 2,
  maxSequences: 64,
  maxContextTokens: 8192,
  maxBatchTokens: 2048,
  cacheTokens: 0,
  prefixCacheBytes: 0,
};

/** The eight layers of the golden micro model. */
export const micro: LayoutOptions = {
  layers: makeLayers(
    8,
    [0, 4, 7],
    [
      [1, 2, 3],
      [5, 6],
    ],
  ),
  numMetaTokens: 16,
  slidingWindow: 32,
  numKvHeads: 1,
  headDim: 64,
  valueHeadDim: 128,
  innerSize: 256,
  stateSize: 16,
  convWidth: 4,
  kvElementBytes: 4,
  actElementBytes: 4,
  maxSequences: 4,
  maxContextTokens: 512,
  maxBatchTokens: 256,
  cacheTokens: 0,
  prefixCacheBytes: 0,
};
