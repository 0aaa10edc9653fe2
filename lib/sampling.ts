import { randomBytes } from "node:crypto";
import { checkInteger, checkObject, show } from "./validate";

/**
 * How the next token is chosen from the logits `l`. The options act in this order: logit bias,
 * penalties, token mask, temperature, top-k, top-p, min-p; the token is drawn from what is left.
 */
export interface SamplingOptions {
  /**
   * Divides the logits: `l / temperature`. Below 1 likely tokens become likelier still; 0 (and
   * anything below 1e-4) is greedy: the largest logit wins, among equals the lowest id. From 0.
   * Default 1.
   */
  readonly temperature?: number;
  /** Only the `topK` likeliest tokens can be drawn. An integer from 0, which means all. Default 0. */
  readonly topK?: number;
  /**
   * Only the fewest likeliest tokens that together have at least this probability, among those
   * that top-k left, can be drawn. Above 0, at most 1, which means all. Default 1.
   */
  readonly topP?: number;
  /**
   * Only tokens at least `minP` times as probable as the likeliest one can be drawn. From 0, which
   * means all, and below 1. Default 0.
   */
  readonly minP?: number;
  /**
   * `l > 0 ? l / repetitionPenalty : l · repetitionPenalty` for tokens of the prompt and generated
   * ones (Keskar et al., CTRL, 2019). Above 0. Default 1: none.
   */
  readonly repetitionPenalty?: number;
  /** `l - presencePenalty` for tokens that were generated before. Any finite number. Default 0. */
  readonly presencePenalty?: number;
  /**
   * `l - frequencyPenalty · count` for tokens that were generated `count` times before. Any finite
   * number. Default 0.
   */
  readonly frequencyPenalty?: number;
  /**
   * Token id → what is added to its logit: a finite number, or `-Infinity`, which forbids the token.
   * Default none.
   */
  readonly logitBias?: ReadonlyMap<number, number> | Readonly<Record<string, number>>;
  /**
   * Only the tokens whose bits are set can be drawn: bit `id % 32` of word `id >> 5`. ⌈vocabSize / 32⌉
   * words, at least one token. It acts after biases and penalties. Log-probabilities stay those of all
   * tokens. Default: all.
   */
  readonly tokenMask?: Uint32Array;
  /**
   * Equal seeds draw equal tokens from equal logits, whatever else is going on. An integer from 0: a
   * number up to 2^53 - 1 or a bigint up to 2^64 - 1. Default: random.
   */
  readonly seed?: number | bigint;
  /** How many of the likeliest tokens to report, with their log-probabilities: 0 to 20. Default 0. */
  readonly topLogprobs?: number;
}

/** Sampling options as the addon takes them: checked, defaults filled in, numbers rounded to fp32. */
export interface NativeSampling {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  /** [biases] token ids. */
  readonly biasTokens: Int32Array;
  /** [biases] what is added to them. */
  readonly biasValues: Float32Array;
  /** [⌈vocabSize / 32⌉] bits of the tokens that can be drawn; null: all. */
  readonly tokenMask: Uint32Array | null;
  /** 0 to 2^64 - 1. */
  readonly seed: bigint;
  readonly topLogprobs: number;
}

/** Most entries of {@link SamplingOptions.topLogprobs}: `kMaxTopLogprobs` in native/ops/sampling.h. */
export const MAX_TOP_LOGPROBS = 20;

/** Most entries of {@link SamplingOptions.logitBias}: `kMaxLogitBias` in native/model/workspace.h. */
export const MAX_LOGIT_BIAS = 300;

const MAX_INT32 = 2 ** 31 - 1;
const MAX_SEED = 2n ** 64n - 1n;

/**
 * Checks sampling options and fills in what they leave out.
 * @param vocabSize token ids are below it.
 * @param where names the options in messages, such as `options`.
 * @throws TypeError when an option has the wrong type; RangeError when it is out of range.
 */
export function normalizeSampling(
  options: SamplingOptions,
  vocabSize: number,
  where: string,
): NativeSampling {
  checkObject(where, options);
  const integer = (name: "topK" | "topLogprobs", max: number): number =>
    options[name] === undefined ? 0 : checkInteger(`${where}.${name}`, options[name], 0, max);
  const real = (name: RealOption, fallback: number, range = ANY): number =>
    options[name] === undefined ? fallback : checkFloat(`${where}.${name}`, options[name], range);
  return {
    temperature: real("temperature", 1, NOT_NEGATIVE),
    topK: integer("topK", MAX_INT32),
    topP: real("topP", 1, SHARE),
    minP: real("minP", 0, PROPER_SHARE),
    repetitionPenalty: real("repetitionPenalty", 1, POSITIVE),
    presencePenalty: real("presencePenalty", 0),
    frequencyPenalty: real("frequencyPenalty", 0),
    ...biasLists(`${where}.logitBias`, options.logitBias, vocabSize),
    tokenMask: checkMask(`${where}.tokenMask`, options.tokenMask, vocabSize),
    seed: options.seed === undefined ? randomSeed() : checkSeed(`${where}.seed`, options.seed),
    topLogprobs: integer("topLogprobs", MAX_TOP_LOGPROBS),
  };
}

/** A seed that nobody can foresee: 0 to 2^64 - 1. */
export function randomSeed(): bigint {
  return randomBytes(8).readBigUInt64LE();
}

type RealOption =
  "temperature" | "topP" | "minP" | "repetitionPenalty" | "presencePenalty" | "frequencyPenalty";

interface Range {
  readonly text: string;
  readonly holds: (value: number) => boolean;
}

const ANY: Range = { text: "finite", holds: () => true };
const BIAS: Range = { text: "finite or -Infinity", holds: () => true };
const NOT_NEGATIVE: Range = { text: "finite and at least 0", holds: (value) => value >= 0 };
const POSITIVE: Range = { text: "finite and above 0", holds: (value) => value > 0 };
const SHARE: Range = { text: "above 0 and at most 1", holds: (value) => value > 0 && value <= 1 };
const PROPER_SHARE: Range = {
  text: "at least 0 and below 1",
  holds: (value) => value >= 0 && value < 1,
};

/** The number rounded to fp32, which is what must be in range: 1e-60 is 0 there, and 1e60 is infinite. */
function checkFloat(name: string, value: unknown, range: Range): number {
  if (typeof value !== "number") {
    throw new TypeError(`${name} must be a number, got ${show(value)}`);
  }
  const rounded = Math.fround(value);
  if (!Number.isFinite(rounded) || !range.holds(rounded)) {
    throw new RangeError(`${name} must be ${range.text} as a 32-bit float, got ${value}`);
  }
  return rounded;
}

function checkSeed(name: string, value: unknown): bigint {
  if (typeof value !== "bigint" && typeof value !== "number") {
    throw new TypeError(`${name} must be an integer or a bigint, got ${show(value)}`);
  }
  if (typeof value === "number" && !Number.isInteger(value)) {
    throw new TypeError(`${name} must be an integer or a bigint, got ${value}`);
  }
  if (typeof value === "number" && !Number.isSafeInteger(value)) {
    throw new RangeError(`${name} must be a bigint when it is beyond 2^53 - 1, got ${value}`);
  }
  const seed = BigInt(value);
  if (seed < 0n || seed > MAX_SEED) {
    throw new RangeError(`${name} must be from 0 to 2^64 - 1, got ${seed}`);
  }
  return seed;
}

function checkMask(name: string, mask: unknown, vocabSize: number): Uint32Array | null {
  if (mask === undefined) return null;
  if (!(mask instanceof Uint32Array)) {
    throw new TypeError(`${name} must be a Uint32Array, got ${show(mask)}`);
  }
  const words = Math.ceil(vocabSize / 32);
  if (mask.length !== words) {
    throw new RangeError(`${name} must have ${words} words, got ${mask.length}`);
  }
  // Bits beyond the vocabulary count for nothing.
  const last = mask[words - 1]! << (32 * words - vocabSize);
  if (last === 0 && mask.subarray(0, -1).every((word) => word === 0)) {
    throw new RangeError(`${name} must allow at least one token`);
  }
  return mask;
}

function biasLists(
  name: string,
  biases: unknown,
  vocabSize: number,
): Pick<NativeSampling, "biasTokens" | "biasValues"> {
  const entries = biases === undefined ? [] : biasEntries(name, biases);
  if (entries.length > MAX_LOGIT_BIAS) {
    throw new RangeError(
      `${name} must have at most ${MAX_LOGIT_BIAS} entries, got ${entries.length}`,
    );
  }
  const biasTokens = new Int32Array(entries.length);
  const biasValues = new Float32Array(entries.length);
  entries.forEach(([key, value], i) => {
    const token = checkInteger(`a token id in ${name}`, key, 0, vocabSize - 1);
    biasTokens[i] = token;
    biasValues[i] = value === -Infinity ? value : checkFloat(`${name}[${token}]`, value, BIAS);
  });
  return { biasTokens, biasValues };
}

/** Keys of an object are strings; those that are not a token id's decimal digits stay what they are. */
function biasEntries(name: string, biases: unknown): [unknown, unknown][] {
  if (biases instanceof Map) return [...biases];
  if (typeof biases !== "object" || biases === null || Array.isArray(biases)) {
    throw new TypeError(
      `${name} must be a Map or an object of token ids and numbers, got ${show(biases)}`,
    );
  }
  return Object.entries(biases).map(([key, value]) => [
    /^\d+$/.test(key) ? Number(key) : key,
    value,
  ]);
}
