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
   * @param endTokens tokens that end a text; they can be drawn where it may end, and nowhere else.
   * @throws HymbaError ERR_INVALID_ARGUMENT when the format cannot be enforced; so does what is
   * returned when the vocabulary has no token to begin with.
   */
  compile(format: ResponseFormat, endTokens: Iterable<number>): () => Constraint {
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
    const ends = [...endTokens];
    return () => new Constraint(ready, this.bytes, ends);
  }
}

/** How far a text has come that must have a format. */
export class Constraint {
  readonly #format: CompiledFormat;
  readonly #bytes: readonly (Uint8Array | undefined)[];
  readonly #endTokens: readonly number[];
  #configuration: Configuration;
  #mask: Uint32Array;

  /**
   * @internal They come from {@link ConstraintVocabulary}.
   * @throws HymbaError ERR_INVALID_ARGUMENT when the vocabulary has no token to begin with.
   */
  constructor(
    format: CompiledFormat,
    bytes: readonly (Uint8Array | undefined)[],
    endTokens: readonly number[],
  ) {
    this.#format = format;
    this.#bytes = bytes;
    this.#endTokens = endTokens;
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

  /** The tokens that can be drawn next, a bit for each: `id % 32` of word `id >> 5`. */
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
    if (!this.isComplete) this.#mask = this.#makeMask();
  }

  #makeMask(): Uint32Array {
    const mask = this.#format.masks.maskOf(this.#configuration).slice();
    for (const token of this.#endTokens) {
      const bit = 1 << (token & 31);
      if (this.mayEnd) mask[token >> 5]! |= bit;
      else mask[token >> 5]! &= ~bit;
    }
    if (mask.every((word) => word === 0)) {
      throw new HymbaError(
        "ERR_INVALID_ARGUMENT",
        "no token of the model's vocabulary can go on with what options.responseFormat asks for",
      );
    }
    return mask;
  }
}
