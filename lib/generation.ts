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
  /** Texts that end the generation; they are not part of its text. Default none. */
  readonly stop?: readonly string[];
  /** Tokens that end the generation, besides the model's own end-of-text tokens. Default none. */
  readonly stopTokenIds?: readonly number[];
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
  const { stopTokens, newStopMatcher, format, ...rest } = readOptions(model, options, defaults);
  const prompt = checkTokens(
    "options.prompt",
    typeof options.prompt === "string"
      ? await model.tokenizer.encode(options.prompt)
      : options.prompt,
    model.config.vocabSize,
  );
  const newConstraint = format && model.constraintVocabulary.compile(format, stopTokens);
  const newChunks = (): ChunkMaker => {
    const text = new GeneratedText(model, prompt, newStopMatcher());
    return new ChunkMaker(text, stopTokens, rest.maxTokens, newConstraint?.());
  };
  return { ...rest, prompt, newChunks };
}

/** Makes chunks of the tokens that are drawn, and knows which is the last one. */
export class ChunkMaker {
  readonly #text: GeneratedText;
  readonly #stopTokens: ReadonlySet<number>;
  readonly #maxTokens: number;
  readonly #constraint: Constraint | undefined;
  #count = 0;

  /** @internal They come with a {@link Generation}. */
  constructor(
    text: GeneratedText,
    stopTokens: ReadonlySet<number>,
    maxTokens: number,
    constraint: Constraint | undefined,
  ) {
    this.#text = text;
    this.#stopTokens = stopTokens;
    this.#maxTokens = maxTokens;
    this.#constraint = constraint;
  }

  /** The tokens that the next one may be, which depend on those before; undefined: all, always. */
  get tokenMask(): Uint32Array | undefined {
    return this.#constraint?.mask;
  }

  /**
   * The chunk of the next token.
   * @param mostSteps generated tokens for which the sequence has room.
   */
  next({ token, logprob, topLogprobs }: StepResult, mostSteps: number): GenerationChunk {
    this.#count += 1;
    const isStop = this.#stopTokens.has(token!);
    const piece = isStop ? "" : this.#text.push(token!);
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
    if (this.#count >= this.#maxTokens) return "length";
    if (this.#count > mostSteps) return "context";
    return undefined;
  }
}

/** The text of the generated tokens, as far as it is certain and before any stop text. */
class GeneratedText {
  readonly #detokenizer: StreamDetokenizer | undefined;
  readonly #stops: StopMatcher;

  constructor(model: HymbaModel, prompt: Int32Array, stops: StopMatcher) {
    this.#detokenizer = model.hasTokenizer
      ? new StreamDetokenizer(model.tokenizer, { context: prompt })
      : undefined;
    this.#stops = stops;
  }

  /** Whether a stop text was found. */
  get stopped(): boolean {
    return this.#stops.stop !== undefined;
  }

  push(token: number): string {
    return this.#stops.push(this.#detokenizer?.push(token) ?? "").text;
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
  const { maxTokens = 128, stop = [], stopTokenIds = [], ignoreEos = false } = options;
  checkInteger("options.maxTokens", maxTokens, 1, 2 ** 31 - 1);
  checkBoolean("options.ignoreEos", ignoreEos);
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
  return {
    sampling: samplingOptions(options, defaults),
    maxTokens,
    stopTokens: new Set<number>([
      ...(stopTokenIds as readonly number[]),
      ...(ignoreEos ? [] : model.eosTokenIds),
    ]),
    newStopMatcher: () => new StopMatcher(stop),
    format:
      options.responseFormat === undefined
        ? undefined
        : checkFormat("options.responseFormat", options.responseFormat),
  };
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
