import {
  SAMPLED_TOKEN,
  awaitNative,
  callNative,
  type LogitsWanted,
  type NativeModel,
  type NativeSpanResult,
} from "./binding";
import { HymbaError } from "./errors";
import type { NativeSampling } from "./sampling";
import type { Sequence } from "./sequence";
import { planSteps, type StepLimits, type StepSpan } from "./steps";

/** Tokens for one sequence, validated, and what is wanted for them. */
export interface SpanWork {
  readonly sequence: Sequence;
  readonly tokens: Int32Array;
  readonly generated: boolean;
  readonly logits: LogitsWanted;
  readonly sampling: NativeSampling | null;
  readonly targets: Int32Array | null;
  readonly targetTops: number;
}

/** How a call is watched and ended early. */
export interface RunOptions {
  /** Checked before every step. */
  readonly signal?: AbortSignal | undefined;
  /** Called after every step with the share of tokens that are done, 0 to 1. */
  readonly onProgress?: ((fraction: number) => void) | undefined;
}

/** Limits of a model's steps. */
export interface RunnerLimits extends StepLimits {
  readonly maxContextTokens: number;
}

/** Throws ERR_ABORTED once the signal has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError(signal);
}

/** The error of a call whose signal has fired. */
export function abortError(signal: AbortSignal | undefined): HymbaError {
  return new HymbaError("ERR_ABORTED", "the call was aborted by its signal", {
    cause: signal?.reason,
  });
}

/** Throws ERR_CONTEXT_FULL unless every sequence can take its tokens. */
export function checkContext(
  work: readonly { readonly sequence: Pick<Sequence, "length">; readonly tokens: Int32Array }[],
  maxContextTokens: number,
): void {
  for (const [index, { sequence, tokens }] of work.entries()) {
    if (sequence.length + tokens.length > maxContextTokens) {
      throw new HymbaError(
        "ERR_CONTEXT_FULL",
        `request ${index}: a sequence of ${sequence.length} tokens cannot take ` +
          `${tokens.length} more, the model was loaded for ${maxContextTokens} ` +
          `(maxContextTokens)`,
      );
    }
  }
}

/** Cuts work into steps and has the addon run them, one after the other. */
export class Runner {
  readonly #native: NativeModel;
  readonly limits: RunnerLimits;
  #closed = false;
  #stepsRun = 0;

  constructor(native: NativeModel, limits: RunnerLimits) {
    this.#native = native;
    this.limits = limits;
  }

  /**
   * Runs the spans, one a sequence, and returns their results in the same order. The sequences are
   * taken together or not at all; when a later step fails or the signal fires, they keep the tokens
   * of the steps before, as their `length` says.
   * @throws HymbaError ERR_DISPOSED, ERR_BUSY, ERR_INVALID_ARGUMENT (a sequence twice),
   * ERR_CONTEXT_FULL, ERR_OUT_OF_MEMORY, ERR_ABORTED.
   */
  async run(work: readonly SpanWork[], options: RunOptions = {}): Promise<NativeSpanResult[]> {
    throwIfAborted(options.signal);
    checkContext(work, this.limits.maxContextTokens);
    enterAll(work);
    try {
      return await this.#runSteps(work, options);
    } finally {
      for (const { sequence } of work) sequence.leave();
    }
  }

  /**
   * Draws `count` tokens for each sequence: the first step takes the tokens of `work`, every later
   * one what the step before drew. Yields the results of each step in order, with up to
   * `stepsInFlight` handed over before theirs have arrived. All tokens of `work` must fit a step.
   * @throws HymbaError as `run`.
   */
  async *draw(
    work: readonly SpanWork[],
    count: number,
    stepsInFlight: number,
    { signal }: RunOptions = {},
  ): AsyncGenerator<NativeSpanResult[], void, undefined> {
    enterAll(work);
    const pending: Promise<NativeSpanResult[]>[] = [];
    const next = work.map((span) => ({ ...span, tokens: Int32Array.of(SAMPLED_TOKEN) }));
    let submitted = 0;
    const submit = () => {
      const step = this.submit(submitted === 0 ? work : next);
      step.catch(() => undefined); // reported when its turn comes
      pending.push(step);
      submitted++;
    };
    try {
      for (let step = 0; step < count; step++) {
        throwIfAborted(signal);
        if (step === 0) checkContext(work, this.limits.maxContextTokens);
        while (submitted < count && pending.length < stepsInFlight) submit();
        yield await pending.shift()!;
      }
    } finally {
      // What was handed over runs; who asked has gone, or has already been told of an error.
      await Promise.allSettled(pending);
      for (const { sequence } of work) sequence.leave();
    }
  }

  /**
   * Hands a step of spans, one a sequence, to the device, behind those that were handed over before.
   * When this returns, the sequences have taken the tokens, or it fails and they have not; the
   * results come later. Nobody's sequences are reserved.
   * @throws HymbaError ERR_DISPOSED, ERR_OUT_OF_MEMORY; ERR_INVALID_ARGUMENT when the spans do not
   * fit a step.
   */
  async submit(work: readonly SpanWork[]): Promise<NativeSpanResult[]> {
    if (this.#closed) throw closedError();
    const spans = work.map((span) => ({ ...span, sequence: span.sequence.id }));
    const results = callNative(() => this.#native.step(spans));
    for (const { sequence, tokens } of work) sequence.advance(tokens.length);
    const arrived = await awaitNative(() => results);
    this.#stepsRun += 1;
    return arrived;
  }

  /** Steps so far that have given their results. */
  get stepsRun(): number {
    return this.#stepsRun;
  }

  /** Calls under way fail with ERR_DISPOSED before their next step: the addon would find no model. */
  close(): void {
    this.#closed = true;
  }

  async #runSteps(
    work: readonly SpanWork[],
    { signal, onProgress }: RunOptions,
  ): Promise<NativeSpanResult[]> {
    const lengths = work.map(({ tokens }) => tokens.length);
    const total = lengths.reduce((sum, length) => sum + length, 0);
    const parts: NativeSpanResult[][] = work.map(() => []);
    let done = 0;
    for (const step of planSteps(lengths, this.limits)) {
      throwIfAborted(signal);
      const results = await this.submit(step.map((span) => partOf(work[span.request]!, span)));
      for (const [index, { request, begin, end }] of step.entries()) {
        parts[request]!.push(results[index]!);
        done += end - begin;
      }
      onProgress?.(done / total);
    }
    return parts.map(joinResults);
  }
}

function closedError(): HymbaError {
  return new HymbaError("ERR_DISPOSED", "the model was disposed while the call was under way");
}

/** Reserves all sequences, or none. */
function enterAll(work: readonly SpanWork[]): void {
  const entered: Sequence[] = [];
  try {
    for (const [index, { sequence }] of work.entries()) {
      const earlier = entered.indexOf(sequence);
      if (earlier >= 0) {
        throw new HymbaError(
          "ERR_INVALID_ARGUMENT",
          `requests ${earlier} and ${index} are for the same sequence: a call takes each once`,
        );
      }
      sequence.enter();
      entered.push(sequence);
    }
  } catch (error) {
    for (const sequence of entered) sequence.leave();
    throw error;
  }
}

/** The part of a request that goes into a step. What comes of the last token comes with the last part. */
function partOf(work: SpanWork, { begin, end }: StepSpan): SpanWork {
  const isLast = end === work.tokens.length;
  return {
    ...work,
    tokens: work.tokens.subarray(begin, end),
    logits: work.logits === "last" && !isLast ? "none" : work.logits,
    sampling: isLast ? work.sampling : null,
    targets: work.targets?.subarray(begin, end) ?? null,
  };
}

function joinResults(parts: readonly NativeSpanResult[]): NativeSpanResult {
  const logits = parts.flatMap((part) => part.logits ?? []);
  const targetLogprobs = parts.flatMap((part) => part.targetLogprobs ?? []);
  return {
    ...parts.at(-1),
    ...(logits.length > 0 && { logits: joinFloats(logits) }),
    ...(targetLogprobs.length > 0 && { targetLogprobs: joinFloats(targetLogprobs) }),
  };
}

function joinFloats(parts: readonly Float32Array[]): Float32Array {
  if (parts.length === 1) return parts[0]!;
  const joined = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    joined.set(part, offset);
    offset += part.length;
  }
  return joined;
}
