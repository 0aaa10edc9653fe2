import { SAMPLED_TOKEN } from "../binding";
import type { ChunkMaker, GenerationChunk } from "../generation";
import type { StepResult, TokenScore } from "../requests";
import type { SpanWork } from "../runner";
import type { NativeSampling } from "../sampling";
import type { Sequence } from "../sequence";
import type { ChunkQueue } from "./chunk_queue";
import { type EndReason, type EngineObserver, RequestMeter, type RequestMetrics } from "./metrics";
import { type PrefixCache, type PrefixMatch, snapshotPoints } from "./prefix_cache";
import { PromptScores, type PromptToken } from "./prompt_scores";
import type { Schedulable } from "./scheduler";

/** One generated token of an engine's request. */
export interface EngineChunk extends GenerationChunk {
  /** Which of the `n` texts it belongs to, from 0. */
  readonly index: number;
  /** The tokens of the prompt, on the first chunk of the first text, when `promptLogprobs` asks for them. */
  readonly promptLogprobs?: readonly PromptToken[];
  /** How it went, on the last chunk of a text. */
  readonly metrics?: RequestMetrics;
}

/** What a step gives a request. */
export interface EngineStepResult extends StepResult {
  /** Of the targets that its span had. */
  readonly scores: readonly TokenScore[];
}

/** What a request is made of. */
export interface RequestOptions {
  readonly index: number;
  readonly prompt: Int32Array;
  readonly sampling: NativeSampling;
  /** As in the options of `engine.generate`. */
  readonly promptLogprobs: number | undefined;
  /** Whether others wait for what it puts of the prompt into the cache. */
  readonly awaited: boolean;
  readonly maxTokens: number;
  readonly maxContextTokens: number;
  readonly chunks: ChunkMaker;
  /** Where its chunks go. */
  readonly output: ChunkQueue<EngineChunk>;
  readonly arrival: number;
  readonly rank: number;
  readonly deadline: number;
  /** What is known of prompts; undefined: nothing is kept. */
  readonly cache: PrefixCache | undefined;
  readonly observer: EngineObserver | undefined;
}

/** The model's side of a request. */
export interface RequestHost {
  createSequence(): Sequence;
  /** Pages of the global pool that no other sequence uses. */
  ownPages(sequence: Sequence): number;
}

/**
 * One text that an engine generates. While it runs it has a sequence; without one it waits, and
 * everything that it needs to go on is here: the tokens, and a seed that draws the same ones again.
 */
export class EngineRequest implements Schedulable {
  readonly rank: number;
  readonly deadline: number;
  readonly mostCachedTokens: number;
  readonly output: ChunkQueue<EngineChunk>;
  readonly #host: RequestHost;
  readonly #index: number;
  readonly #prompt: Int32Array;
  readonly #awaited: boolean;
  readonly #sampling: NativeSampling;
  readonly #scores: PromptScores | undefined;
  readonly #maker: ChunkMaker;
  readonly #mostSteps: number;
  readonly #meter: RequestMeter;
  readonly #cache: PrefixCache | undefined;
  /** Those that have arrived. */
  readonly #generated: number[] = [];
  /** Tokens that steps under way draw. */
  #draws = 0;
  #ended = false;
  #endReason: EndReason = "abort";
  #match: PrefixMatch | undefined;
  #snapshotPoints: readonly number[] = [];
  #sequence: Sequence | undefined;

  constructor(host: RequestHost, options: RequestOptions) {
    const { prompt, promptLogprobs, maxTokens, maxContextTokens } = options;
    this.rank = options.rank;
    this.deadline = options.deadline;
    this.output = options.output;
    this.#host = host;
    this.#index = options.index;
    this.#prompt = prompt;
    this.#awaited = options.awaited;
    this.#sampling = options.sampling;
    if (promptLogprobs !== undefined) this.#scores = new PromptScores(prompt, promptLogprobs);
    this.#maker = options.chunks;
    this.#mostSteps = maxContextTokens - prompt.length;
    this.#meter = new RequestMeter(options.arrival, prompt.length, options.observer);
    this.#cache = options.cache;
    // The last token is drawn, but nothing is drawn from it.
    this.mostCachedTokens = Math.min(prompt.length + maxTokens - 1, maxContextTokens);
  }

  /** What a step under way draws is as good as known, since the device has it for the next one. */
  get knownTokens(): number {
    const known = this.#arrivedTokens + (this.constrained ? 0 : this.#draws);
    return Math.min(known, this.mostCachedTokens);
  }

  get constrained(): boolean {
    return this.#maker.constrained;
  }

  /** Whether `end` was called. */
  get ended(): boolean {
    return this.#ended;
  }

  get cachedTokens(): number {
    return this.#sequence?.length ?? this.#lookUp()?.tokens ?? 0;
  }

  get spanEnd(): number {
    const { cachedTokens } = this;
    const { length } = this.#prompt;
    const point = this.#snapshotPoints.find((end) => end > cachedTokens);
    return point ?? (cachedTokens < length ? length : this.knownTokens);
  }

  get ownPages(): number {
    return this.#sequence === undefined ? 0 : this.#host.ownPages(this.#sequence);
  }

  get running(): boolean {
    return this.#sequence !== undefined;
  }

  /** Whether another with the same prompt finds in the cache all that it can. */
  get promptKept(): boolean {
    return this.cachedTokens >= this.#prompt.length - 1;
  }

  /** Begins to run: from what is known of its prompt, or in an empty sequence. */
  enter(): void {
    const match = this.#lookUp();
    this.#sequence =
      (match && this.#cache?.resume(match, this.#prompt)) ?? this.#host.createSequence();
    this.#meter.enter(this.#sequence.length);
  }

  /** Gives back what it holds in the cache, and can begin again. Tokens under way still arrive. */
  leave(): void {
    this.#sequence?.dispose();
    this.#sequence = undefined;
  }

  /** Has ended: what it holds in the cache is left to others that begin like it. */
  end(): void {
    this.#ended = true;
    this.#meter.end(this.#endReason);
    const sequence = this.#sequence;
    this.#sequence = undefined;
    if (sequence === undefined) return;
    // Withdrawn with a token in the cache that nobody here knows.
    const unknown = sequence.length > this.#arrivedTokens;
    if (this.#cache === undefined || unknown) sequence.dispose();
    else this.#cache.retire(this.#known(0, sequence.length), sequence);
  }

  /** Its next tokens, as work for a step. The last one that is known draws another. */
  take(tokens: number): SpanWork {
    const begin = this.cachedTokens;
    const end = begin + tokens;
    const draws = end === this.knownTokens;
    const tokenMask = this.#maker.tokenMask(this.#generated.length + this.#draws) ?? null;
    if (draws) this.#draws += 1;
    return {
      sequence: this.#sequence!,
      tokens: end > this.#arrivedTokens ? Int32Array.of(SAMPLED_TOKEN) : this.#known(begin, end),
      generated: begin >= this.#prompt.length,
      logits: "none",
      sampling: draws ? { ...this.#sampling, tokenMask } : null,
      targets: this.#scores?.targets(begin, end) ?? null,
      targetTops: this.#scores?.tops ?? 0,
    };
  }

  /** After a step was handed over: leaves a snapshot where its tokens end, if there is to be one. */
  keepSnapshot(): void {
    const { cachedTokens } = this;
    if (!this.#snapshotPoints.includes(cachedTokens)) return;
    const shared = cachedTokens <= this.#match!.common;
    this.#cache!.keep(this.#prompt.subarray(0, cachedTokens), this.#sequence!, shared);
  }

  /** Takes what a step brought. Returns whether that was the last token. */
  accept(result: EngineStepResult): boolean {
    this.#scores?.add(result.scores);
    if (result.token === undefined) return false;
    this.#draws -= 1;
    this.#meter.token();
    this.#generated.push(result.token);
    const chunk = this.#maker.next(result, this.#mostSteps);
    const ended = chunk.finishReason !== undefined;
    if (ended) this.#endReason = chunk.finishReason;
    const promptLogprobs = this.#generated.length === 1 ? this.#scores?.read() : undefined;
    this.output.push({
      ...chunk,
      index: this.#index,
      ...(promptLogprobs !== undefined && { promptLogprobs }),
      ...(ended && { metrics: this.#meter.read() }),
    });
    return ended;
  }

  get #arrivedTokens(): number {
    return this.#prompt.length + this.#generated.length;
  }

  /** While it waits: what is known of its prompt by now. */
  #lookUp(): PrefixMatch | undefined {
    const match = this.#cache?.match(this.#prompt, this.#match);
    if (match !== undefined && match !== this.#match) {
      // Log-probabilities of the prompt come of computing it.
      const computes = this.#scores?.complete === false;
      this.#match = computes ? { ...match, tokens: 0, snapshot: undefined } : match;
      this.#snapshotPoints = snapshotPoints(this.#prompt.length, this.#match, this.#awaited);
    }
    return this.#match;
  }

  /** Tokens of its text. */
  #known(begin: number, end: number): Int32Array {
    const { length } = this.#prompt;
    if (end <= length) return this.#prompt.subarray(begin, end);
    const generated = this.#generated.slice(Math.max(0, begin - length), end - length);
    if (begin >= length) return Int32Array.from(generated);
    const known = new Int32Array(end - begin);
    known.set(this.#prompt.subarray(begin));
    known.set(generated, length - begin);
    return known;
  }
}
