import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { HymbaError } from "../lib/errors";
import { Tokenizer } from "../lib/text/tokenizer";
import { awkwardTexts, tokenizerFolders } from "./helpers/tokenizers";

const families = Object.keys(tokenizerFolders) as (keyof typeof tokenizerFolders)[];

describe.each(families)("%s tokenizer", (family) => {
  let native: Tokenizer;
  let javascript: Tokenizer;

  beforeAll(async () => {
    native = await Tokenizer.load(tokenizerFolders[family], { encoder: "native" });
    javascript = await Tokenizer.load(tokenizerFolders[family], { encoder: "javascript" });
  });

  async function expectAgreement(text: string): Promise<void> {
    for (const addSpecialTokens of [true, false]) {
      const ids = await native.encode(text, { addSpecialTokens });
      expect([...(await javascript.encode(text, { addSpecialTokens }))]).toEqual([...ids]);
    }
  }

  test.each(awkwardTexts)("both encoders agree on %j", expectAgreement);

  test("both encoders agree on any text", async () => {
    const anything = fc.oneof(
      fc.string({ unit: "binary", maxLength: 60 }),
      fc.string({ unit: "grapheme", maxLength: 60 }),
      fc
        .array(fc.constantFrom(...awkwardTexts.slice(0, -3)), { maxLength: 4 })
        .map((t) => t.join("")),
      fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes).toString("latin1")),
      fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes).toString("utf8")),
    );
    await fc.assert(fc.asyncProperty(anything, expectAgreement), { seed: 1, numRuns: 300 });
  });

  test("decoding gives the text back", async () => {
    // The byte_fallback decoder takes U+FEFF at the start of a run of bytes for a byte-order mark.
    const text = fc
      .string({ unit: "binary", maxLength: 60 })
      .filter((value) => !value.includes("\ufeff"));
    await fc.assert(
      fc.asyncProperty(text, async (value) => {
        const ids = await native.encode(value);
        expect(native.decode(ids)).toBe(value);
      }),
      { seed: 2, numRuns: 300 },
    );
  });

  test("a long text survives", async () => {
    const text = awkwardTexts
      .filter((value) => !value.includes("<"))
      .join("\n")
      .repeat(20);
    const ids = await native.encode(text);
    expect(ids.length).toBeGreaterThan(10_000);
    expect(native.decode(ids) === text).toBe(true);
  });

  test("encoding many texts at once gives what one at a time gives", async () => {
    const together = await Promise.all(awkwardTexts.map((text) => native.encode(text)));
    for (const [index, text] of awkwardTexts.entries()) {
      expect(together[index]).toEqual(await native.encode(text));
    }
  });

  test("tokens and ids map to each other", () => {
    for (let id = 0; id < native.vocabSize; id++) {
      const token = native.idToToken(id);
      expect(token).toBeDefined();
      expect(native.tokenToId(token!)).toBe(id);
    }
    expect(native.idToToken(native.vocabSize)).toBeUndefined();
    expect(native.tokenToId("no such token")).toBeUndefined();
  });
});

describe("special tokens", () => {
  let byteLevel: Tokenizer;
  let byteFallback: Tokenizer;

  beforeAll(async () => {
    byteLevel = await Tokenizer.load(tokenizerFolders.byteLevel);
    byteFallback = await Tokenizer.load(tokenizerFolders.byteFallback);
  });

  test("the native encoder is the default where it loads", () => {
    expect(byteLevel.encoderKind).toBe("native");
  });

  test("are named by tokenizer_config.json, as text or as an object", () => {
    expect(byteLevel).toMatchObject({ bosTokenId: 0, eosTokenId: 1, padTokenId: 2 });
    expect(byteFallback).toMatchObject({ bosToken: "<s>", eosToken: "</s>", bosTokenId: 1 });
    expect(byteFallback.padTokenId).toBeUndefined();
    expect([...byteLevel.specialTokenIds]).toEqual([0, 1, 2]);
  });

  test("are added as add_bos_token says, else as the post-processor says, and only on request", async () => {
    expect((await byteLevel.encode("x"))[0]).toBe(0);
    expect((await byteFallback.encode("x"))[0]).toBe(1);
    expect(await byteLevel.encode("")).toEqual(Int32Array.of(0));
    expect(await byteLevel.encode("", { addSpecialTokens: false })).toEqual(new Int32Array(0));
    expect((await byteFallback.encode("x", { addSpecialTokens: false })).includes(1)).toBe(false);
  });

  test("are left out of decoded text unless asked for", async () => {
    const ids = await byteLevel.encode("<|user|>hi<|end|>");
    expect(byteLevel.decode(ids)).toBe("<|user|>hi");
    expect(byteLevel.decode(ids, { skipSpecialTokens: false })).toBe("<|begin|><|user|>hi<|end|>");
    expect(byteLevel.decode([0, 1])).toBe("");
  });

  test("decode accepts any array-like, nothing, and ids without a token", () => {
    expect(byteLevel.decode([])).toBe("");
    expect(byteLevel.decode(Int32Array.of(3 + 104, 100_000))).toBe(byteLevel.decode([3 + 104]));
  });

  test.each([[[-1]], [[1.5]], [[Number.NaN]], [["1"] as unknown as number[]]])(
    "decode refuses %p",
    (tokens) => {
      expect(() => byteLevel.decode(tokens)).toThrow(TypeError);
    },
  );

  test("encode refuses what is not a string", async () => {
    await expect(byteLevel.encode(1 as unknown as string)).rejects.toThrow(TypeError);
  });
});

describe("Tokenizer.load", () => {
  let folder: string;
  let definition: Record<string, unknown>;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "hymba-tokenizer-"));
    definition = structuredClone(
      jest.requireActual<Record<string, unknown>>("./helpers/tokenizers/byte_level/tokenizer.json"),
    );
  });
  afterEach(() => rm(folder, { recursive: true }));

  async function load(files: Record<string, unknown>, encoder?: "native" | "javascript") {
    for (const [name, value] of Object.entries(files)) {
      const text = typeof value === "string" ? value : JSON.stringify(value);
      await writeFile(join(folder, name), text);
    }
    return Tokenizer.load(folder, encoder && { encoder });
  }

  test("needs only tokenizer.json", async () => {
    const tokenizer = await load({ "tokenizer.json": definition });
    expect(tokenizer.bosTokenId).toBeUndefined();
    expect(tokenizer.chatTemplate).toBeUndefined();
    expect(await tokenizer.encode("x")).toHaveLength(1);
  });

  test("does without the optional parts of tokenizer.json", async () => {
    const { version, model } = definition;
    const tokenizer = await load({ "tokenizer.json": { version, model } }, "javascript");
    expect(tokenizer.specialTokenIds.size).toBe(0);
    expect(tokenizer.idToToken(0)).toBe("<|begin|>");
  });

  test("adds EOS when tokenizer_config.json says so, and no BOS when it says false", async () => {
    const tokenizer = await load({
      "tokenizer.json": definition,
      "tokenizer_config.json": { add_bos_token: false, add_eos_token: true, eos_token: "<|end|>" },
    });
    const ids = await tokenizer.encode("x");
    expect([...ids].map((id) => tokenizer.idToToken(id))).toEqual(["x", "<|end|>"]);
  });

  test("falls back to special_tokens_map.json", async () => {
    const tokenizer = await load({
      "tokenizer.json": definition,
      "tokenizer_config.json": { eos_token: null },
      "special_tokens_map.json": { eos_token: { content: "<|end|>" }, bos_token: "unknown" },
    });
    expect(tokenizer.eosTokenId).toBe(1);
    expect(tokenizer.bosToken).toBe("unknown");
    expect(tokenizer.bosTokenId).toBeUndefined();
  });

  test("never truncates or pads, whatever tokenizer.json was saved with", async () => {
    const tokenizer = await load({
      "tokenizer.json": {
        ...definition,
        truncation: { direction: "Right", max_length: 2, strategy: "LongestFirst", stride: 0 },
        padding: {
          strategy: { Fixed: 50 },
          direction: "Right",
          pad_to_multiple_of: null,
          pad_id: 2,
          pad_type_id: 0,
          pad_token: "<|pad|>",
        },
      },
    });
    const text = "not cut, not filled";
    expect(tokenizer.encoderKind).toBe("native");
    expect(tokenizer.decode(await tokenizer.encode(text), { skipSpecialTokens: false })).toBe(text);
  });

  test.each([
    ["a string", { chat_template: "one" }, "one"],
    [
      "the default of a list",
      {
        chat_template: [
          { name: "tools", template: "two" },
          { name: "default", template: "three" },
        ],
      },
      "three",
    ],
    [
      "nothing, of a list without a default",
      { chat_template: [{ name: "tools", template: "two" }] },
      undefined,
    ],
  ])("takes the chat template from %s", async (_, config, expected) => {
    const files = { "tokenizer.json": definition, "tokenizer_config.json": config };
    expect((await load(files)).chatTemplate).toBe(expected);
    expect((await load({ ...files, "chat_template.jinja": "four" })).chatTemplate).toBe("four");
  });

  test.each<[string, Record<string, unknown>, string, RegExp]>([
    ["no tokenizer.json", {}, "ERR_MODEL_FORMAT", /no tokenizer\.json in .*Copy it/],
    ["a cut tokenizer.json", { "tokenizer.json": '{"model"' }, "ERR_MODEL_FORMAT", /not JSON/],
    ["a list", { "tokenizer.json": "[]" }, "ERR_MODEL_FORMAT", /tokenizer\.json.*top level/],
    ["no vocabulary", { "tokenizer.json": { model: {} } }, "ERR_MODEL_FORMAT", /model\.vocab/],
    [
      "a vocabulary of strings",
      { "tokenizer.json": { model: { type: "BPE", vocab: { a: "0" }, merges: [] } } },
      "ERR_MODEL_FORMAT",
      /model\.vocab/,
    ],
    [
      "an unknown decoder",
      {
        "tokenizer.json": {
          model: { type: "BPE", vocab: { a: 0 }, merges: [] },
          decoder: { type: "Morse" },
        },
      },
      "ERR_MODEL_UNSUPPORTED",
      /Morse/,
    ],
  ])("refuses %s", async (_, files, code, message) => {
    const failure = await load(files).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(HymbaError);
    expect(failure).toMatchObject({ code, message: expect.stringMatching(message) });
  });

  test("refuses malformed companions of tokenizer.json", async () => {
    await expect(
      load({ "tokenizer.json": definition, "tokenizer_config.json": { bos_token: 1 } }),
    ).rejects.toMatchObject({
      code: "ERR_MODEL_FORMAT",
      message: expect.stringMatching(/bos_token/),
    });
    await expect(
      load({ "tokenizer.json": definition, "tokenizer_config.json": { add_bos_token: true } }),
    ).rejects.toMatchObject({
      code: "ERR_MODEL_FORMAT",
      message: expect.stringMatching(/add_bos_token/),
    });
    await expect(Tokenizer.load(join(folder, "tokenizer.json"))).rejects.toMatchObject({
      code: "ERR_MODEL_FORMAT",
    });
  });

  test("refuses a file it may not read", async () => {
    // A folder in the file's place fails to read for every user, root included.
    await load({ "tokenizer.json": definition });
    const { mkdir } = jest.requireActual<typeof import("node:fs/promises")>("node:fs/promises");
    await mkdir(join(folder, "tokenizer_config.json"), { recursive: true }).catch(() => undefined);
    await rm(join(folder, "tokenizer_config.json"), { recursive: true });
    await mkdir(join(folder, "tokenizer_config.json"));
    await expect(Tokenizer.load(folder)).rejects.toMatchObject({
      code: "ERR_MODEL_FORMAT",
      message: expect.stringMatching(/cannot read/),
    });
  });

  test("takes the JavaScript encoder when the native one refuses the file", async () => {
    // Merges as one string and a version that the native library does not know.
    const odd = { "tokenizer.json": { ...definition, version: "9.9" } };
    expect((await load(odd)).encoderKind).toBe("javascript");
    await expect(load(odd, "native")).rejects.toMatchObject({ code: "ERR_MODEL_UNSUPPORTED" });
  });
});
