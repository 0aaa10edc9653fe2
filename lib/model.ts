import { join } from "node:path";
import {
  awaitNative,
  callNative,
  type CacheUsage,
  loadBinding,
  type LogitsWanted,
  type ModelDtype,
  type NativeLoadOptions,
  type NativeModel,
  type NativeSpanResult,
  type TracedTensor,
} from "./binding";
import { type Checkpoint, openCheckpoint } from "./checkpoint/checkpoint";
import type { HymbaConfig } from "./checkpoint/config";
import { kindOf } from "./checkpoint/files";
import { summarizeCheckpoint } from "./checkpoint/summary";
import { chooseDevice, type DeviceInfo } from "./device";
import { HymbaError } from "./errors";
import { generate, type GenerateOptions, type GenerationChunk } from "./generate";
import { loadNative } from "./load";
import {
  type LoadOptions,
  type MemoryOptions,
  type MemoryPlan,
  deviceRequest,
  nativeLoadOptions,
  toMemoryPlan,
} from "./load_options";
import { Runner, type RunOptions, type SpanWork } from "./runner";
import { normalizeSampling, type SamplingOptions } from "./sampling";
import { Sequence, type SequenceOwner } from "./sequence";
import {
  applyChatTemplate,
  type ChatMessage,
  type ChatTemplateOptions,
} from "./text/chat_template";
import { Tokenizer } from "./text/tokenizer";
import {
  checkCallback,
  checkChoice,
  checkInteger,
  checkObject,
  checkSignal,
  checkTokens,
  show,
} from "./validate";

export type { LoadOptions, LoadProgress, MemoryOptions, MemoryPlan } from "./load_options";
export { Sequence } from "./sequence";

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

/** Limits that a model was loaded with. */
export interface ModelLimits {
  readonly maxSequences: number;
  readonly maxContextTokens: number;
  readonly maxBatchTokens: number;
  readonly cacheTokens: number;
}

/**
 * The memory of a GPU at one moment, as its driver counts it (and `nvidia-smi` shows it): what all
 * models and all processes use.
 */
export interface DeviceMemory {
  readonly totalBytes: number;
  readonly usedBytes: number;
  /**
   * The part of `usedBytes` that is not in this model's plan: CUDA's context and the code of the
   * kernels, half a gigabyte on an H100, and what other models and other processes use.
   */
  readonly otherBytes: number;
  /** What one more model may take: what is free, but for what CUDA takes while a model runs. */
  readonly availableBytes: number;
}

/** What a model is, where it runs and what it holds. */
export interface ModelInfo {
  readonly path: string;
  readonly device: DeviceInfo;
  readonly dtype: ModelDtype;
  readonly parameters: number;
  readonly config: HymbaConfig;
  readonly limits: ModelLimits;
  readonly memory: MemoryPlan;
  /** Of the GPU; undefined on the CPU. */
  readonly deviceMemory: DeviceMemory | undefined;
  readonly cache: CacheUsage;
}

/**
 * A loaded Hymba model.
 *
 * @example
 * ```ts
 * await using model = await HymbaModel.load("models/hymba-tiny");
 * for await (const { text } of model.generate({ prompt: "Once upon a time", maxTokens: 64 })) {
 *   process.stdout.write(text);
 * }
 * ```
 */
export class HymbaModel implements SequenceOwner {
  readonly #checkpoint: Checkpoint;
  readonly #options: NativeLoadOptions;
  readonly #device: DeviceInfo;
  readonly #tokenizer: Tokenizer | undefined;
  readonly #native: NativeModel;
  readonly #runner: Runner;
  readonly #memory: MemoryPlan;
  readonly #sequences = new Set<WeakRef<Sequence>>();
  #disposed: Promise<void> | undefined;

  private constructor(
    checkpoint: Checkpoint,
    options: NativeLoadOptions,
    device: DeviceInfo,
    tokenizer: Tokenizer | undefined,
    native: NativeModel,
  ) {
    const memory = native.memory();
    this.#checkpoint = checkpoint;
    this.#options = options;
    this.#device = device;
    this.#tokenizer = tokenizer;
    this.#native = native;
    this.#memory = toMemoryPlan(memory);
    this.#runner = new Runner(native, { ...options, maxPrefillSpans: memory.maxPrefillSpans });
  }

  /**
   * Loads a model: a folder in Hugging Face layout, or `synthetic:hymba-1.5b` or
   * `synthetic:<config.json>` (either with `?seed=N`) for random weights.
   * @throws TypeError, RangeError when an option is wrong.
   * @throws HymbaError ERR_MODEL_FORMAT, ERR_MODEL_UNSUPPORTED, ERR_NO_DEVICE,
   * ERR_UNSUPPORTED_DEVICE, ERR_OUT_OF_MEMORY, ERR_ABORTED.
   */
  static async load(path: string, options: LoadOptions = {}): Promise<HymbaModel> {
    checkObject("options", options);
    const request = deviceRequest(options);
    const checkpoint = await openCheckpoint(path);
    // Options are checked before a device is looked for.
    const checked = nativeLoadOptions(checkpoint, options);
    const device = chooseDevice(request);
    const nativeOptions = { ...checked, device: device.kind };
    const tokenizer = await loadTokenizer(checkpoint);
    if (options.requireTokenizer && tokenizer === undefined) throw noTokenizer(checkpoint);
    const native = await loadNative(nativeOptions, options);
    return new HymbaModel(checkpoint, nativeOptions, device, tokenizer, native);
  }

  /**
   * The memory that a model would take; nothing is loaded.
   * @throws as {@link HymbaModel.load}.
   */
  static async memoryPlan(path: string, options: MemoryOptions = {}): Promise<MemoryPlan> {
    return planMemory(await openCheckpoint(path), options);
  }

  /** The memory that this model would take with other limits; those left out stay as they are. */
  memoryPlan(options: MemoryOptions = {}): MemoryPlan {
    const { device, dtype, maxSequences, maxContextTokens, maxBatchTokens } = this.#options;
    const current = { device, dtype, maxSequences, maxContextTokens, maxBatchTokens };
    return planMemory(this.#checkpoint, { ...current, ...options });
  }

  /**
   * What the model is, where it runs and how much of its cache and of its GPU is in use.
   * @throws HymbaError ERR_DISPOSED, ERR_DEVICE_LOST.
   */
  info(): ModelInfo {
    this.#checkLive();
    return {
      path: this.#checkpoint.path,
      device: this.#device,
      dtype: this.#options.dtype,
      parameters: summarizeCheckpoint(this.#checkpoint).parameters,
      config: this.config,
      limits: this.limits,
      memory: this.#memory,
      deviceMemory: this.#deviceMemory(),
      cache: callNative(() => this.#native.usage()),
    };
  }

  #deviceMemory(): DeviceMemory | undefined {
    const room = callNative(() => this.#native.room());
    if (room === null) return undefined;
    const { totalBytes, freeBytes, availableBytes } = room;
    const usedBytes = totalBytes - freeBytes;
    return {
      totalBytes,
      usedBytes,
      otherBytes: usedBytes - this.#memory.totalBytes,
      availableBytes,
    };
  }

  /** The model's shape. */
  get config(): HymbaConfig {
    return this.#checkpoint.config;
  }

  /** The limits that it was loaded with. */
  get limits(): ModelLimits {
    const { maxSequences, maxContextTokens, maxBatchTokens, cacheTokens } = this.#options;
    return {
      maxSequences,
      maxContextTokens,
      maxBatchTokens,
      cacheTokens: cacheTokens || maxSequences * maxContextTokens,
    };
  }

  /** Tokens that end a text, from `generation_config.json` or else `config.json`. */
  get eosTokenIds(): readonly number[] {
    return this.#checkpoint.generationConfig.eosTokenIds ?? this.config.eosTokenIds;
  }

  /** Whether the model's folder has a tokenizer. */
  get hasTokenizer(): boolean {
    return this.#tokenizer !== undefined;
  }

  /**
   * The model's tokenizer.
   * @throws HymbaError ERR_MODEL_UNSUPPORTED when its folder has none.
   */
  get tokenizer(): Tokenizer {
    if (this.#tokenizer === undefined) throw noTokenizer(this.#checkpoint);
    return this.#tokenizer;
  }

  /**
   * Renders a conversation with the model's chat template. Encode the result with
   * `addSpecialTokens: false`.
   * @throws HymbaError ERR_MODEL_UNSUPPORTED when there is no template or tokenizer,
   * ERR_INVALID_ARGUMENT when a message is malformed.
   */
  applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): string {
    const { chatTemplate, bosToken, eosToken } = this.tokenizer;
    return applyChatTemplate(chatTemplate, messages, { bosToken, eosToken, ...options });
  }

  /**
   * A new, empty sequence.
   * @throws HymbaError ERR_OUT_OF_MEMORY when `maxSequences` exist, ERR_DISPOSED.
   */
  createSequence(): Sequence {
    this.#checkLive();
    const sequence = new Sequence(
      this,
      callNative(() => this.#native.createSequence()),
    );
    this.#sequences.add(new WeakRef(sequence));
    return sequence;
  }

  /** @internal Gives back what a sequence held; once the model is gone there is nothing to do. */
  releaseSequence(id: number): void {
    if (this.#disposed === undefined) this.#native.releaseSequence(id);
    for (const reference of this.#sequences) {
      if (reference.deref()?.disposed !== false) this.#sequences.delete(reference);
    }
  }

  /**
   * Adds tokens to sequences, any number of each, and returns what is wanted for them, in the order
   * of the requests. Long requests are worked through in steps of `maxBatchTokens`; when the call
   * fails or is aborted on the way, the sequences keep the tokens of the steps before.
   * @throws TypeError, RangeError when a request is malformed.
   * @throws HymbaError ERR_CONTEXT_FULL, ERR_OUT_OF_MEMORY, ERR_BUSY, ERR_DISPOSED, ERR_ABORTED,
   * ERR_INVALID_ARGUMENT when a sequence is of another model or there twice.
   */
  async prefill(
    requests: readonly PrefillRequest[],
    options: RunOptions = {},
  ): Promise<StepResult[]> {
    const work = this.#work(requests, false, (request, where) =>
      checkTokens(`${where}.tokens`, (request as PrefillRequest).tokens, this.config.vocabSize),
    );
    return this.#run(work, options);
  }

  /**
   * Adds one generated token to each of several sequences. Unlike those of `prefill`, its tokens
   * count as generated for the presence and frequency penalties.
   * @throws as {@link HymbaModel.prefill}.
   */
  async decode(
    requests: readonly DecodeRequest[],
    options: RunOptions = {},
  ): Promise<StepResult[]> {
    const work = this.#work(requests, true, (request, where) =>
      checkTokens(`${where}.token`, [(request as DecodeRequest).token], this.config.vocabSize),
    );
    return this.#run(work, options);
  }

  /**
   * Log-probabilities of tokens[1], tokens[2], …, each given all before it, at the beginning of a
   * text. One shorter than `tokens`, which must be at least two.
   * @throws as {@link HymbaModel.prefill}.
   */
  async score(tokens: ArrayLike<number>, options: RunOptions = {}): Promise<Float32Array> {
    const ids = checkTokens("tokens", tokens, this.config.vocabSize);
    checkRunOptions(options);
    if (ids.length < 2) throw new RangeError("tokens must hold at least two tokens, got one");
    const sequence = this.createSequence();
    try {
      const work = {
        sequence,
        tokens: ids.subarray(0, -1),
        generated: false,
        logits: "none",
        sampling: null,
        targets: ids.subarray(1),
      } as const;
      const [result] = await this.#runner.run([work], options);
      return result!.targetLogprobs!;
    } finally {
      sequence.dispose();
    }
  }

  /**
   * Continues a prompt, token by token. The call's own sequence is given back when the loop ends,
   * also by `break` or an error.
   * @throws TypeError, RangeError, HymbaError as {@link HymbaModel.prefill}, at the first step.
   */
  generate(options: GenerateOptions): AsyncGenerator<GenerationChunk, void, undefined> {
    return generate(this, options, this.#checkpoint.generationConfig);
  }

  /**
   * Runs one pass over the meta tokens and `tokens`, together at most `maxBatchTokens`, and returns
   * every activation of the given layers: for comparing implementations. Names are those of
   * native/model/forward.cpp; rows are meta tokens, then tokens.
   * @throws as {@link HymbaModel.prefill}.
   */
  async trace(tokens: ArrayLike<number>, layers: readonly number[]): Promise<TracedTensor[]> {
    this.#checkLive();
    const ids = checkTokens("tokens", tokens, this.config.vocabSize);
    for (const layer of layers) checkInteger("layers", layer, 0, this.config.numLayers - 1);
    return awaitNative(() => this.#native.trace(ids, Int32Array.from(layers)));
  }

  /**
   * @internal Draws token after token for sequences whose next token is known, and yields the tokens
   * of each step, `count` times. With `ahead`, a GPU is handed the next step before the results of
   * the one before have arrived: ended early, the sequences have taken one token more than otherwise.
   */
  draw(
    requests: readonly DecodeRequest[],
    count: number,
    { ahead, signal }: { readonly ahead: boolean; readonly signal?: AbortSignal | undefined },
  ): AsyncGenerator<StepResult[], void, undefined> {
    const work = this.#work(requests, true, (request, where) =>
      checkTokens(`${where}.token`, [(request as DecodeRequest).token], this.config.vocabSize),
    );
    const stepsInFlight = ahead && this.#device.kind === "cuda" ? 2 : 1;
    return toStepResults(this.#runner.draw(work, count, stepsInFlight, { signal }));
  }

  /** Whether `dispose` was called. */
  get disposed(): boolean {
    return this.#disposed !== undefined;
  }

  /** Frees the model, and its sequences with it, once the step that runs has finished. Disposing twice does nothing more. */
  async dispose(): Promise<void> {
    if (this.#disposed === undefined) {
      this.#runner.close();
      this.#disposed = awaitNative(() => this.#native.dispose());
      for (const sequence of this.#sequences) sequence.deref()?.dispose();
      this.#sequences.clear();
    }
    return this.#disposed;
  }

  /** The same as {@link HymbaModel.dispose}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  #checkLive(): void {
    if (this.disposed) throw new HymbaError("ERR_DISPOSED", "the model was disposed");
  }

  #work(
    requests: readonly (PrefillRequest | DecodeRequest)[],
    generated: boolean,
    tokensOf: (request: PrefillRequest | DecodeRequest, where: string) => Int32Array,
  ): SpanWork[] {
    this.#checkLive();
    if (!Array.isArray(requests)) {
      throw new TypeError(`requests must be an array, got ${show(requests)}`);
    }
    return requests.map((request: PrefillRequest | DecodeRequest, index): SpanWork => {
      const where = `requests[${index}]`;
      checkObject(where, request);
      const { sequence, sample } = request;
      if (!(sequence instanceof Sequence)) {
        throw new TypeError(`${where}.sequence must be a Sequence, got ${show(sequence)}`);
      }
      if (!sequence.belongsTo(this)) {
        throw new HymbaError("ERR_INVALID_ARGUMENT", `${where}.sequence is of another model`);
      }
      const logits = request.logits ?? (sample === undefined ? "last" : "none");
      return {
        sequence,
        tokens: tokensOf(request, where),
        generated,
        logits: checkChoice(`${where}.logits`, logits, ["none", "last", "all"]),
        sampling:
          sample === undefined
            ? null
            : normalizeSampling(sample, this.config.vocabSize, `${where}.sample`),
        targets: null,
      };
    });
  }

  async #run(work: readonly SpanWork[], options: RunOptions): Promise<StepResult[]> {
    checkRunOptions(options);
    return (await this.#runner.run(work, options)).map(toStepResult);
  }
}

function checkRunOptions(options: RunOptions): void {
  checkObject("options", options);
  checkSignal("options.signal", options.signal);
  checkCallback("options.onProgress", options.onProgress);
}

async function* toStepResults(
  steps: AsyncGenerator<NativeSpanResult[], void, undefined>,
): AsyncGenerator<StepResult[], void, undefined> {
  for await (const results of steps) yield results.map(toStepResult);
}

function toStepResult({ logits, token, logprob, topTokens, topLogprobs }: NativeSpanResult) {
  return {
    ...(logits !== undefined && { logits }),
    ...(token !== undefined && { token, logprob: logprob! }),
    ...(topTokens !== undefined &&
      topTokens.length > 0 && {
        topLogprobs: Array.from(topTokens, (id, i) => ({ token: id, logprob: topLogprobs![i]! })),
      }),
  };
}

function planMemory(checkpoint: Checkpoint, options: MemoryOptions): MemoryPlan {
  checkObject("options", options);
  const request = deviceRequest(options);
  // A plan for a GPU can be made where there is none.
  const kind = request === "auto" ? chooseDevice(request).kind : request;
  const nativeOptions = { ...nativeLoadOptions(checkpoint, options), device: kind };
  return toMemoryPlan(callNative(() => loadBinding().planMemory(nativeOptions)));
}

function noTokenizer({ path }: Checkpoint): HymbaError {
  return new HymbaError(
    "ERR_MODEL_UNSUPPORTED",
    `${path} has no tokenizer: pass token ids instead of text, or add tokenizer.json to the ` +
      "model's folder",
  );
}

/** Synthetic models, and folders without tokenizer.json, have none. */
async function loadTokenizer({ folder }: Checkpoint): Promise<Tokenizer | undefined> {
  if (folder === undefined) return undefined;
  if ((await kindOf(join(folder, "tokenizer.json"))) === "nothing") return undefined;
  return Tokenizer.load(folder);
}
