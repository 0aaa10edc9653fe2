import type { Automaton, Configuration, Frame, LocalState } from "./automaton";
import type { TokenTrie } from "./token_trie";

/** The tokens that can follow in a local state, as far as the part it is in tells. */
interface LocalMask {
  readonly mask: Uint32Array;
  /** Nodes of the trie at which the part may have ended: what is below depends on what follows. */
  readonly exits: readonly number[];
}

/** A frame, cut off below the part that is gone through only once. */
interface Relative {
  readonly frame: Frame;
  /** Where the real stack goes on; undefined: at its bottom. */
  readonly rest: Frame | undefined;
}

/** Below a node with fewer, walking is faster than looking for a way around it. */
const FEW_NODES = 4;

/** Masks that are remembered at a time. */
const MOST_MASKS = 4096;

/**
 * Finds out which tokens can follow a text: those whose bytes the automaton can read.
 *
 * What a token can be is mostly decided by the part that the text is in, such as a string or a
 * number, whatever that stands in. So the trie is walked once for each local state, above the bottom
 * of a stack that nobody knows; only the tokens that leave the part are looked at again, with the
 * stack that there is.
 */
export class TokenMasks {
  /** Of a mask. */
  readonly words: number;
  readonly #automaton: Automaton;
  readonly #trie: TokenTrie;
  readonly #unknown: Frame;
  readonly #masks = new Map<Configuration, Uint32Array>();
  readonly #localMasks = new Map<string, LocalMask>();

  /** @param vocabSize token ids are below it. */
  constructor(automaton: Automaton, trie: TokenTrie, vocabSize: number) {
    this.#automaton = automaton;
    this.#trie = trie;
    this.words = Math.ceil(vocabSize / 32);
    this.#unknown = automaton.newStack();
  }

  /** A bit for every token that can follow: bit `id % 32` of word `id >> 5`. Not to be changed. */
  maskOf(configuration: Configuration): Uint32Array {
    const clipped = this.#clip(configuration);
    let mask = this.#masks.get(clipped);
    if (mask === undefined) {
      if (this.#masks.size >= MOST_MASKS) this.#masks.clear();
      this.#masks.set(clipped, (mask = this.#makeMask(clipped)));
    }
    return mask;
  }

  #makeMask({ groups }: Configuration): Uint32Array {
    const { bytesAfter } = this.#trie;
    const parts: Uint32Array[] = [];
    let own: Uint32Array | undefined;
    for (const { local, frame } of groups) {
      const relative = this.#relative(frame);
      const inside = this.#localMask(local, relative.frame);
      parts.push(inside.mask);
      if (relative.rest === undefined || inside.exits.length === 0) continue;
      const outside = this.#automaton.leaving(relative.rest);
      const bytes = this.#automaton.bytesAfter(outside);
      for (const node of inside.exits)
        if (overlap(bytesAfter, 8 * node, bytes))
          this.#walk(node, outside, (own ??= new Uint32Array(this.words)));
    }
    if (own === undefined && parts.length === 1) return parts[0]!;
    own ??= new Uint32Array(this.words);
    for (const part of parts) for (let i = 0; i < own.length; i++) own[i]! |= part[i]!;
    return own;
  }

  #localMask(local: LocalState, frame: Frame): LocalMask {
    const key = `${local.id}:${frame.id}`;
    let result = this.#localMasks.get(key);
    if (result === undefined) {
      if (this.#localMasks.size >= MOST_MASKS) this.#localMasks.clear();
      const mask = new Uint32Array(this.words);
      const exits: number[] = [];
      const start = this.#automaton.configuration({ groups: [{ local, frame }], accepts: false });
      this.#walk(0, start, mask, exits);
      this.#localMasks.set(key, (result = { mask, exits }));
    }
    return result;
  }

  /** Sets the bits of the tokens below a node that can be read from `start` on. */
  #walk(node: number, start: Configuration, mask: Uint32Array, exits?: number[]): void {
    const { bytes, depths, ends, tokenBegins, tokens } = this.#trie;
    const end = ends[node]!;
    const top = depths[node]! + 1;
    const path = [start];
    for (let i = node + 1; i < end;) {
      const depth = depths[i]! - top;
      const next = this.#automaton.advance(path[depth]!, bytes[i]!);
      if (next === null) {
        i = ends[i]!;
        continue;
      }
      path[depth + 1] = next;
      const isLoop = this.#isLoop(i, next);
      const after = isLoop ? ends[i]! : i + 1;
      for (let t = tokenBegins[i]!; t < tokenBegins[after]!; t++) {
        const token = tokens[t]!;
        mask[token >> 5]! |= 1 << (token & 31);
      }
      // What is below a loop can follow, however it is understood.
      if (next.accepts && !isLoop && ends[i]! > i + 1) exits?.push(i);
      i = after;
    }
  }

  /** Whether all that is below a node leads round and round, and so can follow. */
  #isLoop(node: number, configuration: Configuration): boolean {
    const { bytes, bytesBelow, ends, heights } = this.#trie;
    if (ends[node]! - node < FEW_NODES) return false;
    const first = bytes[node + 1]!;
    return this.#automaton.isLoop(configuration, bytesBelow, 8 * node, first, heights[node]!);
  }

  /** Splits a stack: parts that are counted belong together with the one they stand in. */
  #relative(frame: Frame): Relative {
    const { repeat, min, max, parent } = frame;
    if (repeat === undefined) return { frame: this.#unknown, rest: undefined };
    if (repeat.max === 1) return { frame: this.#unknown, rest: frame };
    const below = this.#relative(parent!);
    return { frame: this.#automaton.push(below.frame, repeat, min, max), rest: below.rest };
  }

  /** With counters no larger than a token can count: what lies beyond looks the same to all tokens. */
  #clip(configuration: Configuration): Configuration {
    const most = this.#trie.mostBytes + 1;
    const clipFrame = (frame: Frame): Frame => {
      const { repeat, min, max, parent } = frame;
      if (repeat === undefined) return frame;
      const below = clipFrame(parent!);
      if (below === parent && min <= most && max <= most) return frame;
      return this.#automaton.push(below, repeat, Math.min(min, most), Math.min(max, most));
    };
    let changed = false;
    const groups = configuration.groups.map(({ local, frame }) => {
      const clipped = clipFrame(frame);
      changed ||= clipped !== frame;
      return { local, frame: clipped };
    });
    const { accepts } = configuration;
    return changed ? this.#automaton.configuration({ groups, accepts }) : configuration;
  }
}

/** Whether two sets of bytes, of 256 bits each, have any in common. */
function overlap(sets: Int32Array, begin: number, other: Int32Array): boolean {
  for (let i = 0; i < 8; i++) if ((sets[begin + i]! & other[i]!) !== 0) return true;
  return false;
}
