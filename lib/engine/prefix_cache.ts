import type { Sequence } from "../sequence";
import { PAGE_TOKENS } from "../steps";
import { PrefixTree } from "./prefix_tree";

/** The model's side of the prefix cache. Snapshots are known by numbers, and may go at any time. */
export interface SnapshotStore {
  hasSnapshot(snapshot: number): boolean;
  /** A sequence that goes on from a snapshot, which stands after `tokens`. */
  resume(snapshot: number, tokens: Int32Array): Sequence;
  dropSnapshot(snapshot: number): void;
}

/** What a prompt finds in the cache. */
export interface PrefixMatch {
  /** Tokens that need not be computed: 0 without a snapshot. */
  readonly tokens: number;
  readonly snapshot: number | undefined;
  /** Tokens that some known text begins with, too. */
  readonly common: number;
  /** Of the cache, when this was found. */
  readonly version: number;
}

/** Long prompts leave a snapshot every so many tokens. */
export const GRID_TOKENS = 2048;

/** A snapshot on the way, or after some that was known, has to save others at least so many tokens. */
const LEAST_SAVED = PAGE_TOKENS;

/**
 * Where texts can go on from: which token sequences there are snapshots of.
 *
 * K/V can be cut anywhere, but a Mamba state is that after one certain token, so what a text can go
 * on from are snapshots taken on the way. The addon keeps them in memory that nobody uses, and drops
 * them when it needs it: that a snapshot is listed here does not mean that there is one.
 */
export class PrefixCache {
  readonly #store: SnapshotStore;
  readonly #tree = new PrefixTree<number>();
  #version = 0;
  #pruneAt = 64;

  constructor(store: SnapshotStore) {
    this.#store = store;
  }

  /**
   * What is known of a prompt. Its last token is always computed, since the next one is drawn from
   * what it gives. `previous` is what was found before, if anything was.
   */
  match(prompt: Int32Array, previous?: PrefixMatch): PrefixMatch {
    if (previous !== undefined && this.#holds(previous)) return previous;
    const { common, longest } = this.#tree.find(prompt.subarray(0, -1), (snapshot) =>
      this.#store.hasSnapshot(snapshot),
    );
    return {
      tokens: longest?.length ?? 0,
      snapshot: longest?.value,
      common,
      version: this.#version,
    };
  }

  /** A sequence that goes on from what was found; undefined when there is nothing. */
  resume({ snapshot, tokens }: PrefixMatch, prompt: Int32Array): Sequence | undefined {
    if (snapshot === undefined || !this.#store.hasSnapshot(snapshot)) return undefined;
    return this.#store.resume(snapshot, prompt.subarray(0, tokens));
  }

  /** Keeps what a sequence is after `tokens`, its text so far; `shared` with another text. */
  keep(tokens: Int32Array, sequence: Sequence, shared: boolean): void {
    if (this.#has(tokens)) return;
    const snapshot = sequence.snapshot(shared);
    if (snapshot !== undefined) this.#add(tokens, snapshot);
  }

  /** Keeps what a sequence is after `tokens`, its text, and disposes of it. */
  retire(tokens: Int32Array, sequence: Sequence): void {
    if (tokens.length === 0 || this.#has(tokens)) {
      sequence.dispose();
      return;
    }
    const snapshot = sequence.retire();
    if (snapshot !== undefined) this.#add(tokens, snapshot);
  }

  /** Gives all back. */
  clear(): void {
    for (const snapshot of this.#tree.values()) {
      if (this.#store.hasSnapshot(snapshot)) this.#store.dropSnapshot(snapshot);
    }
    this.#tree.prune(() => false);
    this.#version += 1;
  }

  #holds({ version, snapshot }: PrefixMatch): boolean {
    return (
      version === this.#version && (snapshot === undefined || this.#store.hasSnapshot(snapshot))
    );
  }

  #has(tokens: Int32Array): boolean {
    const { longest } = this.#tree.find(tokens, (snapshot) => this.#store.hasSnapshot(snapshot));
    return longest?.length === tokens.length;
  }

  #add(tokens: Int32Array, snapshot: number): void {
    this.#tree.set(tokens, snapshot);
    this.#version += 1;
    // Now and then, so that on the average it costs nothing.
    if (this.#tree.size < this.#pruneAt) return;
    this.#tree.prune((listed) => this.#store.hasSnapshot(listed));
    this.#pruneAt = 2 * this.#tree.size + 64;
  }
}

/**
 * The lengths at which a prompt leaves snapshots: before its last token, so that the same prompt
 * finds it, whatever its length; where it leaves a text that is known, so that the next one to do so
 * finds it there; and here and there on the way. One that found most of itself leaves the first one
 * only when others wait for it: what it found is there for the same prompt, too, and its last token
 * need not have a step of its own.
 * @param awaited whether others wait for what it puts into the cache.
 */
export function snapshotPoints(
  promptTokens: number,
  { tokens, common }: PrefixMatch,
  awaited: boolean,
): number[] {
  const last = promptTokens - 1;
  const points: number[] = [];
  for (let point = GRID_TOKENS; point < last; point += GRID_TOKENS) points.push(point);
  if (common - tokens >= LEAST_SAVED && common < last) points.push(common);
  if (last > 0 && (tokens === 0 || awaited || last - tokens >= LEAST_SAVED)) points.push(last);
  return points.sort((a, b) => a - b);
}
