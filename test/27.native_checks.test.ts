import fc from "fast-check";
import {
  SAMPLED_TOKEN,
  loadBinding,
  type NativeLoadOptions,
  type NativeModel,
  type NativeSpan,
} from "../lib/binding";
import { openCheckpoint } from "../lib/checkpoint/checkpoint";
import type { TensorEntry } from "../lib/checkpoint/tensor_table";
import { nativeLoadOptions } from "../lib/load_options";
import { normalizeSampling } from "../lib/sampling";
import { MICRO } from "./helpers/golden";

// TypeScript checks everything before it crosses over. The addon does not rely on that: what would make it read outside of
// a file or a buffer is refused there as well.

let valid: NativeLoadOptions;
beforeAll(async () => {
  const options = { maxSequences: 2, maxContextTokens: 128, maxBatchTokens: 64 };
  valid = { ...nativeLoadOptions(await openCheckpoint(MICRO), options), device: "cpu" };
});

async function load(options: NativeLoadOptions): Promise<NativeModel> {
  const native = new (loadBinding().NativeModel)();
  await native.load(options);
  return native;
}

function withTensor(index: number, change: (entry: TensorEntry) => object): NativeLoadOptions {
  const tensors = valid.tensors.map((entry, i) =>
    i === index ? { ...entry, ...change(entry) } : entry,
  );
  return { ...valid, tensors };
}

const modelFormat = expect.objectContaining({ code: "ERR_MODEL_FORMAT" }) as Error;
const invalidArgument = expect.objectContaining({ code: "ERR_INVALID_ARGUMENT" }) as Error;

describe("the tensor table", () => {
  test("byte ranges that are not the tensor's are refused, wherever they are", async () => {
    const offset = fc.integer({ min: 0, max: 2 ** 40 });
    await fc.assert(
      fc.asyncProperty(fc.nat(), offset, offset, async (pick, begin, end) => {
        const index = pick % valid.tensors.length;
        const { source } = valid.tensors[index]!;
        if (source.kind !== "file") throw new Error("a synthetic tensor");
        // A range of the right size inside the file holds values, if not the right ones.
        fc.pre(end - begin !== source.end - source.begin);
        const options = withTensor(index, () => ({ source: { ...source, begin, end } }));
        await expect(load(options)).rejects.toEqual(modelFormat);
      }),
      { seed: 1, numRuns: 60 },
    );
  });

  test("a range of the right size behind the end of the file is refused", async () => {
    const options = withTensor(3, ({ source }) => {
      if (source.kind !== "file") throw new Error("a synthetic tensor");
      const size = source.end - source.begin;
      return { source: { ...source, begin: 2 ** 40, end: 2 ** 40 + size } };
    });
    await expect(load(options)).rejects.toEqual(modelFormat);
  });

  test("a missing tensor, a wrong shape and a missing file are refused by name", async () => {
    const missing = { ...valid, tensors: valid.tensors.slice(1) };
    await expect(load(missing)).rejects.toThrow("model.embed_tokens.weight is missing");
    const reshaped = withTensor(0, () => ({ shape: [1, 128] }));
    await expect(load(reshaped)).rejects.toThrow(/model\.embed_tokens\.weight has 128 elements/);
    const files = ["/nowhere/model.safetensors"];
    await expect(load({ ...valid, files })).rejects.toThrow(/cannot open \/nowhere/);
    await expect(load({ ...valid, files: [] })).rejects.toEqual(modelFormat);
  });
});

describe("a step", () => {
  let native: NativeModel;
  let sequence: number;
  const span = (change: Partial<NativeSpan>): NativeSpan => ({
    sequence,
    tokens: Int32Array.of(1, 2, 3),
    generated: false,
    logits: "last",
    sampling: null,
    targets: null,
    targetTops: 0,
    ...change,
  });
  beforeAll(async () => {
    native = await load(valid);
    sequence = native.createSequence();
  });
  afterAll(() => native.dispose());

  test("token ids outside of the vocabulary are refused", () => {
    const outside = fc.oneof(
      fc.integer({ min: -(2 ** 31), max: -1 }),
      fc.integer({ min: 320, max: 2 ** 31 - 1 }),
    );
    fc.assert(
      fc.property(outside, fc.nat(4), (token, position) => {
        const tokens = new Int32Array(5).fill(1);
        tokens[position] = token;
        expect(() => native.step([span({ tokens })])).toThrow(invalidArgument);
        const targets = Int32Array.of(1, 1, token === -1 ? -2 : token);
        expect(() => native.step([span({ targets })])).toThrow(invalidArgument);
      }),
      { seed: 2, numRuns: 50 },
    );
  });

  test("spans that do not fit together are refused, and nothing has changed", async () => {
    const before = native.usage();
    const refused: [NativeSpan[], string][] = [
      [[], "ERR_INVALID_ARGUMENT"],
      [[span({ tokens: new Int32Array() })], "ERR_INVALID_ARGUMENT"],
      [[span({}), span({})], "ERR_INVALID_ARGUMENT"],
      [[span({ tokens: new Int32Array(65).fill(1) })], "ERR_INVALID_ARGUMENT"],
      [[span({ targets: Int32Array.of(1) })], "ERR_INVALID_ARGUMENT"],
      [[span({ targets: Int32Array.of(1, 2, 3), targetTops: 21 })], "ERR_INVALID_ARGUMENT"],
      [[span({ sequence: 12345 })], "ERR_DISPOSED"],
    ];
    for (const [spans, code] of refused) {
      expect(() => native.step(spans)).toThrow(expect.objectContaining({ code }));
    }
    expect(native.usage()).toEqual(before);
    const [result] = await native.step([span({})]);
    expect(result!.logits).toHaveLength(320);
  });

  test("moves the cache when it is handed over, and what it gives back may be taken at once", async () => {
    const before = native.usage();
    const tokens = Int32Array.from({ length: 64 }, (_, i) => (i * 7) % 320);
    const steps = [];
    for (let i = 0; i < 3; i++) {
      const id = native.createSequence();
      steps.push(native.step([span({ sequence: id, tokens })]));
      steps.push(native.step([span({ sequence: id, tokens: tokens.subarray(i) })]));
      expect(native.usage().globalPages.used).toBe(before.globalPages.used + 2);
      native.releaseSequence(id);
      expect(native.usage()).toEqual(before);
    }
    const results = await Promise.all(steps);
    const logits = results.map(([result]) => result!.logits);
    expect(logits[2]).toEqual(logits[0]);
    expect(logits[4]).toEqual(logits[0]);
    expect(logits[3]).not.toEqual(logits[1]);
  });

  test("images of a wrong size are refused, and a right one waits for copies of what it takes the place of", async () => {
    const native = await load(valid);
    const tokens = Int32Array.from({ length: 30 }, (_, i) => (i * 11) % 320);
    const before = native.usage();
    const [first, other] = [native.createSequence(), native.createSequence()];
    await native.step([span({ sequence: first, tokens }), span({ sequence: other })]);
    const image = await native.readSequence(other);
    native.releaseSequence(other);

    // What the snapshot is of is copied before the next step, and the memory is free before that.
    const snapshot = native.snapshot(first, true);
    native.releaseSequence(first);
    const written = native.createSequenceAt(3);
    for (const wrong of [new Uint8Array(), image.subarray(1), Buffer.concat([image, image])])
      expect(() => native.writeSequence(written, wrong)).toThrow(invalidArgument);
    const writing = native.writeSequence(written, image);
    const resumed = native.resume(snapshot, tokens);
    const steps = [written, resumed].map((id) => native.step([span({ sequence: id })]));
    await writing;
    const logits = (await Promise.all(steps)).map(([result]) => result!.logits);
    for (const id of [written, resumed, snapshot]) native.releaseSequence(id);

    const alone = [];
    for (const begin of [Int32Array.of(1, 2, 3), tokens]) {
      const id = native.createSequence();
      await native.step([span({ sequence: id, tokens: begin })]);
      alone.push((await native.step([span({ sequence: id })]))[0]!.logits);
      native.releaseSequence(id);
    }
    expect(logits).toEqual(alone);
    expect(native.usage()).toEqual(before);
    expect(() => native.createSequenceAt(129)).toThrow(
      expect.objectContaining({ code: "ERR_CONTEXT_FULL" }),
    );
    await native.dispose();
  });

  test("token masks of a wrong size, and those that allow nothing, are refused before the step", async () => {
    const before = native.usage();
    const sampling = normalizeSampling({}, 320, "sample");
    const masked = (words: number[]) =>
      span({ sampling: { ...sampling, tokenMask: Uint32Array.from(words) } });
    for (const words of [Array(10).fill(0), [1], Array(11).fill(1)]) {
      expect(() => native.step([masked(words as number[])])).toThrow(invalidArgument);
    }
    expect(native.usage()).toEqual(before);
    const [result] = await native.step([masked([0, 0, 0, 0, 0, 0, 0, 0, 0, 2 ** 31])]);
    expect(result!.token).toBe(319);
  });

  test("goes on from a drawn token where the last step drew one, and only there", async () => {
    const draw = { sampling: normalizeSampling({ temperature: 0 }, 320, "sample") } as const;
    const run = async (second: (first: number) => number): Promise<(number | undefined)[]> => {
      const id = native.createSequence();
      const [first] = await native.step([span({ ...draw, sequence: id })]);
      const tokens = Int32Array.of(second(first!.token!));
      const [next] = await native.step([span({ ...draw, sequence: id, tokens, generated: true })]);
      native.releaseSequence(id);
      return [first!.token, next!.token];
    };
    expect(await run(() => SAMPLED_TOKEN)).toEqual(await run((first) => first));

    await native.step([span({})]);
    expect(() => native.step([span({ tokens: Int32Array.of(SAMPLED_TOKEN) })])).toThrow(
      "the sequence's last step drew none",
    );
  });

  test("a model that was disposed refuses everything", async () => {
    const gone = await load(valid);
    const disposing = gone.dispose();
    for (const call of [() => gone.step([span({})]), () => gone.usage()])
      expect(call).toThrow(expect.objectContaining({ code: "ERR_DISPOSED" }));
    await disposing;
  });
});
