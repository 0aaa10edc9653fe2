import { readFileSync } from "node:fs";
import { join } from "node:path";
import { HymbaModel } from "../lib";
import { DEVICE } from "./helpers/device";
import { relativeError } from "./helpers/golden";

/** What PyTorch found for the bundled model, in float32: see scripts/train_tiny/README.md. */
interface Holdout {
  readonly nats_per_token: number;
  readonly bits_per_byte: number;
  readonly pieces: readonly {
    readonly text: string;
    readonly input_ids: readonly number[];
    readonly logprobs: readonly number[];
  }[];
}

const holdout = JSON.parse(
  readFileSync(join(__dirname, "golden", "tiny_holdout.json"), "utf8"),
) as Holdout;
const MODEL = join(__dirname, "..", "models", "hymba-tiny");

test("the bundled model is as good as its card says", () => {
  expect(holdout.bits_per_byte).toBeLessThanOrEqual(1.56);
  const card = readFileSync(join(MODEL, "README.md"), "utf8");
  expect(card).toContain(holdout.bits_per_byte.toFixed(3));
});

describe.each([
  { dtype: "float32", bound: DEVICE === "cpu" ? 1e-5 : 1e-4 },
  { dtype: "bfloat16", bound: 2e-2 },
] as const)("held-out text in $dtype", ({ dtype, bound }) => {
  let model: HymbaModel;
  beforeAll(async () => {
    model = await HymbaModel.load(MODEL, { device: DEVICE, dtype, maxSequences: 2 });
  });
  afterAll(() => model.dispose());

  test("is cut into the same tokens", async () => {
    for (const { text, input_ids } of holdout.pieces) {
      const ids = await model.tokenizer.encode(text, { addSpecialTokens: false });
      expect([...ids]).toEqual(input_ids.slice(1, ids.length + 1));
    }
  });

  test("has PyTorch's log-probabilities, token by token", async () => {
    for (const { input_ids, logprobs } of holdout.pieces) {
      const ours = await model.score(input_ids);
      expect(relativeError(ours, logprobs)).toBeLessThanOrEqual(bound);
    }
  });
});

test("the number of threads changes no bit", async () => {
  const { input_ids } = holdout.pieces[0]!;
  const scores = [];
  for (const threads of [1, 3]) {
    await using model = await HymbaModel.load(MODEL, { device: "cpu", threads, maxSequences: 1 });
    scores.push(await model.score(input_ids));
  }
  expect(scores[0]).toEqual(scores[1]);
});

// docs/numerics.md says what was measured, and what random weights have to do with it.
test.each([
  { name: "the bundled model", path: MODEL },
  { name: "random weights", path: `synthetic:${MODEL}` },
])("rounding to bfloat16 costs $name less than 0.5 % of any layer's output", async ({ path }) => {
  const options = { maxSequences: 1, maxContextTokens: 256, maxBatchTokens: 256 };
  await using exact = await HymbaModel.load(path, { device: "cpu", dtype: "float32", ...options });
  await using rounded = await HymbaModel.load(path, { device: DEVICE, ...options });
  const { numLayers, vocabSize } = exact.config;
  const tokens = Array.from({ length: 64 }, (_, i) => (i * 7919 + 13) % vocabSize);
  const layers = Array.from({ length: numLayers }, (_, i) => i);
  const [reference, ours] = await Promise.all(
    [exact, rounded].map(async (model) =>
      (await model.trace(tokens, layers)).filter(({ name }) => name === "out"),
    ),
  );
  expect(ours!.map(({ layer }) => layer)).toEqual(layers);
  for (const [layer, { values }] of ours!.entries()) {
    const error = relativeError(values, reference![layer]!.values);
    expect(error).toBeLessThan(5e-3);
    // It is bfloat16 indeed.
    expect(error).toBeGreaterThan(1e-4);
  }
});
