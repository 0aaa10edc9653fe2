import { join } from "node:path";
import fc from "fast-check";
import { HymbaModel, type ModelDtype, type SamplingOptions, type Sequence } from "../lib";
import { DEVICE, SAME } from "./helpers/device";
import { MICRO, readSafetensors, relativeError } from "./helpers/golden";
import { logSoftmax } from "./helpers/sampling_reference";

// How tokens are cut into chunks, what else is in a batch and who had the memory before must not
// change a number. On the CPU that means not a bit; what a GPU may round differently stands in
// helpers/device.ts.

const VOCABULARY = 320;
const WINDOW = 32;
const PAGE = 64;
const MAX_SEQUENCES = 8;
const MAX_CONTEXT = 512;

const loadMicro = (dtype: ModelDtype, maxBatchTokens = 2048): Promise<HymbaModel> =>
  HymbaModel.load(MICRO, {
    device: DEVICE,
    dtype,
    maxBatchTokens,
    maxSequences: MAX_SEQUENCES,
    maxContextTokens: MAX_CONTEXT,
  });

/** The same model with room for 2,048, 64 and 7 tokens a step, so that each cuts in other places. */
interface Models {
  readonly wide: HymbaModel;
  readonly middle: HymbaModel;
  readonly narrow: HymbaModel;
}

async function loadModels(dtype: ModelDtype): Promise<Models> {
  return {
    wide: await loadMicro(dtype),
    middle: await loadMicro(dtype, 64),
    narrow: await loadMicro(dtype, 7),
  };
}

async function disposeAll(models: Models): Promise<void> {
  for (const model of Object.values(models) as HymbaModel[]) await model.dispose();
}

const whichModel = fc.constantFrom<keyof Models>("wide", "middle", "narrow");
const token = fc.nat(VOCABULARY - 1);
const prompt = (minLength: number, maxLength: number): fc.Arbitrary<number[]> =>
  fc.integer({ min: minLength, max: maxLength }).chain((length) => {
    return fc.array(token, { minLength: length, maxLength: length });
  });

/** Chunk sizes, used over and over until the tokens run out. */
const chunkSizes = fc.array(
  fc.oneof(fc.constant(1), fc.integer({ min: 2, max: 5 }), fc.integer({ min: 6, max: 90 })),
  { minLength: 1, maxLength: 8 },
);

function cut(tokens: readonly number[], sizes: readonly number[]): number[][] {
  const chunks: number[][] = [];
  for (let begin = 0; begin < tokens.length;) {
    const end = begin + sizes[chunks.length % sizes.length]!;
    chunks.push(tokens.slice(begin, end));
    begin = end;
  }
  return chunks;
}

function join32(parts: readonly Float32Array[]): Float32Array {
  const joined = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    joined.set(part, offset);
    offset += part.length;
  }
  return joined;
}

/** Feeds chunks to a sequence, those of one token by `decode`; logits of all tokens. */
async function feed(
  model: HymbaModel,
  sequence: Sequence,
  chunks: readonly (readonly number[])[],
): Promise<Float32Array> {
  const parts: Float32Array[] = [];
  for (const tokens of chunks) {
    const [result] =
      tokens.length === 1
        ? await model.decode([{ sequence, token: tokens[0]!, logits: "all" }])
        : await model.prefill([{ sequence, tokens, logits: "all" }]);
    parts.push(result!.logits!);
  }
  return join32(parts);
}

/** Logits of all tokens from chunks in a sequence of their own. */
async function forwardChunks(
  model: HymbaModel,
  chunks: readonly (readonly number[])[],
): Promise<Float32Array> {
  using sequence = model.createSequence();
  return await feed(model, sequence, chunks);
}

/** Logits of all tokens from a single call. */
async function forward(model: HymbaModel, tokens: readonly number[]): Promise<Float32Array> {
  using sequence = model.createSequence();
  const [result] = await model.prefill([{ sequence, tokens, logits: "all" }]);
  return result!.logits!;
}

/** Fails at the first logit that is not the same bits (on a GPU: when all are too far apart), or not finite. */
function expectSame(
  actual: Float32Array,
  expected: Float32Array,
  bound: number = SAME.float32,
): void {
  expect(actual.length).toBe(expected.length);
  if (bound > 0) {
    expect(relativeError(actual, expected)).toBeLessThanOrEqual(bound);
    return;
  }
  let index = 0;
  while (Object.is(actual[index], expected[index]) && Number.isFinite(expected[index])) index++;
  if (index === expected.length) return;
  const row = Math.floor(index / VOCABULARY);
  throw new Error(
    `logit ${index % VOCABULARY} after token ${row} is ${actual[index]}, expected ` +
      `${expected[index]} (relative error of all: ${relativeError(actual, expected)})`,
  );
}

/** What one sequence of a batch does in one round: wait (0) or take that many tokens. */
interface Turn {
  readonly size: number;
  /** Decides on the order within the round. */
  readonly rank: number;
}

const turns = fc
  .array(
    fc.record({
      size: fc.oneof(fc.constantFrom(0, 1, 1), fc.integer({ min: 2, max: 50 })),
      rank: fc.nat(1000),
    }),
    { minLength: 1, maxLength: 24 },
  )
  .filter((list) => list.some(({ size }) => size > 0));

/** Runs prompts side by side, a ragged batch a round; logits of all tokens of each. */
async function forwardBatch(
  model: HymbaModel,
  prompts: readonly (readonly number[])[],
  script: readonly Turn[],
): Promise<Float32Array[]> {
  const runs = prompts.map((tokens) => ({
    tokens,
    sequence: model.createSequence(),
    parts: [] as Float32Array[],
  }));
  let turn = 0;
  while (runs.some(({ sequence, tokens }) => sequence.length < tokens.length)) {
    const round = runs
      .filter(({ sequence, tokens }) => sequence.length < tokens.length)
      .map((run) => ({ run, ...script[turn++ % script.length]! }))
      .filter(({ size }) => size > 0)
      .sort((a, b) => a.rank - b.rank);
    const results = await model.prefill(
      round.map(({ run: { sequence, tokens }, size }) => ({
        sequence,
        tokens: tokens.slice(sequence.length, sequence.length + size),
        logits: "all",
      })),
    );
    for (const [i, { run }] of round.entries()) run.parts.push(results[i]!.logits!);
  }
  for (const { sequence } of runs) sequence.dispose();
  return runs.map(({ parts }) => join32(parts));
}

/** All ways to cut `length` tokens. */
function compositions(length: number): number[][] {
  if (length === 0) return [[]];
  return Array.from({ length }, (_, i) => i + 1).flatMap((first) =>
    compositions(length - first).map((rest) => [first, ...rest]),
  );
}

describe.each(["float32", "bfloat16"] as const)("the same bits in %s", (dtype) => {
  const same = (actual: Float32Array, expected: Float32Array) =>
    expectSame(actual, expected, SAME[dtype]);
  let models: Models;
  beforeAll(async () => {
    models = await loadModels(dtype);
  });
  afterAll(() => disposeAll(models));

  test("however a prompt is cut", async () => {
    await fc.assert(
      fc.asyncProperty(prompt(1, 180), chunkSizes, whichModel, async (tokens, sizes, which) => {
        const whole = await forward(models.wide, tokens);
        same(await forward(models[which], tokens), whole);
        same(await forwardChunks(models[which], cut(tokens, sizes)), whole);
      }),
      { seed: 2201, numRuns: 25 },
    );
  });

  test("when a prompt is decoded from anywhere on", async () => {
    await fc.assert(
      fc.asyncProperty(prompt(1, 120), fc.nat(119), whichModel, async (tokens, at, which) => {
        const begin = at % tokens.length;
        const head = cut(tokens.slice(0, begin), [tokens.length]);
        const chunks = [...head, ...cut(tokens.slice(begin), [1])];
        const whole = await forward(models.wide, tokens);
        same(await forwardChunks(models[which], chunks), whole);
      }),
      { seed: 2202, numRuns: 25 },
    );
  });

  test("whatever else is in the batch, in any order", async () => {
    const prompts = fc.array(prompt(1, 100), { minLength: 1, maxLength: MAX_SEQUENCES - 1 });
    await fc.assert(
      fc.asyncProperty(prompts, turns, whichModel, async (different, script, which) => {
        // The first prompt is there twice, at both ends.
        const batch = [...different, different[0]!];
        const together = await forwardBatch(models[which], batch, script);
        for (const [i, tokens] of batch.entries()) {
          same(together[i]!, await forward(models.wide, tokens));
        }
      }),
      { seed: 2203, numRuns: 16 },
    );
  });

  test("after every window ring has wrapped several times", async () => {
    const { layers } = models.wide.config;
    // Layers that read the ring of another one are among those that the numbers went through.
    expect(
      layers.filter(({ kvProducer, attention }, i) => kvProducer !== i && attention === "window"),
    ).not.toHaveLength(0);
    await fc.assert(
      fc.asyncProperty(
        prompt(6 * WINDOW, 7 * PAGE),
        fc.integer({ min: 1, max: 3 * PAGE }),
        chunkSizes,
        whichModel,
        async (tokens, begin, sizes, which) => {
          const whole = await forward(models.wide, tokens);
          const decoded = [tokens.slice(0, begin), ...cut(tokens.slice(begin), [1])];
          same(await forwardChunks(models[which], decoded), whole);
          same(await forwardChunks(models[which], cut(tokens, sizes)), whole);
        },
      ),
      { seed: 2204, numRuns: 4 },
    );
  });

  test("with the rings of a batch wrapped at different places", async () => {
    const prompts = fc.array(prompt(1, 6 * PAGE), { minLength: 3, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(prompts, turns, async (batch, script) => {
        const together = await forwardBatch(models.middle, batch, script);
        for (const [i, tokens] of batch.entries()) {
          same(together[i]!, await forward(models.wide, tokens));
        }
      }),
      { seed: 2205, numRuns: 3 },
    );
  });

  test("for prompts around the convolution's width, cut in every way", async () => {
    for (const length of [1, 2, 3, 4, 5, 6]) {
      const tokens = fc.sample(prompt(length, length), { seed: 2206 + length, numRuns: 1 })[0]!;
      const whole = await forward(models.wide, tokens);
      same(await forward(models.narrow, tokens), whole);
      for (const sizes of compositions(length)) {
        same(await forwardChunks(models.wide, cut(tokens, sizes)), whole);
      }
    }
  });

  test("in sequences that reuse the memory of others", async () => {
    const penalized = { temperature: 0.8, repetitionPenalty: 1.3, presencePenalty: 0.7, seed: 5 };
    const prompts = fc.array(prompt(1, 150), { minLength: 1, maxLength: MAX_SEQUENCES });
    const junk = fc.array(prompt(1, 300), {
      minLength: MAX_SEQUENCES,
      maxLength: MAX_SEQUENCES,
    });
    const order = fc.shuffledSubarray([0, 1, 2, 3, 4, 5, 6, 7], { minLength: MAX_SEQUENCES });
    const run = async (model: HymbaModel, batch: readonly (readonly number[])[]) => {
      const sequences = batch.map(() => model.createSequence());
      const first = await model.prefill(
        sequences.map((sequence, i) => ({
          sequence,
          tokens: batch[i]!,
          logits: "all",
          sample: penalized,
        })),
      );
      const second = await model.decode(
        sequences.map((sequence, i) => ({
          sequence,
          token: first[i]!.token!,
          logits: "all",
          sample: penalized,
        })),
      );
      for (const sequence of sequences) sequence.dispose();
      return [...first, ...second];
    };
    await fc.assert(
      fc.asyncProperty(prompts, junk, order, async (batch, rubbish, disposal) => {
        await using fresh = await loadMicro(dtype);
        const expected = await run(fresh, batch);

        const sequences = rubbish.map(() => models.wide.createSequence());
        expect(() => models.wide.createSequence()).toThrow(/sequences/);
        await models.wide.prefill(
          sequences.map((sequence, i) => ({ sequence, tokens: rubbish[i]! })),
        );
        await models.wide.decode(
          sequences.map((sequence, i) => ({ sequence, token: (i * 41) % VOCABULARY })),
        );
        for (const i of disposal) sequences[i]!.dispose();

        for (const [i, result] of (await run(models.wide, batch)).entries()) {
          same(result.logits!, expected[i]!.logits!);
          expect(result.token).toBe(expected[i]!.token);
          expect(result.logprob).toBe(expected[i]!.logprob);
        }
        expect(models.wide.info().cache).toEqual(fresh.info().cache);
      }),
      { seed: 2207, numRuns: 3 },
    );
  });
});

describe("in float32", () => {
  let models: Models;
  beforeAll(async () => {
    models = await loadModels("float32");
  });
  afterAll(() => disposeAll(models));

  test("sequences that share the meta tokens give what a cold run over all tokens gives", async () => {
    const weights = readSafetensors(join(MICRO, "model.safetensors"));
    const norm = weights.get("model.final_layernorm.weight")!.data;
    const embedding = weights.get("model.embed_tokens.weight")!.data;
    const { rmsNormEps, numMetaTokens, numLayers, hiddenSize } = models.wide.config;

    /** The model's last two stages: rms norm and tied head. */
    const toLogits = (hidden: ArrayLike<number>): Float64Array => {
      const rows = hidden.length / hiddenSize;
      const logits = new Float64Array(rows * VOCABULARY);
      for (let r = 0; r < rows; r++) {
        let squares = 0;
        for (let c = 0; c < hiddenSize; c++) squares += hidden[r * hiddenSize + c]! ** 2;
        const scale = 1 / Math.sqrt(squares / hiddenSize + rmsNormEps);
        for (let id = 0; id < VOCABULARY; id++) {
          let sum = 0;
          for (let c = 0; c < hiddenSize; c++) {
            sum += hidden[r * hiddenSize + c]! * norm[c]! * embedding[id * hiddenSize + c]!;
          }
          logits[r * VOCABULARY + id] = sum * scale;
        }
      }
      return logits;
    };

    await fc.assert(
      fc.asyncProperty(prompt(1, 400), whichModel, async (tokens, which) => {
        const traced = await models.wide.trace(tokens, [numLayers - 1]);
        const { shape, values } = traced.find(({ name }) => name === "out")!;
        expect(shape).toEqual([numMetaTokens + tokens.length, hiddenSize]);
        const cold = toLogits(values.slice(numMetaTokens * hiddenSize));
        const shared = await forward(models[which], tokens);
        expect(relativeError(shared, cold)).toBeLessThanOrEqual(1e-5);
      }),
      { seed: 2208, numRuns: 10 },
    );
  });

  test("score is the log-softmax of the logits", async () => {
    await fc.assert(
      fc.asyncProperty(prompt(2, 150), whichModel, async (tokens, which) => {
        const scores = await models[which].score(tokens);
        expectSame(scores, await models.wide.score(tokens));
        const logits = await forward(models.wide, tokens);
        const expected = tokens.slice(1).map((next, i) => {
          return logSoftmax([...logits.subarray(i * VOCABULARY, (i + 1) * VOCABULARY)])[next]!;
        });
        expect(relativeError(scores, expected)).toBeLessThanOrEqual(1e-6);
      }),
      { seed: 2209, numRuns: 15 },
    );
  });
});

describe("seeded sampling", () => {
  const NUM_TOKENS = 16;
  let models: Models;
  beforeAll(async () => {
    models = await loadModels("float32");
  });
  afterAll(() => disposeAll(models));

  interface Draw {
    readonly tokens: readonly number[];
    readonly sample: SamplingOptions;
  }

  /** Continues all prompts side by side; the first `cutAt` tokens of each go in before the rest. */
  async function continueAll(
    model: HymbaModel,
    draws: readonly Draw[],
    cutAt: number,
  ): Promise<number[][]> {
    const sequences = draws.map(() => model.createSequence());
    const heads = draws.flatMap(({ tokens }, i) => {
      const head = tokens.slice(0, Math.min(cutAt, tokens.length - 1));
      return head.length > 0 ? [{ sequence: sequences[i]!, tokens: head }] : [];
    });
    if (heads.length > 0) await model.prefill(heads);
    let results = await model.prefill(
      draws.map(({ tokens, sample }, i) => {
        const sequence = sequences[i]!;
        return { sequence, tokens: tokens.slice(sequence.length), sample };
      }),
    );
    const drawn: number[][] = draws.map(() => []);
    for (;;) {
      for (const [i, { token }] of results.entries()) drawn[i]!.push(token!);
      if (drawn[0]!.length === NUM_TOKENS) break;
      results = await model.decode(
        draws.map(({ sample }, i) => {
          return { sequence: sequences[i]!, token: drawn[i]!.at(-1)!, sample };
        }),
      );
    }
    for (const sequence of sequences) sequence.dispose();
    return drawn;
  }

  const sample = fc.record({
    seed: fc.oneof(fc.nat(), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })),
    temperature: fc.constantFrom(1, 3, 20),
    topK: fc.constantFrom(0, 40),
    topP: fc.constantFrom(0.9, 1),
    repetitionPenalty: fc.constantFrom(1, 1.2),
    frequencyPenalty: fc.constantFrom(0, 0.5),
  });
  const draw = fc.record({ tokens: prompt(1, 90), sample });

  test("draws the same tokens alone, in a batch, and from any chunks", async () => {
    const batches = fc.array(draw, { minLength: 2, maxLength: MAX_SEQUENCES });
    await fc.assert(
      fc.asyncProperty(batches, fc.nat(60), whichModel, async (draws, cutAt, which) => {
        const together = await continueAll(models[which], draws, cutAt);
        for (const [i, one] of draws.entries()) {
          expect(await continueAll(models.wide, [one], 0)).toEqual([together[i]]);
          const generated: number[] = [];
          for await (const chunk of models.wide.generate({
            prompt: one.tokens,
            maxTokens: NUM_TOKENS,
            ignoreEos: true,
            ...one.sample,
          })) {
            generated.push(chunk.token);
          }
          expect(generated).toEqual(together[i]);
        }
      }),
      { seed: 2210, numRuns: 10 },
    );
  });

  test("draws other tokens with another seed", async () => {
    await fc.assert(
      fc.asyncProperty(prompt(1, 40), fc.nat(1_000_000), async (tokens, seed) => {
        const draws = Array.from({ length: MAX_SEQUENCES }, (_, i) => ({
          tokens,
          // The model is sure of itself; at this temperature hundreds of tokens are likely.
          sample: { seed: seed + i, temperature: 100 },
        }));
        const texts = (await continueAll(models.wide, draws, 0)).map(String);
        expect(new Set(texts).size).toBe(MAX_SEQUENCES);
      }),
      { seed: 2211, numRuns: 10 },
    );
  });
});
