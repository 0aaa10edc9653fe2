import { join } from "node:path";
import { type EngineChunk, type EngineGenerateOptions, HymbaModel, type Sequence } from "../lib";
import { DEVICE } from "./helpers/device";
import { rejectionOf } from "./helpers/error";
import { MICRO, readSafetensors, relativeError } from "./helpers/golden";

// What goes wrong elsewhere with models that have both attention and recurrent states. Each test
// names what others saw, and checks that it cannot be seen here.

const FOLDER = join(__dirname, "..", "models", "hymba-tiny");
const LIMITS = { maxSequences: 8, maxContextTokens: 512, maxBatchTokens: 128 };

/** So many tokens that look like none in particular. */
function tokensOf(seed: number, length: number): number[] {
  return Array.from({ length }, (_, i) => 300 + ((seed * 7919 + i * 104729 + i * i * 31) % 3000));
}

let model: HymbaModel;
beforeAll(async () => {
  model = await HymbaModel.load(FOLDER, { device: "cpu", ...LIMITS });
});
afterAll(() => model.dispose());

interface Text {
  readonly tokens: number[];
  /** Everything that is said of the tokens: equal when the logits are. */
  readonly chunks: object[];
  readonly cachedTokens: number;
}

async function read(chunks: AsyncIterable<EngineChunk>): Promise<Text> {
  const text: { tokens: number[]; chunks: object[]; cachedTokens: number } = {
    tokens: [],
    chunks: [],
    cachedTokens: -1,
  };
  for await (const { metrics, ...chunk } of chunks) {
    text.tokens.push(chunk.token);
    text.chunks.push(chunk);
    text.cachedTokens = metrics?.cachedTokens ?? -1;
  }
  return text;
}

const GREEDY = { temperature: 0, maxTokens: 16, ignoreEos: true, topLogprobs: 20 } as const;

/** Without a cache, and with nobody beside it. */
async function cold(options: EngineGenerateOptions): Promise<Text> {
  await using engine = model.createEngine({ prefixCache: false });
  return await read(engine.generate(options));
}

describe("states are not left over", () => {
  test("one-token prompts give the same text every time, whatever ran in their place before", async () => {
    const limits = { ...LIMITS, maxSequences: 2 };
    await using one = await HymbaModel.load(MICRO, { device: DEVICE, ...limits });
    await using engine = one.createEngine();
    const texts: number[][] = [];
    for (let i = 0; i < 5; i++) {
      texts.push((await read(engine.generate({ ...GREEDY, prompt: [100] }))).tokens);
      const prompt = Array.from({ length: 10 + 30 * i }, (_, j) => (i * 31 + j * j) % 320);
      await read(engine.generate({ prompt, maxTokens: 2 + i, seed: i }));
    }
    for (const text of texts) expect(text).toEqual(texts[0]);
  });

  test("a new sequence sees nothing of what its memory held", async () => {
    const tokens = tokensOf(1, 90);
    const logits = async (of: HymbaModel): Promise<Float32Array> => {
      using sequence = of.createSequence();
      return (await of.prefill([{ sequence, tokens, logits: "all" }]))[0]!.logits!;
    };
    const limits = { maxSequences: 3, maxContextTokens: 128, maxBatchTokens: 128 };
    await using fresh = await HymbaModel.load(FOLDER, { device: "cpu", ...limits });
    const expected = await logits(fresh);
    // All slots, and all pages that they can hold.
    const used: Sequence[] = [];
    for (let i = 0; i < limits.maxSequences; i++) {
      const sequence = fresh.createSequence();
      const junk = tokensOf(50 + i, limits.maxContextTokens);
      await fresh.prefill([{ sequence, tokens: junk, logits: "none" }]);
      used.push(sequence);
    }
    for (const sequence of used) sequence.dispose();
    expect(await logits(fresh)).toEqual(expected);
  });
});

describe("the same prompt gives the same text", () => {
  test("eight times in one batch, with the states in the prefix cache and without", async () => {
    const prompt = tokensOf(2, 77);
    const expected = await cold({ ...GREEDY, prompt });
    for (const prefixCache of [true, false]) {
      await using engine = model.createEngine({ prefixCache });
      for (let round = 0; round < 2; round++) {
        const texts = await Promise.all(
          Array.from({ length: 8 }, () => read(engine.generate({ ...GREEDY, prompt }))),
        );
        for (const { chunks } of texts) expect(chunks).toEqual(expected.chunks);
      }
    }
  });

  test("when a hit spares most of it: sums keep their order, and ties their winner", async () => {
    const prompt = tokensOf(3, 300);
    const expected = await cold({ ...GREEDY, prompt });
    await using engine = model.createEngine();
    for (const length of [64, 100, 299, 300]) {
      await read(engine.generate({ prompt: prompt.slice(0, length), maxTokens: 1 }));
      const hit = await read(engine.generate({ ...GREEDY, prompt }));
      expect(hit.cachedTokens).toBeGreaterThanOrEqual(length === 64 ? 63 : 299);
      expect(hit.chunks).toEqual(expected.chunks);
    }
  });

  test("in chunks of any size: one of several tokens goes on from the states of the one before", async () => {
    const tokens = tokensOf(4, 150);
    const logits = async (sizes: readonly number[]): Promise<Float32Array> => {
      using sequence = model.createSequence();
      let last: Float32Array | undefined;
      for (let begin = 0, i = 0; begin < tokens.length; i++) {
        const chunk = tokens.slice(begin, begin + sizes[i % sizes.length]!);
        last = (await model.prefill([{ sequence, tokens: chunk }]))[0]!.logits;
        begin += chunk.length;
      }
      return last!;
    };
    const whole = await logits([150]);
    for (const sizes of [[1], [2], [3, 1], [63, 64], [1, 149], [149, 1]]) {
      expect(await logits(sizes)).toEqual(whole);
    }
  });
});

describe("the prefix cache", () => {
  // There is no speculative decoding here. What it broke elsewhere were cached states that had seen
  // tokens which were then taken back; here tokens are computed in vain when a request is aborted.
  test("in place of speculation: what was computed for a text that was given up corrupts nothing", async () => {
    const prompt = tokensOf(5, 120);
    const expected = await cold({ ...GREEDY, prompt });
    await using engine = model.createEngine();
    for (let most = 1; most <= 12; most++) {
      const controller = new AbortController();
      const { signal } = controller;
      let tokens = 0;
      const given = async (): Promise<void> => {
        for await (const chunk of engine.generate({ ...GREEDY, prompt, signal })) {
          expect(chunk.token).toBe(expected.tokens[tokens++]);
          if (tokens === most) controller.abort();
        }
      };
      await rejectionOf("ERR_ABORTED", given());
      // It goes on where the other one was given up.
      const begun = [...prompt, ...expected.tokens.slice(0, most)];
      const options = { ...GREEDY, maxTokens: 16 - most };
      const text = await read(engine.generate({ ...options, prompt: begun }));
      expect(text.cachedTokens).toBeGreaterThanOrEqual(119);
      expect(text.tokens).toEqual(expected.tokens.slice(most));
    }
  });

  test.each([2, 3, 7, 20, 63])("is of use to prompts of %i tokens, too", async (length) => {
    await using engine = model.createEngine();
    const prompt = tokensOf(6, length);
    await read(engine.generate({ ...GREEDY, prompt }));
    const { cachedTokens } = await read(engine.generate({ ...GREEDY, prompt }));
    expect(cachedTokens).toBe(length - 1);
  });

  test("is of use while as many run as there can be", async () => {
    await using engine = model.createEngine();
    const begin = tokensOf(7, 150);
    const texts = await Promise.all(
      Array.from({ length: 40 }, (_, i) =>
        read(engine.generate({ ...GREEDY, prompt: [...begin, ...tokensOf(i, 5)] })),
      ),
    );
    const hits = texts.filter(({ cachedTokens }) => cachedTokens >= begin.length);
    expect(hits.length).toBeGreaterThanOrEqual(40 - 2 * LIMITS.maxSequences);
  });

  test("spares a conversation the turns before", async () => {
    await using engine = model.createEngine();
    const text = tokensOf(8, 60);
    for (let turn = 0; turn < 6; turn++) {
      const known = turn === 0 ? 0 : text.length;
      text.push(...tokensOf(10 + turn, 15));
      const { tokens, cachedTokens } = await read(engine.generate({ ...GREEDY, prompt: text }));
      // All but the token that was drawn last.
      expect(cachedTokens).toBe(Math.max(0, known - 1));
      text.push(...tokens);
    }
  });
});

describe("memory", () => {
  test("one function says what shape a state has: what is planned is what there is", async () => {
    const { config } = model;
    const traced = await model.trace([400], [0]);
    const state = traced.find(({ name }) => name === "ssm.state")!;
    const bytes = state.values.length * Float32Array.BYTES_PER_ELEMENT * config.numLayers;
    expect(model.info().memory.perSequence.ssmStateBytes).toBe(bytes);
    const plan = await HymbaModel.memoryPlan(FOLDER, { device: "cpu", ...LIMITS });
    expect(model.info().memory).toEqual(plan);
  });

  test("any number of sequences can be asked for, whatever a step or the cache has room for", async () => {
    for (const prefixCacheBytes of [undefined, 0, 1]) {
      await using many = await HymbaModel.load(FOLDER, {
        device: "cpu",
        maxSequences: 40,
        maxContextTokens: 128,
        maxBatchTokens: 8,
        cacheTokens: 128,
        ...(prefixCacheBytes !== undefined && { prefixCacheBytes }),
      });
      await using engine = many.createEngine();
      const texts = await Promise.all(
        Array.from({ length: 40 }, (_, i) =>
          read(engine.generate({ prompt: [400 + i], maxTokens: 4, ignoreEos: true })),
        ),
      );
      for (const { tokens } of texts) expect(tokens).toHaveLength(4);
    }
  });

  test("the largest steps that there can be fit into what was planned", async () => {
    await using full = await HymbaModel.load(FOLDER, {
      device: "cpu",
      maxSequences: 4,
      maxContextTokens: 512,
      maxBatchTokens: 512,
    });
    const planned = full.info().memory;
    const sequences = Array.from({ length: 4 }, () => full.createSequence());
    for (const sequence of sequences) {
      await full.prefill([{ sequence, tokens: tokensOf(1, 384), logits: "all" }]);
    }
    await full.prefill(
      sequences.map((sequence) => ({ sequence, tokens: tokensOf(2, 128), logits: "all" as const })),
    );
    const { memory, cache } = full.info();
    expect(memory).toEqual(planned);
    expect(cache.globalPages.used).toBe(cache.globalPages.total);
  });
});

test("the window reaches exactly as far as in the published code", async () => {
  const golden = readSafetensors(join(MICRO, "golden.safetensors"));
  await using micro = await HymbaModel.load(MICRO, { device: "cpu", dtype: "float32" });
  const { slidingWindow, numMetaTokens } = micro.config;
  expect([slidingWindow, numMetaTokens]).toEqual([32, 16]);
  // One token less than the window, as many, and more; one key too many or too few shows.
  for (const length of [31, 32, 33, 48, 49]) {
    const tokens = golden.get(`forward.${length}.input_ids`)!.data;
    using sequence = micro.createSequence();
    const [result] = await micro.prefill([{ sequence, tokens, logits: "all" }]);
    const expected = golden.get(`forward.${length}.logits`)!.data;
    expect(relativeError(result!.logits!, expected)).toBeLessThanOrEqual(1e-5);
  }
});
