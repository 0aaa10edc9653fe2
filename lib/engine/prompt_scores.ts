import type { TokenLogprob, TokenScore } from "../requests";

/** A token of a prompt, and how probable the model finds it there. */
export interface PromptToken {
  readonly token: number;
  /**
   * Log-probability of the token, given all before it, in the model's own distribution. The first one,
   * which nothing stands before, has none.
   */
  readonly logprob?: number;
  /** The most probable tokens in its place, most probable first, when `promptLogprobs` asks for them. */
  readonly topLogprobs?: readonly TokenLogprob[];
}

/** Gathers the log-probabilities of a prompt's tokens, in whatever parts the prompt is computed. */
export class PromptScores {
  /** The most probable tokens to list beside each. */
  readonly tops: number;
  readonly #prompt: Int32Array;
  readonly #tokens: PromptToken[];
  /** Tokens, from the first on, whose successors some step was asked for. */
  #asked = 0;

  constructor(prompt: Int32Array, tops: number) {
    this.tops = tops;
    this.#prompt = prompt;
    this.#tokens = [{ token: prompt[0]! }];
  }

  /** Whether nothing of the prompt needs to be computed for its log-probabilities any more. */
  get complete(): boolean {
    return this.#asked === this.#prompt.length - 1;
  }

  /**
   * The targets of a span with the tokens from `begin` up to `end`: what follows each of them in the
   * prompt, unless an earlier span had it. Null when there are none. Spans leave none out.
   */
  targets(begin: number, end: number): Int32Array | null {
    const last = Math.min(end, this.#prompt.length - 1);
    if (last <= this.#asked) return null;
    const targets = new Int32Array(end - begin).fill(-1);
    targets.set(this.#prompt.subarray(this.#asked + 1, last + 1), this.#asked - begin);
    this.#asked = last;
    return targets;
  }

  /** Takes what a span gave for its targets. */
  add(scores: readonly TokenScore[]): void {
    for (const { logprob, topLogprobs } of scores) {
      const token = this.#prompt[this.#tokens.length]!;
      // The token has one log-probability, also where the device rounded it in two ways.
      const tops = topLogprobs.map((top) => (top.token === token ? { token, logprob } : top));
      this.#tokens.push({ token, logprob, ...(this.tops > 0 && { topLogprobs: tops }) });
    }
  }

  /** All tokens of the prompt. */
  read(): readonly PromptToken[] {
    return this.#tokens;
  }
}
