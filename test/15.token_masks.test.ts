import { join } from "node:path";
import { type HymbaError, type ResponseFormat, Tokenizer } from "../lib";
import { Automaton, type Configuration } from "../lib/grammar/automaton";
import { type Constraint, ConstraintVocabulary } from "../lib/grammar/constraint";
import { compileFormat } from "../lib/grammar/response_format";
import { buildNfa } from "../lib/grammar/nfa";
import { schemaExpression } from "../lib/grammar/schema";
import { TokenMasks } from "../lib/grammar/token_masks";
import { TokenTrie } from "../lib/grammar/token_trie";
import { tokenBytesOf } from "../lib/text/token_bytes";
import { randomSchema } from "./helpers/random_schema";
import { tokensOf } from "./helpers/random_text";
import { awkwardTexts, tokenizerFolders } from "./helpers/tokenizers";
import { makeVocabulary } from "./helpers/vocabulary";
import { random } from "./kernels/helpers";

type Bytes = readonly (Uint8Array | undefined)[];

/** The tokens that can follow, found by trying every one of them. */
function bruteForce(automaton: Automaton, text: readonly number[], bytes: Bytes): number[] {
  const advance = (at: Configuration | null, token: number): Configuration | null => {
    for (const byte of bytes[token]!) at = at && automaton.advance(at, byte);
    return at;
  };
  let at: Configuration | null = automaton.start;
  for (const token of text) at = advance(at, token);
  return bytes.flatMap((token, id) =>
    token !== undefined && token.length > 0 && advance(at, id) !== null ? [id] : [],
  );
}

const schemaFormat = (seed: number): ResponseFormat => ({
  type: "json_schema",
  schema: randomSchema(random(seed), 2),
});

describe("masks", () => {
  const bytes: (Uint8Array | undefined)[] = makeVocabulary(600, random(2));
  // Tokens that are no text, that are empty, and that are there twice.
  bytes[300] = undefined;
  bytes[301] = new Uint8Array(0);
  bytes.push(bytes[310], Buffer.from('":'), Buffer.from("aaaaaaaaaaaaaaaaaaaaaaaa"));
  const vocabulary = new ConstraintVocabulary(bytes, bytes.length + 40);

  test.each<[string, ResponseFormat]>([
    ["any object", { type: "json_object" }],
    ["repeated lengths", { type: "regex", pattern: "(?:[a-z]{2,5}\\d{0,3} ?){3,9}(?:é|世界){2}" }],
    ["nested counts", { type: "regex", pattern: "(?:(?:[a-e]{2}|b){2,3},?){1,40}" }],
    ["counts that may end", { type: "regex", pattern: "\\d{1,4}(?:,\\d{2,3}){0,3}(?:\\.\\d*)?" }],
    ["counts of what may be longer", { type: "regex", pattern: "(?:\\d|\\d\\d-){3,20}|[an ]{9}" }],
    ["a long count", { type: "regex", pattern: '[^"]{20,45}"x' }],
    ["bytes of characters", { type: "regex", pattern: "[\\u0400-\\u{1f600}]+|." }],
    ...Array.from({ length: 25 }, (_, i): [string, ResponseFormat] => [
      `schema ${i}`,
      schemaFormat(i),
    ]),
  ])("are those of every token tried: %s", (_, format) => {
    const numbers = random(9);
    const automaton = compileFormat(format);
    for (let text = 0; text < 3; text++) {
      const constraint = vocabulary.compile(format)();
      const tokens: number[] = [];
      for (let i = 0; i < 25 && !constraint.isComplete; i++) {
        const allowed = tokensOf(constraint.mask);
        expect(allowed).toEqual(bruteForce(automaton, tokens, bytes));
        tokens.push(allowed[numbers.integer(0, allowed.length)]!);
        constraint.accept(tokens.at(-1)!);
      }
    }
  });

  test("hold end tokens exactly where the text may end", () => {
    // A special token, and one that would be text otherwise: the first tokens are the bytes.
    const [a, b] = [0x61, 0x62];
    const ends = [300, b];
    const format: ResponseFormat = { type: "regex", pattern: "[ab]{2,3}" };
    const constraint = vocabulary.compile(format, { stopTokens: new Set(ends), minTokens: 0 })();
    const allowed: number[][] = [];
    for (let i = 0; i < 3; i++) {
      allowed.push(ends.map((token) => Number(tokensOf(constraint.mask).includes(token))));
      constraint.accept(a);
    }
    expect(allowed).toEqual([
      [0, 0],
      [0, 0],
      [1, 1],
    ]);
    expect([constraint.mayEnd, constraint.isComplete]).toEqual([true, true]);
  });

  test("say so when the vocabulary has no token that fits", () => {
    const few = new ConstraintVocabulary([Buffer.from("a"), Buffer.from("b")], 2);
    const refusal = expect.objectContaining({
      code: "ERR_INVALID_ARGUMENT",
      message: expect.stringContaining("no token of the model's vocabulary") as string,
    }) as HymbaError;
    expect(() => few.compile({ type: "regex", pattern: "c" })()).toThrow(refusal);
    const constraint = few.compile({ type: "regex", pattern: "ac" })();
    expect(() => constraint.accept(0)).toThrow(refusal);
  });

  test("are not for tokens that they forbid", () => {
    const constraint = vocabulary.compile({ type: "json_object" })();
    for (const token of [300, 0x61])
      expect(() => constraint.accept(token)).toThrow("against its mask");
  });

  test("do not depend on what is remembered", () => {
    for (const seed of [1, 5, 8]) {
      const start = buildNfa(schemaExpression(randomSchema(random(seed), 3)))!;
      const trie = new TokenTrie(bytes);
      const automata = [new Automaton(start), new Automaton(start, 5)];
      const makers = automata.map((automaton) => new TokenMasks(automaton, trie, bytes.length));
      const numbers = random(4);
      let at: (Configuration | null)[] = automata.map((automaton) => automaton.start);
      for (let i = 0; i < 60 && at[0]!.groups.length > 0; i++) {
        const [mask, other] = makers.map((maker, m) => maker.maskOf(at[m]!));
        expect(other).toEqual(mask);
        const allowed = tokensOf(mask!);
        for (const byte of bytes[allowed[numbers.integer(0, allowed.length)]!]!) {
          at = automata.map((automaton, m) => automaton.advance(at[m]!, byte));
        }
      }
    }
  });

  test("of formats that were dropped are made again", () => {
    const format = (i: number): ResponseFormat => ({ type: "regex", pattern: `a{${i}}b` });
    const constrain = (i: number): Constraint => vocabulary.compile(format(i))();
    const first = tokensOf(constrain(3).mask);
    for (let i = 4; i < 50; i++) constrain(i);
    expect(tokensOf(constrain(3).mask)).toEqual(first);
  });
});

describe("the cost", () => {
  // Bounds are generous: measured on one idle core they are kept many times over.
  test("of 32,001 tokens, 20 schemas and 60 texts", () => {
    const bytes = makeVocabulary(32_001, random(3));
    const vocabulary = new ConstraintVocabulary(bytes, bytes.length);
    const schema = {
      type: "object",
      properties: {
        name: { type: "string", maxLength: 60 },
        age: { type: "integer", minimum: 0, maximum: 150 },
        score: { type: "number", minimum: 0, maximum: 1 },
        born: { type: "string", format: "date" },
        tags: { type: "array", items: { type: "string" }, maxItems: 8 },
        kind: { enum: ["a", "b", "c"] },
      },
      required: ["name", "age", "tags"],
    };
    const cpu = (): number => process.cpuUsage().user / 1000;
    let compiling = 0;
    let following = 0;
    let tokens = 0;
    for (let i = 0; i < 20; i++) {
      const format: ResponseFormat = {
        type: "json_schema",
        schema: { ...schema, required: ["name", "age", "tags", "kind"].slice(0, i % 5) },
      };
      for (let text = 0; text < 3; text++) {
        let start = cpu();
        const constraint = vocabulary.compile(format)();
        compiling += cpu() - start;
        start = cpu();
        const numbers = random(10 * i + text);
        for (let n = 0; n < 100 && !constraint.isComplete; n++) {
          const { mask } = constraint;
          let token = numbers.integer(0, bytes.length);
          while ((mask[token >> 5]! & (1 << (token & 31))) === 0)
            token = (token + 1) % bytes.length;
          constraint.accept(token);
          tokens++;
        }
        following += cpu() - start;
      }
    }
    expect(compiling / 20).toBeLessThan(100);
    expect(following / tokens).toBeLessThan(0.6);
    expect(tokens).toBeGreaterThan(1000);
  });
});

describe("bytes of tokens", () => {
  test.each([
    ...Object.entries(tokenizerFolders),
    ["hymba-tiny", join(__dirname, "..", "models", "hymba-tiny")] as const,
  ])("are those of the text that they decode to: %s", async (_, folder) => {
    const tokenizer = await Tokenizer.load(folder);
    const bytes = tokenizer.tokenBytes();
    expect(bytes).toHaveLength(tokenizer.vocabSize);
    for (const id of tokenizer.specialTokenIds) expect(bytes[id]).toBeUndefined();
    for (const text of awkwardTexts) {
      const ids = [...(await tokenizer.encode(text))];
      // Special tokens that a text names are none of its text.
      const parts = ids.flatMap((id) => bytes[id] ?? []);
      const joined = Buffer.concat(parts).toString("utf8");
      // Decoding drops the first space of a SentencePiece text.
      expect([joined, joined.replace(/^ /, "")]).toContain(tokenizer.decode(ids));
    }
  });

  test("are not guessed for other kinds of tokenizers", () => {
    for (const decoder of [undefined, null, { type: "WordPiece" }, "ByteLevel"]) {
      expect(() => tokenBytesOf(decoder)).toThrow(
        expect.objectContaining({ code: "ERR_MODEL_UNSUPPORTED" }) as Error,
      );
    }
    expect(tokenBytesOf({ type: "ByteLevel" })("Ġa→")).toBeUndefined();
    expect(tokenBytesOf({ type: "Metaspace" })("▁<0x0A>")).toEqual(Buffer.from(" <0x0A>"));
  });
});

describe("the trie", () => {
  test("holds every token once, below its bytes", () => {
    const bytes = [
      ...makeVocabulary(500, random(6)),
      undefined,
      new Uint8Array(0),
      Buffer.from("a"),
    ];
    const trie = new TokenTrie(bytes);
    const allBytes = Array.from({ length: 256 }, (_, byte) => byte);
    const hasBit = (sets: Int32Array, node: number, byte: number): boolean =>
      ((sets[8 * node + (byte >> 5)]! >> (byte & 31)) & 1) === 1;
    const found: number[] = [];
    const path: number[] = [];
    for (let node = 1; node < trie.numNodes; node++) {
      path.length = trie.depths[node]! - 1;
      path.push(trie.bytes[node]!);
      for (let t = trie.tokenBegins[node]!; t < trie.tokenBegins[node + 1]!; t++) {
        expect([...bytes[trie.tokens[t]!]!]).toEqual(path);
        found.push(trie.tokens[t]!);
      }
      const end = trie.ends[node]!;
      const below = trie.depths.subarray(node + 1, end);
      expect(trie.heights[node]).toBe(Math.max(0, ...below.map((d) => d - trie.depths[node]!)));
      expect(below.every((depth) => depth > trie.depths[node]!)).toBe(true);
      expect(end === trie.numNodes || trie.depths[end]! <= trie.depths[node]!).toBe(true);
      const children = trie.bytes
        .subarray(node + 1, end)
        .filter((_, i) => below[i] === trie.depths[node]! + 1);
      expect(allBytes.filter((byte) => hasBit(trie.bytesAfter, node, byte))).toEqual([...children]);
      const bits = new Set([...trie.bytes.subarray(node + 1, end)]);
      expect(allBytes.filter((byte) => hasBit(trie.bytesBelow, node, byte))).toEqual(
        allBytes.filter((byte) => bits.has(byte)),
      );
    }
    const texts = bytes.flatMap((token, id) =>
      token !== undefined && token.length > 0 ? [id] : [],
    );
    expect(found.sort((a, b) => a - b)).toEqual(texts);
  });
});
