import type { ChunkMaker, GenerationChunk } from "../generation";
import type { StepResult } from "../requests";
import type { SpanWork } from "../runner";
import type { NativeSampling } from "../sampling";
import type { Sequence } from "../sequence";
import { ChunkQueue } from "./chunk_queue";
import type { Schedulable } from "./scheduler";

/** What a request is made of. */
export interface RequestOptions {
  readonly prompt: Int32Array;
  readonly sampling: NativeSampling;
  readonly maxTokens: number;
  readonly maxContextTokens: number;
  readonly chunks: ChunkMaker;
  readonly rank: number;
  readonly deadline: number;
}

/**
 * One text that an engine generates. While it runs it has a sequence; without one it waits, and
 * everything that it needs to go on is here: the tokens, and a seed that draws the same ones again.
 */
export class EngineRequest implements Schedulable {
  readonly rank: number;
  readonly deadline: number;
  readonly mostCachedTokens: number;
  /** What it has generated, for who asked. */
  readonly chunks = new ChunkQueue<GenerationChunk>();
  readonly #prompt: Int32Array;
  readonly #sampling: NativeSampling;
  readonly #maker: ChunkMaker;
  readonly #mostSteps: number;
  readonly #generated: number[] = [];
  #sequence: Sequence | undefined;

  constructor(options: RequestOptions) {
    const { prompt, maxTokens, maxContextTokens } = options;
    this.rank = options.rank;
    this.deadline = options.deadline;
    this.#prompt = prompt;
    this.#sampling = options.sampling;
    this.#maker = options.chunks;
    this.#mostSteps = maxContextTokens - prompt.length;
    // The last token is drawn, but nothing is drawn from it.
    this.mostCachedTokens = Math.min(prompt.length + maxTokens - 1, maxContextTokens);
  }

  get promptTokens(): number {
    return this.#prompt.length;
  }

  get knownTokens(): number {
    return this.#prompt.length + this.#generated.length;
  }

  get cachedTokens(): number {
    return this.#sequence?.length ?? 0;
  }

  get running(): boolean {
    return this.#sequence !== undefined;
  }

  /** Begins to run, in an empty sequence. */
  enter(sequence: Sequence): void {
    this.#sequence = sequence;
  }

  /** Gives back what it holds in the cache; a step that uses it is waited for. */
  leave(): void {
    this.#sequence?.dispose();
    this.#sequence = undefined;
  }

  /** Its next tokens, as work for a step. The last one that is known draws another. */
  work(tokens: number): SpanWork {
    const begin = this.cachedTokens;
    const end = begin + tokens;
    const { length } = this.#prompt;
    const generated = begin >= length;
    return {
      sequence: this.#sequence!,
      tokens: generated
        ? Int32Array.from(this.#generated.slice(begin - length, end - length))
        : this.#prompt.subarray(begin, end),
      generated,
      logits: "none",
      sampling:
        end === this.knownTokens
          ? { ...this.#sampling, tokenMask: this.#maker.tokenMask ?? null }
          : null,
      targets: null,
    };
  }

  /** Takes what a step gave. Returns whether that was the last token. */
  accept(result: StepResult): boolean {
    if (result.token === undefined) return false;
    this.#generated.push(result.token);
    const chunk = this.#maker.next(result, this.#mostSteps);
    this.chunks.push(chunk);
    return chunk.finishReason !== undefined;
  }
}
