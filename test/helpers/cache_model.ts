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
  /** Who wrote its tokens: each those before `until` that the one before did not. */
  readonly ancestors: readonly { readonly id: number; readonly until: number }[];
  /** Of a snapshot: more than one text begins with it. */
  proven: boolean;
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
  /** In the order of their last use. */
  readonly snapshots: Sequence[] = [];
  evictions = 0;
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
      ancestors: [],
      proven: false,
    };
    this.live.push(sequence);
    this.checkUsage();
    return sequence;
  }

  /** A sequence that comes with what one of so many tokens holds. */
  createAt(length: number): void {
    const id = this.ledger.createAt(length);
    const position = this.#options.numMetaTokens + length;
    const { slot, ...pages } = this.ledger.holdings(id);
    const sequence: Sequence = {
      id,
      cold: false,
      position,
      started: true,
      slot,
      text: { global: new Map(), window: new Map() },
      meta: { global: [], window: [] },
      ancestors: [],
      proven: false,
    };
    for (const pool of this.#pools) {
      this.#pagesAt(length, pool).forEach((page, i) => {
        const found = pages[pool][i]!;
        sequence.text[pool].set(page, found);
        for (let token = 0; token < pageTokens; ++token) {
          const at = position - length + page * pageTokens + token;
          if (at < position)
            this.#memory[pool][found * pageTokens + token] = this.#owner(sequence, at);
        }
      });
    }
    this.#states[slot] = this.#owner(sequence, position - 1);
    this.live.push(sequence);
    this.checkUsage();
    this.#checkHoldings(sequence);
  }

  /** The text pages that a sequence of so many tokens holds. */
  #pagesAt(length: number, pool: PoolName): number[] {
    const { numMetaTokens } = this.#options;
    return Array.from({ length: Math.ceil(length / pageTokens) }, (_, page) => page).filter(
      (page) => {
        const lastKey = numMetaTokens + page * pageTokens + pageTokens - 1;
        return this.#visible(Math.max(numMetaTokens + length, lastKey), lastKey, pool);
      },
    );
  }

  /** What would be carried out of the cache is all that the sequence has. */
  #checkHoldings({ id, slot, text }: Sequence): void {
    const held = this.ledger.holdings(id);
    assert(held.slot === slot, "holds slot", held.slot);
    for (const pool of poolNames) {
      const pages = [...text[pool]].sort(([a], [b]) => a - b).map(([, page]) => page);
      assert(held[pool].join() === pages.join(), "holds", pool, "pages", held[pool].join());
    }
  }

  release(sequence: Sequence): void {
    this.ledger.release(sequence.id);
    const list = this.live.includes(sequence) ? this.live : this.snapshots;
    list.splice(list.indexOf(sequence), 1);
    this.checkUsage();
  }

  /** Returns whether there was room. */
  snapshot(sequence: Sequence, proven: boolean): boolean {
    const free = this.#free();
    const id = this.ledger.snapshot(sequence.id, proven);
    if (id < 0) {
      const lacks = this.#pools.some((pool) => free[pool] === 0) || free.slots === 0;
      assert(lacks, "there was room for a snapshot");
      this.checkUsage();
      return false;
    }
    this.#noteEvictions();
    const copy = { ...this.#copyOf(sequence, id), proven };
    this.snapshots.push(copy);
    this.checkUsage();
    this.#checkContent(copy);
    return true;
  }

  retire(sequence: Sequence): void {
    this.ledger.retire(sequence.id);
    this.live.splice(this.live.indexOf(sequence), 1);
    sequence.proven = false;
    this.snapshots.push(sequence);
    this.checkUsage();
  }

  resume(snapshot: Sequence): void {
    const id = this.ledger.resume(snapshot.id);
    this.snapshots.splice(this.snapshots.indexOf(snapshot), 1);
    this.#noteEvictions();
    if (this.ledger.isSnapshot(snapshot.id)) {
      this.live.push(this.#copyOf(snapshot, id));
      snapshot.proven = true;
      this.snapshots.push(snapshot);
    } else {
      assert(this.ledger.takeCopies().slots.length === 0, "a copy of what is gone");
      this.live.push({ ...snapshot, id, ancestors: this.#ancestorsAfter(snapshot) });
      assert(
        this.snapshots.every(({ id }) => !this.ledger.isSnapshot(id)),
        "taken too early",
      );
    }
    this.checkUsage();
    this.#checkContent(this.live.at(-1)!);
  }

  /** The copies that the ledger asks for, carried out, and what the new one holds by them. */
  #copyOf(original: Sequence, id: number): Sequence {
    const copies = this.ledger.takeCopies();
    const text = { global: new Map(original.text.global), window: new Map(original.text.window) };
    for (const pool of this.#pools) {
      const last = Math.floor(this.#text(original.position) / pageTokens);
      const isShared = this.#text(original.position) % pageTokens !== 0;
      assert(copies[pool].length === Number(isShared && text[pool].size > 0), pool, "copies");
      for (const { from, to } of copies[pool]) {
        assert(text[pool].get(last) === from, pool, "copies page", from);
        text[pool].set(last, to);
        const page = this.#memory[pool].slice(from * pageTokens, (from + 1) * pageTokens);
        this.#memory[pool].set(page, to * pageTokens);
      }
    }
    assert(copies.slots.length === 1, "slots copied:", copies.slots.length);
    const { from, to } = copies.slots[0]!;
    assert(from === original.slot, "copies slot", from);
    this.#states[to] = at(this.#states, from);
    const ancestors = this.#ancestorsAfter(original);
    return { ...original, id, slot: to, text, ancestors };
  }

  #ancestorsAfter({ id, position, ancestors }: Sequence): Sequence["ancestors"] {
    return [...ancestors, { id, until: position }];
  }

  /** What a sequence that stands still would go on from is there. */
  #checkContent(sequence: Sequence): void {
    const state = at(this.#states, sequence.slot!);
    assert(state === this.#owner(sequence, sequence.position - 1), "state of", sequence.id);
    for (const pool of this.#pools)
      for (const [page, id] of sequence.text[pool])
        for (let i = 0; i < pageTokens; ++i) {
          const position = this.#options.numMetaTokens + page * pageTokens + i;
          if (position >= sequence.position) break;
          const found = at(this.#memory[pool], id * pageTokens + i);
          assert(found === this.#owner(sequence, position), pool, "position", position, found);
        }
  }

  /** Notes which snapshots made room: each the least recently used of the larger group. */
  #noteEvictions(): void {
    const { snapshots, ledger } = this;
    while (snapshots.some(({ id }) => !ledger.isSnapshot(id))) {
      const proven = snapshots.filter((snapshot) => snapshot.proven);
      const group = snapshots.filter(
        (snapshot) => snapshot.proven === 2 * proven.length > snapshots.length,
      );
      assert(!ledger.isSnapshot(group[0]!.id), "another snapshot had to go");
      snapshots.splice(snapshots.indexOf(group[0]!), 1);
      this.evictions += 1;
    }
  }

  #free(): Record<PoolName | "slots", number> {
    const { stateSlots } = this.ledger.usage();
    const { used, total } = stateSlots;
    return {
      global: this.#numFree("global"),
      window: this.#numFree("window"),
      slots: total - used,
    };
  }

  /** The codes that creating a sequence may fail with; none: it must work. */
  createErrors(cold: boolean): Set<string> {
    const fits = (pool: PoolName) => !cold || this.layout[pool].metaColumns <= this.#numFree(pool);
    const ok = this.live.length < this.#options.maxSequences && this.#pools.every(fits);
    return new Set(ok ? [] : ["ERR_OUT_OF_MEMORY"]);
  }

  /** The same for one that comes with so many tokens. */
  createAtErrors(length: number): Set<string> {
    const codes = this.createErrors(false);
    if (length > this.#options.maxContextTokens) codes.add("ERR_CONTEXT_FULL");
    for (const pool of this.#pools)
      if (this.#pagesAt(length, pool).length > this.#numFree(pool)) codes.add("ERR_OUT_OF_MEMORY");
    return codes;
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
      const after = JSON.stringify(this.ledger.usage());
      const evicted = this.snapshots.some(({ id }) => !this.ledger.isSnapshot(id));
      assert(evicted || after === before, "cancel left something behind");
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
    for (const sequence of spans)
      if (this.#text(sequence.position) > 0) this.#checkHoldings(sequence);
  }

  /** The ledger counts what the model holds, page for page and slot for slot. */
  checkUsage(): void {
    this.#noteEvictions();
    const usage = this.ledger.usage();
    const holders = this.live.length + (this.#prefix ? 1 : 0);
    assert(usage.sequences.used === this.live.length, "sequences", usage.sequences.used);
    assert(usage.stateSlots.used === holders, "state slots", usage.stateSlots.used);
    assert(usage.sequences.kept === this.snapshots.length, "snapshots", usage.sequences.kept);
    assert(usage.stateSlots.kept === this.snapshots.length, "kept", usage.stateSlots.kept);
    for (const pool of this.#pools) {
      const { used, kept, total } = pool === "global" ? usage.globalPages : usage.windowPages;
      const all = this.#textPages([...this.live, ...this.snapshots], pool).size;
      const keptPages = all - this.#textPages(this.live, pool).size;
      assert(kept === keptPages, pool, "pages kept", kept, "expected", keptPages);
      assert(total === this.layout[pool].numPages, pool, "pages", total);
      assert(used === this.#numUsed(pool), pool, "pages", used, "expected", this.#numUsed(pool));
    }
    for (const sequence of this.live) {
      assert(this.ledger.position(sequence.id) === sequence.position, "position");
      const others = this.live.filter((other) => other !== sequence);
      const theirs = this.#textPages(others, "global");
      const own = [...sequence.text.global.values()].filter((page) => !theirs.has(page));
      assert(this.ledger.ownPages(sequence.id) === own.length, "own pages");
      assert(this.ledger.length(sequence.id) === this.#text(sequence.position), "length");
    }
  }

  #text(position: number): number {
    return Math.max(0, position - this.#options.numMetaTokens);
  }

  #numUsed(pool: PoolName): number {
    const coldOrPrefix =
      this.live.filter((sequence) => sequence.cold).length + (this.#prefix ? 1 : 0);
    return this.#textPages(this.live, pool).size + coldOrPrefix * this.layout[pool].metaColumns;
  }

  #textPages(sequences: readonly Sequence[], pool: PoolName): Set<number> {
    return new Set(sequences.flatMap(({ text }) => [...text[pool].values()]));
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
      const others = [...this.live, ...this.snapshots, ...(this.#prefix ? [this.#prefix] : [])];
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
    const ancestor = sequence.ancestors.find(({ until }) => position < until);
    return (shared ? this.#prefix! : (ancestor ?? sequence)).id * maxPositions + position;
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

    this.#noteEvictions();
    spans.forEach((sequence, s) => {
      this.#rememberPages(sequence, row(s), requests[s]!, pool);
    });
    const holders = new Int32Array(numPages);
    const hold = (page: number) => {
      assert(page >= 0 && page < numPages, pool, "page", page);
      holders[page]! += 1;
    };
    for (const sequence of [...this.live, ...this.snapshots]) {
      sequence.text[pool].forEach(hold);
      if (sequence.cold) sequence.meta[pool].forEach(hold);
    }
    this.#prefix?.meta[pool].forEach(hold);
    // Nobody else holds what is written to.
    for (const sequence of spans) {
      for (const [page, id] of sequence.text[pool]) {
        const isWritten = (page + 1) * pageTokens > this.#text(sequence.position);
        assert(!isWritten || holders[id] === 1, pool, "page", id, "is shared");
      }
      if (sequence.cold) for (const id of sequence.meta[pool]) assert(holders[id] === 1, "meta");
    }

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
