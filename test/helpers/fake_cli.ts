import { PassThrough, Writable } from "node:stream";
import type { Library } from "../../lib/cli/context";
import type { CliIo } from "../../lib/cli/io";
import { HymbaError } from "../../lib/errors";
import type { HymbaModel, MemoryPlan, Sequence } from "../../lib/model";
import { StreamDetokenizer } from "../../lib/text/detokenizer";
import { StopMatcher } from "../../lib/text/stop_matcher";
import type { Tokenizer } from "../../lib/text/tokenizer";

type Options<Method extends "load" | "generate"> = NonNullable<
  Method extends "load"
    ? Parameters<typeof HymbaModel.load>[1]
    : Parameters<HymbaModel["generate"]>[0]
>;

/** Streams and signals for a command under test, and what it wrote. */
export class FakeTerminal implements CliIo {
  readonly stdin: PassThrough & { isTTY?: boolean };
  readonly stdout: Writable & { isTTY?: boolean };
  readonly stderr: Writable & { isTTY?: boolean };
  readonly env: Record<string, string> = {};
  out = "";
  err = "";
  #interrupted: (() => void) | undefined;
  #terminated: (() => void) | undefined;

  /** @param input what is piped in; undefined leaves stdin open. */
  constructor(input: string | undefined = undefined, isTTY = false) {
    const collect = (add: (text: string) => void) =>
      Object.assign(
        new Writable({
          write: (chunk: Buffer, _, done) => {
            add(chunk.toString());
            done();
          },
        }),
        { isTTY, columns: 80 },
      );
    this.stdin = Object.assign(new PassThrough(), { isTTY, setRawMode: () => undefined });
    if (input !== undefined) this.stdin.end(input);
    this.stdout = collect((text) => (this.out += text));
    this.stderr = collect((text) => (this.err += text));
  }

  onInterrupt(listener: () => void): () => void {
    this.#interrupted = listener;
    return () => (this.#interrupted = undefined);
  }

  onTerminate(listener: () => void): () => void {
    this.#terminated = listener;
    return () => (this.#terminated = undefined);
  }

  /** Sends SIGTERM. */
  terminate(): void {
    this.#terminated?.();
  }

  /** Presses Ctrl-C. */
  interrupt(): void {
    this.#interrupted?.();
  }

  /** The JSON lines written to stdout. */
  get json(): Record<string, unknown>[] {
    return this.out
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  }
}

export const fakePlan: MemoryPlan = {
  weightsBytes: 3_045_600_000,
  cacheBytes: 86_100_000,
  workspaceBytes: 120_000_000,
  totalBytes: 3_251_700_000,
  metaKvBytes: 4_180_000,
  snapshotBytes: 36_400_000,
  perSequence: {
    contextTokens: 8192,
    globalKvBytes: 47_200_000,
    windowKvBytes: 27_600_000,
    kvBytes: 74_800_000,
    ssmStateBytes: 6_550_000,
    convStateBytes: 614_400,
    totalBytes: 81_964_400,
  },
} as MemoryPlan;

/**
 * A model that says what a script tells it to, and remembers what it was asked. Like the real one it
 * runs a generated token only when it needs the next.
 */
export class FakeModel {
  readonly prompts: { readonly text: string; readonly heldTokens: number }[] = [];
  readonly generateOptions: Options<"generate">[] = [];
  readonly scored: number[][] = [];
  loadOptions: Options<"load"> = {};
  loadedPath = "";
  disposed = false;
  maxContextTokens = 1000;
  /** Called before every generated token. */
  onToken: (index: number) => void | Promise<void> = () => undefined;

  constructor(
    readonly tokenizer: Tokenizer,
    readonly answers: readonly string[] = [],
  ) {}

  readonly library: Library = {
    loadModel: (path, options = {}) => {
      this.loadedPath = path;
      this.loadOptions = options;
      options.onProgress?.({ stage: "weights", fraction: 0.5 });
      return Promise.resolve(this as unknown as HymbaModel);
    },
    memoryPlan: (path, options = {}) => {
      this.loadedPath = path;
      this.loadOptions = options;
      return Promise.resolve(fakePlan);
    },
    diagnose: () => ({ addon: { error: "not scripted" }, cuda: undefined, chosen: undefined }),
  };

  get limits() {
    return { maxContextTokens: this.maxContextTokens };
  }

  info() {
    return {
      device: { kind: "cpu", name: "Fake CPU", reason: "it is the only one" },
      dtype: "bfloat16",
      memory: fakePlan,
    };
  }

  memoryPlan(): MemoryPlan {
    return fakePlan;
  }

  createSequence(): Sequence {
    const sequence = { length: 0, disposed: false, dispose: () => (sequence.disposed = true) };
    return sequence as unknown as Sequence;
  }

  score(
    tokens: ArrayLike<number>,
    { onProgress }: { onProgress?: (fraction: number) => void } = {},
  ): Promise<Float32Array> {
    onProgress?.(1);
    this.scored.push(Array.from(tokens));
    return Promise.resolve(Float32Array.from(Array.from(tokens).slice(1), (token) => -token / 64));
  }

  async *generate(options: Options<"generate">) {
    this.generateOptions.push(options);
    const sequence = (options.sequence ?? this.createSequence()) as { length: number };
    const prompt = Array.from(options.prompt as ArrayLike<number>);
    if (sequence.length + prompt.length > this.maxContextTokens) {
      throw new HymbaError("ERR_CONTEXT_FULL", "the context holds 1,000 tokens");
    }
    const text = this.tokenizer.decode(prompt, { skipSpecialTokens: false });
    const answer = this.answers[this.prompts.length] ?? "";
    this.prompts.push({ text, heldTokens: sequence.length });
    sequence.length += prompt.length;

    const tokens = [...(await this.tokenizer.encode(answer, { addSpecialTokens: false }))];
    tokens.push(this.tokenizer.eosTokenId!);
    const detokenizer = new StreamDetokenizer(this.tokenizer, { context: prompt });
    const stops = new StopMatcher(options.stop ?? []);
    for (const [index, token] of tokens.entries()) {
      await this.onToken(index);
      if (options.signal?.aborted) throw new HymbaError("ERR_ABORTED", "generation was aborted");
      if (index > 0) sequence.length++;
      const match = stops.push(detokenizer.push(token));
      const isEos = token === this.tokenizer.eosTokenId;
      const isLast = index + 1 === (options.maxTokens ?? 128);
      const finishReason =
        match.stop !== undefined || isEos ? "stop" : isLast ? "length" : undefined;
      const rest =
        finishReason && match.stop === undefined
          ? stops.push(detokenizer.flush()).text + stops.flush()
          : "";
      yield {
        text: match.text + rest,
        token,
        logprob: -0.5,
        ...(finishReason !== undefined && { finishReason }),
      };
      if (finishReason !== undefined) return;
    }
  }

  dispose(): Promise<void> {
    this.disposed = true;
    return Promise.resolve();
  }
}
