import { HymbaError } from "../errors";
import type { Automaton, Configuration } from "./automaton";
import { compileFormat, type ResponseFormat } from "./response_format";
import { TokenMasks } from "./token_masks";
import { TokenTrie } from "./token_trie";

/** A format, ready to be followed by any number of texts. */
interface CompiledFormat {
  readonly automaton: Automaton;
  readonly masks: TokenMasks;
}

/** What ends a text that has a format. */
interface ConstraintEnding {
  /** They can be drawn where the text may end, and nowhere else. */
  readonly stopTokens: ReadonlySet<number>;
  /** Nor among so many tokens, the first ones, where others can be drawn. */
  readonly minTokens: number;
}

/** Without tokens that end it, a text ends where nothing can follow. */
const ANYWHERE: ConstraintEnding = { stopTokens: new Set(), minTokens: 0 };

/** Formats that are kept compiled, with the masks that they have led to. */
const MOST_FORMATS = 32;

/** The vocabulary of a model, for constraints. */
export class ConstraintVocabulary {
  /** By token; undefined: no text, as special tokens are. */
  readonly bytes: readonly (Uint8Array | undefined)[];
  readonly #trie: TokenTrie;
  readonly #vocabSize: number;
  /** By what they say, the ones used last at the end. */
  readonly #formats = new Map<string, CompiledFormat>();

  /**
   * @param bytes what each token stands for; undefined: no text.
   * @param vocabSize tokens of the model, which may be more.
   */
  constructor(bytes: readonly (Uint8Array | undefined)[], vocabSize: number) {
    this.bytes = bytes;
    this.#trie = new TokenTrie(bytes.slice(0, vocabSize));
    this.#vocabSize = vocabSize;
  }

  /**
   * What makes a constraint for each of any number of texts. Formats are compiled once.
   * @throws HymbaError ERR_INVALID_ARGUMENT when the format cannot be enforced; so does what is
   * returned when the vocabulary has no token to begin with.
   */
  compile(format: ResponseFormat, ending: ConstraintEnding = ANYWHERE): () => Constraint {
    const key = JSON.stringify(format);
    let compiled = this.#formats.get(key);
    if (compiled === undefined) {
      const automaton = compileFormat(JSON.parse(key) as ResponseFormat);
      const masks = new TokenMasks(automaton, this.#trie, this.#vocabSize);
      compiled = { automaton, masks };
      const [oldest] = this.#formats.keys();
      if (this.#formats.size >= MOST_FORMATS) this.#formats.delete(oldest!);
    }
    this.#formats.delete(key);
    this.#formats.set(key, compiled);
    const ready = compiled;
    return () => new Constraint(ready, this.bytes, ending);
  }
}

/** How far a text has come that must have a format. */
export class Constraint {
  readonly #format: CompiledFormat;
  readonly #bytes: readonly (Uint8Array | undefined)[];
  readonly #ending: ConstraintEnding;
  /** The mask, where it is not one that other texts have, too. */
  readonly #ownMask: Uint32Array;
  #configuration: Configuration;
  #accepted = 0;
  #mask: Uint32Array;

  /**
   * @internal They come from {@link ConstraintVocabulary}.
   * @throws HymbaError ERR_INVALID_ARGUMENT when the vocabulary has no token to begin with.
   */
  constructor(
    format: CompiledFormat,
    bytes: readonly (Uint8Array | undefined)[],
    ending: ConstraintEnding,
  ) {
    this.#format = format;
    this.#bytes = bytes;
    this.#ending = ending;
    this.#ownMask = new Uint32Array(format.masks.words);
    this.#configuration = format.automaton.start;
    this.#mask = this.#makeMask();
  }

  /** Whether the text may end here. */
  get mayEnd(): boolean {
    return this.#configuration.accepts;
  }

  /** Whether it must: nothing can follow. */
  get isComplete(): boolean {
    return this.mayEnd && this.#configuration.groups.length === 0;
  }

  /**
   * The tokens that can be drawn next, a bit for each: `id % 32` of word `id >> 5`. Not to be changed, and
   * of no use after the next `accept`.
   */
  get mask(): Uint32Array {
    return this.#mask;
  }

  /**
   * Adds a token of the text, which the mask allows.
   * @throws HymbaError ERR_INVALID_ARGUMENT when the vocabulary has none to go on with.
   */
  accept(token: number): void {
    const { automaton } = this.#format;
    const bytes = this.#bytes[token];
    let next = bytes === undefined ? null : this.#configuration;
    for (const byte of bytes ?? []) next = next && automaton.advance(next, byte);
    if (next === null) {
      throw new HymbaError("ERR_INTERNAL", `token ${token} was drawn against its mask`);
    }
    this.#configuration = next;
    this.#accepted += 1;
    if (!this.isComplete) this.#mask = this.#makeMask();
  }

  #makeMask(): Uint32Array {
    const { stopTokens, minTokens } = this.#ending;
    const shared = this.#format.masks.maskOf(this.#configuration);
    if (!this.mayEnd && !hasAny(shared, stopTokens) && !isEmpty(shared)) return shared;
    const mask = this.#ownMask;
    mask.set(shared);
    for (const token of stopTokens) mask[token >> 5]! &= ~(1 << (token & 31));
    const mustEnd = isEmpty(mask);
    if (this.mayEnd && (mustEnd || this.#accepted >= minTokens)) {
      for (const token of stopTokens) mask[token >> 5]! |= 1 << (token & 31);
    }
    if (mustEnd && !(this.mayEnd && stopTokens.size > 0)) {
      throw new HymbaError(
        "ERR_INVALID_ARGUMENT",
        "no token of the model's vocabulary can go on with what options.responseFormat asks for",
      );
    }
    return mask;
  }
}

function hasAny(mask: Uint32Array, tokens: Iterable<number>): boolean {
  for (const token of tokens) if ((mask[token >> 5]! & (1 << (token & 31))) !== 0) return true;
  return false;
}

function isEmpty(mask: Uint32Array): boolean {
  for (const word of mask) if (word !== 0) return false;
  return true;
}
