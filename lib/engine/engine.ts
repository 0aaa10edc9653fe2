import { setImmediate as nextTurn } from "node:timers/promises";
import type { CacheUsage } from "../binding";
import { HymbaError } from "../errors";
import type { GenerateOptions, Generation, GenerationChunk } from "../generation";
import type { ModelLimits } from "../model_info";
import type { StepResult } from "../requests";
import { abortError, checkContext, type SpanWork, throwIfAborted } from "../runner";
import { normalizeSampling } from "../sampling";
import type { Sequence } from "../sequence";
import { checkInteger, checkObject } from "../validate";
import { EngineRequest } from "./request";
import {
  type PlannedSpan,
  planStep,
  rankOf,
  type SchedulerLimits,
  type StepPlan,
} from "./scheduler";

/** Options of `model.createEngine`. */
export interface EngineOptions {
  /**
   * Tokens of a step, 1 to the model's `maxBatchTokens`. With fewer, a long prompt holds up the
   * texts beside it for less time in each step. Default the model's.
   */
  readonly maxBatchTokens?: number;
}

/** Options of `engine.generate`: those of `model.generate`, which they mean the same as, and two more. */
export interface EngineGenerateOptions extends Omit<GenerateOptions, "sequence"> {
  /**
   * Who comes first: a level more is as good as having come 10 seconds earlier. An integer from
   * -1,000 to 1,000. Default 0.
   */
  readonly priority?: number;
  /**
   * Milliseconds after which the request ends with ERR_ABORTED, if it has not ended: 1 to 2^31 - 1.
   * Default none.
   */
  readonly timeoutMs?: number;
}

/** The model's side of its engines. */
export interface EngineHost {
  readonly limits: ModelLimits;
  readonly vocabSize: number;
  /** Spans of more than one token that a step can have. */
  readonly maxPrefillSpans: number;
  readGeneration(options: GenerateOptions): Promise<Generation>;
  createSequence(): Sequence;
  usage(): CacheUsage;
  /** Runs one step. */
  run(work: readonly SpanWork[]): Promise<StepResult[]>;
  /** The engine was closed. */
  forget(engine: Engine): void;
}

/** Steps refused in a row for want of memory, after which it is no longer bad luck. */
const MOST_REFUSALS = 8;

/**
 * Generates many texts at a time, from `model.createEngine()`. In every step each running text gets
 * its next token, and what is left of `maxBatchTokens` goes to prompts; who comes later joins the
 * next step. Which texts share a step changes no token of any (on a GPU: as far as
 * docs/kernels.md promises).
 *
 * It takes the part of the model's cache that nobody else uses. When that is full, requests wait;
 * the last of those that run may have to make room, and is computed again later.
 *
 * @example
 * ```ts
 * await using engine = model.createEngine();
 * const write = async (prompt: string): Promise<string> => {
 *   let whole = "";
 *   for await (const { text } of engine.generate({ prompt, maxTokens: 64 })) whole += text;
 *   return whole;
 * };
 * const texts = await Promise.all([write("The sea"), write("The old house")]);
 * ```
 */
export class Engine {
  readonly #host: EngineHost;
  readonly #limits: SchedulerLimits;
  /** All that have not ended, in the order of their ranks. */
  readonly #requests: EngineRequest[] = [];
  /** The steps, while there are requests. */
  #running: Promise<void> | undefined;
  #wake: (() => void) | undefined;
  #refusals = 0;
  #closed = false;

  /** @internal Engines come from `model.createEngine()`. */
  constructor(host: EngineHost, options: EngineOptions) {
    checkObject("options", options);
    const { maxBatchTokens = host.limits.maxBatchTokens } = options;
    checkInteger("options.maxBatchTokens", maxBatchTokens, 1, host.limits.maxBatchTokens);
    this.#host = host;
    this.#limits = { maxBatchTokens, maxPrefillSpans: host.maxPrefillSpans };
  }

  /**
   * Continues a prompt, token by token, beside all others. The request is made when the first chunk
   * is asked for, and withdrawn when the loop ends, also by `break` or an error. The engine does not
   * wait for its readers: chunks that were not taken are kept.
   * @throws TypeError, RangeError when an option is wrong.
   * @throws HymbaError ERR_CONTEXT_FULL when the prompt is too long, ERR_ABORTED by `signal` or
   * `timeoutMs`, ERR_DISPOSED when the engine or the model is gone; what the model's steps throw.
   */
  async *generate(
    options: EngineGenerateOptions,
  ): AsyncGenerator<GenerationChunk, void, undefined> {
    const request = await this.#read(options);
    const { signal } = options;
    throwIfAborted(signal);
    if (this.#closed) throw closedError();
    const abort = (): void => this.#end(request, abortError(signal));
    signal?.addEventListener("abort", abort, { once: true });
    this.#add(request);
    try {
      for (;;) {
        const chunk = await request.chunks.next();
        yield chunk;
        if (chunk.finishReason !== undefined) return;
      }
    } finally {
      signal?.removeEventListener("abort", abort);
      this.#remove(request);
    }
  }

  /** Whether `close` was called. */
  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Ends all requests with ERR_DISPOSED, and waits for the step that runs: then the engine holds
   * nothing of the cache. Closing twice does nothing more.
   */
  async close(): Promise<void> {
    if (!this.#closed) {
      this.#closed = true;
      this.#host.forget(this);
      this.#endAll(closedError());
    }
    await this.#running;
  }

  /** The same as {@link Engine.close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** @internal Something of the cache was given back, perhaps by somebody else. */
  roomMade(): void {
    this.#wake?.();
  }

  async #read(options: EngineGenerateOptions): Promise<EngineRequest> {
    const arrival = performance.now();
    checkObject("options", options);
    if ((options as GenerateOptions).sequence !== undefined) {
      throw new TypeError("options.sequence is not for engines: their requests have their own");
    }
    const { priority = 0, timeoutMs } = options;
    checkInteger("options.priority", priority, -1000, 1000);
    if (timeoutMs !== undefined) checkInteger("options.timeoutMs", timeoutMs, 1, 2 ** 31 - 1);
    const { prompt, sampling, maxTokens, chunks } = await this.#host.readGeneration(options);
    const { maxContextTokens } = this.#host.limits;
    checkContext([{ sequence: { length: 0 }, tokens: prompt }], maxContextTokens);
    return new EngineRequest({
      prompt,
      sampling: normalizeSampling(sampling, this.#host.vocabSize, "options"),
      maxTokens,
      maxContextTokens,
      chunks,
      rank: rankOf(arrival, priority),
      deadline: arrival + (timeoutMs ?? Infinity),
    });
  }

  #add(request: EngineRequest): void {
    const next = this.#requests.findIndex(({ rank }) => rank > request.rank);
    this.#requests.splice(next < 0 ? this.#requests.length : next, 0, request);
    this.#running ??= this.#run();
    this.#wake?.();
  }

  /** Takes it out, if it is still in, with what it holds. */
  #remove(request: EngineRequest): void {
    const index = this.#requests.indexOf(request);
    if (index < 0) return;
    this.#requests.splice(index, 1);
    request.leave();
    this.#wake?.();
  }

  #end(request: EngineRequest, error: unknown): void {
    request.chunks.fail(error);
    this.#remove(request);
  }

  #endAll(error: unknown): void {
    for (const request of [...this.#requests]) this.#end(request, error);
  }

  async #run(): Promise<void> {
    try {
      // So that those who come together share the first step.
      await nextTurn();
      while (this.#requests.length > 0) {
        const plan = this.#plan();
        if (plan.spans.length > 0) await this.#step(plan);
        else if (this.#requests.length > 0) await this.#sleep();
      }
    } catch (error) {
      // The model is gone, or its device is: that is everybody's error.
      this.#endAll(error);
    } finally {
      this.#running = undefined;
    }
  }

  /** Plans a step, and has everybody leave and come as it says. */
  #plan(): StepPlan<EngineRequest> {
    const { globalPages, sequences } = this.#host.usage();
    const plan = planStep(
      {
        requests: this.#requests,
        // A model without layers of full attention has no such pages, and needs none.
        freePages: globalPages.total > 0 ? globalPages.total - globalPages.used : Infinity,
        freeSlots: sequences.total - sequences.used,
        now: performance.now(),
      },
      this.#limits,
    );
    for (const request of plan.expired) this.#end(request, timeoutError());
    for (const request of plan.preempted) request.leave();
    for (const request of plan.admitted) request.enter(this.#host.createSequence());
    return plan;
  }

  async #step({ spans }: StepPlan<EngineRequest>): Promise<void> {
    const results = await this.#runSpans(spans);
    for (const [index, { request }] of spans.entries()) {
      // It may have been withdrawn while the step ran.
      if (!request.running || results === undefined) continue;
      try {
        if (request.accept(results[index]!)) this.#remove(request);
      } catch (error) {
        this.#end(request, error);
      }
    }
  }

  /** The results of the spans; undefined when the step was refused, and nothing of it ran. */
  async #runSpans(
    spans: readonly PlannedSpan<EngineRequest>[],
  ): Promise<readonly StepResult[] | undefined> {
    try {
      const results = await this.#host.run(
        spans.map(({ request, tokens }) => request.work(tokens)),
      );
      this.#refusals = 0;
      return results;
    } catch (error) {
      // A call from outside of the engine was faster at the pages: the next plan knows of it.
      const refused = error instanceof HymbaError && error.code === "ERR_OUT_OF_MEMORY";
      this.#refusals += 1;
      if (refused && this.#refusals < MOST_REFUSALS) return undefined;
      throw error;
    }
  }

  /** Until something changes, or the next deadline. */
  async #sleep(): Promise<void> {
    const next = Math.min(...this.#requests.map(({ deadline }) => deadline));
    await new Promise<void>((resolve) => {
      const timer = next < Infinity ? setTimeout(resolve, next - performance.now()) : undefined;
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = undefined;
  }
}

function timeoutError(): HymbaError {
  return new HymbaError("ERR_ABORTED", "the request did not end within its timeoutMs");
}

function closedError(): HymbaError {
  return new HymbaError("ERR_DISPOSED", "the engine was closed");
}
