import {
  CacheLedger,
  pageTokens,
  type Layout,
  type LayoutOptions,
  type PoolName,
  type SpanRequest,
  type StepTables,
} from "./cache_ledger";

const poolNames = ["global", "window"] as const;

/** Owners of memory are sequence · this + position. */
const maxPositions = 1 << 12;

interface Sequence {
  readonly id: number;
  readonly cold: boolean;
  position: number;
  started: boolean;
  slot: number | undefined;
  /** Its pages by the number of the text page, as far as a later token can see them. */
  readonly text: Record<PoolName, Map<number, number>>;
  /** Those of its meta tokens, once a step has shown them. */
  readonly meta: Record<PoolName, readonly number[]>;
}

function assert(condition: boolean, ...what: readonly unknown[]): void {
  if (!condition) throw new Error(what.map(String).join(" "));
}

function at(array: Int32Array, index: number): number {
  const value = array[index];
  if (value === undefined) throw new Error(`index ${index} of ${array.length}`);
  return value;
}

function assertEqual(actual: Int32Array, expected: ArrayLike<number>, what: string): void {
  const equal =
    actual.length === expected.length && actual.every((value, i) => value === expected[i]);
  if (!equal)
    throw new Error(`${what}: ${String(actual)}, expected ${Array.from(expected).join()}`);
}

/**
 * A naive cache beside a ledger: it really writes each token of a step to the page and slot that the
 * tables say, and really looks up everything that the mask lets the step's tokens see.
 */
export class CacheModel {
  readonly layout: Layout;
  readonly live: Sequence[] = [];
  readonly ledger: CacheLedger;
  readonly #options: LayoutOptions;
  readonly #pools: readonly PoolName[];
  readonly #memory: Record<PoolName, Int32Array>;
  readonly #states: Int32Array;
  /** The adopted cold sequence, which owns the meta tokens of the others. */
  #prefix: Sequence | undefined;

  constructor(options: LayoutOptions) {
    this.ledger = new CacheLedger(options);
    this.layout = this.ledger.layout();
    this.#options = options;
    this.#pools = poolNames.filter((pool) => this.layout[pool].numLayers > 0);
    const empty = (pool: PoolName) =>
      new Int32Array(this.layout[pool].numPages * pageTokens).fill(-1);
    this.#memory = { global: empty("global"), window: empty("window") };
    this.#states = new Int32Array(this.layout.numStateSlots).fill(-1);
    if (options.numMetaTokens > 0) this.#makePrefix();
  }

  #makePrefix(): void {
    const prefix = this.create(true);
    while (prefix.position < this.#options.numMetaTokens) {
      const left = this.#options.numMetaTokens - prefix.position;
      const numTokens = Math.min(left, this.#options.maxBatchTokens);
      this.step([{ id: prefix.id, numTokens, generated: false }], "end");
    }
    this.ledger.adoptPrefix(prefix.id);
    this.live.splice(this.live.indexOf(prefix), 1);
    this.#prefix = prefix;
    this.checkUsage();
  }

  create(cold: boolean): Sequence {
    const id = cold ? this.ledger.createCold() : this.ledger.create();
    const sequence: Sequence = {
      id,
      cold,
      position: cold ? 0 : this.#options.numMetaTokens,
      started: false,
      slot: undefined,
      text: { global: new Map(), window: new Map() },
      meta: { global: [], window: [] },
    };
    this.live.push(sequence);
    this.checkUsage();
    return sequence;
  }

  release(sequence: Sequence): void {
    this.ledger.release(sequence.id);
    this.live.splice(this.live.indexOf(sequence), 1);
    this.checkUsage();
  }

  /** The codes that creating a sequence may fail with; none: it must work. */
  createErrors(cold: boolean): Set<string> {
    const fits = (pool: PoolName) => !cold || this.layout[pool].metaColumns <= this.#numFree(pool);
    const ok = this.live.length < this.#options.maxSequences && this.#pools.every(fits);
    return new Set(ok ? [] : ["ERR_OUT_OF_MEMORY"]);
  }

  /** The codes that a step may fail with; none: it must work. */
  stepErrors(requests: readonly SpanRequest[]): Set<string> {
    const codes = new Set<string>();
    const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
    if (
      requests.length === 0 ||
      requests.some((request) => request.numTokens < 1) ||
      new Set(requests.map((request) => request.id)).size < requests.length ||
      sum(requests.map((request) => request.numTokens)) > this.#options.maxBatchTokens ||
      requests.filter((request) => request.numTokens > 1).length > this.layout.maxPrefillSpans
    ) {
      codes.add("ERR_INVALID_ARGUMENT");
    }
    for (const { id, numTokens } of requests) {
      const sequence = this.live.find((candidate) => candidate.id === id);
      if (!sequence) codes.add("ERR_DISPOSED");
      else if (this.#text(sequence.position + numTokens) > this.#options.maxContextTokens)
        codes.add("ERR_CONTEXT_FULL");
    }
    for (const pool of this.#pools) {
      const needed = sum(requests.map((request) => this.#newPages(request, pool).length));
      if (needed > this.#numFree(pool)) {
        // The window pool has room for all valid steps, but not for meta tokens that are not shared.
        const isExcused = codes.size > 0 || this.live.some((sequence) => sequence.cold);
        assert(pool === "global" || isExcused, "the window pool is full");
        codes.add("ERR_OUT_OF_MEMORY");
      }
    }
    return codes;
  }

  /** A valid step, with everything that it shows checked. */
  step(requests: readonly SpanRequest[], outcome: "end" | "cancel"): void {
    const before = JSON.stringify(this.ledger.usage());
    this.ledger.beginStep(requests);
    const tables = this.ledger.tables();
    if (outcome === "cancel") {
      this.ledger.cancelStep();
      assert(JSON.stringify(this.ledger.usage()) === before, "cancel left something behind");
      this.ledger.beginStep(requests);
      assert(JSON.stringify(this.ledger.tables()) === JSON.stringify(tables), "a different step");
      this.ledger.cancelStep();
      this.checkUsage();
      return;
    }
    const spans = requests.map(({ id }) => this.live.find((sequence) => sequence.id === id)!);
    this.#checkOrder(requests, spans, tables);
    this.#checkStates(requests, spans, tables);
    for (const pool of this.#pools) this.#checkPages(requests, spans, tables, pool);
    this.checkUsage();
    this.ledger.endStep();
    requests.forEach(({ numTokens }, s) => this.#commit(spans[s]!, numTokens));
    this.checkUsage();
  }

  /** The ledger counts what the model holds, page for page and slot for slot. */
  checkUsage(): void {
    const usage = this.ledger.usage();
    const holders = this.live.length + (this.#prefix ? 1 : 0);
    assert(usage.sequences.used === this.live.length, "sequences", usage.sequences.used);
    assert(usage.stateSlots.used === holders, "state slots", usage.stateSlots.used);
    for (const pool of this.#pools) {
      const { used, total } = pool === "global" ? usage.globalPages : usage.windowPages;
      assert(total === this.layout[pool].numPages, pool, "pages", total);
      assert(used === this.#numUsed(pool), pool, "pages", used, "expected", this.#numUsed(pool));
    }
    for (const sequence of this.live) {
      assert(this.ledger.position(sequence.id) === sequence.position, "position");
      assert(this.ledger.length(sequence.id) === this.#text(sequence.position), "length");
    }
  }

  #text(position: number): number {
    return Math.max(0, position - this.#options.numMetaTokens);
  }

  #numUsed(pool: PoolName): number {
    const coldOrPrefix =
      this.live.filter((sequence) => sequence.cold).length + (this.#prefix ? 1 : 0);
    return this.live.reduce(
      (sum, sequence) => sum + sequence.text[pool].size,
      coldOrPrefix * this.layout[pool].metaColumns,
    );
  }

  #numFree(pool: PoolName): number {
    return this.layout[pool].numPages - this.#numUsed(pool);
  }

  /** The text pages that a span would write to and that its sequence has not. */
  #newPages({ id, numTokens }: SpanRequest, pool: PoolName): number[] {
    const sequence = this.live.find((candidate) => candidate.id === id);
    if (!sequence) return [];
    const pages = new Set<number>();
    for (let i = 0; i < numTokens; ++i) {
      const position = sequence.position + i;
      if (position >= this.#options.numMetaTokens)
        pages.add(Math.floor(this.#text(position) / pageTokens));
    }
    return [...pages].filter((page) => !sequence.text[pool].has(page));
  }

  #checkOrder(
    requests: readonly SpanRequest[],
    spans: readonly Sequence[],
    tables: StepTables,
  ): void {
    const perToken = (value: (s: number, i: number) => number) =>
      requests.flatMap(({ numTokens }, s) =>
        Array.from({ length: numTokens }, (_, i) => value(s, i)),
      );
    const offsets = [0];
    for (const { numTokens } of requests) offsets.push(offsets.at(-1)! + numTokens);
    assertEqual(
      tables.positions,
      perToken((s, i) => spans[s]!.position + i),
      "positions",
    );
    assertEqual(
      tables.tokenSpans,
      perToken((s) => s),
      "tokenSpans",
    );
    assertEqual(tables.spanOffsets, offsets, "spanOffsets");
    assertEqual(
      tables.isGenerated,
      requests.map((span) => Number(span.generated)),
      "isGenerated",
    );
    assertEqual(
      tables.fresh,
      spans.map((sequence) => Number(!sequence.started)),
      "fresh",
    );
  }

  /** Each span goes on from the state after the token before its first, and owns where it goes to. */
  #checkStates(
    requests: readonly SpanRequest[],
    spans: readonly Sequence[],
    tables: StepTables,
  ): void {
    spans.forEach((sequence, s) => {
      const source = at(tables.stateSource, s);
      const slot = at(tables.stateSlot, s);
      const others = [...this.live, ...(this.#prefix ? [this.#prefix] : [])];
      assert(!others.some((other) => other !== sequence && other.slot === slot), "slot", slot);
      assert(slot === (sequence.slot ?? slot), "slot", slot, "was", sequence.slot);
      sequence.slot = slot;
      if (sequence.position === 0) assert(source === -1, "state from", source);
      else
        assert(at(this.#states, source) === this.#owner(sequence, sequence.position - 1), "state");
    });
    spans.forEach((sequence, s) => {
      const last = sequence.position + requests[s]!.numTokens - 1;
      this.#states[at(tables.stateSlot, s)] = this.#owner(sequence, last);
    });
  }

  #owner(sequence: Sequence, position: number): number {
    const shared = !sequence.cold && position < this.#options.numMetaTokens;
    return (shared ? this.#prefix! : sequence).id * maxPositions + position;
  }

  #checkPages(
    requests: readonly SpanRequest[],
    spans: readonly Sequence[],
    tables: StepTables,
    pool: PoolName,
  ): void {
    const { metaColumns, ringColumns, numPages } = this.layout[pool];
    const numColumns = metaColumns + ringColumns;
    const table = pool === "global" ? tables.globalPages : tables.windowPages;
    assert(table.length === spans.length * numColumns, pool, "table of", table.length);
    const row = (s: number) => table.subarray(s * numColumns, (s + 1) * numColumns);

    const held = new Set<number>();
    const hold = (page: number) => {
      assert(page >= 0 && page < numPages && !held.has(page), pool, "page", page);
      held.add(page);
    };
    spans.forEach((sequence, s) => {
      this.#rememberPages(sequence, row(s), requests[s]!, pool);
    });
    for (const sequence of this.live) {
      sequence.text[pool].forEach(hold);
      if (sequence.cold) sequence.meta[pool].forEach(hold);
    }
    this.#prefix?.meta[pool].forEach(hold);

    // All spans write before any of them reads: the worst order.
    spans.forEach((sequence, s) => {
      for (let i = 0; i < requests[s]!.numTokens; ++i) {
        const position = sequence.position + i;
        this.#memory[pool][this.#address(row(s), position, pool)] = this.#owner(sequence, position);
      }
    });
    spans.forEach((sequence, s) => {
      const first = sequence.position;
      for (let key = 0; key < first + requests[s]!.numTokens; ++key) {
        // The query that sees most of what lies behind it is the first.
        if (!this.#visible(Math.max(first, key), key, pool)) continue;
        const found = at(this.#memory[pool], this.#address(row(s), key, pool));
        assert(found === this.#owner(sequence, key), pool, "position", key, "holds", found);
      }
    });
  }

  /** Takes over the pages that a row shows for the first time; those known must still be there, and no others. */
  #rememberPages(sequence: Sequence, row: Int32Array, request: SpanRequest, pool: PoolName): void {
    const { metaColumns, ringColumns } = this.layout[pool];
    const expected = new Int32Array(row.length).fill(-1);
    if (sequence.cold && sequence.meta[pool].length === 0)
      sequence.meta[pool] = [...row.subarray(0, metaColumns)];
    expected.set(sequence.cold ? sequence.meta[pool] : (this.#prefix?.meta[pool] ?? []));
    const column = (page: number) => metaColumns + (page % ringColumns);
    for (const page of this.#newPages(request, pool))
      sequence.text[pool].set(page, at(row, column(page)));
    for (const [page, id] of sequence.text[pool]) {
      assert(at(expected, column(page)) === -1, pool, "two pages in column", column(page));
      expected[column(page)] = id;
    }
    assertEqual(row, expected, `${pool} page table`);
  }

  /** Where native/ops/kv_view.h says that a position is. */
  #address(row: Int32Array, position: number, pool: PoolName): number {
    const { metaColumns, ringColumns } = this.layout[pool];
    const { numMetaTokens } = this.#options;
    const isMeta = position < numMetaTokens;
    const token = isMeta ? position : position - numMetaTokens;
    const page = Math.floor(token / pageTokens);
    return (
      at(row, isMeta ? page : metaColumns + (page % ringColumns)) * pageTokens +
      (token % pageTokens)
    );
  }

  #visible(query: number, key: number, pool: PoolName): boolean {
    const { numMetaTokens, slidingWindow } = this.#options;
    return (
      key <= query && (pool === "global" || query - key <= slidingWindow || key < numMetaTokens)
    );
  }

  #commit(sequence: Sequence, numTokens: number): void {
    sequence.position += numTokens;
    sequence.started = true;
    const pages = sequence.text.window;
    for (const page of pages.keys()) {
      const lastKey = this.#options.numMetaTokens + page * pageTokens + pageTokens - 1;
      if (!this.#visible(Math.max(sequence.position, lastKey), lastKey, "window"))
        pages.delete(page);
    }
    assert(pages.size <= this.layout.windowRingPages, "a ring of", pages.size, "pages");
  }
}
