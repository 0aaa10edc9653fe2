import { join } from "node:path";
import {
  awaitNative,
  callNative,
  loadBinding,
  type NativeLoadOptions,
  type NativeModel,
  type TracedTensor,
} from "./binding";
import { type Checkpoint, openCheckpoint } from "./checkpoint/checkpoint";
import type { HymbaConfig } from "./checkpoint/config";
import { kindOf } from "./checkpoint/files";
import { fingerprintOf } from "./checkpoint/fingerprint";
import { summarizeCheckpoint } from "./checkpoint/summary";
import { chooseDevice, type DeviceInfo } from "./device";
import { Engine, type EngineOptions } from "./engine/engine";
import { HymbaError } from "./errors";
import { generate } from "./generate";
import { type GenerateOptions, type GenerationChunk, readGeneration } from "./generation";
import { ConstraintVocabulary } from "./grammar/constraint";
import { loadNative } from "./load";
import {
  type LoadOptions,
  type MemoryOptions,
  type MemoryPlan,
  deviceRequest,
  nativeLoadOptions,
  toMemoryPlan,
} from "./load_options";
import { deviceMemory, type ModelInfo, type ModelLimits } from "./model_info";
import {
  type DecodeRequest,
  type PrefillRequest,
  type StepResult,
  toScores,
  toSpanWork,
  toStepResult,
  toStepResults,
} from "./requests";
import { Runner, type RunOptions, type SpanWork } from "./runner";
import { type ImageKind, readSavedSequence, writeSavedSequence } from "./saved_sequence";
import { Sequence, type SequenceOwner } from "./sequence";
import {
  applyChatTemplate,
  type ChatMessage,
  type ChatTemplateOptions,
} from "./text/chat_template";
import { Tokenizer } from "./text/tokenizer";
import {
  checkCallback,
  checkInteger,
  checkObject,
  checkSignal,
  checkString,
  checkTokens,
} from "./validate";

export type { LoadOptions, LoadProgress, MemoryOptions, MemoryPlan } from "./load_options";
export { Sequence } from "./sequence";

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
  readonly #engines = new Set<Engine>();
  #constraintVocabulary: ConstraintVocabulary | undefined;
  #fingerprint: Promise<string> | undefined;
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
    const { prefixCacheBytes } = this.#options;
    const current = {
      ...{ device, dtype, maxSequences, maxContextTokens, maxBatchTokens },
      ...(prefixCacheBytes >= 0 && { prefixCacheBytes }),
    };
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
      deviceMemory: deviceMemory(
        callNative(() => this.#native.room()),
        this.#memory.totalBytes,
      ),
      cache: callNative(() => this.#native.usage()),
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

  /** @internal The tokenizer's vocabulary for constrained output, made when it is first asked for. */
  get constraintVocabulary(): ConstraintVocabulary {
    this.#constraintVocabulary ??= new ConstraintVocabulary(
      this.tokenizer.tokenBytes(),
      this.config.vocabSize,
    );
    return this.#constraintVocabulary;
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
    return this.#newSequence(
      callNative(() => this.#native.createSequence()),
      0,
    );
  }

  /**
   * A sequence that was saved by `sequence.save`, to go on with as if it had been here all the time. It was
   * saved by a model with the same weights, in the same `dtype` and on a device of the same kind; the other
   * options that they were loaded with may differ.
   * @throws TypeError when the path is no string.
   * @throws HymbaError ERR_INVALID_ARGUMENT when the file cannot be read, is damaged, or is of another
   * model, release, dtype or device; ERR_CONTEXT_FULL, ERR_OUT_OF_MEMORY when there is no room for it;
   * ERR_DISPOSED.
   */
  async restoreSequence(path: string): Promise<Sequence> {
    checkString("path", path);
    this.#checkLive();
    const { tokens, image } = await readSavedSequence(path, await this.#imageKind());
    this.#checkLive();
    const sequence = this.#newSequence(
      callNative(() => this.#native.createSequenceAt(tokens)),
      tokens,
    );
    try {
      await awaitNative(() => this.#native.writeSequence(sequence.id, image));
    } catch (error) {
      sequence.dispose();
      throw error;
    }
    return sequence;
  }

  /** @internal For sequences. */
  async saveSequence(sequence: Sequence, path: string): Promise<void> {
    checkString("path", path);
    sequence.enter();
    const tokens = sequence.length;
    let image: Uint8Array;
    try {
      image = await awaitNative(() => this.#native.readSequence(sequence.id));
    } finally {
      sequence.leave();
    }
    await writeSavedSequence(path, { ...(await this.#imageKind()), tokens, image });
  }

  async #imageKind(): Promise<ImageKind> {
    this.#fingerprint ??= fingerprintOf(this.#checkpoint);
    const model = await this.#fingerprint;
    return { model, device: this.#device.kind, dtype: this.#options.dtype };
  }

  /** @internal Gives back what a sequence held; once the model is gone there is nothing to do. */
  releaseSequence(id: number): void {
    if (this.#disposed === undefined) this.#native.releaseSequence(id);
    this.#sequenceEnded();
  }

  /** @internal For sequences. */
  snapshotSequence(id: number, proven: boolean): number | undefined {
    this.#checkLive();
    const snapshot = callNative(() => this.#native.snapshot(id, proven));
    return snapshot < 0 ? undefined : snapshot;
  }

  /** @internal For sequences; once the model is gone there is nothing to do. */
  retireSequence(id: number): void {
    if (this.#disposed === undefined) callNative(() => this.#native.retireSequence(id));
    this.#sequenceEnded();
  }

  #newSequence(id: number, length: number): Sequence {
    const sequence = new Sequence(this, id, length);
    this.#sequences.add(new WeakRef(sequence));
    return sequence;
  }

  #sequenceEnded(): void {
    for (const reference of this.#sequences) {
      if (reference.deref()?.disposed !== false) this.#sequences.delete(reference);
    }
    for (const engine of this.#engines) engine.roomMade();
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
    return this.#run(this.#prefillWork(requests), options);
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
    return this.#run(this.#decodeWork(requests), options);
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
        targetTops: 0,
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
   * An engine, which generates many texts at a time. It is closed with the model, or by its `close`.
   * @throws TypeError, RangeError when an option is wrong.
   * @throws HymbaError ERR_DISPOSED.
   */
  createEngine(options: EngineOptions = {}): Engine {
    this.#checkLive();
    const host = {
      limits: this.limits,
      vocabSize: this.config.vocabSize,
      maxPrefillSpans: this.#runner.limits.maxPrefillSpans,
      stepsInFlight: this.stepsInFlight,
      readGeneration: (asked: GenerateOptions) =>
        readGeneration(this, asked, this.#checkpoint.generationConfig),
      createSequence: () => this.createSequence(),
      ownPages: ({ id }: Sequence) => callNative(() => this.#native.ownPages(id)),
      hasSnapshot: (id: number) => !this.disposed && this.#native.isSnapshot(id),
      resume: (snapshot: number, tokens: Int32Array) =>
        this.#newSequence(
          callNative(() => this.#native.resume(snapshot, tokens)),
          tokens.length,
        ),
      dropSnapshot: (id: number) => {
        if (!this.disposed) this.#native.releaseSequence(id);
      },
      usage: () => {
        this.#checkLive();
        return callNative(() => this.#native.usage());
      },
      submit: async (work: readonly SpanWork[]) =>
        (await this.#runner.submit(work)).map((result) => ({
          ...toStepResult(result),
          scores: toScores(result),
        })),
      forget: (closed: Engine) => this.#engines.delete(closed),
    };
    const engine = new Engine(host, options);
    this.#engines.add(engine);
    return engine;
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
   * of each step, `count` times. With `ahead`, there are `stepsInFlight` of them under way: ended
   * early, the sequences have taken one token more than otherwise.
   */
  draw(
    requests: readonly DecodeRequest[],
    count: number,
    { ahead, signal }: { readonly ahead: boolean; readonly signal?: AbortSignal | undefined },
  ): AsyncGenerator<StepResult[], void, undefined> {
    const work = this.#decodeWork(requests);
    const stepsInFlight = ahead ? this.stepsInFlight : 1;
    return toStepResults(this.#runner.draw(work, count, stepsInFlight, { signal }));
  }

  /**
   * @internal Steps that are handed over before the results of the first of them have arrived. A GPU
   * would wait for JavaScript in between; on the CPU, a step too many for a text that ends costs more.
   */
  get stepsInFlight(): 1 | 2 {
    return this.#device.kind === "cuda" ? 2 : 1;
  }

  /** @internal Steps that the device has run so far. */
  get stepsRun(): number {
    return this.#runner.stepsRun;
  }

  /** Whether `dispose` was called. */
  get disposed(): boolean {
    return this.#disposed !== undefined;
  }

  /** Frees the model, and its sequences with it, once the step that runs has finished. Disposing twice does nothing more. */
  async dispose(): Promise<void> {
    if (this.#disposed === undefined) {
      this.#runner.close();
      for (const engine of this.#engines) void engine.close();
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

  #prefillWork(requests: readonly PrefillRequest[]): SpanWork[] {
    this.#checkLive();
    const { vocabSize } = this.config;
    return toSpanWork(this, vocabSize, requests, ({ tokens }, where) => ({
      tokens: checkTokens(`${where}.tokens`, tokens, vocabSize),
      generated: false,
    }));
  }

  #decodeWork(requests: readonly DecodeRequest[]): SpanWork[] {
    this.#checkLive();
    const { vocabSize } = this.config;
    return toSpanWork(this, vocabSize, requests, ({ token }, where) => ({
      tokens: checkTokens(`${where}.token`, [token], vocabSize),
      generated: true,
    }));
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
