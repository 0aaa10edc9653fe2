import { join } from "node:path";
import { type GenerateOptions, type GenerationChunk, HymbaModel } from "../lib";
import { DEVICE } from "./helpers/device";
import { rejectionOf } from "./helpers/error";

const FOLDER = join(__dirname, "..", "models", "hymba-tiny");
const PROMPT = "The old man looked at the sea and";

let model: HymbaModel;
let fresh: ReturnType<HymbaModel["info"]>["cache"];

beforeAll(async () => {
  model = await HymbaModel.load(FOLDER, { device: DEVICE, maxSequences: 3, maxContextTokens: 256 });
  fresh = model.info().cache;
});
afterAll(() => model.dispose());
afterEach(() => {
  expect(model.info().cache).toEqual(fresh);
});

async function collect(options: GenerateOptions, from = model) {
  const chunks: GenerationChunk[] = [];
  for await (const chunk of from.generate(options)) chunks.push(chunk);
  return {
    chunks,
    tokens: chunks.map(({ token }) => token),
    text: chunks.map(({ text }) => text).join(""),
    finishReason: chunks.at(-1)!.finishReason,
  };
}

/** The text that tokens add to the prompt. */
async function continuation(tokens: readonly number[]): Promise<string> {
  const prompt = await model.tokenizer.encode(PROMPT);
  const before = model.tokenizer.decode([...prompt]);
  const after = model.tokenizer.decode([...prompt, ...tokens]);
  expect(after.startsWith(before)).toBe(true);
  return after.slice(before.length);
}

const greedy = { prompt: PROMPT, temperature: 0, ignoreEos: true } as const;
const seeded = { prompt: PROMPT, temperature: 0.8, seed: 7 } as const;

describe("text", () => {
  test("the pieces are the text of the tokens, and maxTokens ends it", async () => {
    for (const seed of [1, 2, 3]) {
      const { chunks, tokens, text, finishReason } = await collect({
        ...seeded,
        seed,
        ignoreEos: true,
        maxTokens: 60,
      });
      expect(tokens).toHaveLength(60);
      expect(finishReason).toBe("length");
      expect(text).toBe(await continuation(tokens));
      expect(text.length).toBeGreaterThan(60);
      expect(chunks.slice(0, -1).every((chunk) => !("finishReason" in chunk))).toBe(true);
      expect(chunks.every(({ logprob }) => logprob <= 0)).toBe(true);
    }
  });

  test("a character of several tokens comes out whole, with its last one", async () => {
    const bytes = await model.tokenizer.encode("😀", { addSpecialTokens: false });
    expect(bytes.length).toBeGreaterThan(1);
    // Each of them is the likeliest token once those before it have been generated.
    const logitBias = new Map(Array.from(bytes, (token, i) => [token, 10_000 - 1000 * i]));
    const forced = { prompt: PROMPT, temperature: 0, logitBias, presencePenalty: 5000 };
    const { chunks, tokens } = await collect({ ...forced, maxTokens: bytes.length });
    expect(tokens).toEqual([...bytes]);
    expect(chunks.map(({ text }) => text)).toEqual(
      [...bytes].map((_, i, { length }) => (i === length - 1 ? "😀" : "")),
    );
  });

  test("token ids as a prompt give what their text gives", async () => {
    const prompt = await model.tokenizer.encode(PROMPT);
    const fromText = await collect({ ...greedy, maxTokens: 20 });
    expect(await collect({ ...greedy, prompt, maxTokens: 20 })).toEqual(fromText);
  });
});

describe("ends", () => {
  test("at a stop text, which is cut off exactly", async () => {
    const whole = await collect({ ...greedy, maxTokens: 60 });
    // Ends in the middle of a word, so that the text has to be cut inside a token.
    for (const begin of [5, 11, 30]) {
      const stop = whole.text.slice(begin, begin + 7);
      const { text, tokens, finishReason } = await collect({
        ...greedy,
        maxTokens: 60,
        stop: ["\u0000never", stop],
      });
      expect(text).toBe(whole.text.slice(0, whole.text.indexOf(stop)));
      expect(finishReason).toBe("stop");
      expect(tokens).toEqual(whole.tokens.slice(0, tokens.length));
      expect(tokens.length).toBeLessThan(60);
    }
  });

  test("with what a stop text held back, when the stop text does not come", async () => {
    const whole = await collect({ ...greedy, maxTokens: 12 });
    const stop = [`${whole.text.slice(-4)}\u0000`];
    const held = await collect({ ...greedy, maxTokens: 12, stop });
    expect([held.text, held.finishReason]).toEqual([whole.text, "length"]);
    expect(held.chunks.at(-1)!.text.length).toBeGreaterThanOrEqual(4);
  });

  test("at a stop token, which gives no text", async () => {
    const whole = await collect({ ...greedy, maxTokens: 40 });
    const stopToken = whole.tokens[10]!;
    const first = whole.tokens.indexOf(stopToken);
    const { tokens, text, finishReason } = await collect({ ...greedy, stopTokenIds: [stopToken] });
    expect(tokens).toEqual(whole.tokens.slice(0, first + 1));
    expect(text).toBe(await continuation(whole.tokens.slice(0, first)));
    expect(finishReason).toBe("stop");
  });

  test("at the model's own end tokens, all of them, unless ignoreEos", async () => {
    expect(model.eosTokenIds.length).toBeGreaterThan(1);
    for (const eos of model.eosTokenIds) {
      const forced = { prompt: PROMPT, maxTokens: 3, logitBias: new Map([[eos, 1000]]) };
      expect(await collect(forced)).toMatchObject({
        tokens: [eos],
        text: "",
        finishReason: "stop",
      });
      expect(await collect({ ...forced, ignoreEos: true })).toMatchObject({
        tokens: [eos, eos, eos],
        finishReason: "length",
      });
    }
  });

  test.each([1, 2, 20, 21])("not among the first %i tokens, with minTokens", async (minTokens) => {
    const [eos] = model.eosTokenIds;
    const likely = { prompt: PROMPT, temperature: 0, maxTokens: 30, logitBias: { [eos!]: 1000 } };
    const whole = await collect({ ...likely, logitBias: { [eos!]: -Infinity } });
    const { tokens, text, finishReason } = await collect({ ...likely, minTokens });
    expect(tokens).toEqual([...whole.tokens.slice(0, minTokens), eos]);
    expect(text).toBe(await continuation(tokens.slice(0, -1)));
    expect(finishReason).toBe("stop");
    // As many steps as tokens, also where the mask changes.
    const steps = model.stepsRun;
    await collect({
      ...seeded,
      ignoreEos: true,
      stopTokenIds: [2],
      minTokens,
      maxTokens: minTokens,
    });
    expect(model.stepsRun - steps).toBe(minTokens);
  });

  test("at a stop text only if it is completed after minTokens", async () => {
    const whole = await collect({ ...greedy, maxTokens: 60 });
    const stop = [" the"];
    const first = await collect({ ...greedy, stop, maxTokens: 60 });
    const { tokens, text } = await collect({
      ...greedy,
      stop,
      minTokens: first.tokens.length,
      maxTokens: 60,
    });
    expect(tokens.length).toBeGreaterThan(first.tokens.length);
    const second = whole.text.indexOf(stop[0]!, first.text.length + 1);
    expect(text).toBe(whole.text.slice(0, second));
    expect((await collect({ ...greedy, stop, minTokens: first.tokens.length - 1 })).text).toBe(
      first.text,
    );
  });

  test("with the text of the stop, and with special tokens, where they are wanted", async () => {
    const whole = await collect({ ...greedy, maxTokens: 60 });
    const options = { ...greedy, stop: [" the"], includeStop: true };
    const { text, finishReason } = await collect(options);
    expect([text, finishReason]).toEqual([
      whole.text.slice(0, whole.text.indexOf(" the") + 4),
      "stop",
    ]);
    const [eos] = model.eosTokenIds;
    const forced = { prompt: PROMPT, maxTokens: 2, logitBias: { [eos!]: 1000 } };
    const name = model.tokenizer.idToToken(eos!)!;
    const shown = { ...forced, skipSpecialTokens: false };
    expect((await collect({ ...shown, includeStop: true })).text).toBe(name);
    expect((await collect(shown)).text).toBe("");
    expect((await collect({ ...shown, ignoreEos: true })).text).toBe(name + name);
    expect((await collect({ ...forced, ignoreEos: true })).text).toBe("");
  });

  test("when the context is full", async () => {
    await using small = await HymbaModel.load(FOLDER, { device: DEVICE, maxContextTokens: 32 });
    const prompt = await model.tokenizer.encode(PROMPT);
    const { tokens, finishReason } = await collect({ ...greedy, maxTokens: 1000 }, small);
    // The last token is drawn from a full sequence and does not have to fit into it.
    expect(tokens).toHaveLength(32 - prompt.length + 1);
    expect(finishReason).toBe("context");
    const unlimited = await collect({ ...greedy, maxTokens: tokens.length });
    expect(unlimited.tokens).toEqual(tokens);
  });

  test("by break, which frees its sequence", async () => {
    for await (const { token } of model.generate(greedy)) {
      expect(token).toBeGreaterThanOrEqual(0);
      expect(model.info().cache.sequences.used).toBe(fresh.sequences.used + 1);
      break;
    }
    expect(model.info().cache).toEqual(fresh);
  });

  test("by an error in the loop, which frees its sequence", async () => {
    const loop = async (): Promise<void> => {
      for await (const { token } of model.generate(greedy)) throw new Error(`mine ${token}`);
    };
    await expect(loop()).rejects.toThrow(/^mine /);
  });

  test("by its signal, in the middle and before the first token", async () => {
    const controller = new AbortController();
    const texts: string[] = [];
    const loop = async (): Promise<void> => {
      for await (const { text } of model.generate({ ...greedy, signal: controller.signal })) {
        if (texts.push(text) === 5) controller.abort();
      }
    };
    await rejectionOf("ERR_ABORTED", loop());
    expect(texts).toHaveLength(5);
    expect(model.info().cache).toEqual(fresh);
    await rejectionOf("ERR_ABORTED", collect({ ...greedy, signal: controller.signal }));
  });

  test("with ERR_DISPOSED when the model goes", async () => {
    const gone = await HymbaModel.load(FOLDER, { device: DEVICE, maxContextTokens: 64 });
    const loop = async (): Promise<void> => {
      for await (const { token } of gone.generate(greedy)) if (token >= 0) await gone.dispose();
    };
    await rejectionOf("ERR_DISPOSED", loop());
  });
});

describe("choice", () => {
  test("the same seed gives the same text, alone and beside others; another seed another", async () => {
    const alone = await collect({ ...seeded, maxTokens: 40 });
    const [again, other] = await Promise.all([
      collect({ ...seeded, maxTokens: 40 }),
      collect({ ...seeded, seed: 8, maxTokens: 40 }),
    ]);
    expect(again).toEqual(alone);
    expect(other.text).not.toBe(alone.text);
  });

  test("temperature 0 takes the most probable token each time, whatever the seed", async () => {
    const { chunks } = await collect({ ...greedy, maxTokens: 20, topLogprobs: 2 });
    for (const { token, logprob, topLogprobs } of chunks) {
      expect(topLogprobs![0]).toEqual({ token, logprob });
      expect(topLogprobs![1]!.logprob).toBeLessThanOrEqual(logprob);
    }
    const seed = await collect({ ...greedy, maxTokens: 20, seed: 99, topLogprobs: 2 });
    expect(seed.chunks).toEqual(chunks);
    // The same by hand.
    using sequence = model.createSequence();
    const tokens = await model.tokenizer.encode(PROMPT);
    let [result] = await model.prefill([{ sequence, tokens }]);
    for (const { token } of chunks) {
      const { logits } = result!;
      expect(logits!.indexOf(Math.max(...logits!))).toBe(token);
      [result] = await model.decode([{ sequence, token }]);
    }
  });

  test("what is left out comes from generation_config.json", async () => {
    const recommended = { temperature: 0.8, topP: 0.95 };
    const base = { prompt: PROMPT, seed: 3, maxTokens: 40 };
    const byDefault = await collect(base);
    expect(byDefault).toEqual(await collect({ ...base, ...recommended }));
    expect(byDefault.text).not.toBe((await collect({ ...base, temperature: 2, topP: 1 })).text);
  });
});

describe("a sequence of one's own", () => {
  test("goes on, turn by turn, as one longer prompt would", async () => {
    using sequence = model.createSequence();
    const first = await collect({ ...greedy, sequence, maxTokens: 15 });
    expect(sequence.disposed).toBe(false);
    const prompt = [...(await model.tokenizer.encode(PROMPT))];
    // The last token was drawn but not yet added.
    expect(sequence.length).toBe(prompt.length + 14);

    const turn = [
      first.tokens.at(-1)!,
      ...(await model.tokenizer.encode(" Then", { addSpecialTokens: false })),
    ];
    const second = await collect({ ...greedy, prompt: turn, sequence, maxTokens: 15 });
    const whole = [...prompt, ...first.tokens.slice(0, -1), ...turn];
    const atOnce = await collect({ ...greedy, prompt: whole, maxTokens: 15 });
    expect(second.tokens).toEqual(atOnce.tokens);
    expect(second.text).toBe(atOnce.text);
  });

  test("stays after break and after an abort", async () => {
    using sequence = model.createSequence();
    for await (const { token } of model.generate({ ...greedy, sequence })) {
      expect(token).toBeGreaterThanOrEqual(0);
      break;
    }
    const signal = AbortSignal.abort();
    await rejectionOf("ERR_ABORTED", collect({ ...greedy, sequence, signal }));
    expect(sequence.disposed).toBe(false);
    const { length } = sequence;
    await collect({ ...greedy, prompt: [40], sequence, maxTokens: 1 });
    expect(sequence.length).toBe(length + 1);
  });

  test("is busy for a generation while another call uses it", async () => {
    using sequence = model.createSequence();
    const running = model.prefill([{ sequence, tokens: [40, 41] }]);
    await rejectionOf("ERR_BUSY", collect({ ...greedy, prompt: [42], sequence }));
    await running;
    expect(sequence.length).toBe(2);
  });
});
