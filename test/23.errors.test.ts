import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type GenerateOptions,
  HymbaModel,
  type LoadOptions,
  type PrefillRequest,
  type RunOptions,
  type SamplingOptions,
  type Sequence,
} from "../lib";
import { loadBinding } from "../lib/binding";
import { DEVICE } from "./helpers/device";
import { MICRO } from "./helpers/golden";
import { rejectionOf, messageOf } from "./helpers/error";

const LIMITS = { maxSequences: 3, maxContextTokens: 200, maxBatchTokens: 16 } as const;
const load = (options: LoadOptions = {}): Promise<HymbaModel> =>
  HymbaModel.load(MICRO, { device: DEVICE, dtype: "float32", ...LIMITS, ...options });

/** What a JavaScript program may pass where TypeScript would object. */
const wrong = <T>(value: unknown): T => value as T;

const count = (length: number): number[] => Array.from({ length }, (_, i) => (7 * i) % 320);

let model: HymbaModel;
let fresh: ReturnType<HymbaModel["info"]>["cache"];
let reference: Float32Array;

async function logitsOf(tokens: readonly number[]): Promise<Float32Array> {
  using sequence = model.createSequence();
  const [result] = await model.prefill([{ sequence, tokens }]);
  return result!.logits!;
}

beforeAll(async () => {
  model = await load();
  fresh = model.info().cache;
  reference = await logitsOf(count(40));
});
afterAll(() => model.dispose());

// Whatever a test did to it: nothing is left in the cache, and the model still computes the same.
afterEach(async () => {
  expect(model.info().cache).toEqual(fresh);
  expect(await logitsOf(count(40))).toEqual(reference);
});

/** The request must fail like this, and leave its sequence as it was. */
async function expectRejection(
  request: Record<string, unknown>,
  type: typeof TypeError | typeof RangeError,
  message: string,
): Promise<void> {
  using sequence = model.createSequence();
  await model.prefill([{ sequence, tokens: [1, 2] }]);
  const error: unknown = await model
    .prefill([wrong<PrefillRequest>({ sequence, tokens: [1], ...request })])
    .catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(type);
  expect((error as Error).message).toBe(message);
  expect(sequence.length).toBe(2);
  await model.prefill([{ sequence, tokens: [3] }]);
}

describe("tokens", () => {
  test.each([
    [[1, 320], RangeError, "requests[0].tokens[1] must be from 0 to 319, got 320"],
    [[-1], RangeError, "requests[0].tokens[0] must be from 0 to 319, got -1"],
    [[1.5], TypeError, "requests[0].tokens[0] must be an integer, got 1.5"],
    [[NaN], TypeError, "requests[0].tokens[0] must be an integer, got NaN"],
    [["1"], TypeError, 'requests[0].tokens[0] must be an integer, got "1"'],
    [[null], TypeError, "requests[0].tokens[0] must be an integer, got null"],
    [
      BigInt64Array.of(1n),
      TypeError,
      "requests[0].tokens[0] must be an integer, got a value of type bigint",
    ],
    [[], RangeError, "requests[0].tokens must hold at least one token, got none"],
    [new Int32Array(0), RangeError, "requests[0].tokens must hold at least one token, got none"],
    ["text", TypeError, 'requests[0].tokens must be an array of token ids, got "text"'],
    [undefined, TypeError, "requests[0].tokens must be an array of token ids, got undefined"],
  ])("%p", (tokens, type, message) => expectRejection({ tokens }, type, message));

  test("a token to decode, and tokens to score", async () => {
    using sequence = model.createSequence();
    await expect(model.decode([{ sequence, token: 320 }])).rejects.toThrow(
      new RangeError("requests[0].token[0] must be from 0 to 319, got 320"),
    );
    await expect(model.score([1])).rejects.toThrow(
      new RangeError("tokens must hold at least two tokens, got one"),
    );
    await expect(model.score([1, 999])).rejects.toThrow(
      new RangeError("tokens[1] must be from 0 to 319, got 999"),
    );
    await expect(model.trace([1], [8])).rejects.toThrow(
      new RangeError("layers must be from 0 to 7, got 8"),
    );
  });
});

describe("requests", () => {
  test.each([
    [{ logits: "first" }, 'requests[0].logits must be one of "none", "last", "all", got "first"'],
    [{ sequence: undefined }, "requests[0].sequence must be a Sequence, got undefined"],
    [{ sequence: 0 }, "requests[0].sequence must be a Sequence, got 0"],
    [{ sample: null }, "requests[0].sample must be an object, got null"],
    [{ sample: { topK: 1.5 } }, "requests[0].sample.topK must be an integer, got 1.5"],
    [{ sample: { topP: "1" } }, 'requests[0].sample.topP must be a number, got "1"'],
  ])("%p is a TypeError", (request, message) => expectRejection(request, TypeError, message));

  test("sampling out of range is a RangeError", () =>
    expectRejection(
      { sample: { temperature: -1 } },
      RangeError,
      "requests[0].sample.temperature must be finite and at least 0 as a 32-bit float, got -1",
    ));

  test.each([undefined, null, {}, "x"])("no array but %p", async (requests) => {
    for (const call of ["prefill", "decode"] as const) {
      const error: unknown = await model[call](wrong(requests)).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(TypeError);
      expect((error as Error).message).toMatch(/^requests must be an array, got /);
    }
  });

  test("no object in the array", async () => {
    await expect(model.prefill([wrong(5)])).rejects.toThrow(
      new TypeError("requests[0] must be an object, got 5"),
    );
  });

  test("an empty array is a call that does nothing", async () => {
    expect(await model.prefill([])).toEqual([]);
  });

  test.each([
    [null, "options must be an object, got null"],
    [{ signal: {} }, "options.signal must be an AbortSignal, got a value of type object"],
    [{ onProgress: 5 }, "options.onProgress must be a function, got 5"],
  ])("options %p", async (options, message) => {
    using sequence = model.createSequence();
    const run = wrong<RunOptions>(options);
    const error = new TypeError(message);
    await expect(model.prefill([{ sequence, tokens: [1] }], run)).rejects.toThrow(error);
    await expect(model.score([1, 2], run)).rejects.toThrow(error);
    expect(sequence.length).toBe(0);
  });
});

describe("sequences", () => {
  test("used after dispose, and disposed twice", async () => {
    const sequence = model.createSequence();
    sequence.dispose();
    sequence.dispose();
    const message = await rejectionOf("ERR_DISPOSED", model.prefill([{ sequence, tokens: [1] }]));
    expect(message).toBe("the sequence was disposed");
  });

  test("twice in one call", async () => {
    using first = model.createSequence();
    using second = model.createSequence();
    const message = await rejectionOf(
      "ERR_INVALID_ARGUMENT",
      model.prefill([first, second, first].map((sequence) => ({ sequence, tokens: [1] }))),
    );
    expect(message).toMatch(/^requests 0 and 2 are for the same sequence/);
    await model.prefill([first, second].map((sequence) => ({ sequence, tokens: [1] })));
    expect([first.length, second.length]).toEqual([1, 1]);
  });

  test("of another model", async () => {
    await using other = await load();
    using sequence = other.createSequence();
    const message = await rejectionOf(
      "ERR_INVALID_ARGUMENT",
      model.prefill([{ sequence, tokens: [1] }]),
    );
    expect(message).toBe("requests[0].sequence is of another model");
  });

  test("busy: a second call fails and the first one goes on", async () => {
    using sequence = model.createSequence();
    using idle = model.createSequence();
    const first = model.prefill([{ sequence, tokens: count(40) }]);
    const second = model.prefill([
      { sequence: idle, tokens: [1] },
      { sequence, tokens: [1] },
    ]);
    expect(await rejectionOf("ERR_BUSY", second)).toMatch(/in use by a call that has not finished/);
    expect((await first)[0]!.logits).toEqual(reference);
    await model.prefill([{ sequence: idle, tokens: [1] }]);
    expect([sequence.length, idle.length]).toEqual([40, 1]);
  });

  test("disposed while busy: the call finishes, and then it is freed", async () => {
    const sequence = model.createSequence();
    const running = model.prefill([{ sequence, tokens: count(40) }]);
    sequence.dispose();
    expect(model.info().cache.sequences.used).toBe(fresh.sequences.used + 1);
    expect((await running)[0]!.logits).toEqual(reference);
  });

  test("too many", () => {
    const sequences = Array.from({ length: LIMITS.maxSequences }, () => model.createSequence());
    expect(messageOf("ERR_OUT_OF_MEMORY", () => model.createSequence())).toMatch(/all 3 /);
    sequences.pop()!.dispose();
    sequences.push(model.createSequence());
    for (const sequence of sequences) sequence.dispose();
  });

  test("context over the limit, at once and little by little", async () => {
    using sequence = model.createSequence();
    const over = model.prefill([{ sequence, tokens: count(201) }]);
    expect(await rejectionOf("ERR_CONTEXT_FULL", over)).toMatch(
      /request 0: a sequence of 0 tokens cannot take 201 more, .* 200 \(maxContextTokens\)/,
    );
    expect(sequence.length).toBe(0);
    await model.prefill([{ sequence, tokens: count(200), logits: "none" }]);
    const full = model.decode([{ sequence, token: 1 }]);
    expect(await rejectionOf("ERR_CONTEXT_FULL", full)).toMatch(/of 200 tokens cannot take 1 more/);
    await rejectionOf("ERR_CONTEXT_FULL", model.score(count(300)));
  });
});

describe("an oversubscribed cache", () => {
  test("says that it is full, keeps what was done, and goes on when there is room", async () => {
    await using small = await load({ cacheTokens: 200 });
    const empty = small.info().cache;
    const first = small.createSequence();
    using second = small.createSequence();
    await small.prefill([{ sequence: first, tokens: count(190), logits: "none" }]);
    const message = await rejectionOf(
      "ERR_OUT_OF_MEMORY",
      small.prefill([{ sequence: second, tokens: count(150), logits: "none" }]),
    );
    expect(message).toMatch(/pool is full/);
    const done = second.length;
    expect(done).toBeLessThan(150);
    first.dispose();
    const rest = count(150).slice(done);
    const [result] = await small.prefill([{ sequence: second, tokens: rest }]);
    expect(result!.logits).toEqual(await logitsOf(count(150)));
    second.dispose();
    expect(small.info().cache).toEqual(empty);
  });
});

describe("abort of a call", () => {
  const run = (sequence: Sequence, options: RunOptions) =>
    model.prefill([{ sequence, tokens: count(40) }], options);

  test("before: nothing happens", async () => {
    using sequence = model.createSequence();
    const aborted = run(sequence, { signal: AbortSignal.abort("why") });
    await expect(aborted).rejects.toMatchObject({ code: "ERR_ABORTED", cause: "why" });
    expect(sequence.length).toBe(0);
  });

  test("during: the steps before it count, and the sequence can go on", async () => {
    using sequence = model.createSequence();
    const controller = new AbortController();
    const fractions: number[] = [];
    const onProgress = (fraction: number): void => {
      fractions.push(fraction);
      controller.abort();
    };
    await rejectionOf("ERR_ABORTED", run(sequence, { signal: controller.signal, onProgress }));
    expect({ fractions, length: sequence.length }).toEqual({ fractions: [16 / 40], length: 16 });
    const [result] = await model.prefill([{ sequence, tokens: count(40).slice(16) }]);
    expect(result!.logits).toEqual(reference);
  });

  test("after: the call has its result", async () => {
    using sequence = model.createSequence();
    const controller = new AbortController();
    const [result] = await run(sequence, { signal: controller.signal });
    controller.abort();
    expect(result!.logits).toEqual(reference);
  });

  test("an onProgress that throws ends the call with its error", async () => {
    using sequence = model.createSequence();
    const onProgress = (): never => {
      throw new Error("mine");
    };
    await expect(run(sequence, { onProgress })).rejects.toThrow("mine");
    expect(sequence.length).toBe(16);
  });

  test("of score", async () => {
    await rejectionOf("ERR_ABORTED", model.score(count(40), { signal: AbortSignal.abort() }));
  });
});

describe("loading", () => {
  test.each([
    [null, TypeError, "options must be an object, got null"],
    [
      { device: "gpu" },
      TypeError,
      'options.device must be one of "auto", "cpu", "cuda", got "gpu"',
    ],
    [
      { dtype: "float16" },
      TypeError,
      'options.dtype must be one of "bfloat16", "float32", got "float16"',
    ],
    [{ maxSequences: 0 }, RangeError, "options.maxSequences must be from 1 to 65535, got 0"],
    [{ maxSequences: "4" }, TypeError, 'options.maxSequences must be an integer, got "4"'],
    [
      { maxContextTokens: -1 },
      RangeError,
      "options.maxContextTokens must be from 1 to 2147483647, got -1",
    ],
    [{ maxBatchTokens: 1.5 }, TypeError, "options.maxBatchTokens must be an integer, got 1.5"],
    [
      { cacheTokens: 0 },
      RangeError,
      "options.cacheTokens must be from 1 to 9007199254740991, got 0",
    ],
    [{ threads: 2000 }, RangeError, "options.threads must be from 1 to 1024, got 2000"],
    [{ onProgress: "x" }, TypeError, 'options.onProgress must be a function, got "x"'],
    [{ signal: 5 }, TypeError, "options.signal must be an AbortSignal, got 5"],
    [{ requireTokenizer: 1 }, TypeError, "options.requireTokenizer must be true or false, got 1"],
  ])("options %p", async (options, type, message) => {
    const error: unknown = await HymbaModel.load(MICRO, wrong<LoadOptions>(options)).catch(
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(type);
    expect((error as Error).message).toBe(message);
  });

  test("a path that is no string", async () => {
    await expect(HymbaModel.load(wrong(5))).rejects.toThrow(TypeError);
  });

  test("a missing and an empty folder", async () => {
    const folder = await mkdtemp(join(tmpdir(), "hymba-"));
    const missing = join(folder, "missing");
    expect(await rejectionOf("ERR_MODEL_FORMAT", HymbaModel.load(missing))).toContain(missing);
    expect(await rejectionOf("ERR_MODEL_FORMAT", HymbaModel.load(folder))).toContain("config.json");
    await rm(folder, { recursive: true });
  });

  test("a tokenizer that is required and missing is found before the weights are loaded", async () => {
    const onProgress = jest.fn();
    const loading = load({ requireTokenizer: true, onProgress });
    expect(await rejectionOf("ERR_MODEL_UNSUPPORTED", loading)).toMatch(/micro has no tokenizer/);
    expect(onProgress).not.toHaveBeenCalled();
    await using loaded = await load({ onProgress });
    expect(onProgress).toHaveBeenCalled();
    expect(loaded.hasTokenizer).toBe(false);
  });

  const noGpu = loadBinding().probeDevices().devices.length === 0;
  (noGpu ? test : test.skip)("device cuda without one says why", async () => {
    await using onCpu = await load({ device: "auto" });
    const { reason } = onCpu.info().device;
    const message = await rejectionOf("ERR_NO_DEVICE", load({ device: "cuda" }));
    expect(message).toBe(`cannot run on a GPU: ${reason}`);
    expect(reason.length).toBeGreaterThan(10);
  });

  test("abort before", async () => {
    const aborted = load({ signal: AbortSignal.abort("why") });
    await expect(aborted).rejects.toMatchObject({ code: "ERR_ABORTED", cause: "why" });
  });

  test("abort during: it gives up long before it would have finished", async () => {
    const fractions: number[] = [];
    const controller = new AbortController();
    const loading = HymbaModel.load("synthetic:hymba-1.5b", {
      device: DEVICE,
      maxSequences: 1,
      maxContextTokens: 64,
      signal: controller.signal,
      onProgress: ({ fraction }) => {
        fractions.push(fraction);
        controller.abort();
      },
    });
    await rejectionOf("ERR_ABORTED", loading);
    expect(fractions[0]).toBeLessThan(1);
  });

  test("abort after: the model stays", async () => {
    const controller = new AbortController();
    await using loaded = await load({ signal: controller.signal });
    controller.abort();
    using sequence = loaded.createSequence();
    const [result] = await loaded.prefill([{ sequence, tokens: count(40) }]);
    expect(result!.logits).toEqual(reference);
  });

  test("an onProgress that throws fails the load, not the process", async () => {
    const onProgress = jest.fn(() => {
      throw new Error("mine");
    });
    await expect(load({ onProgress })).rejects.toThrow("mine");
    // A large one reports from a timer while it loads, and is given up there.
    const large = HymbaModel.load("synthetic:hymba-1.5b", {
      device: DEVICE,
      maxSequences: 1,
      maxContextTokens: 64,
      onProgress,
    });
    await expect(large).rejects.toThrow("mine");
    expect(onProgress).toHaveBeenCalledTimes(2);
  });
});

describe("generate", () => {
  const failure = (options: Record<string, unknown>): Promise<unknown> =>
    model
      .generate(wrong<GenerateOptions>({ prompt: [1, 2], ...options }))
      .next()
      .catch((error: unknown) => error);

  test.each([
    [{ maxTokens: 0 }, RangeError, "options.maxTokens must be from 1 to 2147483647, got 0"],
    [{ maxTokens: "9" }, TypeError, 'options.maxTokens must be an integer, got "9"'],
    [{ minTokens: 3, maxTokens: 2 }, RangeError, "options.minTokens must be from 0 to 2, got 3"],
    [
      { minTokens: 1, stopTokenIds: Array.from({ length: 320 }, (_, id) => id) },
      RangeError,
      "options.minTokens leaves nothing to draw: every token is a stop token",
    ],
    [{ includeStop: 1 }, TypeError, "options.includeStop must be true or false, got 1"],
    [{ skipSpecialTokens: 0 }, TypeError, "options.skipSpecialTokens must be true or false, got 0"],
    [{ stop: "." }, TypeError, 'options.stop must be an array, got "."'],
    [{ stopTokenIds: 5 }, TypeError, "options.stopTokenIds must be an array, got 5"],
    [{ stopTokenIds: [320] }, RangeError, "options.stopTokenIds must be from 0 to 319, got 320"],
    [{ stopTokenIds: ["a"] }, TypeError, 'options.stopTokenIds must be an integer, got "a"'],
    [{ ignoreEos: "no" }, TypeError, 'options.ignoreEos must be true or false, got "no"'],
    [{ signal: 1 }, TypeError, "options.signal must be an AbortSignal, got 1"],
    [{ sequence: null }, TypeError, "options.sequence must be a Sequence, got null"],
    [{ prompt: [] }, RangeError, "options.prompt must hold at least one token, got none"],
    [
      { prompt: undefined },
      TypeError,
      "options.prompt must be an array of token ids, got undefined",
    ],
    [{ prompt: [1, 320] }, RangeError, "options.prompt[1] must be from 0 to 319, got 320"],
  ])("%p", async (options, type, message) => {
    const error = await failure(options);
    expect(error).toBeInstanceOf(type);
    expect((error as Error).message).toBe(message);
  });

  test.each<SamplingOptions>([{ topP: 2 }, { minP: 1 }, { seed: -1 }, { topLogprobs: 21 }])(
    "sampling %p is a RangeError",
    async (options) => {
      expect(await failure({ ...options })).toBeInstanceOf(RangeError);
    },
  );

  test("no options", async () => {
    await expect(model.generate(wrong(undefined)).next()).rejects.toThrow(
      new TypeError("options must be an object, got undefined"),
    );
  });

  test("stop texts and a text prompt without a tokenizer", async () => {
    const stop = await failure({ stop: ["."] });
    expect(stop).toMatchObject({ code: "ERR_INVALID_ARGUMENT" });
    expect((stop as Error).message).toContain("use stopTokenIds");
    const prompt = await failure({ prompt: "text" });
    expect(prompt).toMatchObject({ code: "ERR_MODEL_UNSUPPORTED" });
    expect((prompt as Error).message).toContain("add tokenizer.json");
    expect(messageOf("ERR_MODEL_UNSUPPORTED", () => model.applyChatTemplate([]))).toContain(MICRO);
  });

  test("a prompt over the limit", async () => {
    expect(await failure({ prompt: count(201) })).toMatchObject({ code: "ERR_CONTEXT_FULL" });
  });
});

describe("dispose", () => {
  test("everything afterwards says so, and a second time does nothing", async () => {
    const gone = await load();
    const sequence = gone.createSequence();
    await Promise.all([gone.dispose(), gone.dispose()]);
    await gone.dispose();
    expect([gone.disposed, sequence.disposed]).toEqual([true, true]);
    sequence.dispose();
    messageOf("ERR_DISPOSED", () => gone.info());
    messageOf("ERR_DISPOSED", () => gone.createSequence());
    await rejectionOf("ERR_DISPOSED", gone.prefill([{ sequence, tokens: [1] }]));
    await rejectionOf("ERR_DISPOSED", gone.decode([{ sequence, token: 1 }]));
    await rejectionOf("ERR_DISPOSED", gone.score([1, 2]));
    await rejectionOf("ERR_DISPOSED", gone.trace([1], [0]));
    await rejectionOf("ERR_DISPOSED", gone.generate({ prompt: [1] }).next());
  });

  test("with a step in flight: the step finishes, the next one is not begun", async () => {
    for (let round = 0; round < 20; round++) {
      const gone = await load();
      const [long, short] = [gone.createSequence(), gone.createSequence()];
      const one = gone.prefill([{ sequence: short, tokens: count(16) }]);
      const many = gone.prefill([{ sequence: long, tokens: count(200) }]);
      const ended = rejectionOf("ERR_DISPOSED", many);
      await gone.dispose();
      expect((await one)[0]!.logits).toHaveLength(320);
      expect(await ended).toBe("the model was disposed while the call was under way");
      expect(long.length).toBe(16);
    }
  });

  test("await using", async () => {
    let kept: HymbaModel;
    {
      await using scoped = await load();
      kept = scoped;
      expect(scoped.disposed).toBe(false);
    }
    expect(kept.disposed).toBe(true);
  });
});
