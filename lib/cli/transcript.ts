import type { Tokenizer } from "../text/tokenizer";

/** Tokens before an answer that its decoding is given, so that a leading space is not lost. */
const CONTEXT_TOKENS = 16;

/**
 * Remembers what a sequence has been told and has answered, to find what the next turn adds.
 *
 * A chat template renders a whole conversation, while the sequence holds its beginning already and
 * cannot go back: only what comes after may be prefilled. The sequence may hold one token less than
 * were generated (the last one has not been run), and that tail may still be dropped.
 */
export class Transcript {
  readonly #tokenizer: Tokenizer;
  /** The rendered conversation up to the last answer, and its tokens. */
  #promptText = "";
  #promptTokens: number[] = [];
  #answerTokens: number[] = [];

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
  }

  /**
   * Tokens that bring the sequence from what it holds to the rendered conversation; undefined when
   * what it holds is not how the conversation begins, so that a new sequence is needed.
   * @param rendered text of the whole conversation, up to where the answer begins.
   * @param sequenceLength tokens that the sequence holds.
   */
  async tokensUpTo(rendered: string, sequenceLength: number): Promise<number[] | undefined> {
    const known = [...this.#promptTokens, ...this.#answerTokens];
    if (sequenceLength > known.length) return undefined;
    const held = known.slice(0, sequenceLength);
    const whole = await this.#encode(rendered);
    if (held.every((token, index) => token === whole[index])) return whole.slice(held.length);
    // Sampled text may be cut into other tokens than the same text encoded: compare the text.
    const promptLength = this.#promptTokens.length;
    for (let n = known.length; n >= Math.max(sequenceLength, promptLength); n--) {
      const text = this.#promptText + this.#answerText(n - promptLength);
      if (!rendered.startsWith(text)) continue;
      const rest = await this.#encode(rendered.slice(text.length));
      return [...known.slice(sequenceLength, n), ...rest];
    }
    return undefined;
  }

  /**
   * Notes that the sequence is given `tokens`, and then holds the rendered conversation.
   * @param sequenceLength tokens that the sequence holds before.
   */
  addPrompt(rendered: string, tokens: readonly number[], sequenceLength: number): void {
    const known = [...this.#promptTokens, ...this.#answerTokens];
    this.#promptText = rendered;
    this.#promptTokens = [...known.slice(0, sequenceLength), ...tokens];
    this.#answerTokens = [];
  }

  /** Text of the tokens generated since the last prompt, with whatever ended them. */
  get answer(): string {
    return this.#answerText(this.#answerTokens.length);
  }

  /** Notes a generated token. */
  addAnswer(token: number): void {
    this.#answerTokens.push(token);
  }

  async #encode(text: string): Promise<number[]> {
    // The template has written BOS and the like itself.
    return [...(await this.#tokenizer.encode(text, { addSpecialTokens: false }))];
  }

  #answerText(length: number): string {
    const context = this.#promptTokens.slice(-CONTEXT_TOKENS);
    const decode = (tokens: readonly number[]): string =>
      this.#tokenizer.decode(tokens, { skipSpecialTokens: false });
    const answer = this.#answerTokens.slice(0, length);
    return decode([...context, ...answer]).slice(decode(context).length);
  }
}
