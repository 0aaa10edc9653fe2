import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import Ajv2020 from "ajv/dist/2020";
import {
  type EngineChunk,
  type EngineGenerateOptions,
  type GenerateOptions,
  type GenerationChunk,
  HymbaModel,
  type ResponseFormat,
} from "../lib";
import { Runner } from "../lib/runner";
import { DEVICE } from "./helpers/device";
import { rejectionOf } from "./helpers/error";
import { MICRO } from "./helpers/golden";
import { randomSchema } from "./helpers/random_schema";
import { random } from "./kernels/helpers";

const FOLDER = join(__dirname, "..", "models", "hymba-tiny");
const PROMPT = "The old man looked at the sea and said:";
const ajv = new Ajv2020({ strict: false, validateFormats: false, multipleOfPrecision: 6 });

// As on a GPU, on the CPU as well: a step is under way while the tokens of the one before are handed out.
const inFlight = jest.spyOn(HymbaModel.prototype, "stepsInFlight", "get").mockReturnValue(2);
afterAll(() => inFlight.mockRestore());

let model: HymbaModel;
beforeAll(async () => {
  model = await HymbaModel.load(FOLDER, {
    device: DEVICE,
    maxSequences: 8,
    maxContextTokens: 512,
    // Too little for eight long texts: some have to make room. On a GPU a text that is computed again
    // may differ in its last bits.
    ...(DEVICE === "cpu" && { cacheTokens: 20 * 64 }),
  });
});
afterAll(() => model.dispose());

/** Of a model or an engine, without what only an engine tells. */
async function collect(chunks: AsyncIterable<GenerationChunk & Partial<EngineChunk>>) {
  const list: GenerationChunk[] = [];
  for await (const { index: _index, metrics: _metrics, ...chunk } of chunks) list.push(chunk);
  return {
    chunks: list,
    text: list.map(({ text }) => text).join(""),
    finishReason: list.at(-1)!.finishReason,
  };
}

/** What `model.generate` would give. */
async function* plain(chunks: AsyncIterable<EngineChunk>): AsyncGenerator<GenerationChunk> {
  for await (const { index: _, metrics: __, ...chunk } of chunks) yield chunk;
}

const generate = (options: Omit<GenerateOptions, "prompt">) =>
  collect(model.generate({ prompt: PROMPT, seed: 1, ...options }));

/** Without small bounds a model that knows no JSON writes strings for ever. */
const STORY: ResponseFormat = {
  type: "json_schema",
  schema: {
    type: "object",
    properties: {
      hero: { type: "string", minLength: 3, maxLength: 12 },
      age: { type: "integer", minimum: 1, maximum: 99 },
      mood: { enum: ["merry", "sad", null] },
      friends: {
        type: "array",
        items: { type: "string", pattern: "^[A-Z][a-z]{2,7}$" },
        maxItems: 3,
      },
    },
    required: ["hero", "age", "friends"],
    additionalProperties: false,
  },
};

describe("generate", () => {
  test("writes what a schema allows, and stops there", async () => {
    const validate = ajv.compile((STORY as { schema: object }).schema);
    for (const options of [{ temperature: 0 }, { temperature: 1.5, topK: 40 }, { minP: 0.05 }]) {
      const { text, finishReason } = await generate({
        responseFormat: STORY,
        maxTokens: 200,
        ...options,
      });
      expect(finishReason).toBe("stop");
      expect(validate(JSON.parse(text))).toBe(true);
    }
  });

  test("40 random schemas: every text that was not cut is valid", async () => {
    let finished = 0;
    for (let seed = 0; seed < 40; seed++) {
      const schema = randomSchema(random(2000 + seed), 2);
      const { text, finishReason } = await generate({
        responseFormat: { type: "json_schema", schema },
        temperature: 1,
        seed,
        maxTokens: 120,
        // For the strings to end.
        logitBias: { [model.tokenizer.tokenToId('"')!]: 8 },
      });
      if (finishReason !== "stop") continue;
      finished++;
      expect([text, ajv.validate(schema, JSON.parse(text))]).toEqual([text, true]);
    }
    expect(finished).toBeGreaterThan(25);
  });

  test("writes JSON objects, and what a pattern matches as a whole", async () => {
    const token = (text: string): number => model.tokenizer.tokenToId(text)!;
    const logitBias = { [token('"')]: 9, [token("}")]: 14, [token("{")]: -20, [token("[")]: -20 };
    const object = await generate({
      responseFormat: { type: "json_object" },
      maxTokens: 300,
      logitBias,
      // A model that knows no JSON would never end it.
      frequencyPenalty: 1,
    });
    expect(object.finishReason).toBe("stop");
    expect(JSON.parse(object.text)).toEqual(expect.any(Object));

    const pattern = " (?:[A-Z][a-zé]{3,9} ){2,4}and \\d{2,3} 世界…";
    const { text, finishReason } = await generate({ responseFormat: { type: "regex", pattern } });
    expect(finishReason).toBe("stop");
    expect(text).toMatch(new RegExp(`^${pattern}$`, "u"));
  });

  test("one way to go on leaves the model no choice", async () => {
    const pattern = "Nobody ever said so\\.";
    const { text, chunks } = await generate({ responseFormat: { type: "regex", pattern } });
    expect(text).toBe("Nobody ever said so.");
    // Log-probabilities stay those of the model, for which this was a surprise.
    expect(chunks.some(({ logprob }) => logprob < -1)).toBe(true);
  });

  test("ends of text are drawn where the text may end, and nowhere else", async () => {
    const [eos] = model.eosTokenIds;
    const eager = { temperature: 0, logitBias: { [eos!]: 1000 } };
    const responseFormat = { type: "regex", pattern: "[a-z ]{10}[a-z ]*" } as const;
    const { text, chunks, finishReason } = await generate({ ...eager, responseFormat });
    expect([chunks.at(-1)!.token, finishReason]).toEqual([eos, "stop"]);
    expect(text).toMatch(/^[a-z ]{10,}$/);
    const endless = await generate({ ...eager, responseFormat, ignoreEos: true, maxTokens: 40 });
    expect([endless.chunks.length, endless.finishReason]).toEqual([40, "length"]);
    expect(endless.text).toMatch(/^[a-z ]{40,}$/);
  });

  test("ends of text are not among the first minTokens, unless nothing else can follow", async () => {
    const [eos] = model.eosTokenIds;
    const eager = { temperature: 0, logitBias: { [eos!]: 1000 }, minTokens: 12 };
    const responseFormat = { type: "regex", pattern: "[a-z ]*" } as const;
    const { text, chunks, finishReason } = await generate({ ...eager, responseFormat });
    expect(chunks.map(({ token }) => token === eos)).toEqual([...Array(12).fill(false), true]);
    expect(text).toMatch(/^[a-z ]{12,}$/);
    expect(finishReason).toBe("stop");
    const short = await generate({ ...eager, responseFormat: { type: "regex", pattern: "aye" } });
    expect([short.text, short.finishReason]).toEqual(["aye", "stop"]);
  });

  test("an empty text is one, where the format has it", async () => {
    const { text, finishReason, chunks } = await generate({
      responseFormat: { type: "regex", pattern: "" },
    });
    expect([text, finishReason, chunks.length]).toEqual(["", "stop", 1]);
  });

  test("maxTokens and stop texts cut it", async () => {
    const cut = await generate({ responseFormat: STORY, maxTokens: 5 });
    expect(cut.finishReason).toBe("length");
    expect(() => JSON.parse(cut.text) as unknown).toThrow(SyntaxError);
    const stopped = await generate({ responseFormat: STORY, stop: ["age"], maxTokens: 200 });
    expect([stopped.text.endsWith('"'), stopped.finishReason]).toEqual([true, "stop"]);
  });

  test("a sequence of the caller's takes the tokens, and goes on", async () => {
    using sequence = model.createSequence();
    const responseFormat = { type: "regex", pattern: "[a-z]{20}" } as const;
    const { chunks } = await generate({ sequence, responseFormat });
    const prompt = await model.tokenizer.encode(PROMPT);
    expect(sequence.length).toBe(prompt.length + chunks.length - 1);
  });

  test("the mask wins over penalties and biases that leave nothing", async () => {
    const forbidden = Object.fromEntries(
      Array.from({ length: 250 }, (_, i) => [model.tokenizer.tokenToId("x")! + i, -Infinity]),
    );
    const { text } = await generate({
      responseFormat: { type: "regex", pattern: "xxxx" },
      logitBias: forbidden,
      frequencyPenalty: 50,
    });
    expect(text).toBe("xxxx");
  });

  test("wrong formats are errors before anything runs", async () => {
    const run = (responseFormat: unknown) =>
      generate({ responseFormat: responseFormat as ResponseFormat });
    await expect(run("json")).rejects.toThrow(
      new TypeError('options.responseFormat must be an object, got "json"'),
    );
    await expect(run({ type: "xml" })).rejects.toThrow(
      "options.responseFormat.type must be one of",
    );
    await expect(run({ type: "json_schema" })).rejects.toThrow(
      new TypeError("options.responseFormat.schema must be a JSON schema, got undefined"),
    );
    await expect(run({ type: "regex", pattern: /a/ })).rejects.toThrow(TypeError);
    const refused = await rejectionOf("ERR_INVALID_ARGUMENT", run({ type: "regex", pattern: "(" }));
    expect(refused).toContain("Unterminated group");
    expect(model.info().cache.sequences.used).toBe(0);
  });

  test("a model without a tokenizer says so", async () => {
    await using bare = await HymbaModel.load(MICRO, { device: DEVICE, maxContextTokens: 64 });
    const chunks = bare.generate({ prompt: [1], responseFormat: { type: "json_object" } });
    await rejectionOf("ERR_MODEL_UNSUPPORTED", collect(chunks));
  });
});

describe("in an engine", () => {
  test("texts are those that they are alone, with formats and without", async () => {
    const options = (i: number): EngineGenerateOptions => ({
      // As may, on a GPU, a prompt that is cut otherwise: there it is a single token.
      prompt:
        DEVICE === "cuda"
          ? [300 + i]
          : PROMPT.split(" ")
              .slice(0, 2 + (i % 6))
              .join(" "),
      seed: i,
      maxTokens: i % 6 === 0 ? 300 : 60,
      temperature: i % 4 === 0 ? 0 : 1.2,
      topP: i % 3 === 0 ? 0.9 : 1,
      frequencyPenalty: i % 5 === 0 ? 0.4 : 0,
      ...(i % 4 !== 3 && {
        responseFormat: (
          [
            { type: "json_schema", schema: randomSchema(random(3000 + i), 2) },
            STORY,
            { type: "regex", pattern: "(?:[A-Z][a-z]{2,9}[,.]? ?){5,60}" },
          ] as const
        )[i % 3]!,
      }),
      ignoreEos: i % 2 === 0,
    });
    const numbers = Array.from({ length: 24 }, (_, i) => i);
    const alone: unknown[] = [];
    for (const i of numbers) alone.push(await collect(model.generate(options(i))));
    await using engine = model.createEngine({ maxBatchTokens: 32 });
    const together = await Promise.all(
      numbers.map((i) => collect(plain(engine.generate(options(i))))),
    );
    expect(together).toEqual(alone);
  });

  test("those that have one share every other step, and the others take all", async () => {
    const submit = jest.spyOn(Runner.prototype, "submit");
    await using engine = model.createEngine({ prefixCache: false });
    const responseFormat = { type: "regex", pattern: "[a-z]{200}" } as const;
    const options = { prompt: PROMPT, ignoreEos: true };
    const begin = (more: object) => collect(engine.generate({ ...options, ...more }));
    const steps = () =>
      submit.mock.calls.map(([work]) => ({
        constrained: work.filter(({ sampling }) => sampling?.tokenMask).length,
        others: work.filter(({ sampling }) => sampling && !sampling.tokenMask).length,
      }));
    const texts = [begin({ maxTokens: 120 })];
    // One, and another while the token of the first is on the way.
    for (const others of [1, 2]) {
      while (steps().at(-1)?.others !== 1) await sleep(0);
      texts.push(begin({ maxTokens: 25, responseFormat }));
      while (others === 1 && steps().at(-1)!.constrained === 0) await sleep(0);
    }
    await Promise.all(texts);
    const made = steps();
    submit.mockRestore();
    expect(made.map(({ constrained }) => constrained).join("")).toMatch(/^0+(?:[12]0+)+$/);
    expect(made.filter(({ constrained }) => constrained === 2).length).toBeGreaterThanOrEqual(5);
    expect(made.map(({ others }) => others).join("")).toBe("1".repeat(120));
  });

  test("a format that is refused is the error of its request alone", async () => {
    await using engine = model.createEngine();
    const other = collect(engine.generate({ prompt: PROMPT, maxTokens: 20, seed: 1 }));
    const responseFormat = { type: "json_schema", schema: { not: {} } } as const;
    const wrong = collect(engine.generate({ prompt: PROMPT, responseFormat }));
    await rejectionOf("ERR_INVALID_ARGUMENT", wrong);
    expect((await other).chunks.length).toBeGreaterThan(0);
  });
});
