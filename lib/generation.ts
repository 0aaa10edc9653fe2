import type { GenerationDefaults } from "./checkpoint/generation_config";
import { HymbaError } from "./errors";
import type { Constraint } from "./grammar/constraint";
import { checkFormat, type ResponseFormat } from "./grammar/response_format";
import type { HymbaModel } from "./model";
import type { StepResult, TokenLogprob } from "./requests";
import { randomSeed, type SamplingOptions } from "./sampling";
import { Sequence } from "./sequence";
import { StreamDetokenizer } from "./text/detokenizer";
import { StopMatcher } from "./text/stop_matcher";
import {
  checkBoolean,
  checkInteger,
  checkObject,
  checkSignal,
  checkTokens,
  show,
} from "./validate";

/** Options of `model.generate`. Sampling options that are left out come from `generation_config.json`. */
export interface GenerateOptions extends Omit<SamplingOptions, "tokenMask"> {
  /** Text, encoded with special tokens, or token ids as they are. At least one token. */
  readonly prompt: string | ArrayLike<number>;
  /** Most tokens to generate, from 1. Default 128. */
  readonly maxTokens?: number;
  /**
   * Tokens that come before one that may end the generation: until then no end-of-text token and none
   * of `stopTokenIds` can be drawn, and what completes a text of `stop` is text like any other. A full
   * context and a complete `responseFormat` end it still. From 0 to `maxTokens`. Default 0.
   */
  readonly minTokens?: number;
  /** Texts that end the generation; they are not part of its text. Default none. */
  readonly stop?: readonly string[];
  /** Tokens that end the generation, besides the model's own end-of-text tokens. Default none. */
  readonly stopTokenIds?: readonly number[];
  /** Whether the text of what ended the generation, a text or a token, is part of its text. Default false. */
  readonly includeStop?: boolean;
  /** Whether special tokens are left out of the text. Default true. */
  readonly skipSpecialTokens?: boolean;
  /**
   * What the generated text must be. Only tokens that lead there are drawn, and the text ends where it
   * is complete; the model's end-of-text tokens and `stopTokenIds` can be drawn only where it may end.
   * `maxTokens`, a stop text or a full context may still cut it short. Default any text.
   */
  readonly responseFormat?: ResponseFormat;
  /** Go on after the model's own end-of-text tokens. Default false. */
  readonly ignoreEos?: boolean;
  /** Ends the generation with ERR_ABORTED. */
  readonly signal?: AbortSignal;
  /** A sequence to go on with; it stays yours to dispose of. Default a new one for this call. */
  readonly sequence?: Sequence;
}

/**
 * Why a generation ended: `stop`, a stop text or token, or a complete `responseFormat`; `length`,
 * `maxTokens`; `context`, the sequence is full.
 */
export type FinishReason = "stop" | "length" | "context";

/** One generated token. */
export interface GenerationChunk {
  /** Text that has become certain, often one word; "" while a character or a stop text is incomplete. */
  readonly text: string;
  readonly token: number;
  /** Log-probability of the token in the model's own distribution, before any sampling option. */
  readonly logprob: number;
  /** The most probable tokens, when `topLogprobs` asks for them. */
  readonly topLogprobs?: readonly TokenLogprob[];
  /** Set on the last chunk only. */
  readonly finishReason?: FinishReason;
}

/** What is generated, checked, with defaults filled in. */
export interface Generation {
  readonly prompt: Int32Array;
  readonly sampling: SamplingOptions;
  readonly maxTokens: number;
  readonly minTokens: number;
  /** One for each text. */
  readonly newChunks: () => ChunkMaker;
}

/**
 * Reads the options of a generation.
 * @throws TypeError, RangeError when one is wrong.
 * @throws HymbaError ERR_INVALID_ARGUMENT, ERR_MODEL_UNSUPPORTED when one needs a tokenizer, or the
 * format cannot be enforced.
 */
export async function readGeneration(
  model: HymbaModel,
  options: GenerateOptions,
  defaults: GenerationDefaults,
): Promise<Generation> {
  const { format, ending, text, ...rest } = readOptions(model, options, defaults);
  const prompt = checkTokens(
    "options.prompt",
    typeof options.prompt === "string"
      ? await model.tokenizer.encode(options.prompt)
      : options.prompt,
    model.config.vocabSize,
  );
  const { stopTokens, minTokens, maxTokens } = ending;
  const newConstraint =
    format && model.constraintVocabulary.compile(format, { stopTokens, minTokens });
  const newChunks = (): ChunkMaker =>
    new ChunkMaker(new GeneratedText(model, prompt, text), ending, newConstraint?.());
  return { ...rest, prompt, minTokens, maxTokens, newChunks };
}

/** What ends a text, and when. */
interface Ending {
  readonly maxTokens: number;
  readonly minTokens: number;
  readonly stopTokens: ReadonlySet<number>;
  /** What the first `minTokens` tokens may be; undefined: all. */
  readonly earlyMask: Uint32Array | undefined;
  /** Whether the text of a stop token belongs to the text. */
  readonly includeStop: boolean;
}

/** Makes chunks of the tokens that are drawn, and knows which is the last one. */
export class ChunkMaker {
  readonly #text: GeneratedText;
  readonly #ending: Ending;
  readonly #constraint: Constraint | undefined;
  #count = 0;

  /** @internal They come with a {@link Generation}. */
  constructor(text: GeneratedText, ending: Ending, constraint: Constraint | undefined) {
    this.#text = text;
    this.#ending = ending;
    this.#constraint = constraint;
  }

  /** Whether what a token may be depends on those before it. */
  get constrained(): boolean {
    return this.#constraint !== undefined;
  }

  /**
   * What the i-th token of the text, from 0, may be; undefined: all. Where it depends on those before,
   * only the next one has an answer.
   */
  tokenMask(i: number): Uint32Array | undefined {
    if (this.#constraint !== undefined) return this.#constraint.mask;
    return i < this.#ending.minTokens ? this.#ending.earlyMask : undefined;
  }

  /**
   * The chunk of the next token.
   * @param mostSteps generated tokens for which the sequence has room.
   */
  next({ token, logprob, topLogprobs }: StepResult, mostSteps: number): GenerationChunk {
    const { stopTokens, minTokens, includeStop } = this.#ending;
    const mayEnd = this.#count >= minTokens;
    this.#count += 1;
    const isStop = stopTokens.has(token!);
    const piece = isStop && !includeStop ? "" : this.#text.push(token!, mayEnd);
    if (!isStop) this.#constraint?.accept(token!);
    const isDone = isStop || this.#text.stopped || this.#constraint?.isComplete === true;
    const finishReason = isDone ? "stop" : this.#limit(mostSteps);
    return {
      text: finishReason === undefined ? piece : piece + this.#text.flush(),
      token: token!,
      logprob: logprob!,
      ...(topLogprobs !== undefined && { topLogprobs }),
      ...(finishReason !== undefined && { finishReason }),
    };
  }

  /** The last of the tokens would need one step more than there were. */
  #limit(mostSteps: number): FinishReason | undefined {
    if (this.#count >= this.#ending.maxTokens) return "length";
    if (this.#count > mostSteps) return "context";
    return undefined;
  }
}

/** How the text of a generation is put together. */
interface TextOptions {
  readonly stop: readonly string[];
  readonly includeStop: boolean;
  readonly skipSpecialTokens: boolean;
}

/** The text of the generated tokens, as far as it is certain and before any stop text. */
class GeneratedText {
  readonly #detokenizer: StreamDetokenizer | undefined;
  readonly #stops: StopMatcher;

  constructor(model: HymbaModel, context: Int32Array, options: TextOptions) {
    const { stop, includeStop, skipSpecialTokens } = options;
    this.#detokenizer = model.hasTokenizer
      ? new StreamDetokenizer(model.tokenizer, { context, skipSpecialTokens })
      : undefined;
    this.#stops = new StopMatcher(stop, { includeStop });
  }

  /** Whether a stop text was found. */
  get stopped(): boolean {
    return this.#stops.stop !== undefined;
  }

  push(token: number, mayEnd: boolean): string {
    return this.#stops.push(this.#detokenizer?.push(token) ?? "", mayEnd).text;
  }

  /** What was held back, once nothing follows. */
  flush(): string {
    if (this.stopped) return "";
    const rest = this.#stops.push(this.#detokenizer?.flush() ?? "").text;
    return rest + this.#stops.flush();
  }
}

function readOptions(model: HymbaModel, options: GenerateOptions, defaults: GenerationDefaults) {
  checkObject("options", options);
  const { maxTokens = 128, minTokens = 0, stop = [], stopTokenIds = [] } = options;
  const { ignoreEos = false, includeStop = false, skipSpecialTokens = true } = options;
  checkInteger("options.maxTokens", maxTokens, 1, 2 ** 31 - 1);
  checkInteger("options.minTokens", minTokens, 0, maxTokens);
  checkBoolean("options.ignoreEos", ignoreEos);
  checkBoolean("options.includeStop", includeStop);
  checkBoolean("options.skipSpecialTokens", skipSpecialTokens);
  checkSignal("options.signal", options.signal);
  if (options.sequence !== undefined && !(options.sequence instanceof Sequence)) {
    throw new TypeError(`options.sequence must be a Sequence, got ${show(options.sequence)}`);
  }
  if (!Array.isArray(stop)) throw new TypeError(`options.stop must be an array, got ${show(stop)}`);
  if (!Array.isArray(stopTokenIds)) {
    throw new TypeError(`options.stopTokenIds must be an array, got ${show(stopTokenIds)}`);
  }
  for (const id of stopTokenIds) {
    checkInteger("options.stopTokenIds", id, 0, model.config.vocabSize - 1);
  }
  if (stop.length > 0 && !model.hasTokenizer) {
    throw new HymbaError(
      "ERR_INVALID_ARGUMENT",
      "options.stop needs a tokenizer, which this model does not have: use stopTokenIds",
    );
  }
  const stopTokens = new Set<number>([
    ...(stopTokenIds as readonly number[]),
    ...(ignoreEos ? [] : model.eosTokenIds),
  ]);
  const { vocabSize } = model.config;
  if (minTokens > 0 && stopTokens.size === vocabSize) {
    throw new RangeError("options.minTokens leaves nothing to draw: every token is a stop token");
  }
  const earlyMask =
    minTokens > 0 && stopTokens.size > 0 ? allBut(stopTokens, vocabSize) : undefined;
  const ending: Ending = { maxTokens, minTokens, stopTokens, earlyMask, includeStop };
  const text: TextOptions = { stop, includeStop, skipSpecialTokens };
  return {
    sampling: samplingOptions(options, defaults),
    ending,
    text,
    format:
      options.responseFormat === undefined
        ? undefined
        : checkFormat("options.responseFormat", options.responseFormat),
  };
}

/** A mask that leaves some tokens out. */
function allBut(tokens: Iterable<number>, vocabSize: number): Uint32Array {
  const mask = new Uint32Array(Math.ceil(vocabSize / 32)).fill(2 ** 32 - 1);
  for (const token of tokens) mask[token >> 5]! &= ~(1 << (token & 31));
  return mask;
}

/** What the call says, and where it is silent what the checkpoint recommends. */
function samplingOptions(options: GenerateOptions, defaults: GenerationDefaults): SamplingOptions {
  const recommended = {
    temperature: defaults.doSample === false ? 0 : defaults.temperature,
    topK: defaults.topK,
    topP: defaults.topP,
    repetitionPenalty: defaults.repetitionPenalty,
  };
  const names = [
    ...(["temperature", "topK", "topP", "minP", "repetitionPenalty", "presencePenalty"] as const),
    ...(["frequencyPenalty", "logitBias", "topLogprobs"] as const),
  ];
  const chosen: Record<string, unknown> = {};
  for (const name of names) {
    const value = options[name] ?? (recommended as Partial<SamplingOptions>)[name];
    if (value !== undefined) chosen[name] = value;
  }
  // One seed for the whole text: without it, every token would draw a new one.
  return { ...chosen, seed: options.seed ?? randomSeed() };
}
