import { join } from "node:path";
import {
  type Engine,
  type EngineChunk,
  type EngineGenerateOptions,
  HymbaModel,
  type PromptToken,
} from "../lib";
import { EngineRequest } from "../lib/engine/request";

const FOLDER = join(__dirname, "..", "models", "hymba-tiny");

// As on a GPU, on the CPU as well.
const inFlight = jest.spyOn(HymbaModel.prototype, "stepsInFlight", "get").mockReturnValue(2);
afterAll(() => inFlight.mockRestore());

let model: HymbaModel;
let engine: Engine;

beforeAll(async () => {
  model = await HymbaModel.load(FOLDER, {
    device: "cpu",
    maxSequences: 8,
    maxContextTokens: 256,
    // Texts can need 32 pages: there are 7, so that some must make room for others.
    cacheTokens: 7 * 64,
    maxBatchTokens: 64,
  });
});
afterAll(() => model.dispose());
beforeEach(() => {
  engine = model.createEngine();
});
afterEach(() => engine.close());

async function collect(options: EngineGenerateOptions, from = engine): Promise<EngineChunk[]> {
  const chunks: EngineChunk[] = [];
  for await (const chunk of from.generate({ seed: 1, ignoreEos: true, ...options }))
    chunks.push(chunk);
  return chunks;
}

/** What the first chunk says of the prompt, and no other one. */
function promptOf([first, ...others]: readonly EngineChunk[]): readonly PromptToken[] {
  for (const chunk of others) expect(chunk.promptLogprobs).toBeUndefined();
  return first!.promptLogprobs!;
}

/** Token ids in an order that no text has. */
const randomPrompt = (length: number, seed: number): number[] =>
  Array.from({ length }, (_, i) => ((i + 1) * (31 + 2 * seed) * 7919) % model.config.vocabSize);

const ownLogprobs = (prompt: readonly PromptToken[]): (number | undefined)[] =>
  prompt.map(({ logprob }) => logprob);

describe("log-probabilities of a prompt", () => {
  test.each([2, 3, 63, 64, 65, 66, 130, 256])(
    "of %i tokens are those of model.score, whatever the cache holds and shares its steps",
    async (length) => {
      const prompt = randomPrompt(length, 0);
      const expected = [undefined, ...(await model.score(prompt))];
      for (const maxBatchTokens of [5, 64]) {
        await using own = model.createEngine({ maxBatchTokens });
        // Leaves what it can, and other texts are written meanwhile.
        const options = { prompt, maxTokens: 1 };
        await collect(options, own);
        const other = collect({ prompt: "The sea", maxTokens: 30 }, own);
        const [plain, scored] = await Promise.all([
          collect({ ...options, n: 2 }, own),
          collect({ ...options, promptLogprobs: 0 }, own),
        ]);
        const scores = promptOf(scored);
        expect(scores.map(({ token }) => token)).toEqual(prompt);
        expect(ownLogprobs(scores)).toEqual(expected);
        expect(scores.some((score) => "topLogprobs" in score)).toBe(false);
        expect(scored[0]!.token).toBe(plain.find(({ index }) => index === 0)!.token);
        expect(scored.at(-1)!.metrics!.cachedTokens).toBe(0);
        expect(promptOf(plain)).toBeUndefined();
        await other;
      }
    },
  );

  test("come with the most probable tokens, in which the token itself has the same number", async () => {
    const [first, ...rest] = await model.tokenizer.encode("The old man went down to the sea and");
    const prompt = [first!, ...rest, ...randomPrompt(100, 1)];
    const scores = promptOf(await collect({ prompt, maxTokens: 2, promptLogprobs: 3 }));
    expect(scores[0]).toEqual({ token: first });
    const sequence = model.createSequence();
    const [result] = await model.prefill([{ sequence, tokens: prompt, logits: "all" }]);
    sequence.dispose();
    const { vocabSize } = model.config;
    scores.slice(1).forEach(({ token, logprob, topLogprobs }, i) => {
      const logits = result!.logits!.subarray(i * vocabSize, (i + 1) * vocabSize);
      const order = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b);
      expect(topLogprobs!.map((top) => top.token)).toEqual(order.slice(0, 3));
      const largest = logits[order[0]!]!;
      const sum = logits.reduce((total, logit) => total + Math.exp(logit - largest), 0);
      for (const top of topLogprobs!) {
        expect(top.logprob).toBeCloseTo(logits[top.token]! - largest - Math.log(sum), 4);
        if (top.token === token) expect(top.logprob).toBe(logprob);
      }
    });
    const predicted = scores.filter(({ token, topLogprobs }) => topLogprobs?.[0]?.token === token);
    expect(predicted.length).toBeGreaterThan(2);
  });

  test("come once each when a prompt makes room for others half-way", async () => {
    const leave = jest.spyOn(EngineRequest.prototype, "leave");
    await using own = model.createEngine({ maxBatchTokens: 3 });
    const others = [0, 1].map((i) =>
      collect({ prompt: randomPrompt(63, i), maxTokens: 190, priority: 1 }, own),
    );
    const prompt = randomPrompt(110, 2);
    const scored = await collect({ prompt, maxTokens: 6, promptLogprobs: 0 }, own);
    await Promise.all(others);
    expect(leave).toHaveBeenCalledTimes(1);
    leave.mockRestore();
    const expected = [undefined, ...(await model.score(prompt))];
    expect(ownLogprobs(promptOf(scored))).toEqual(expected);
  });

  test("are of the first text of several; a single token has none", async () => {
    const chunks = await collect({ prompt: [3, 4, 5], n: 3, maxTokens: 2, promptLogprobs: 2 });
    const first = chunks.filter(({ index }) => index === 0);
    expect(promptOf(first)).toHaveLength(3);
    for (const { index, promptLogprobs } of chunks)
      if (index > 0) expect(promptLogprobs).toBeUndefined();
    expect(promptOf(await collect({ prompt: [3], maxTokens: 1, promptLogprobs: 2 }))).toEqual([
      { token: 3 },
    ]);
  });

  test.each([-1, 21, 0.5])("promptLogprobs = %p is refused", async (promptLogprobs) => {
    await expect(collect({ prompt: [3], promptLogprobs })).rejects.toThrow(
      "options.promptLogprobs",
    );
  });
});
