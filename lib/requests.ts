import type { LogitsWanted, NativeSpanResult } from "./binding";
import { HymbaError } from "./errors";
import type { SpanWork } from "./runner";
import { normalizeSampling, type SamplingOptions } from "./sampling";
import { Sequence, type SequenceOwner } from "./sequence";
import { checkChoice, checkObject, show } from "./validate";

/** What is wanted of a request besides its tokens going into the cache. */
export interface OutputOptions {
  /**
   * Logits to return: of no token, of the last one, or of all. Default `last`, or `none` when
   * `sample` is given.
   */
  readonly logits?: LogitsWanted;
  /** Draws the next token on the device. Default: none is drawn. */
  readonly sample?: SamplingOptions;
}

/** Tokens for one sequence. */
export interface PrefillRequest extends OutputOptions {
  readonly sequence: Sequence;
  /** Token ids, at least one. */
  readonly tokens: ArrayLike<number>;
}

/** One generated token for one sequence. */
export interface DecodeRequest extends OutputOptions {
  readonly sequence: Sequence;
  /** The token that was drawn last. */
  readonly token: number;
}

/** A token and its log-probability. */
export interface TokenLogprob {
  readonly token: number;
  readonly logprob: number;
}

/** What a request gives. */
export interface StepResult {
  /** Logits [rows · vocabSize], one row for `last`, one a token for `all`. */
  readonly logits?: Float32Array;
  /** The token drawn, when `sample` was given. */
  readonly token?: number;
  /** Log-probability of that token in the distribution of the raw logits. */
  readonly logprob?: number;
  /** The most probable tokens of that distribution, most probable first. */
  readonly topLogprobs?: readonly TokenLogprob[];
}

/**
 * Requests, checked, as work for the runner. `spanOf` gives the tokens of one, named `where`, and
 * whether they count as generated.
 */
export function toSpanWork<Request extends OutputOptions & { readonly sequence: Sequence }>(
  owner: SequenceOwner,
  vocabSize: number,
  requests: readonly Request[],
  spanOf: (request: Request, where: string) => Pick<SpanWork, "tokens" | "generated">,
): SpanWork[] {
  if (!Array.isArray(requests)) {
    throw new TypeError(`requests must be an array, got ${show(requests)}`);
  }
  return requests.map((request: Request, index): SpanWork => {
    const where = `requests[${index}]`;
    checkObject(where, request);
    const { sequence, sample } = request;
    if (!(sequence instanceof Sequence)) {
      throw new TypeError(`${where}.sequence must be a Sequence, got ${show(sequence)}`);
    }
    if (!sequence.belongsTo(owner)) {
      throw new HymbaError("ERR_INVALID_ARGUMENT", `${where}.sequence is of another model`);
    }
    const logits = request.logits ?? (sample === undefined ? "last" : "none");
    return {
      sequence,
      ...spanOf(request, where),
      logits: checkChoice(`${where}.logits`, logits, ["none", "last", "all"]),
      sampling:
        sample === undefined ? null : normalizeSampling(sample, vocabSize, `${where}.sample`),
      targets: null,
      targetTops: 0,
    };
  });
}

/** What `steps` yields, as results. */
export async function* toStepResults(
  steps: AsyncGenerator<NativeSpanResult[], void, undefined>,
): AsyncGenerator<StepResult[], void, undefined> {
  for await (const results of steps) yield results.map(toStepResult);
}

/** What a span gave. */
export function toStepResult(result: NativeSpanResult): StepResult {
  const { logits, token, logprob, topTokens, topLogprobs } = result;
  return {
    ...(logits !== undefined && { logits }),
    ...(token !== undefined && { token, logprob: logprob! }),
    ...(topTokens !== undefined &&
      topTokens.length > 0 && { topLogprobs: pair(topTokens, topLogprobs!) }),
  };
}

/** Log-probability of a token that was given, and the most probable ones in its place. */
export interface TokenScore {
  readonly logprob: number;
  /** Most probable first. */
  readonly topLogprobs: readonly TokenLogprob[];
}

/** Those of the targets that a span had. */
export function toScores(result: NativeSpanResult): readonly TokenScore[] {
  const { targetLogprobs, targetTopTokens, targetTopLogprobs } = result;
  if (targetLogprobs === undefined) return NO_SCORES;
  const tops = targetTopTokens!.length / targetLogprobs.length;
  return Array.from(targetLogprobs, (logprob, i) => {
    const part = [i * tops, (i + 1) * tops] as const;
    const tokens = targetTopTokens!.subarray(...part);
    return { logprob, topLogprobs: pair(tokens, targetTopLogprobs!.subarray(...part)) };
  });
}

/** Of almost all spans. */
const NO_SCORES: readonly TokenScore[] = [];

function pair(tokens: Int32Array, logprobs: Float32Array): TokenLogprob[] {
  return Array.from(tokens, (token, i) => ({ token, logprob: logprobs[i]! }));
}
