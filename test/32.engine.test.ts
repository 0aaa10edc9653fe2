import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type Engine,
  type EngineChunk,
  type EngineGenerateOptions,
  type GenerationChunk,
  HymbaError,
  HymbaModel,
  type Sequence,
} from "../lib";
import { EngineRequest } from "../lib/engine/request";
import { ChunkMaker } from "../lib/generation";
import { Runner } from "../lib/runner";
import { rejectionOf } from "./helpers/error";

// On the CPU no bit depends on what else is in a step or on how a prompt is cut, so what the engine
// gives must be what `model.generate` gives, whatever else was going on.

const FOLDER = join(__dirname, "..", "models", "hymba-tiny");
const WORDS =
  "The old man went down to the sea and said to his son that in the morning there would be a " +
  "ship, and a king with a golden ring, and nobody in the whole village had ever seen such a thing";

// As on a GPU, on the CPU as well: a step is under way while the tokens of the one before are handed out.
const inFlight = jest.spyOn(HymbaModel.prototype, "stepsInFlight", "get").mockReturnValue(2);
afterAll(() => inFlight.mockRestore());

let model: HymbaModel;
let fresh: ReturnType<HymbaModel["info"]>["cache"];
let engine: Engine;

beforeAll(async () => {
  model = await HymbaModel.load(FOLDER, {
    device: "cpu",
    maxSequences: 8,
    maxContextTokens: 256,
    // Eight texts can need 32 pages: they have 11, so that some must make room for others.
    cacheTokens: 11 * 64,
    maxBatchTokens: 64,
  });
  fresh = model.info().cache;
});
afterAll(() => model.dispose());
beforeEach(() => {
  engine = model.createEngine();
});
afterEach(async () => {
  await engine.close();
  expect(model.info().cache).toEqual(fresh);
});

async function collect<Chunk>(chunks: AsyncIterable<Chunk>): Promise<Chunk[]> {
  const list: Chunk[] = [];
  for await (const chunk of chunks) list.push(chunk);
  return list;
}

/** What `model.generate` would give of the chunks of one text. */
function plain({ index, metrics, ...chunk }: EngineChunk): GenerationChunk {
  expect(index).toBe(0);
  expect(metrics !== undefined).toBe(chunk.finishReason !== undefined);
  return chunk;
}

const begin = async (options: EngineGenerateOptions, from = engine): Promise<GenerationChunk[]> =>
  (await collect(from.generate(options))).map(plain);

const alone = (options: EngineGenerateOptions): Promise<GenerationChunk[]> => {
  const { priority: _, timeoutMs: __, ...rest } = options;
  return collect(model.generate(rest));
};

/** The requests' numbers, in an order that looks like none. */
const mixed = Array.from({ length: 40 }, (_, i) => (i * 17) % 40);

/** The i-th of many requests that have little in common. */
function request(i: number): EngineGenerateOptions {
  const words = WORDS.split(" ");
  const prompt = words.slice(i % 7, 1 + (i % 7) + ((i * 5) % 16)).join(" ");
  const stops = [[], ["\n"], [" the", "xyz"], [", and"]];
  return {
    prompt,
    // Some are long and come in together: then the pages run out.
    maxTokens: i % 4 === 0 ? 180 : 1 + ((i * 53) % 90),
    temperature: i % 5 === 0 ? 0 : 0.9,
    seed: i,
    ignoreEos: i % 4 === 0 || i % 3 !== 0,
    stop: stops[i % 4]!,
    stopTokenIds: i % 6 === 0 ? [10 + i] : [],
    minTokens: i % 3 === 0 ? Math.min(30, 1 + ((i * 53) % 90)) : 0,
    frequencyPenalty: i % 4 < 2 ? 0.4 : 0,
    presencePenalty: i % 4 === 2 ? 0.3 : 0,
    repetitionPenalty: i % 7 === 3 ? 1.2 : 1,
    topLogprobs: i % 8 === 5 ? 3 : 0,
    priority: i % 4 === 0 ? 3 : i % 3,
  };
}

describe("together as alone", () => {
  test("40 requests at once, some aborted, some left, some made to start again", async () => {
    const expected: GenerationChunk[][] = [];
    for (let i = 0; i < mixed.length; i++) expected.push(await alone(request(i)));
    // The mix is one.
    const reasons = new Set(expected.map((chunks) => chunks.at(-1)!.finishReason));
    expect(reasons).toEqual(new Set(["stop", "length"]));

    const entered = jest.spyOn(EngineRequest.prototype, "enter");
    await Promise.all(
      mixed.map(async (i) => {
        const most = i % 5 === 1 ? Math.ceil(expected[i]!.length / 2) : Infinity;
        const controller = new AbortController();
        const chunks: GenerationChunk[] = [];
        const loop = async (): Promise<void> => {
          const { signal } = controller;
          for await (const chunk of engine.generate({ ...request(i), signal })) {
            chunks.push(plain(chunk));
            if (chunks.length < most) continue;
            if (i % 2 === 0) return;
            controller.abort();
          }
        };
        const aborted = i % 2 === 1 && most < expected[i]!.length;
        await (aborted ? rejectionOf("ERR_ABORTED", loop()) : loop());
        expect(chunks).toEqual(expected[i]!.slice(0, most));
      }),
    );
    // Who made room had to come in once more.
    expect(entered.mock.calls.length).toBeGreaterThan(mixed.length);

    entered.mockRestore();
  });

  test("texts that fill the context, in room for less than three of them", async () => {
    const long = (seed: number): EngineGenerateOptions => ({
      prompt: WORDS,
      maxTokens: 1000,
      seed,
      ignoreEos: true,
      frequencyPenalty: 0.1,
    });
    const expected = await alone(long(3));
    expect(expected.at(-1)!.finishReason).toBe("context");
    const [a, b, c] = await Promise.all([begin(long(1)), begin(long(2)), begin(long(3))]);
    expect(c).toEqual(expected);
    expect([a.length, b.length]).toEqual([expected.length, expected.length]);
  });

  test("whatever the size of the steps", async () => {
    const expected = await Promise.all([4, 13, 22].map((i) => alone(request(i))));
    for (const maxBatchTokens of [1, 2, 7]) {
      await using narrow = model.createEngine({ maxBatchTokens });
      const actual = await Promise.all([4, 13, 22].map((i) => begin(request(i), narrow)));
      expect(actual).toEqual(expected);
    }
  });

  test("beside calls that do not go through the engine, and beside a second engine", async () => {
    await using second = model.createEngine();
    // Short and few, so that there is room for all: the call from outside would not wait for it.
    const numbers = [2, 9, 23];
    const expected = [];
    for (const i of numbers) expected.push(await alone(request(i)));
    const others = numbers.map((i) => begin(request(i), second));
    const ours = numbers.map((i) => begin(request(i)));
    expect(await alone(request(9))).toEqual(expected[1]);
    expect(await Promise.all(ours)).toEqual(expected);
    expect(await Promise.all(others)).toEqual(expected);
  });
});

describe("steps", () => {
  test("are shared, and a long prompt is spread over several", async () => {
    const submit = jest.spyOn(Runner.prototype, "submit");
    const texts = [1, 2].map((seed) =>
      begin({ prompt: [40], maxTokens: 4, ignoreEos: true, seed }),
    );
    await Promise.all([...texts, begin({ prompt: new Int32Array(140).fill(41), maxTokens: 1 })]);
    const sizes = submit.mock.calls.map(([work]) => work.map(({ tokens }) => tokens.length));
    submit.mockRestore();
    expect(sizes).toEqual([
      [1, 1, 62],
      [1, 1, 62],
      // The last token of a prompt has a step of its own: before it, a snapshot is taken.
      [1, 1, 15],
      [1, 1, 1],
    ]);
  });

  /** Steps that are handed over (`s`) and tokens that are handed out (`t`), in their order. */
  async function eventsOf(work: () => Promise<unknown>): Promise<string> {
    const submit = jest.spyOn(Runner.prototype, "submit");
    const accept = jest.spyOn(EngineRequest.prototype, "accept");
    await work();
    const events = [
      ...submit.mock.invocationCallOrder.map((order) => ({ order, event: "s" })),
      ...accept.mock.invocationCallOrder.map((order) => ({ order, event: "t" })),
    ];
    submit.mockRestore();
    accept.mockRestore();
    return events
      .sort((a, b) => a.order - b.order)
      .map(({ event }) => event)
      .join("");
  }

  test("are handed over before the tokens of the one before are handed out", async () => {
    const options = { prompt: [40], maxTokens: 4, ignoreEos: true, seed: 5 };
    const expected = await alone(options);
    const run = async (): Promise<void> => expect(await begin(options)).toEqual(expected);
    expect(await eventsOf(run)).toBe("sststs" + "tt");

    inFlight.mockReturnValue(1);
    await using other = model.createEngine();
    inFlight.mockReturnValue(2);
    expect(await eventsOf(() => begin(options, other))).toBe("stststst");
  });

  test("are one too many for a text that meets a stop, and nobody sees it", async () => {
    const options = { prompt: [40], maxTokens: 9, ignoreEos: true, seed: 5 };
    const stopTokenIds = [(await alone(options))[2]!.token];
    const expected = await alone({ ...options, stopTokenIds });
    expect(expected).toHaveLength(3);
    const run = async (): Promise<void> => {
      expect(await begin({ ...options, stopTokenIds })).toEqual(expected);
      await cacheIsFresh();
    };
    expect(await eventsOf(run)).toBe("sststst");
  });

  test("do not wait for who reads", async () => {
    const options = { ...request(7), maxTokens: 30, ignoreEos: true };
    const slow = engine.generate(options);
    const first = (await slow.next()).value!;
    await cacheIsFresh();
    expect([first, ...(await collect(slow))].map(plain)).toEqual(await alone(options));
  });
});

describe("requests that wait", () => {
  /** All slots but `left`, held outside of the engine. */
  const hold = (left: number): Sequence[] =>
    Array.from({ length: fresh.sequences.total - left }, () => model.createSequence());

  test("come in by priority, and of equals in their order", async () => {
    const held = hold(1);
    const ended: string[] = [];
    const job = async (name: string, priority: number): Promise<void> => {
      await begin({ prompt: [40, 41], maxTokens: 3, priority });
      ended.push(name);
    };
    await Promise.all([job("a", 0), job("b", -1), job("c", 0), job("d", 1)]);
    expect(ended).toEqual(["d", "a", "c", "b"]);
    for (const sequence of held) sequence.dispose();
  });

  test("go on when somebody else gives back what they wait for", async () => {
    const held = hold(0);
    const texts = [1, 2].map((seed) => begin({ ...request(2), seed }));
    const ended = jest.fn();
    void Promise.all(texts).then(ended);
    await sleep(30);
    expect(ended).not.toHaveBeenCalled();
    held.pop()!.dispose();
    expect(await Promise.all(texts)).toHaveLength(2);
    for (const sequence of held) sequence.dispose();
  });

  test("wait for pages, too", async () => {
    using sequence = model.createSequence();
    using another = model.createSequence();
    await model.prefill([
      { sequence, tokens: new Int32Array(256).fill(40), logits: "none" },
      { sequence: another, tokens: new Int32Array(256).fill(40), logits: "none" },
    ]);
    const long = { prompt: [41], maxTokens: 1000, ignoreEos: true };
    // Three pages are left; the text needs a fourth in the end.
    const chunks: GenerationChunk[] = [];
    const loop = async (): Promise<void> => {
      for await (const chunk of engine.generate(long)) chunks.push(chunk);
    };
    const running = loop();
    while (chunks.length < 192) await sleep(5);
    await sleep(30);
    expect(chunks).toHaveLength(192);
    sequence.dispose();
    await running;
    expect(chunks).toHaveLength(256);
  });

  test("end when their time is over", async () => {
    const held = hold(0);
    const message = await rejectionOf("ERR_ABORTED", begin({ prompt: [40], timeoutMs: 20 }));
    expect(message).toContain("timeoutMs");
    for (const sequence of held) sequence.dispose();
  });
});

describe("ends", () => {
  test("by timeoutMs in the middle of a text, by break and by an error in the loop", async () => {
    const endless = { prompt: WORDS, maxTokens: 1000, ignoreEos: true, temperature: 0 };
    const whole = await alone(endless);
    const chunks: GenerationChunk[] = [];
    const timed = async (): Promise<void> => {
      for await (const chunk of engine.generate({ ...endless, timeoutMs: 40 }))
        chunks.push(plain(chunk));
    };
    const broken = async (): Promise<void> => {
      for await (const { token } of engine.generate(endless)) throw new Error(`mine ${token}`);
    };
    const left = async (): Promise<void> => {
      for await (const { token } of engine.generate(endless)) if (token >= 0) return;
    };
    await Promise.all([
      rejectionOf("ERR_ABORTED", timed()),
      expect(broken()).rejects.toThrow(/^mine /),
      left(),
    ]);
    expect(chunks).toEqual(whole.slice(0, chunks.length));
    expect(chunks.length).toBeLessThan(whole.length);
    await cacheIsFresh();
  });

  test("at once by a signal that has fired", async () => {
    const signal = AbortSignal.abort(new Error("why"));
    await rejectionOf("ERR_ABORTED", begin({ prompt: [40], signal }));
  });

  test("with ERR_DISPOSED when the engine is closed, running, waiting and new ones alike", async () => {
    const endless = { prompt: WORDS, maxTokens: 1000, ignoreEos: true };
    const texts = Array.from({ length: 12 }, () => begin(endless));
    const ended = Promise.all(texts.map((text) => rejectionOf("ERR_DISPOSED", text)));
    while (model.info().cache.sequences.used === 0) await sleep(2);
    await engine.close();
    expect(model.info().cache).toEqual(fresh);
    await ended;
    await rejectionOf("ERR_DISPOSED", begin(endless));
    expect(engine.closed).toBe(true);
    await engine.close();
  });

  test("with ERR_DISPOSED when the model goes, and its engines with it", async () => {
    const gone = await HymbaModel.load(FOLDER, { device: "cpu", maxSequences: 1 });
    const its = gone.createEngine();
    const texts = [1, 2].map((seed) => begin({ prompt: WORDS, maxTokens: 1000, seed }, its));
    const ended = Promise.all(texts.map((text) => rejectionOf("ERR_DISPOSED", text)));
    while (gone.info().cache.sequences.used === 0) await sleep(2);
    await gone.dispose();
    await ended;
    expect(its.closed).toBe(true);
    expect(() => gone.createEngine()).toThrow(expect.objectContaining({ code: "ERR_DISPOSED" }));
  });
});

describe("errors", () => {
  test("of one request do not touch another", async () => {
    const expected = await alone(request(11));
    const good = begin(request(11));
    await rejectionOf("ERR_CONTEXT_FULL", begin({ prompt: new Int32Array(257).fill(40) }));
    const wrong: [object, RegExp][] = [
      [{ prompt: [] }, /options.prompt must hold at least one token/],
      [{ prompt: [40], temperature: -1 }, /options.temperature/],
      [{ prompt: [40], priority: 0.5 }, /options.priority must be an integer/],
      [{ prompt: [40], timeoutMs: 0 }, /options.timeoutMs must be from 1/],
      [{ prompt: [40], sequence: {} }, /options.sequence/],
    ];
    for (const [options, message] of wrong) {
      await expect(begin(options as EngineGenerateOptions)).rejects.toThrow(message);
    }
    // One that shows only when a token has come.
    const next = jest.spyOn(ChunkMaker.prototype, "next").mockImplementationOnce(() => {
      throw new Error("no text");
    });
    const together = [begin({ prompt: [40] }), begin(request(11))];
    await expect(together[0]).rejects.toThrow("no text");
    next.mockRestore();
    expect(await together[1]).toEqual(expected);
    expect(await good).toEqual(expected);
  });

  test("of a step are everybody's, and the engine goes on", async () => {
    const lost = new HymbaError("ERR_DEVICE_LOST", "gone");
    const submit = jest.spyOn(Runner.prototype, "submit").mockRejectedValueOnce(lost);
    const texts = [1, 2].map((seed) => begin({ prompt: [40], seed }));
    await Promise.all(texts.map((text) => rejectionOf("ERR_DEVICE_LOST", text)));
    submit.mockRestore();
    expect(await begin(request(3))).toEqual(await alone(request(3)));
  });

  test("are not made by others who take the pages that are left, and give them back", async () => {
    const numbers = [3, 7, 8, 11];
    const expected = [];
    for (const i of numbers) expected.push(await alone(request(i)));
    const ended = Promise.all(numbers.map((i) => begin(request(i)))).finally(() => (done = true));
    let done = false;
    let taken = 0;
    for (let pages = 1; !done; pages = (pages % 4) + 1) {
      try {
        using sequence = model.createSequence();
        await model.prefill([{ sequence, tokens: new Int32Array(64 * pages).fill(40) }]);
        taken += 1;
      } catch (error) {
        expect(error).toMatchObject({ code: "ERR_OUT_OF_MEMORY" });
        await sleep(1);
      }
    }
    expect(await ended).toEqual(expected);
    expect(taken).toBeGreaterThan(3);
  });

  test("of wrong options of an engine", () => {
    for (const maxBatchTokens of [0, 65]) {
      expect(() => model.createEngine({ maxBatchTokens })).toThrow(/must be from 1 to 64/);
    }
  });
});

/** Once everything has been given back, but for what is kept for others. */
async function cacheIsFresh(): Promise<void> {
  while (model.info().cache.sequences.used > 0) await sleep(5);
  const { cache } = model.info();
  for (const pool of ["sequences", "stateSlots", "globalPages", "windowPages"] as const) {
    expect(cache[pool]).toEqual({ ...fresh[pool], kept: cache[pool].kept });
  }
}
