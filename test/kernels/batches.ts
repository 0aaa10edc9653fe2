import type { ActivationDType, Batch, KernelDevice, KvLayerView } from "../../lib/kernels";
import { poisoned, random, rounded } from "./numbers";

/** Tokens of one sequence in a ragged batch. */
export interface Span {
  /** How many. */
  readonly tokens: number;
  /** Position of the first one. Default 0. */
  readonly position?: number;
  /** Default: token t of the batch has id t. */
  readonly tokenIds?: readonly number[];
  /** State slot to go on from; -1: from zeroes. Default: -1 at position 0, else `slot`. */
  readonly source?: number;
  /** State slot to end in; -1: a padded lane. Default: the index of the span. */
  readonly slot?: number;
}

/** A batch on the host, that can be brought to several devices. */
export interface HostBatch {
  readonly numTokens: number;
  readonly numSpans: number;
  readonly tokenIds: Int32Array;
  readonly positions: Int32Array;
  readonly tokenSpans: Int32Array;
  readonly spanOffsets: Int32Array;
  readonly stateSource: Int32Array;
  readonly stateSlot: Int32Array;
  on(device: KernelDevice): Batch;
}

/** The batch of these spans, one after the other. */
export function ragged(spans: readonly Span[]): HostBatch {
  const offsets = [0];
  for (const { tokens } of spans) offsets.push(offsets.at(-1)! + tokens);
  const each = (of: (span: Span, index: number, token: number) => number) =>
    Int32Array.from(
      spans.flatMap((span, index) =>
        Array.from({ length: span.tokens }, (_, token) => of(span, index, token)),
      ),
    );
  const arrays = {
    tokenIds: each(({ tokenIds }, index, token) => tokenIds?.[token] ?? offsets[index]! + token),
    positions: each(({ position = 0 }, _, token) => position + token),
    tokenSpans: each((_, index) => index),
    spanOffsets: Int32Array.from(offsets),
    stateSource: Int32Array.from(
      spans,
      ({ position = 0, source, slot }, index) => source ?? (position === 0 ? -1 : (slot ?? index)),
    ),
    stateSlot: Int32Array.from(spans, ({ slot }, index) => slot ?? index),
  };
  const numTokens = offsets.at(-1)!;
  const numSpans = spans.length;
  return {
    numTokens,
    numSpans,
    ...arrays,
    on: (device) => {
      const ints = (values: Int32Array) => device.tensor("i32", [values.length], values);
      return {
        numTokens,
        numSpans,
        tokenIds: ints(arrays.tokenIds),
        positions: ints(arrays.positions),
        tokenSpans: ints(arrays.tokenSpans),
        spanOffsets: ints(arrays.spanOffsets),
        stateSource: ints(arrays.stateSource),
        stateSlot: ints(arrays.stateSlot),
      };
    },
  };
}

const PAGE_TOKENS = 64;
/** Stands where no page is: whoever follows it reads far outside of the pool. */
export const NO_PAGE = 0x7fffffff;

/** Where the pages of some sequences are. */
export interface PageTables {
  /** [sequences, metaColumns + ringColumns] */
  readonly table: Int32Array;
  readonly numPages: number;
  readonly numMetaTokens: number;
  readonly metaColumns: number;
  readonly ringColumns: number;
}

/**
 * Page tables of sequences that have (or are about to have) `lengths` positions, meta tokens
 * included. All share the meta pages; the others are theirs alone, with random ids. Columns without a
 * page hold NO_PAGE.
 * @param options.ringColumns default: as many as the longest sequence needs.
 */
export function pageTables(
  lengths: readonly number[],
  options: {
    readonly numMetaTokens?: number;
    readonly ringColumns?: number;
    /** Pages of the pool that no sequence has. Default 3. */
    readonly sparePages?: number;
    readonly seed?: number;
  } = {},
): PageTables {
  const { numMetaTokens = 0, sparePages = 3, seed = 1 } = options;
  const metaColumns = Math.ceil(numMetaTokens / PAGE_TOKENS);
  const textPages = lengths.map((length) =>
    Math.max(0, Math.ceil((length - numMetaTokens) / PAGE_TOKENS)),
  );
  const ringColumns = options.ringColumns ?? Math.max(1, ...textPages);
  const columns = metaColumns + ringColumns;
  const held = textPages.map((pages) => Math.min(pages, ringColumns));
  const used = metaColumns + held.reduce((sum, pages) => sum + pages, 0);
  const numPages = used + sparePages;
  const ids = [...random(seed).distinct(used, numPages)];
  const meta = ids.splice(0, metaColumns);
  const table = new Int32Array(lengths.length * columns).fill(NO_PAGE);
  held.forEach((pages, sequence) => {
    const row = table.subarray(sequence * columns, (sequence + 1) * columns);
    row.set(meta);
    // In a ring that is not full yet the pages are the first ones; in a full one all are.
    row.set(ids.splice(0, pages), metaColumns);
  });
  return { table, numPages, numMetaTokens, metaColumns, ringColumns };
}

/** The extents of a cache of one layer. */
export interface KvExtents {
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly valueHeadDim: number;
  /** Default 1. */
  readonly numLayers?: number;
  /** Default 0. */
  readonly layerIdx?: number;
}

/** An empty cache behind these tables: a pool of poison, so that what nobody wrote is NaN. */
export function emptyCache(
  device: KernelDevice,
  dtype: ActivationDType,
  tables: PageTables,
  extents: KvExtents,
): KvLayerView {
  const { numKvHeads, headDim, valueHeadDim, numLayers = 1, layerIdx = 0 } = extents;
  const { table, numPages, numMetaTokens, metaColumns, ringColumns } = tables;
  const columns = metaColumns + ringColumns;
  const pageElements = numLayers * numKvHeads * PAGE_TOKENS * (headDim + valueHeadDim);
  return {
    pool: poisoned(device, dtype, [numPages, pageElements]),
    numLayers,
    layerIdx,
    numKvHeads,
    headDim,
    valueHeadDim,
    pageTable: device.tensor("i32", [table.length / columns, columns], table),
    numMetaTokens,
    metaColumns,
    ringColumns,
  };
}

/**
 * Writes random keys and values at all positions below `lengths` that are still on a page, with the
 * device's own rotaryKvWrite (without norm and rotation). The same numbers on every device.
 * @param values what they are rounded to first. Default: the cache's dtype.
 */
export function fillCache(
  device: KernelDevice,
  kv: KvLayerView,
  lengths: readonly number[],
  seed: number,
  values: ActivationDType = kv.pool.dtype,
): void {
  const { numKvHeads, headDim, valueHeadDim, numMetaTokens } = kv;
  // The meta pages belong to all sequences: the first span of all that reach them writes them.
  const oldest = (length: number) => {
    const pages = Math.ceil((length - numMetaTokens) / PAGE_TOKENS);
    return numMetaTokens + Math.max(0, pages - kv.ringColumns) * PAGE_TOKENS;
  };
  const metaLength = Math.min(numMetaTokens, Math.max(...lengths));
  const write = (sequence: number, position: number, end: number) => {
    const tokens = end - position;
    if (tokens <= 0) return;
    const numbers = random(seed + 1000 * sequence + position);
    const batch = ragged([{ tokens, position, slot: 0 }]).on(device);
    const heads = (dim: number) => {
      const data = rounded(values, numbers.normal(tokens * numKvHeads * dim));
      return device.tensor(kv.pool.dtype, [tokens, numKvHeads * dim], data).heads(numKvHeads, dim);
    };
    device.rotaryKvWrite({
      batch,
      q: heads(headDim),
      k: heads(headDim),
      v: heads(valueHeadDim),
      normEpsilon: 1e-6,
      kv: { ...kv, pageTable: kv.pageTable.rows(sequence, 1) },
    });
  };
  write(lengths.indexOf(Math.max(...lengths)), 0, metaLength);
  lengths.forEach((length, sequence) => write(sequence, oldest(length), length));
}
