import { join } from "node:path";
import fc from "fast-check";
import {
  type EngineChunk,
  type EngineGenerateOptions,
  type EngineOptions,
  HymbaModel,
  type ModelDtype,
} from "../lib";
import { GRID_TOKENS, PrefixCache, snapshotPoints } from "../lib/engine/prefix_cache";
import { PrefixTree } from "../lib/engine/prefix_tree";
import type { LoadOptions } from "../lib/model";
import { Runner } from "../lib/runner";
import type { Sequence } from "../lib/sequence";
import { DEVICE, SAME } from "./helpers/device";
import { MICRO, relativeError } from "./helpers/golden";

const FOLDER = join(__dirname, "..", "models", "hymba-tiny");

// As on a GPU, on the CPU as well: a step is under way while the tokens of the one before are handed out.
const inFlight = jest.spyOn(HymbaModel.prototype, "stepsInFlight", "get").mockReturnValue(2);
afterAll(() => inFlight.mockRestore());

/** So many tokens that look like none in particular. */
function tokensOf(seed: number, length: number): number[] {
  return Array.from({ length }, (_, i) => 300 + ((seed * 7919 + i * 104729 + i * i * 31) % 3000));
}

async function load(options: LoadOptions = {}): Promise<HymbaModel> {
  return HymbaModel.load(FOLDER, {
    device: "cpu",
    maxSequences: 8,
    maxContextTokens: 1024,
    maxBatchTokens: 256,
    ...options,
  });
}

/** Everything that history, states and K/V have a say in. */
const SAMPLING = {
  maxTokens: 12,
  ignoreEos: true,
  seed: 11,
  temperature: 0.9,
  repetitionPenalty: 1.2,
  presencePenalty: 0.3,
  frequencyPenalty: 0.4,
  topLogprobs: 5,
};

interface Text {
  /** All that was drawn, with log-probabilities: equal when the logits are, bit by bit. */
  readonly drawn: object[];
  readonly tokens: number[];
  readonly cachedTokens: number;
}

async function read(chunks: AsyncIterable<EngineChunk>, index = 0): Promise<Text> {
  const drawn: object[] = [];
  const tokens: number[] = [];
  let cachedTokens = -1;
  for await (const { token, logprob, topLogprobs, metrics, ...chunk } of chunks) {
    if (chunk.index !== index) continue;
    drawn.push({ token, logprob, topLogprobs });
    tokens.push(token);
    cachedTokens = metrics?.cachedTokens ?? cachedTokens;
  }
  return { drawn, tokens, cachedTokens };
}

/** Texts of one engine after the other. */
async function writeAll(
  model: HymbaModel,
  prompts: readonly number[][],
  options: EngineOptions = {},
): Promise<Text[]> {
  await using engine = model.createEngine(options);
  const texts: Text[] = [];
  for (const prompt of prompts) texts.push(await read(engine.generate({ ...SAMPLING, prompt })));
  return texts;
}

describe("the tree", () => {
  const text = fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 1, maxLength: 8 });

  test("finds what a list of all texts would", () => {
    const property = fc.property(
      fc.array(text, { maxLength: 30 }),
      fc.array(text, { minLength: 1, maxLength: 20 }),
      fc.func(fc.boolean()),
      (texts, queries, isGone) => {
        const tree = new PrefixTree<string>();
        const gone = new Set(texts.map(String).filter((key) => isGone(key)));
        for (const tokens of texts) tree.set(Int32Array.from(tokens), String(tokens));
        expect(tree.size).toBe(new Set(texts.map(String)).size);
        expect(new Set(tree.values())).toEqual(new Set(texts.map(String)));
        const common = (a: readonly number[], b: readonly number[]) => {
          const end = a.findIndex((token, i) => token !== b[i]);
          return end < 0 ? a.length : end;
        };
        const find = (query: readonly number[], all: readonly number[][]) => {
          const begins = all
            .filter(
              (tokens) => !gone.has(String(tokens)) && common(tokens, query) === tokens.length,
            )
            .sort((a, b) => b.length - a.length)[0];
          return {
            common: Math.max(0, ...all.map((tokens) => common(query, tokens))),
            longest: begins && { length: begins.length, value: String(begins) },
          };
        };
        const accepts = (value: string) => !gone.has(value);
        for (const query of queries)
          expect(tree.find(Int32Array.from(query), accepts)).toEqual(find(query, texts));
        const left = texts.filter((tokens) => !gone.has(String(tokens)));
        tree.prune(accepts);
        expect(tree.size).toBe(new Set(left.map(String)).size);
        for (const query of queries)
          expect(tree.find(Int32Array.from(query), () => true).longest).toEqual(
            find(query, left).longest,
          );
      },
    );
    fc.assert(property, { seed: 33, numRuns: 300 });
  });
});

describe("what is listed", () => {
  /** A store of which a test says what is gone. */
  const setUp = () => {
    const live = new Set<number>();
    let next = 0;
    const sequence = (): Sequence => {
      const take = () => {
        live.add(next);
        return next++;
      };
      return { snapshot: take, retire: take, dispose: () => undefined } as unknown as Sequence;
    };
    const cache = new PrefixCache({
      hasSnapshot: (id) => live.has(id),
      resume: (id, { length }) => ({ id, length }) as Sequence,
      dropSnapshot: (id) => live.delete(id),
    });
    return { cache, live, sequence };
  };
  const text = Int32Array.of(1, 2, 3, 4, 5);

  test("is found by prompts that are longer, and only while it is there", () => {
    const { cache, live, sequence } = setUp();
    const before = cache.match(text);
    expect(before).toMatchObject({ tokens: 0, snapshot: undefined, common: 0 });
    expect(cache.resume(before, text)).toBeUndefined();
    cache.keep(text.subarray(0, 2), sequence(), false);
    cache.keep(text.subarray(0, 4), sequence(), false);
    cache.keep(text.subarray(0, 5), sequence(), false);
    const found = cache.match(text, before);
    expect(found).toMatchObject({ tokens: 4, snapshot: 1 });
    expect(cache.match(text, found)).toBe(found);
    live.delete(1);
    expect(cache.resume(found, text)).toBeUndefined();
    expect(cache.match(text, found)).toMatchObject({ tokens: 2, snapshot: 0, common: 4 });
    cache.clear();
    expect(live.size).toBe(0);
    expect(cache.match(text, found)).toMatchObject({ tokens: 0, common: 0 });
  });

  test("is not taken twice, and taken again when it is gone", () => {
    const { cache, live, sequence } = setUp();
    for (let i = 0; i < 2; i++) cache.keep(text, sequence(), false);
    cache.retire(text, sequence());
    expect([...live]).toEqual([0]);
    live.clear();
    cache.retire(text, sequence());
    expect([...live]).toEqual([1]);
  });

  test("does not grow with what is gone", () => {
    const { cache, live, sequence } = setUp();
    for (let i = 0; i < 1000; i++) {
      live.clear();
      cache.keep(Int32Array.of(i), sequence(), false);
    }
    expect(cache.match(Int32Array.of(999, 0)).tokens).toBe(1);
    // What only led to snapshots that are gone is forgotten with them.
    expect(cache.match(Int32Array.of(0, 0)).common).toBe(0);
  });

  test("snapshots are taken before the last token, where a known text is left, and on a grid", () => {
    const match = { tokens: 0, snapshot: undefined, common: 0, version: 0 };
    expect(snapshotPoints(1, match, false)).toEqual([]);
    expect(snapshotPoints(2, match, false)).toEqual([1]);
    expect(snapshotPoints(500, match, false)).toEqual([499]);
    expect(snapshotPoints(500, { ...match, common: 100 }, false)).toEqual([100, 499]);
    // Not where that saves less than a page of tokens.
    expect(snapshotPoints(500, { ...match, tokens: 90, common: 100 }, false)).toEqual([499]);
    expect(snapshotPoints(500, { ...match, common: 499 }, false)).toEqual([499]);
    expect(snapshotPoints(500, { ...match, common: 498 }, false)).toEqual([498, 499]);
    // Nor before the last token, unless others wait for it there.
    const most = { ...match, tokens: 436, common: 436 };
    expect(snapshotPoints(500, most, false)).toEqual([]);
    expect(snapshotPoints(500, { ...most, tokens: 435 }, false)).toEqual([499]);
    expect(snapshotPoints(500, most, true)).toEqual([499]);
    const grid = [GRID_TOKENS, 2 * GRID_TOKENS];
    expect(snapshotPoints(5000, { ...match, common: 3000 }, false)).toEqual([
      grid[0],
      3000,
      grid[1],
      4999,
    ]);
    expect(snapshotPoints(2 * GRID_TOKENS + 1, match, false)).toEqual(grid);
  });
});

describe("a hit", () => {
  let model: HymbaModel;
  beforeAll(async () => {
    model = await load();
  });
  afterAll(() => model.dispose());

  test.each([1, 2, 3, 63, 64, 65, 66, 127, 128, 129, 255, 256, 257, 320, 321, 600])(
    "of the same prompt of %i tokens computes one of them, and gives the same bits",
    async (length) => {
      const prompt = tokensOf(length, length);
      const [cold] = await writeAll(model, [prompt], { prefixCache: false });
      const [first, second, third] = await writeAll(model, [prompt, prompt, prompt]);
      expect(first!.cachedTokens).toBe(0);
      expect([second!.cachedTokens, third!.cachedTokens]).toEqual([length - 1, length - 1]);
      for (const text of [first, second, third]) expect(text!.drawn).toEqual(cold!.drawn);
    },
  );

  test("goes on from the end of a text, whose tokens then count as a prompt", async () => {
    const prompt = tokensOf(1, 150);
    const [first] = await writeAll(model, [prompt]);
    for (const more of [[], [400], tokensOf(2, 70)]) {
      const next = [...prompt, ...first!.tokens, ...more];
      const [cold] = await writeAll(model, [next], { prefixCache: false });
      const [, hit] = await writeAll(model, [prompt, next]);
      // All but the token that was drawn last and never run.
      expect(hit!.cachedTokens).toBe(prompt.length + first!.tokens.length - 1);
      expect(hit!.drawn).toEqual(cold!.drawn);
    }
  });

  test("of a common beginning comes with the third prompt: the second leaves a snapshot there", async () => {
    const common = tokensOf(3, 200);
    const prompts = [4, 5, 6, 7].map((seed) => [...common, ...tokensOf(seed, 3 + seed)]);
    const cold = await writeAll(model, prompts, { prefixCache: false });
    const texts = await writeAll(model, prompts);
    expect(texts.map(({ cachedTokens }) => cachedTokens)).toEqual([0, 0, 200, 200]);
    expect(texts.map(({ drawn }) => drawn)).toEqual(cold.map(({ drawn }) => drawn));
  });

  test.each([
    [1, 1],
    [64, 1],
    [65, 2],
  ])("of all but %i tokens leaves %i steps until the first one is drawn", async (more, steps) => {
    await using engine = model.createEngine();
    const prompt = tokensOf(60, 100);
    await read(engine.generate({ ...SAMPLING, prompt, maxTokens: 1 }));
    const submit = jest.spyOn(Runner.prototype, "submit");
    const next = [...prompt, ...tokensOf(61, more)];
    const { cachedTokens } = await read(
      engine.generate({ ...SAMPLING, prompt: next, maxTokens: 1 }),
    );
    expect([cachedTokens, submit.mock.calls.length]).toEqual([prompt.length, steps]);
    submit.mockRestore();
  });

  test("leaves the snapshot as it was, whatever goes on from it at the same time", async () => {
    const common = tokensOf(8, 130);
    const prompts = [9, 10, 11, 12].map((seed) => [...common, ...tokensOf(seed, 3)]);
    const cold = await writeAll(model, prompts, { prefixCache: false });
    await using engine = model.createEngine();
    await read(engine.generate({ ...SAMPLING, prompt: [...common, 5], maxTokens: 1 }));
    for (let round = 0; round < 2; round++) {
      const texts = await Promise.all(
        prompts.map((prompt) => read(engine.generate({ ...SAMPLING, prompt }))),
      );
      expect(texts.map(({ drawn }) => drawn)).toEqual(cold.map(({ drawn }) => drawn));
      for (const { cachedTokens } of texts) expect(cachedTokens).toBe(130);
    }
  });

  test("is only in the engine's own cache, which goes with it", async () => {
    const prompt = tokensOf(13, 100);
    const before = model.info().cache;
    await using engine = model.createEngine();
    await read(engine.generate({ ...SAMPLING, prompt }));
    expect(model.info().cache.sequences).toMatchObject({ used: 0, kept: 2 });
    const [other] = await writeAll(model, [prompt]);
    expect(other!.cachedTokens).toBe(0);
    await engine.close();
    expect(model.info().cache).toEqual(before);
  });
});

test("16 conversations of 8 turns: each turn computes what is new in it", async () => {
  const { snapshotBytes } = await HymbaModel.memoryPlan(FOLDER, { maxContextTokens: 1024 });
  await using model = await load({ prefixCacheBytes: 64 * snapshotBytes });
  await using engine = model.createEngine();
  const submit = jest.spyOn(Runner.prototype, "submit");
  let newTokens = 0;
  const conversations = Array.from({ length: 16 }, () => [] as number[]);
  for (let turn = 0; turn < 8; turn++) {
    const said = conversations.map((_, i) => tokensOf(100 * i + turn, 4 + ((i * 5 + turn) % 20)));
    await Promise.all(
      conversations.map(async (text, i) => {
        const known = text.length;
        text.push(...said[i]!);
        const answer = await read(
          engine.generate({ prompt: text, maxTokens: 6, ignoreEos: true, seed: i }),
        );
        // The token that was drawn last was not run before.
        expect(answer.cachedTokens).toBe(Math.max(0, known - 1));
        text.push(...answer.tokens);
        newTokens += said[i]!.length + answer.tokens.length;
      }),
    );
  }
  const computed = submit.mock.calls.flatMap(([work]) => work.map(({ tokens }) => tokens.length));
  submit.mockRestore();
  // All but the last token of each conversation.
  expect(computed.reduce((a, b) => a + b, 0)).toBe(newTokens - conversations.length);
});

// The copies are the backend's, so this is for GPUs, too; there a hit takes other kernels.
test.each<ModelDtype>(["float32", "bfloat16"])("a hit is what it spares, in %s", async (dtype) => {
  await using model = await HymbaModel.load(MICRO, {
    device: DEVICE,
    dtype,
    maxSequences: 3,
    maxContextTokens: 256,
    maxBatchTokens: 128,
  });
  await using engine = model.createEngine();
  await using cold = model.createEngine({ prefixCache: false });
  /** Log-probabilities of the likeliest tokens after a prompt, by their numbers. */
  const likeliest = async (prompt: number[], from = engine): Promise<Map<number, number>> => {
    const options = { prompt, maxTokens: 1, ignoreEos: true, temperature: 0, topLogprobs: 20 };
    for await (const { topLogprobs } of from.generate(options))
      return new Map(topLogprobs!.map(({ token, logprob }) => [token, logprob]));
    throw new Error("no token");
  };
  for (const length of [2, 33, 64, 65, 130, 200]) {
    const prompt = Array.from({ length }, (_, i) => (i * i * 7 + length) % 320);
    const expected = await likeliest(prompt, cold);
    await likeliest(prompt);
    // What others do in between does not get into the snapshot.
    await likeliest([...prompt.slice(0, -1), 5]);
    const actual = await likeliest(prompt);
    const both = [...expected.keys()].filter((token) => actual.has(token));
    expect(both.length).toBeGreaterThanOrEqual(DEVICE === "cpu" ? 20 : 16);
    const logprobs = (from: ReadonlyMap<number, number>): number[] =>
      both.map((token) => from.get(token)!);
    const error = relativeError(logprobs(actual), logprobs(expected));
    expect(error).toBeLessThanOrEqual(2 * SAME[dtype]);
  }
});

test("prefixCacheBytes is part of what a model takes", async () => {
  const plan = (prefixCacheBytes?: number) =>
    HymbaModel.memoryPlan(FOLDER, {
      device: "cpu",
      maxSequences: 16,
      ...(prefixCacheBytes !== undefined && { prefixCacheBytes }),
    });
  const none = await plan(0);
  const { snapshotBytes } = none;
  const historyBytes = 2 * 4096 + 4; // of a slot: tokens seen, and the last one
  const added = async (bytes?: number) => (await plan(bytes)).cacheBytes - none.cacheBytes;
  // But for what it takes to align the parts.
  expect((await added(3 * snapshotBytes)) / (snapshotBytes + historyBytes)).toBeCloseTo(3, 2);
  expect(await added(snapshotBytes - 1)).toBe(0);
  expect(await added()).toBe(await added(8 * snapshotBytes));
  await expect(plan(-1)).rejects.toThrow(/options.prefixCacheBytes must be from 0/);

  await using model = await load({ prefixCacheBytes: 2 * snapshotBytes });
  expect(model.memoryPlan()).toEqual(model.info().memory);
  await using other = await load();
  expect(other.memoryPlan()).toEqual(other.info().memory);
});

describe("room", () => {
  test("is made for sequences, and what is gone is computed again", async () => {
    await using model = await load({ maxSequences: 2, maxContextTokens: 256, cacheTokens: 256 });
    const prompts = [20, 21, 22].map((seed) => tokensOf(seed, 100));
    const cold = await writeAll(model, prompts, { prefixCache: false });
    await using engine = model.createEngine();
    const cached: number[] = [];
    for (let round = 0; round < 3; round++) {
      for (const [i, prompt] of prompts.entries()) {
        const text = await read(engine.generate({ ...SAMPLING, prompt }));
        expect(text.drawn).toEqual(cold[i]!.drawn);
        cached.push(text.cachedTokens);
      }
    }
    // Three slots and four pages: a text is gone before its turn comes again.
    expect(cached).toEqual(new Array(9).fill(0));
    const { sequences, globalPages } = model.info().cache;
    expect([sequences.used, globalPages.used]).toEqual([0, globalPages.total - 4]);
    expect(sequences.kept).toBeGreaterThan(0);
    // What nobody uses is there for others who ask.
    using a = model.createSequence();
    using b = model.createSequence();
    const tokens = tokensOf(23, 128);
    await model.prefill([
      { sequence: a, tokens, logits: "none" },
      { sequence: b, tokens, logits: "none" },
    ]);
    expect(model.info().cache.sequences.kept).toBe(0);
  });

  test("of a single sequence is enough to go on with a text", async () => {
    await using model = await load({ maxSequences: 1 });
    const prompt = tokensOf(24, 100);
    const [first] = await writeAll(model, [prompt]);
    const next = [...prompt, ...first!.tokens, 500, 501];
    const [cold] = await writeAll(model, [next], { prefixCache: false });
    const [, second] = await writeAll(model, [prompt, next]);
    expect(second!.cachedTokens).toBe(prompt.length + first!.tokens.length - 1);
    expect(second!.drawn).toEqual(cold!.drawn);
  });

  test("runs out in any way without changing a token", async () => {
    await using model = await load({
      maxSequences: 4,
      maxContextTokens: 320,
      cacheTokens: 15 * 64,
    });
    const request = (i: number): EngineGenerateOptions => ({
      ...SAMPLING,
      prompt: [...tokensOf(i % 2, 100), ...tokensOf(i % 7, 3 * (i % 10))],
      maxTokens: i % 8 === 0 ? 150 : 5 + (i % 20),
      seed: i,
    });
    await using cold = model.createEngine({ prefixCache: false });
    const numbers = Array.from({ length: 40 }, (_, i) => i);
    const expected: Text[] = [];
    for (const i of numbers) expected.push(await read(cold.generate(request(i))));
    await using engine = model.createEngine();
    const texts = await Promise.all(numbers.map((i) => read(engine.generate(request(i)))));
    expect(texts.map(({ drawn }) => drawn)).toEqual(expected.map(({ drawn }) => drawn));
    expect(texts.filter(({ cachedTokens }) => cachedTokens > 0).length).toBeGreaterThan(10);
  });
});

test("what many texts begin with stays, however many others come between", async () => {
  await using model = await load({ maxSequences: 2 });
  await using engine = model.createEngine();
  const common = tokensOf(70, 100);
  const hits: number[] = [];
  for (let i = 0; i < 30; i++) {
    const prompt = i % 5 < 1 || i < 3 ? [...common, ...tokensOf(i, 8)] : tokensOf(71 + i, 90);
    const { cachedTokens } = await read(engine.generate({ ...SAMPLING, maxTokens: 2, prompt }));
    if (prompt.length > 90) hits.push(cachedTokens);
  }
  expect(hits).toEqual([0, 0, ...new Array(6).fill(100)]);
});

test("long prompts leave snapshots on the way", async () => {
  await using model = await load({ maxContextTokens: GRID_TOKENS + 200, maxBatchTokens: 1024 });
  const begin = tokensOf(30, GRID_TOKENS + 10);
  const prompts = [31, 32].map((seed) => [...begin, ...tokensOf(seed, 40)]);
  const cold = await writeAll(model, prompts, { prefixCache: false });
  const texts = await writeAll(model, prompts);
  expect(texts.map(({ cachedTokens }) => cachedTokens)).toEqual([0, GRID_TOKENS]);
  expect(texts.map(({ drawn }) => drawn)).toEqual(cold.map(({ drawn }) => drawn));
});

describe("n texts of a prompt", () => {
  let model: HymbaModel;
  beforeAll(async () => {
    model = await load({ maxContextTokens: 256 });
  });
  afterAll(() => model.dispose());

  test.each([1, 2, 130])(
    "of %i tokens share what it takes, and are those of n seeds",
    async (length) => {
      const prompt = tokensOf(40 + length, length);
      await using engine = model.createEngine();
      const chunks: EngineChunk[] = [];
      const submit = jest.spyOn(Runner.prototype, "submit");
      for await (const chunk of engine.generate({ ...SAMPLING, prompt, n: 4, maxTokens: 5 }))
        chunks.push(chunk);
      const computed = submit.mock.calls.flatMap(([work]) =>
        work.map(({ tokens }) => tokens.length),
      );
      submit.mockRestore();
      // The prompt but its last token once; that and four more for each text.
      expect(computed.reduce((a, b) => a + b, 0)).toBe(length - 1 + 4 * 5);
      for (let index = 0; index < 4; index++) {
        const own = chunks.filter((chunk) => chunk.index === index);
        expect(own.at(-1)!.metrics!.cachedTokens).toBe(index === 0 ? 0 : length - 1);
        const tokens = own.map(({ token }) => token);
        const alone: number[] = [];
        const seed = SAMPLING.seed + index;
        for await (const { token } of model.generate({ ...SAMPLING, prompt, seed, maxTokens: 5 }))
          alone.push(token);
        expect(tokens).toEqual(alone);
      }
    },
  );

  test("more than can run at a time, and without a cache", async () => {
    const prompt = tokensOf(50, 40);
    for (const prefixCache of [true, false]) {
      await using engine = model.createEngine({ prefixCache });
      const ended = new Set<number>();
      for await (const { index, finishReason } of engine.generate({ ...SAMPLING, prompt, n: 20 }))
        if (finishReason !== undefined) ended.add(index);
      expect(ended.size).toBe(20);
    }
  });

  test("end together when the loop does", async () => {
    await using engine = model.createEngine();
    for await (const { index } of engine.generate({ ...SAMPLING, prompt: [400, 401], n: 3 }))
      if (index === 2) break;
    const { used } = model.info().cache.sequences;
    expect(used).toBeLessThanOrEqual(3); // a step may be under way
    await engine.close();
    expect(model.info().cache.sequences).toMatchObject({ used: 0, kept: 0 });
  });

  test.each([0, 129, 1.5])("n = %p is refused", async (n) => {
    await using engine = model.createEngine();
    await expect(read(engine.generate({ prompt: [400], n }))).rejects.toThrow(/options.n must be/);
  });
});

test("metrics tell how a request went", async () => {
  await using model = await load({ maxSequences: 1 });
  await using engine = model.createEngine();
  const options = { prompt: tokensOf(60, 30), maxTokens: 8, ignoreEos: true };
  const last = async (): Promise<EngineChunk> => {
    let chunk: EngineChunk | undefined;
    for await (chunk of engine.generate(options));
    return chunk!;
  };
  const [first, second] = (await Promise.all([last(), last()])).map(({ metrics }) => metrics!);
  expect(first).toMatchObject({ promptTokens: 30, cachedTokens: 0, generatedTokens: 8 });
  expect(second).toMatchObject({ promptTokens: 30, cachedTokens: 29, generatedTokens: 8 });
  for (const { queueMs, timeToFirstTokenMs, interTokenMs, totalMs } of [first!, second!]) {
    expect(queueMs).toBeGreaterThan(0);
    expect(timeToFirstTokenMs).toBeGreaterThan(queueMs);
    expect(interTokenMs.max).toBeGreaterThanOrEqual(interTokenMs.mean);
    expect(totalMs).toBeCloseTo(timeToFirstTokenMs + 7 * interTokenMs.mean, 6);
  }
  // It waited for the only slot until the first had ended.
  expect(second!.queueMs).toBeGreaterThan(first!.timeToFirstTokenMs);
});
