import fc from "fast-check";
import { StreamDetokenizer } from "../lib/text/detokenizer";
import { StopMatcher } from "../lib/text/stop_matcher";
import { Tokenizer } from "../lib/text/tokenizer";
import { awkwardTexts, tokenizerFolders } from "./helpers/tokenizers";

const families = Object.keys(tokenizerFolders) as (keyof typeof tokenizerFolders)[];

function stream(
  tokenizer: Tokenizer,
  tokens: Iterable<number>,
  skipSpecialTokens = true,
): string[] {
  const detokenizer = new StreamDetokenizer(tokenizer, { skipSpecialTokens });
  return [...Array.from(tokens, (token) => detokenizer.push(token)), detokenizer.flush()];
}

/** Whether a text has half a surrogate pair, which would mean that a character was split. */
const isWellFormed = (text: string): boolean => !/\p{Surrogate}/u.test(text);

describe.each(families)("StreamDetokenizer over %s", (family) => {
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await Tokenizer.load(tokenizerFolders[family]);
  });

  test.each(awkwardTexts)("streams %j whole, and never half a character", async (text) => {
    const pieces = stream(tokenizer, await tokenizer.encode(text), false);
    expect(pieces.join("")).toBe(
      tokenizer.decode(await tokenizer.encode(text), { skipSpecialTokens: false }),
    );
    for (const piece of pieces) expect(isWellFormed(piece)).toBe(true);
    if (!text.includes("\ufffd")) expect(pieces.join("")).not.toContain("\ufffd");
  });

  test("pieces joined are decode() of all tokens, for any tokens", () => {
    // Ids past the vocabulary have no token; the first 260 are mostly single bytes, so that
    // sequences of them are full of broken UTF-8.
    const token = fc.oneof(
      fc.nat({ max: tokenizer.vocabSize + 2 }),
      fc.nat({ max: 259 }),
      fc.constantFrom(
        ...[0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80, 0xef, 0xbf, 0xbd, 0xbb].map(byteToken),
      ),
    );
    fc.assert(
      fc.property(fc.array(token, { maxLength: 80 }), fc.boolean(), (tokens, skipSpecialTokens) => {
        const pieces = stream(tokenizer, tokens, skipSpecialTokens);
        expect(pieces.join("")).toBe(tokenizer.decode(tokens, { skipSpecialTokens }));
        for (const piece of pieces) expect(isWellFormed(piece)).toBe(true);
      }),
      { seed: 3, numRuns: 2000 },
    );
  });

  test("waits for the rest of a character, and hands it out at once when it is there", () => {
    const bytes = [0xf0, 0x9f, 0x98, 0x80, 0x41].map(byteToken);
    expect(stream(tokenizer, bytes)).toEqual(["", "", "", "😀", "A", ""]);
  });

  test("hands out U+FFFD for bytes that cannot become a character", () => {
    const bytes = [0xff, 0xff, 0x41, 0xe2, 0x82].map(byteToken);
    expect(stream(tokenizer, bytes)).toEqual(["", "\ufffd", "\ufffdA", "", "", "\ufffd"]);
  });

  test("hands out U+FFFD that the text itself contains", () => {
    const bytes = [0xef, 0xbf, 0xbd, 0x41].map(byteToken);
    expect(stream(tokenizer, bytes)).toEqual(["", "", "", "\ufffdA", ""]);
  });

  test("tokens without text neither break a character nor appear", () => {
    const special = [...tokenizer.specialTokenIds][0]!;
    const tokens = [0xe2, 0x82, 0xac].map(byteToken);
    const noise = Array<number>(40)
      .fill(special)
      .concat(tokenizer.vocabSize + 1);
    expect(
      stream(tokenizer, [tokens[0]!, ...noise, tokens[1]!, ...noise, tokens[2]!]).join(""),
    ).toBe("€");
  });

  test("decodes a bounded number of tokens a push", () => {
    let longest = 0;
    const counting = new StreamDetokenizer({
      specialTokenIds: tokenizer.specialTokenIds,
      idToToken: (id) => tokenizer.idToToken(id),
      decode(tokens, options) {
        longest = Math.max(longest, tokens.length);
        return tokenizer.decode(tokens, options);
      },
    });
    for (let i = 0; i < 1000; i++) counting.push(byteToken(0xff));
    expect(longest).toBeLessThanOrEqual(16);
  });

  test("continues a context without repeating it", async () => {
    const text = "The lighthouse keeper’s café, 你好 😀 and so on";
    const tokens = await tokenizer.encode(text);
    for (let split = 0; split <= tokens.length; split++) {
      const context = tokens.subarray(0, split);
      const detokenizer = new StreamDetokenizer(tokenizer, { context });
      const pieces = Array.from(tokens.subarray(split), (token) => detokenizer.push(token));
      const before = stream(tokenizer, context).slice(0, -1).join("");
      expect(before + pieces.join("") + detokenizer.flush()).toBe(text);
    }
  });

  test("starts a new text after flush", () => {
    const detokenizer = new StreamDetokenizer(tokenizer);
    expect(detokenizer.push(byteToken(0xe2))).toBe("");
    expect(detokenizer.flush()).toBe("\ufffd");
    expect(detokenizer.flush()).toBe("");
    expect(detokenizer.push(byteToken(0x41))).toBe("A");
  });

  function byteToken(byte: number): number {
    // Both vocabularies hold three special tokens and then the 256 bytes, in order.
    return 3 + byte;
  }
});

/** The definition of StopMatcher, on a whole text: grow the text until a stop string ends it. */
function reference(text: string, stops: readonly string[]): { text: string; stop?: string } {
  for (let end = 0; end <= text.length; end++) {
    const stop = stops
      .filter((candidate) => text.slice(0, end).endsWith(candidate))
      .reduce<string | undefined>(
        (a, b) => (a === undefined || b.length > a.length ? b : a),
        undefined,
      );
    if (stop !== undefined) return { text: text.slice(0, end - stop.length), stop };
  }
  return { text };
}

function cut(text: string, places: readonly number[]): string[] {
  const ends = [...places.map((place) => place % (text.length + 1)), text.length].sort(
    (a, b) => a - b,
  );
  return ends.map((end, index) => text.slice(ends[index - 1] ?? 0, end));
}

describe("StopMatcher", () => {
  // Few letters, so that stop strings overlap themselves and each other.
  const word = (maxLength: number) =>
    fc.string({ unit: fc.constantFrom("a", "b", "é"), maxLength });
  const stopStrings = fc.array(word(5).filter(Boolean), { maxLength: 4 });

  test("any split of the text gives what the whole text gives", () => {
    fc.assert(
      fc.property(word(40), stopStrings, fc.array(fc.nat(40)), (text, stops, places) => {
        const matcher = new StopMatcher(stops);
        const pieces = cut(text, places).map((piece) => matcher.push(piece).text);
        const found = { text: pieces.join("") + matcher.flush(), stop: matcher.stop };
        expect(found).toEqual({ stop: undefined, ...reference(text, stops) });
      }),
      { seed: 4, numRuns: 2000 },
    );
  });

  test("holds back no more than may become a stop string", () => {
    fc.assert(
      fc.property(word(40), stopStrings, (text, stops) => {
        const matcher = new StopMatcher(stops);
        let released = "";
        for (let end = 1; end <= text.length && matcher.stop === undefined; end++) {
          released += matcher.push(text[end - 1]!).text;
          if (matcher.stop !== undefined) break;
          const held = text.slice(released.length, end);
          expect(held === "" || stops.some((stop) => stop.startsWith(held))).toBe(true);
        }
      }),
      { seed: 5, numRuns: 500 },
    );
  });

  test("ends at the stop string completed first, and at the longest of those", () => {
    expect(new StopMatcher(["abcd", "bc"]).push("xabcd")).toEqual({ text: "xa", stop: "bc" });
    expect(new StopMatcher(["bc", "abc"]).push("xabc")).toEqual({ text: "x", stop: "abc" });
  });

  test("can leave the stop string in the text, and drops what follows", () => {
    const matcher = new StopMatcher(["\nUser:"], { includeStop: true });
    expect(matcher.push("Hi.\nUs")).toEqual({ text: "Hi.", stop: undefined });
    expect(matcher.push("er: more")).toEqual({ text: "\nUser:", stop: "\nUser:" });
    expect(matcher.push("more")).toEqual({ text: "", stop: "\nUser:" });
    expect(matcher.flush()).toBe("");
  });

  test("passes a stop string over that comes too early, but not one that ends later", () => {
    const matcher = new StopMatcher(["abab"]);
    expect(matcher.push("xabab", false)).toEqual({ text: "xab", stop: undefined });
    expect(matcher.push("ab.")).toEqual({ text: "", stop: "abab" });
    const early = new StopMatcher(["ab"]);
    expect(early.push("xabx", false)).toEqual({ text: "xabx", stop: undefined });
    expect(early.push("yab")).toEqual({ text: "y", stop: "ab" });
  });

  test("without stop strings everything passes at once", () => {
    expect(new StopMatcher([]).push("text")).toEqual({ text: "text", stop: undefined });
  });

  test("refuses an empty stop string and what is not a string", () => {
    expect(() => new StopMatcher([""])).toThrow(RangeError);
    expect(() => new StopMatcher([1 as unknown as string])).toThrow(TypeError);
  });
});
