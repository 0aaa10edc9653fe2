import { HymbaError } from "../errors";
import type { NfaState, Repeat } from "./nfa";

/**
 * States of the nondeterministic automaton that it may be in at once, all in the same frame. What a
 * byte does to them is found out when it is asked for.
 */
export interface LocalState {
  readonly id: number;
  readonly edges: NfaState["edges"];
  /** Parts that begin here. */
  readonly repeats: readonly Repeat[];
  /** Whether the part may end here. */
  readonly ends: boolean;
  /** By class of bytes, where known; null: none. */
  readonly next: (LocalState | null | undefined)[];
  /** Where known. */
  loop?: Loop;
}

/** Bytes that change nothing, as 256 bits each. */
interface Loop {
  /** They lead a local state to itself, such as letters inside of a string. */
  readonly same: Int32Array;
  /** Each is all of the part, which then begins again, as far as it may. */
  readonly whole: Int32Array;
}

/** Where to go on when a part ends: the stack. Equal frames are the same object. */
export interface Frame {
  readonly id: number;
  /** The part that is being gone through; undefined at the bottom of the stack. */
  readonly repeat?: Repeat;
  /** Least and most times, this one included. */
  readonly min: number;
  readonly max: number;
  readonly parent?: Frame;
  readonly children: Map<string, Frame>;
}

/** Where a text can be: local states, each with its stack. */
export interface Configuration {
  readonly id: number;
  readonly groups: readonly { readonly local: LocalState; readonly frame: Frame }[];
  /** Whether the text may end here. */
  readonly accepts: boolean;
  /** By class of bytes, where known; null: they cannot follow. */
  next: (Configuration | null | undefined)[];
}

/** More places than any sensible pattern allows at once. */
const MOST_GROUPS = 2000;

/** Configurations that are remembered at a time: more than an intersection has states. */
const MOST_CONFIGURATIONS = 8192;

/** Follows texts through a nondeterministic automaton, byte by byte, and remembers what it has seen. */
export class Automaton {
  readonly #locals = new Map<string, LocalState>();
  /** Those of single states. */
  readonly #localsOf = new Map<NfaState, LocalState>();
  readonly #configurations = new Map<string, Configuration>();
  readonly #bottom: Frame;
  readonly #start: LocalState;
  /** [256] numbers of classes: bytes of a class mean the same everywhere. */
  readonly #classOf: Uint8Array;
  /** A byte of each class, the lowest one, in ascending order. */
  readonly representatives: readonly number[];
  #numFrames = 0;
  #numConfigurations = 0;

  readonly #mostConfigurations: number;

  /** @param mostConfigurations how many are remembered at a time. */
  constructor(start: NfaState, mostConfigurations = MOST_CONFIGURATIONS) {
    this.#mostConfigurations = mostConfigurations;
    this.#bottom = this.newStack();
    this.#start = this.#local([start]);
    this.#classOf = byteClasses(start);
    this.representatives = [...this.#classOf.keys()].filter(
      (byte) => this.#classOf[byte] !== this.#classOf[byte - 1],
    );
  }

  /** Where an empty text is. */
  get start(): Configuration {
    const found = new Groups(this);
    found.enter(this.#start, this.#bottom);
    return this.configuration(found);
  }

  /** Where one more byte leads; null when it cannot follow. */
  advance(configuration: Configuration, byte: number): Configuration | null {
    const byteClass = this.#classOf[byte]!;
    let next = configuration.next[byteClass];
    if (next === undefined) {
      let found: Groups | undefined;
      for (const { local, frame } of configuration.groups) {
        const target = this.#localNext(local, byte);
        if (target !== null) (found ??= new Groups(this)).enter(target, frame);
      }
      next = found === undefined || found.isEmpty ? null : this.configuration(found);
      configuration.next[byteClass] = next;
    }
    return next;
  }

  /** The bytes that can follow, as 256 bits. */
  bytesAfter(configuration: Configuration): Int32Array {
    const bits = new Int32Array(8);
    for (const { local } of configuration.groups)
      for (const { bytes } of local.edges)
        for (let byte = bytes[0]; byte <= bytes[1]; byte++) bits[byte >> 5]! |= 1 << (byte & 31);
    return bits;
  }

  /**
   * Whether any `length` bytes can follow that are all in a set, which has `byte`: 256 bits of `sets`, from
   * `begin` on. Of those that can, the ones are found that lead round and round.
   */
  isLoop(
    { groups }: Configuration,
    sets: Int32Array,
    begin: number,
    byte: number,
    length: number,
  ): boolean {
    return groups.some(({ local, frame }) => {
      const next = this.#localNext(local, byte);
      if (next === local && contains(this.#loopOf(local).same, sets, begin)) return true;
      return (
        next?.ends === true &&
        frame.max >= length &&
        local === this.localOf(frame.repeat!.body) &&
        contains(this.#loopOf(local).whole, sets, begin)
      );
    });
  }

  /** Where a text is when the part that `frame` is about has just ended. */
  leaving(frame: Frame): Configuration {
    const found = new Groups(this);
    found.leave(frame);
    return this.configuration(found);
  }

  /** The bottom of a stack of its own. */
  newStack(): Frame {
    return { id: this.#numFrames++, min: 0, max: 0, children: new Map() };
  }

  /** The frame above `parent`. */
  push(parent: Frame, repeat: Repeat, min: number, max: number): Frame {
    const key = `${repeat.id}:${min}:${max}`;
    let frame = parent.children.get(key);
    if (frame === undefined) {
      frame = { id: this.#numFrames++, repeat, min, max, parent, children: new Map() };
      parent.children.set(key, frame);
    }
    return frame;
  }

  /** The configuration of these groups. */
  configuration({ groups, accepts }: Pick<Configuration, "groups" | "accepts">): Configuration {
    const ids = groups.map(({ local, frame }) => `${local.id}:${frame.id}`).sort();
    const key = `${accepts ? "+" : "-"}${ids.join(" ")}`;
    let configuration = this.#configurations.get(key);
    if (configuration === undefined) {
      if (this.#configurations.size >= this.#mostConfigurations) this.#forget();
      configuration = { id: this.#numConfigurations++, groups, accepts, next: [] };
      this.#configurations.set(key, configuration);
    }
    return configuration;
  }

  /** The local state at the beginning of a part. */
  localOf(state: NfaState): LocalState {
    let local = this.#localsOf.get(state);
    if (local === undefined) this.#localsOf.set(state, (local = this.#local([state])));
    return local;
  }

  #loopOf(local: LocalState): Loop {
    local.loop ??= {
      same: this.#bytesThat((byte) => this.#localNext(local, byte) === local),
      whole: this.#bytesThat((byte) => this.#localNext(local, byte)?.ends === true),
    };
    return local.loop;
  }

  #bytesThat(holds: (byte: number) => boolean): Int32Array {
    const bits = new Int32Array(8);
    const representatives = this.representatives;
    for (const [i, low] of representatives.entries()) {
      if (!holds(low)) continue;
      const end = representatives[i + 1] ?? 256;
      for (let byte = low; byte < end; byte++) bits[byte >> 5]! |= 1 << (byte & 31);
    }
    return bits;
  }

  /** Those in use go on, without what they have led to. */
  #forget(): void {
    for (const configuration of this.#configurations.values()) configuration.next = [];
    this.#configurations.clear();
    this.#bottom.children.clear();
  }

  #localNext(local: LocalState, byte: number): LocalState | null {
    const byteClass = this.#classOf[byte]!;
    let next = local.next[byteClass];
    if (next === undefined) {
      const targets: NfaState[] = [];
      for (const { bytes, target } of local.edges)
        if (bytes[0] <= byte && byte <= bytes[1]) targets.push(target);
      if (targets.length > 1) next = this.#local(targets);
      else next = targets.length === 0 ? null : this.localOf(targets[0]!);
      local.next[byteClass] = next;
    }
    return next;
  }

  #local(states: readonly NfaState[]): LocalState {
    const closure = new Set<NfaState>(states);
    for (const state of closure) for (const free of state.free) closure.add(free);
    const lasting = [...closure].filter(
      ({ edges, repeat, isEnd }) => edges.length > 0 || repeat !== undefined || isEnd,
    );
    const key = lasting
      .map(({ id }) => id)
      .sort((a, b) => a - b)
      .join(" ");
    let local = this.#locals.get(key);
    if (local === undefined) {
      local = {
        id: this.#locals.size,
        edges: lasting.flatMap(({ edges }) => edges),
        repeats: lasting.flatMap(({ repeat }) => (repeat === undefined ? [] : [repeat])),
        ends: lasting.some(({ isEnd }) => isEnd),
        next: [],
      };
      this.#locals.set(key, local);
    }
    return local;
  }
}

/** Collects the groups of a configuration: what enters and leaves parts without reading a byte. */
class Groups {
  readonly groups: { readonly local: LocalState; readonly frame: Frame }[] = [];
  accepts = false;
  readonly #automaton: Automaton;
  /** Pairs of a local state and a frame. */
  readonly #entered = new Set<number>();

  constructor(automaton: Automaton) {
    this.#automaton = automaton;
  }

  get isEmpty(): boolean {
    return this.groups.length === 0 && !this.accepts;
  }

  enter(local: LocalState, frame: Frame): void {
    const pair = local.id * 2 ** 32 + frame.id;
    if (this.#entered.has(pair)) return;
    this.#entered.add(pair);
    if (local.edges.length > 0) {
      if (this.groups.length >= MOST_GROUPS) {
        throw new HymbaError(
          "ERR_INVALID_ARGUMENT",
          `a text can be understood in more than ${MOST_GROUPS} ways: the pattern or schema is too ` +
            "ambiguous, as in (a{0,99}){0,99}",
        );
      }
      this.groups.push({ local, frame });
    }
    for (const repeat of local.repeats) this.#go(repeat, repeat.min, repeat.max, frame);
    if (local.ends) this.leave(frame);
  }

  leave({ repeat, min, max, parent }: Frame): void {
    if (repeat === undefined) this.accepts = true;
    else this.#go(repeat, Math.max(0, min - 1), max - 1, parent!);
  }

  /** Into the part, while it may be gone through, and beyond it, once it need not be any more. */
  #go(repeat: Repeat, min: number, max: number, frame: Frame): void {
    const automaton = this.#automaton;
    if (max > 0) {
      this.enter(automaton.localOf(repeat.body), automaton.push(frame, repeat, min, max));
    }
    if (min === 0) this.enter(automaton.localOf(repeat.after), frame);
  }
}

/** Classes are ranges of bytes, numbered from the lowest: a new one begins where any edge begins or ends. */
function byteClasses(start: NfaState): Uint8Array {
  const begins = new Uint8Array(257);
  const states = new Set<NfaState>([start]);
  for (const { edges, free, repeat } of states) {
    for (const { bytes, target } of edges) {
      begins[bytes[0]] = 1;
      begins[bytes[1] + 1] = 1;
      states.add(target);
    }
    for (const state of free) states.add(state);
    if (repeat !== undefined) states.add(repeat.body).add(repeat.after);
  }
  const classes = new Uint8Array(256);
  for (let byte = 1; byte < 256; byte++) classes[byte] = classes[byte - 1]! + begins[byte]!;
  return classes;
}

/** Whether the second of two sets of 256 bits is part of the first. */
function contains(set: Int32Array, sets: Int32Array, begin: number): boolean {
  for (let i = 0; i < 8; i++) if ((sets[begin + i]! & ~set[i]!) !== 0) return false;
  return true;
}
