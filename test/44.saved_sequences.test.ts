import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type HymbaError, HymbaModel, type LoadOptions, type Sequence } from "../lib";
import { fingerprintOf } from "../lib/checkpoint/fingerprint";
import { openCheckpoint } from "../lib/checkpoint/checkpoint";
import { DEVICE } from "./helpers/device";
import { rejectionOf } from "./helpers/error";
import { MICRO } from "./helpers/golden";

const TINY = join(__dirname, "..", "models", "hymba-tiny");

const SAMPLE = {
  temperature: 0.9,
  repetitionPenalty: 1.2,
  presencePenalty: 0.3,
  frequencyPenalty: 0.4,
  topLogprobs: 3,
};

const load = (options: LoadOptions = {}): Promise<HymbaModel> =>
  HymbaModel.load(MICRO, {
    device: DEVICE,
    dtype: "float32",
    maxSequences: 4,
    maxContextTokens: 512,
    ...options,
  });

let folder: string;
let path: string;
let model: HymbaModel;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "hymba-saved-"));
  path = join(folder, "a.sequence");
  model = await load();
});
afterAll(async () => {
  await model.dispose();
  await rm(folder, { recursive: true });
});

const tokensOf = (count: number, seed = 1): number[] =>
  Array.from({ length: count }, (_, i) => ((i + seed) * (17 + 2 * seed)) % model.config.vocabSize);

/** A text of which some was given and some generated. */
async function newText(from: HymbaModel, length: number, seed = 1): Promise<Sequence> {
  const sequence = from.createSequence();
  const tokens = tokensOf(length, seed);
  await from.prefill([{ sequence, tokens: tokens.slice(0, Math.ceil(length / 2)) }]);
  for (const token of tokens.slice(Math.ceil(length / 2))) await from.decode([{ sequence, token }]);
  return sequence;
}

/** All that is drawn when a text goes on, which K/V, states and history have a say in. */
async function goOn(from: HymbaModel, sequence: Sequence, steps = 20): Promise<object[]> {
  const drawn: object[] = [];
  let token = 7;
  for (let seed = 0; seed < steps; seed++) {
    const [result] = await from.decode([{ sequence, token, sample: { ...SAMPLE, seed } }]);
    drawn.push(result!);
    token = result!.token!;
  }
  return drawn;
}

/** What is in use of a cache. */
function usedOf(from: HymbaModel): number[] {
  const { stateSlots, globalPages, windowPages } = from.info().cache;
  return [stateSlots, globalPages, windowPages].map(({ used }) => used);
}

const minus = (a: readonly number[], b: readonly number[]): number[] => a.map((x, i) => x - b[i]!);

describe("a restored sequence", () => {
  // The model's window is one of 32 tokens, pages are of 64.
  test.each([1, 2, 63, 64, 65, 95, 96, 97, 128, 200])(
    "of %i tokens goes on as the one that was saved, in a model with other limits",
    async (length) => {
      const before = usedOf(model);
      using sequence = await newText(model, length);
      await sequence.save(path);
      const held = minus(usedOf(model), before);

      await using other = await load({ maxSequences: 2, maxBatchTokens: 64, cacheTokens: 1024 });
      // Its memory is not as it was at first.
      (await newText(other, 300, 2)).dispose();
      const empty = usedOf(other);
      using beside = await newText(other, 70, 3);
      const without = usedOf(other);
      const restored = await other.restoreSequence(path);
      expect(restored.length).toBe(length);
      expect(minus(usedOf(other), without)).toEqual(held);
      const goingOn = goOn(other, restored);
      await goOn(other, beside);
      expect(await goingOn).toEqual(await goOn(model, sequence));
      restored.dispose();
      beside.dispose();
      expect(usedOf(other)).toEqual(empty);
    },
  );

  test("is as it was saved, whatever its model did since, and as often as it is restored", async () => {
    using sequence = await newText(model, 90);
    await sequence.save(path);
    const expected = await goOn(model, sequence);
    for (let i = 0; i < 2; i++) {
      using restored = await model.restoreSequence(path);
      expect(await goOn(model, restored)).toEqual(expected);
    }
  });

  test("and an engine with a prefix cache do not get into each other's way", async () => {
    await using other = await HymbaModel.load(TINY, {
      // Where no bit depends on what shares a step.
      device: "cpu",
      maxSequences: 4,
      maxContextTokens: 256,
      cacheTokens: 12 * 64,
    });
    const options = (i: number) => ({
      prompt: tokensOf(20 + 30 * (i % 3), i % 3),
      seed: i,
      maxTokens: 12,
      ignoreEos: true,
    });
    const texts: number[][] = [];
    for (let i = 0; i < 12; i++) texts.push(await tokensIn(other.generate(options(i))));
    using sequence = await newText(other, 70);
    await sequence.save(path);
    const expected = await goOn(other, sequence, 5);
    sequence.dispose();

    await using engine = other.createEngine();
    const written: number[][] = [];
    const write = async (first: number): Promise<void> => {
      for (let i = first; i < texts.length; i += 2)
        written[i] = await tokensIn(engine.generate(options(i)));
    };
    let done = false;
    const writing = Promise.all([write(0), write(1)]).finally(() => (done = true));
    let restored = 0;
    while (!done) {
      const again = await other.restoreSequence(path).catch((error: unknown) => {
        expect((error as HymbaError).code).toBe("ERR_OUT_OF_MEMORY");
      });
      if (again === undefined) continue;
      restored++;
      expect(await goOn(other, again, 5)).toEqual(expected);
      again.dispose();
    }
    await writing;
    expect(restored).toBeGreaterThan(2);
    expect(written).toEqual(texts);
  });

  test("needs room", async () => {
    using sequence = await newText(model, 100);
    await sequence.save(path);
    await using short = await load({ maxContextTokens: 99 });
    expect(await rejectionOf("ERR_CONTEXT_FULL", short.restoreSequence(path))).toContain(
      "a sequence of 100 tokens, but the model was loaded for 99",
    );
    await using full = await load({ maxSequences: 1 });
    using _one = full.createSequence();
    await rejectionOf("ERR_OUT_OF_MEMORY", full.restoreSequence(path));
    await using paged = await load({ maxSequences: 2, cacheTokens: 512 });
    const used = usedOf(paged);
    using other = await newText(paged, 450, 4);
    expect(await rejectionOf("ERR_OUT_OF_MEMORY", paged.restoreSequence(path))).toContain("pool");
    other.dispose();
    expect(usedOf(paged)).toEqual(used);
  });
});

describe("saving", () => {
  test("is refused without tokens, while a call uses the sequence, and when it is gone", async () => {
    using sequence = model.createSequence();
    await rejectionOf("ERR_INVALID_ARGUMENT", sequence.save(path));
    const running = model.prefill([{ sequence, tokens: [1, 2, 3] }]);
    await rejectionOf("ERR_BUSY", sequence.save(path));
    await running;
    const saving = sequence.save(path);
    await rejectionOf("ERR_BUSY", model.prefill([{ sequence, tokens: [4] }]));
    await saving;
    await expect(sequence.save(5 as unknown as string)).rejects.toThrow(TypeError);
    sequence.dispose();
    await rejectionOf("ERR_DISPOSED", sequence.save(path));
  });

  test("leaves what was there when it fails", async () => {
    using sequence = await newText(model, 5);
    const own = join(folder, "own");
    await sequence.save(join(folder, "own"));
    const nowhere = join(folder, "nowhere", "a");
    expect(await rejectionOf("ERR_INVALID_ARGUMENT", sequence.save(nowhere))).toContain(
      `cannot write "${nowhere}"`,
    );
    // A folder cannot be replaced by a file.
    await rejectionOf("ERR_INVALID_ARGUMENT", sequence.save(folder));
    expect((await stat(own)).size).toBeGreaterThan(0);
    expect((await readdir(join(folder, ".."))).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });
});

describe("a file", () => {
  beforeAll(async () => {
    using sequence = await newText(model, 70);
    await sequence.save(path);
  });

  test("is refused when any byte of it is another", async () => {
    const before = usedOf(model);
    const bytes = await readFile(path);
    const damaged = join(folder, "damaged");
    const places = Array.from({ length: 40 }, (_, i) => Math.floor((i / 40) * bytes.length));
    for (const place of [...places, 8, 12, bytes.length - 1]) {
      const copy = Buffer.from(bytes);
      copy[place]! ^= 1 << (place % 8);
      await writeFile(damaged, copy);
      const message = await rejectionOf("ERR_INVALID_ARGUMENT", model.restoreSequence(damaged));
      expect(message).toMatch(/is damaged|is no saved sequence|of version \d+, this release reads/);
    }
    for (const length of [0, 8, 47, 48, bytes.length - 1]) {
      await writeFile(damaged, bytes.subarray(0, length));
      await rejectionOf("ERR_INVALID_ARGUMENT", model.restoreSequence(damaged));
    }
    expect(usedOf(model)).toEqual(before);
  });

  test("of another version says so", async () => {
    const bytes = await readFile(path);
    bytes.writeUInt32LE(2, 8);
    const later = join(folder, "later");
    await writeFile(later, bytes);
    expect(await rejectionOf("ERR_INVALID_ARGUMENT", model.restoreSequence(later))).toContain(
      "is a saved sequence of version 2, this release reads version 1",
    );
  });

  test("of another model, or of one that was loaded in another way, says so", async () => {
    await using synthetic = await HymbaModel.load(`synthetic:${join(MICRO, "config.json")}`, {
      device: DEVICE,
      dtype: "float32",
      maxContextTokens: 512,
    });
    expect(await rejectionOf("ERR_INVALID_ARGUMENT", synthetic.restoreSequence(path))).toContain(
      "was saved by another model: its shape or its weights differ",
    );
    await using rounded = await load({ dtype: "bfloat16" });
    expect(await rejectionOf("ERR_INVALID_ARGUMENT", rounded.restoreSequence(path))).toContain(
      `in float32 on the device "${DEVICE}", this one is in bfloat16`,
    );
  });

  test("that is not there says so", async () => {
    await rejectionOf("ERR_INVALID_ARGUMENT", model.restoreSequence(join(folder, "none")));
    await expect(model.restoreSequence(undefined as unknown as string)).rejects.toThrow(TypeError);
  });
});

test("models are told apart by their weights, and not by where their files are", async () => {
  const spec = `synthetic:${join(MICRO, "config.json")}`;
  const prints = await Promise.all(
    [MICRO, `${MICRO}/../micro`, spec, `${spec}?seed=1`, TINY].map(async (from) =>
      fingerprintOf(await openCheckpoint(from)),
    ),
  );
  expect(prints[1]).toBe(prints[0]);
  expect(new Set(prints).size).toBe(4);
  // One weight, in the middle of a tensor.
  const checkpoint = await openCheckpoint(MICRO);
  const { source } = checkpoint.tensors[5]!;
  if (source.kind !== "file") throw new Error("expected a file");
  const bytes = await readFile(checkpoint.files[source.file]!);
  bytes[source.begin + Math.floor((source.end - source.begin) / 2)]! ^= 1;
  const changed = join(folder, "changed.safetensors");
  await writeFile(changed, bytes);
  expect(await fingerprintOf({ ...checkpoint, files: [changed] })).not.toBe(prints[0]);
});

async function tokensIn(chunks: AsyncIterable<{ readonly token: number }>): Promise<number[]> {
  const tokens: number[] = [];
  for await (const { token } of chunks) tokens.push(token);
  return tokens;
}
