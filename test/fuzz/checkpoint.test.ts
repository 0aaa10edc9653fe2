import fc from "fast-check";
import { type HymbaConfig, type LayerConfig, parseConfig } from "../../lib/checkpoint/config";
import { parseGenerationConfig } from "../../lib/checkpoint/generation_config";
import { matchTensors } from "../../lib/checkpoint/match_tensors";
import {
  type SafetensorsEntry,
  parsePrefix,
  parseSafetensorsHeader,
} from "../../lib/checkpoint/safetensors";
import {
  type ExpectedTensor,
  WEIGHT_DTYPE_BYTES,
  countElements,
  countParameters,
  expectedTensors,
  isWeightDtype,
} from "../../lib/checkpoint/tensor_table";
import { HymbaError } from "../../lib/errors";
import { encodeTensors, smallConfig, tensorsOf } from "../helpers/model_files";

/** The result of a parser on hostile input; undefined when it refused it as it should. */
function accepted<T>(parse: () => T): T | undefined {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof HymbaError)) throw error;
    expect(["ERR_MODEL_FORMAT", "ERR_MODEL_UNSUPPORTED"]).toContain(error.code);
    expect(error.message).toContain("file");
    expect(error.message.length).toBeLessThan(8000);
    return undefined;
  }
}

/** Values that JSON can hold and JavaScript stumbles over. */
const awkward = fc.oneof(
  fc.constantFrom<unknown>(null, true, "", "auto", "__proto__", [], {}, [[]], [null], -0, 0.5),
  fc.constantFrom(-1, 0, 1, 2, 3, 4, 2 ** 24, 2 ** 31, 2 ** 32, 2 ** 53, 1e300, NaN, Infinity),
  fc.integer(),
  fc.array(fc.integer({ min: -1, max: 5 }), { maxLength: 5 }),
  fc.array(fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 }), { maxLength: 4 }),
  fc.jsonValue(),
);

describe("config.json", () => {
  const fields = Object.keys(smallConfig());

  /** What every other part of the program takes for granted. */
  function expectSound(config: HymbaConfig): void {
    const { hiddenSize, numHeads, numKvHeads, innerSize, headDim, valueHeadDim } = config;
    expect(numHeads * headDim).toBe(hiddenSize);
    expect(numHeads * valueHeadDim).toBe(innerSize);
    expect(numHeads % numKvHeads).toBe(0);
    expect(headDim % 2).toBe(0);
    expect(config.layers).toHaveLength(config.numLayers);
    const isSoundLayer = ({ kvProducer, attention }: LayerConfig, i: number): boolean => {
      const producer = config.layers[kvProducer];
      return (
        kvProducer <= i &&
        producer?.kvProducer === kvProducer &&
        (attention === "window" || producer.attention === "global")
      );
    };
    expect(config.layers.filter((layer, i) => !isSoundLayer(layer, i))).toEqual([]);
    expect(config.eosTokenIds.filter((id) => id >= config.vocabSize)).toEqual([]);
    const isSoundTensor = ({ shape }: ExpectedTensor): boolean =>
      shape.every((extent) => Number.isSafeInteger(extent) && extent > 0) &&
      Number.isSafeInteger(countElements(shape) * WEIGHT_DTYPE_BYTES.F32);
    expect(expectedTensors(config).filter((tensor) => !isSoundTensor(tensor))).toEqual([]);
    expect(countParameters(config)).toBeGreaterThan(0);
  }

  test("anything at all", () => {
    const anything = fc.oneof(fc.anything(), fc.jsonValue());
    fc.assert(
      fc.property(anything, (json) => {
        expect(accepted(() => parseConfig(json, "file"))).toBeUndefined();
      }),
      { seed: 1, numRuns: 1000 },
    );
  });

  test("a right one with some fields replaced", () => {
    const changes = fc.dictionary(fc.constantFrom(...fields), awkward, { maxKeys: 3 });
    let sound = 0;
    fc.assert(
      fc.property(changes, (change) => {
        const config = accepted(() => parseConfig(smallConfig(change), "file"));
        if (config === undefined) return;
        expectSound(config);
        sound++;
      }),
      { seed: 2, numRuns: 1500 },
    );
    expect(sound).toBeGreaterThan(100);
  });

  test("sizes and layer rules in every combination", () => {
    const layer = fc.integer({ min: 0, max: 6 });
    const changes = fc.record({
      hidden_size: fc.constantFrom(4, 8, 12, 16, 24, 36),
      num_attention_heads: fc.integer({ min: 1, max: 4 }),
      num_key_value_heads: fc.integer({ min: 1, max: 4 }),
      num_hidden_layers: fc.integer({ min: 1, max: 6 }),
      mamba_expand: fc.integer({ min: 1, max: 3 }),
      mamba_dt_rank: fc.constantFrom("auto", 3),
      num_memory_tokens: fc.integer({ min: 0, max: 3 }),
      global_attn_idx: fc.uniqueArray(layer, { maxLength: 2 }),
      kv_reuse_group: fc.oneof(
        fc.constant([]),
        fc.array(fc.array(layer, { maxLength: 3 }), { maxLength: 2 }),
        fc.subarray([0, 1, 2, 3, 4, 5], { minLength: 2 }).map((layers) => [layers]),
      ),
      kv_reuse_every_i_layer: fc.constantFrom(-1, -1, 1, 2, 3, 7),
      kq_norm: fc.constantFrom("none", "rms", "perhead-rms"),
      tie_word_embeddings: fc.boolean(),
      mlp_hidden_act: fc.constantFrom("silu", "relu2"),
    });
    let sound = 0;
    fc.assert(
      fc.property(changes, (change) => {
        const config = accepted(() => parseConfig(smallConfig(change), "file"));
        if (config === undefined) return;
        expectSound(config);
        sound++;
      }),
      { seed: 3, numRuns: 2000 },
    );
    expect(sound).toBeGreaterThan(100);
  });

  test("generation_config.json", () => {
    const names = ["do_sample", "temperature", "top_k", "top_p", "repetition_penalty"];
    const ids = ["bos_token_id", "eos_token_id", "pad_token_id"];
    const json = fc.oneof(
      fc.anything(),
      fc.dictionary(fc.constantFrom(...names, ...ids), awkward, { maxKeys: 2 }),
    );
    fc.assert(
      fc.property(json, (value) => {
        const defaults = accepted(() => parseGenerationConfig(value, 20, "file"));
        for (const id of defaults?.eosTokenIds ?? []) expect(id).toBeLessThan(20);
        expect(defaults?.topP ?? 1).toBeLessThanOrEqual(1);
      }),
      { seed: 4, numRuns: 1000 },
    );
  });
});

describe("safetensors header", () => {
  const dataBytes = 64;
  const oneLayerConfig = smallConfig({
    num_hidden_layers: 1,
    global_attn_idx: [],
    kv_reuse_group: [],
  });
  const oneLayer = parseConfig(oneLayerConfig, "file");

  /** Every range lies in the file, has the length that its shape asks for, and is its own. */
  function expectInside(entries: readonly SafetensorsEntry[], begin: number, end: number): void {
    const owners = new Uint8Array(end);
    for (const entry of entries) {
      expect(entry.begin).toBeGreaterThanOrEqual(begin);
      expect(entry.end).toBeLessThanOrEqual(end);
      const bytes = entry.end - entry.begin;
      if (isWeightDtype(entry.dtype)) {
        expect(countElements(entry.shape) * WEIGHT_DTYPE_BYTES[entry.dtype]).toBe(bytes);
      }
      for (let i = entry.begin; i < entry.end; i++) owners[i] = (owners[i] ?? 0) + 1;
    }
    expect(Math.max(...owners)).toBeLessThanOrEqual(1);
  }

  /** Parses a whole file, as `readSafetensorsHeader` does; whether it is well-formed. */
  function parseFile(file: Buffer): boolean {
    const entries = accepted(() => {
      const headerBytes = parsePrefix(file.subarray(0, 8), file.length, "file");
      const header = file.subarray(8, 8 + headerBytes);
      const parsed = parseSafetensorsHeader(header, file.length, "file");
      expectInside(parsed, 8 + headerBytes, file.length);
      return parsed;
    });
    if (entries === undefined) return false;
    const stored = new Map(entries.map((entry) => [entry.name, { ...entry, file: 0 }]));
    accepted(() => matchTensors(oneLayer, stored, "file"));
    return true;
  }

  test("any bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        parseFile(Buffer.from(bytes));
        accepted(() => parseSafetensorsHeader(bytes, 8 + bytes.length + dataBytes, "file"));
      }),
      { seed: 5, numRuns: 2000 },
    );
  });

  test("any JSON", () => {
    fc.assert(
      fc.property(fc.json(), (json) => {
        const bytes = Buffer.from(json);
        accepted(() => parseSafetensorsHeader(bytes, 8 + bytes.length + dataBytes, "file"));
      }),
      { seed: 6, numRuns: 2000 },
    );
  });

  test("entries with awkward fields", () => {
    let wellFormed = 0;
    const right = fc
      .record({
        dtype: fc.constantFrom(...(["BF16", "F16", "F32"] as const)),
        shape: fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 3 }),
        begin: fc.nat({ max: dataBytes }),
      })
      .map(({ dtype, shape, begin }) => {
        const end = begin + countElements(shape) * WEIGHT_DTYPE_BYTES[dtype];
        return { dtype, shape, data_offsets: [begin, end] };
      });
    const field = fc.constantFrom("dtype", "shape", "data_offsets");
    const wrong = fc
      .tuple(right, field, fc.oneof(awkward, fc.constantFrom("I64", "toString", [0, 2], [2])))
      .map(([entry, name, value]) => ({ ...entry, [name]: value }));
    const entry = fc.oneof(
      { weight: 6, arbitrary: right },
      { weight: 2, arbitrary: wrong },
      awkward,
    );
    const name = fc.oneof(fc.constantFrom("a", "__proto__", "__metadata__"), fc.string());
    const header = fc.array(fc.tuple(name, entry), {
      maxLength: 4,
    });
    fc.assert(
      fc.property(header, (entries) => {
        const pairs = entries.map(([key, value]) => {
          return `${JSON.stringify(key)}: ${JSON.stringify(value)}`;
        });
        const bytes = Buffer.from(`{${pairs.join(", ")}}`);
        const begin = 8 + bytes.length;
        const parsed = accepted(() => parseSafetensorsHeader(bytes, begin + dataBytes, "file"));
        if (parsed === undefined) return;
        expectInside(parsed, begin, begin + dataBytes);
        if (parsed.length > 0) wellFormed++;
      }),
      { seed: 7, numRuns: 2000 },
    );
    expect(wellFormed).toBeGreaterThan(100);
  });

  test("a right file with some bytes changed, and cut", () => {
    const file = encodeTensors(tensorsOf(oneLayerConfig));
    let wellFormed = 0;
    const edit = fc.tuple(
      fc.nat({ max: file.length - 1 }),
      fc.oneof(fc.constantFrom(...Buffer.from('0123456789-,:[]{}"\\ ')), fc.nat({ max: 255 })),
    );
    fc.assert(
      fc.property(
        fc.array(edit, { minLength: 1, maxLength: 4 }),
        fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, fc.nat({ max: file.length })),
        (edits, cut) => {
          const damaged = Buffer.from(file.subarray(0, file.length - cut));
          for (const [at, byte] of edits) damaged[at] = byte;
          if (parseFile(damaged)) wellFormed++;
        },
      ),
      { seed: 8, numRuns: 600 },
    );
    expect(wellFormed).toBeGreaterThan(100);
  });
});
