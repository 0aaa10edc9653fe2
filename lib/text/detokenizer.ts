import type { Tokenizer } from "./tokenizer";

/** The part of a tokenizer that streaming needs. */
export type TokenDecoder = Pick<Tokenizer, "decode" | "idToToken" | "specialTokenIds">;

/** What an incomplete, or an invalid, UTF-8 sequence decodes to. */
const REPLACEMENT = "\uFFFD";

/**
 * Tokens kept as context. An incomplete character has at most three bytes and every kept token has
 * at least one, so its beginning is always among the last three.
 */
const CONTEXT_TOKENS = 3;

/** The window grows to this and is then cut to the context, so that most pushes decode once. */
const WINDOW_TOKENS = 16;

/** Options of {@link StreamDetokenizer}. */
export interface StreamDetokenizerOptions {
  /** Whether special tokens are left out, as in `decode`. Default true. */
  readonly skipSpecialTokens?: boolean;
  /**
   * Tokens that the stream continues, such as the prompt: their own text is not repeated, but a
   * space that divides it from the stream is kept, and a character that they begin is completed.
   * Default none: the stream is a text of its own.
   */
  readonly context?: ArrayLike<number>;
}

/**
 * Turns a stream of tokens into a stream of text.
 *
 * The pieces of `push` and the rest of `flush` together are exactly `decode` of all tokens. A piece
 * never ends inside a character: text whose last character is U+FFFD may be a character that later
 * tokens complete, so that one character waits for the next token or the flush. Each push decodes
 * fewer than 20 tokens, however long the text is.
 */
export class StreamDetokenizer {
  readonly #decoder: TokenDecoder;
  readonly #skipSpecialTokens: boolean;
  /** The last tokens that carried text. */
  #window: number[] = [];
  /** Text of the window, and how much of it has been handed out. */
  #text = "";
  #emittedLength = 0;

  constructor(decoder: TokenDecoder, options: StreamDetokenizerOptions = {}) {
    this.#decoder = decoder;
    this.#skipSpecialTokens = options.skipSpecialTokens ?? true;
    for (const token of Array.from(options.context ?? []).slice(-WINDOW_TOKENS)) this.push(token);
  }

  /** Adds a token and returns the text that is now certain, often none. */
  push(token: number): string {
    if (!this.#carriesText(token)) return "";
    if (this.#window.length >= WINDOW_TOKENS) this.#cutWindow();
    this.#window.push(token);
    this.#text = this.#decode(this.#window);
    const certainLength = this.#text.endsWith(REPLACEMENT)
      ? this.#text.length - REPLACEMENT.length
      : this.#text.length;
    return this.#emitUpTo(certainLength);
  }

  /** Returns what is still held back, at the end of the text. Pushes may follow, as a new text. */
  flush(): string {
    const rest = this.#emitUpTo(this.#text.length);
    this.#window = [];
    this.#text = "";
    this.#emittedLength = 0;
    return rest;
  }

  #emitUpTo(length: number): string {
    const piece = this.#text.slice(this.#emittedLength, length);
    this.#emittedLength = length;
    return piece;
  }

  #cutWindow(): void {
    const heldBack = this.#text.length - this.#emittedLength;
    this.#window = this.#window.slice(-CONTEXT_TOKENS);
    this.#text = this.#decode(this.#window);
    this.#emittedLength = this.#text.length - heldBack;
  }

  /** Tokens without text must not fill the window, or it would lose a character's beginning. */
  #carriesText(token: number): boolean {
    if (this.#skipSpecialTokens && this.#decoder.specialTokenIds.has(token)) return false;
    return Boolean(this.#decoder.idToToken(token));
  }

  #decode(tokens: readonly number[]): string {
    return this.#decoder.decode(tokens, { skipSpecialTokens: this.#skipSpecialTokens });
  }
}
