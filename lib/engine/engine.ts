import { setImmediate as nextTurn } from "node:timers/promises";
import type { CacheUsage } from "../binding";
import { HymbaError } from "../errors";
import type { GenerateOptions, Generation } from "../generation";
import type { ModelLimits } from "../model_info";
import { abortError, checkContext, type SpanWork, throwIfAborted } from "../runner";
import { MAX_TOP_LOGPROBS, normalizeSampling } from "../sampling";
import { checkBoolean, checkInteger, checkObject } from "../validate";
import { ChunkQueue } from "./chunk_queue";
import type { EngineObserver } from "./metrics";
import { PrefixCache, type SnapshotStore } from "./prefix_cache";
import {
  type EngineChunk,
  EngineRequest,
  type EngineStepResult,
  type RequestHost,
} from "./request";
import { planStep, rankOf, type SchedulerLimits, type StepPlan } from "./scheduler";

/** Options of `model.createEngine`. */
export interface EngineOptions {
  /**
   * Tokens of a step, 1 to the model's `maxBatchTokens`. With fewer, a long prompt holds up the
   * texts beside it for less time in each step. Default the model's.
   */
  readonly maxBatchTokens?: number;
  /**
   * Whether what texts leave in the cache is kept, as long as nobody needs its memory, for others that
   * begin with the same tokens. Default true. `prefixCacheBytes` of `HymbaModel.load` reserves memory
   * for it.
   */
  readonly prefixCache?: boolean;
  /** Told what happens to the texts. Default none. */
  readonly observer?: EngineObserver;
}

/** Texts of an engine that have not ended. */
export interface EngineLoad {
  /** Those that hold a part of the cache. */
  readonly running: number;
  /** Those that wait for one. */
  readonly waiting: number;
}

/** Options of `engine.generate`: those of `model.generate`, which mean the same, and four more. */
export interface EngineGenerateOptions extends Omit<GenerateOptions, "sequence"> {
  /**
   * How many texts to generate; they share the prompt's part of the cache. The i-th, from 0, has the
   * seed `seed + i`. An integer from 1 to 128. Default 1.
   */
  readonly n?: number;
  /**
   * Reports the log-probabilities of the prompt's own tokens, on the first chunk of the first text, and
   * beside each so many of the most probable tokens: 0 to 20. The whole prompt is computed for them,
   * whatever the prefix cache has of it. Default: they are not reported.
   */
  readonly promptLogprobs?: number;
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
export interface EngineHost extends RequestHost, SnapshotStore {
  readonly limits: ModelLimits;
  readonly vocabSize: number;
  /** Spans of more than one token that a step can have. */
  readonly maxPrefillSpans: number;
  /**
   * 1, or 2: so that the device has the next step to go on with while the tokens of one are handed
   * out. A text that meets a stop then is in one step too many.
   */
  readonly stepsInFlight: 1 | 2;
  readGeneration(options: GenerateOptions): Promise<Generation>;
  usage(): CacheUsage;
  /**
   * Hands a step over. When this returns, the cache is as after it; its results come later, and the
   * next step may be handed over before.
   */
  submit(work: readonly SpanWork[]): Promise<EngineStepResult[]>;
  /** The engine was closed. */
  forget(engine: Engine): void;
}

/** A step that was handed over: what it will bring, and to whom. */
interface StepUnderWay {
  readonly requests: readonly EngineRequest[];
  readonly results: Promise<readonly EngineStepResult[]>;
}

/**
 * Generates many texts at a time, from `model.createEngine()`. In every step each running text gets
 * its next token, and what is left of `maxBatchTokens` goes to prompts; who comes later joins the
 * next step. Which texts share a step changes no token of any (on a GPU: as far as
 * docs/kernels.md promises).
 *
 * It takes the part of the model's cache that nobody else uses. When that is full, requests wait;
 * the last of those that run may have to make room, and is computed again later. What texts leave in
 * the cache is kept for others that begin with the same tokens, as long as nobody needs the room.
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
  readonly #cache: PrefixCache | undefined;
  readonly #observer: EngineObserver | undefined;
  /** All that have not ended, in the order of their ranks. */
  readonly #requests: EngineRequest[] = [];
  /** Those that wait for the prompt of another. */
  readonly #followers = new WeakMap<EngineRequest, readonly EngineRequest[]>();
  /** The steps, while there are requests. */
  #running: Promise<void> | undefined;
  #wake: (() => void) | undefined;
  #closed = false;

  /** @internal Engines come from `model.createEngine()`. */
  constructor(host: EngineHost, options: EngineOptions) {
    checkObject("options", options);
    const { maxBatchTokens = host.limits.maxBatchTokens, prefixCache = true, observer } = options;
    checkInteger("options.maxBatchTokens", maxBatchTokens, 1, host.limits.maxBatchTokens);
    checkBoolean("options.prefixCache", prefixCache);
    if (observer !== undefined) checkObject("options.observer", observer);
    this.#host = host;
    this.#observer = observer;
    this.#cache = prefixCache ? new PrefixCache(host) : undefined;
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
  async *generate(options: EngineGenerateOptions): AsyncGenerator<EngineChunk, void, undefined> {
    const output = new ChunkQueue<EngineChunk>();
    const requests = await this.#read(options, output);
    const { signal } = options;
    throwIfAborted(signal);
    if (this.#closed) throw closedError();
    const abort = (): void => {
      for (const request of requests) this.#end(request, abortError(signal));
    };
    signal?.addEventListener("abort", abort, { once: true });
    this.#addAll(requests);
    try {
      for (let left = requests.length; left > 0;) {
        const chunk = await output.next();
        yield chunk;
        if (chunk.finishReason !== undefined) left--;
      }
    } finally {
      signal?.removeEventListener("abort", abort);
      for (const request of requests) this.#remove(request);
    }
  }

  /** How many texts it has at this moment. */
  get load(): EngineLoad {
    const running = this.#requests.filter((request) => request.running).length;
    return { running, waiting: this.#requests.length - running };
  }

  /** Whether `close` was called. */
  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Ends all requests with ERR_DISPOSED, and waits for the steps under way: then the engine holds
   * nothing of the cache. Closing twice does nothing more.
   */
  async close(): Promise<void> {
    if (!this.#closed) {
      this.#closed = true;
      this.#host.forget(this);
      this.#endAll(closedError());
    }
    await this.#running;
    this.#cache?.clear();
  }

  /** The same as {@link Engine.close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** @internal Something of the cache was given back, perhaps by somebody else. */
  roomMade(): void {
    this.#wake?.();
  }

  /** One for each text. */
  async #read(
    options: EngineGenerateOptions,
    output: ChunkQueue<EngineChunk>,
  ): Promise<EngineRequest[]> {
    const arrival = performance.now();
    checkObject("options", options);
    if ((options as GenerateOptions).sequence !== undefined) {
      throw new TypeError("options.sequence is not for engines: their requests have their own");
    }
    const { n = 1, promptLogprobs, priority = 0, timeoutMs } = options;
    checkInteger("options.n", n, 1, 128);
    if (promptLogprobs !== undefined)
      checkInteger("options.promptLogprobs", promptLogprobs, 0, MAX_TOP_LOGPROBS);
    checkInteger("options.priority", priority, -1000, 1000);
    if (timeoutMs !== undefined) checkInteger("options.timeoutMs", timeoutMs, 1, 2 ** 31 - 1);
    const { prompt, sampling, maxTokens, newChunks } = await this.#host.readGeneration(options);
    const { maxContextTokens } = this.#host.limits;
    checkContext([{ sequence: { length: 0 }, tokens: prompt }], maxContextTokens);
    const normalized = normalizeSampling(sampling, this.#host.vocabSize, "options");
    const shared = {
      prompt,
      maxTokens,
      maxContextTokens,
      output,
      arrival,
      rank: rankOf(arrival, priority),
      deadline: arrival + (timeoutMs ?? Infinity),
      cache: this.#cache,
      observer: this.#observer,
    };
    return Array.from({ length: n }, (_, index) => {
      const seed = BigInt.asUintN(64, normalized.seed + BigInt(index));
      return new EngineRequest(this.#host, {
        ...shared,
        index,
        awaited: index === 0 && n > 1,
        sampling: { ...normalized, seed },
        promptLogprobs: index === 0 ? promptLogprobs : undefined,
        chunks: newChunks(),
      });
    });
  }

  /** The others come when the first one has put their prompt into the cache. */
  #addAll([first, ...others]: readonly EngineRequest[]): void {
    this.#add(first!);
    if (this.#cache === undefined || first!.promptKept)
      for (const other of others) this.#add(other);
    else this.#followers.set(first!, others);
  }

  #addFollowers(request: EngineRequest): void {
    if (!request.promptKept) return;
    for (const follower of this.#followers.get(request) ?? []) this.#add(follower);
    this.#followers.delete(request);
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
    request.end();
    this.#wake?.();
  }

  #end(request: EngineRequest, error: unknown): void {
    request.output.fail(error);
    this.#remove(request);
  }

  #endAll(error: unknown): void {
    for (const request of [...this.#requests]) this.#end(request, error);
  }

  async #run(): Promise<void> {
    try {
      // So that those who come together share the first step.
      await nextTurn();
      const underWay: StepUnderWay[] = [];
      while (this.#requests.length > 0 || underWay.length > 0) {
        const next = this.#submit();
        if (next !== undefined) underWay.push(next);
        const full = underWay.length === this.#host.stepsInFlight;
        if (next !== undefined && !full) continue;
        if (underWay.length > 0) await this.#handOut(underWay.shift()!);
        else if (this.#requests.length > 0) await this.#sleep();
      }
    } catch (error) {
      // The model is gone, or its device is: that is everybody's error.
      this.#endAll(error);
    } finally {
      this.#running = undefined;
    }
  }

  /** Hands the next step over; undefined when nobody can move before tokens, pages or slots come. */
  #submit(): StepUnderWay | undefined {
    if (this.#requests.length === 0) return undefined;
    const { spans } = this.#plan();
    if (spans.length === 0) return undefined;
    const results = this.#host.submit(spans.map(({ request, tokens }) => request.take(tokens)));
    results.catch(() => undefined); // reported when its turn comes
    const requests = spans.map(({ request }) => request);
    for (const request of requests) {
      request.keepSnapshot();
      this.#addFollowers(request);
    }
    return { requests, results };
  }

  /** Waits for what a step brings. */
  async #handOut({ requests, results }: StepUnderWay): Promise<void> {
    for (const [index, result] of (await results).entries()) {
      const request = requests[index]!;
      // It may have ended with the step before, or have been withdrawn: then this is one too many.
      if (request.ended) continue;
      try {
        if (request.accept(result)) this.#remove(request);
      } catch (error) {
        this.#end(request, error);
      }
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
    for (const request of plan.admitted) request.enter();
    return plan;
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
