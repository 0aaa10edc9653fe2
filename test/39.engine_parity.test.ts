import { join } from "node:path";
import {
  type EngineChunk,
  type EngineGenerateOptions,
  type GenerateOptions,
  type GenerationChunk,
  HymbaModel,
  type ResponseFormat,
} from "../lib";
import { EngineRequest } from "../lib/engine/request";
import { randomSchema } from "./helpers/random_schema";
import { random, type Random } from "./kernels/helpers";

// On the CPU no bit depends on what else is in a step, on how a prompt is cut or on what the cache has:
// what 200 requests give that have nothing in common, all at once and in a cache that is too small for
// them, is what `model.generate` gives for each text, alone, token for token.

const FOLDER = join(__dirname, "..", "models", "hymba-tiny");
const REQUESTS = 200;
const CONTEXT = 192;
const WORDS =
  `The old man went down to the sea and said to his son that in the morning there would be a ship, ` +
  `and a king with a golden ring, and nobody in the whole village had ever seen such a thing`;

// As on a GPU, on the CPU as well: a step is under way while the tokens of the one before are handed out.
const inFlight = jest.spyOn(HymbaModel.prototype, "stepsInFlight", "get").mockReturnValue(2);
afterAll(() => inFlight.mockRestore());

/** A request of everything that a request can have. */
function randomRequest(numbers: Random, vocabSize: number): EngineGenerateOptions {
  const integer = (min: number, max: number): number => numbers.integer(min, max + 1);
  const pick = <T>(...list: readonly T[]): T => list[integer(0, list.length - 1)]!;
  const oneIn = (count: number): boolean => integer(1, count) === 1;
  const token = (): number => integer(0, vocabSize - 1);
  const isLong = oneIn(14);
  const maxTokens = isLong ? integer(100, 150) : integer(1, 20);
  const words = WORDS.split(" ");
  const prompt = (): string | number[] => {
    // Some begin alike, some are long, some are of one token.
    if (oneIn(3))
      return Array.from({ length: pick(1, 2, integer(3, 80), integer(150, CONTEXT)) }, token);
    const begin = pick(0, 0, integer(0, words.length - 1));
    return words.slice(begin, begin + integer(1, words.length - begin)).join(" ");
  };
  const format = (): ResponseFormat =>
    pick<() => ResponseFormat>(
      () => ({ type: "json_schema", schema: randomSchema(numbers, 2) }),
      () => ({ type: "regex", pattern: "(?:[A-Z][a-z]{2,9}[,.]? ?){2,20}" }),
      () => ({ type: "json_object" }),
    )();
  return {
    prompt: prompt(),
    maxTokens,
    n: oneIn(8) ? integer(2, 4) : 1,
    seed: numbers.integer(0, 2 ** 31),
    // The long ones come in together: then the pages run out.
    priority: isLong ? 2 : integer(-1, 1),
    temperature: pick(0, 0.7, 1, 1.5),
    topK: pick(0, 0, 1, 20),
    topP: pick(1, 1, 0.9, 0.5),
    minP: pick(0, 0, 0.05),
    repetitionPenalty: pick(1, 1, 1.2, 0.9),
    presencePenalty: pick(0, 0, 0.4),
    frequencyPenalty: pick(0, 0, 0.3),
    logitBias: oneIn(4) ? { [token()]: 5, [token()]: -Infinity } : {},
    topLogprobs: pick(0, 0, 3),
    ...(oneIn(6) && { promptLogprobs: integer(0, 3) }),
    ignoreEos: isLong || oneIn(3),
    minTokens: isLong ? maxTokens : pick(0, 0, integer(0, maxTokens)),
    stop: isLong ? [] : pick<string[]>([], [" the"], ["\n", "and"], [". ", "xyz"]),
    includeStop: oneIn(4),
    // A format may need any token.
    ...(oneIn(4)
      ? { responseFormat: format() }
      : { stopTokenIds: oneIn(4) ? Array.from({ length: 40 }, token) : [] }),
  };
}

/** The texts of a request, in an engine. */
async function together(chunks: AsyncIterable<EngineChunk>): Promise<GenerationChunk[][]> {
  const texts: GenerationChunk[][] = [];
  for await (const { index, metrics: _, promptLogprobs: __, ...chunk } of chunks)
    (texts[index] ??= []).push(chunk);
  return texts;
}

async function alone(
  model: HymbaModel,
  { n = 1, seed, promptLogprobs: _, priority: __, ...options }: EngineGenerateOptions,
): Promise<GenerationChunk[][]> {
  const texts: GenerationChunk[][] = [];
  for (let i = 0; i < n; i++) {
    const own: GenerateOptions = { ...options, seed: (seed as number) + i };
    const chunks: GenerationChunk[] = [];
    for await (const chunk of model.generate(own)) chunks.push(chunk);
    texts.push(chunks);
  }
  return texts;
}

test(`${REQUESTS} random requests give together what they give alone`, async () => {
  await using model = await HymbaModel.load(FOLDER, {
    device: "cpu",
    maxSequences: 16,
    maxContextTokens: CONTEXT,
    // Less than sixteen texts can need, so that some make room for others.
    cacheTokens: 6 * 64,
    maxBatchTokens: 64,
  });
  const fresh = model.info().cache;
  const numbers = random(20_26);
  const requests = Array.from({ length: REQUESTS }, () =>
    randomRequest(numbers, model.config.vocabSize),
  );
  const expected: GenerationChunk[][][] = [];
  for (const request of requests) expected.push(await alone(model, request));

  const leave = jest.spyOn(EngineRequest.prototype, "leave");
  await using engine = model.createEngine();
  const texts = await Promise.all(requests.map((each) => together(engine.generate(each))));
  expect(texts).toEqual(expected);

  // The mix is one: it ends in all ways, and some had to make room.
  const reasons = expected.flat().map((chunks) => chunks.at(-1)!.finishReason);
  expect(new Set(reasons)).toEqual(new Set(["stop", "length", "context"]));
  expect(reasons.filter((reason) => reason === "stop").length).toBeGreaterThan(REQUESTS / 4);
  expect(leave.mock.calls.length).toBeGreaterThan(0);
  await engine.close();
  expect(model.info().cache).toEqual(fresh);
});
