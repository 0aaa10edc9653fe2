import fc from "fast-check";
import {
  MAX_TOP_LOGPROBS,
  normalizeSampling,
  randomSeed,
  type SamplingOptions,
} from "../lib/sampling";

const vocabSize = 100;

/** Normalizes options of any type, as programs in plain JavaScript would pass them. */
const normalize = (options: unknown) =>
  normalizeSampling(options as SamplingOptions, vocabSize, "options");

function messageOf(type: typeof TypeError | typeof RangeError, options: unknown): string {
  try {
    normalize(options);
  } catch (error) {
    expect(error).toBeInstanceOf(type);
    return (error as Error).message;
  }
  throw new Error(`expected a ${type.name}, but nothing was thrown`);
}

describe("normalizeSampling", () => {
  test("fills in defaults that change nothing", () => {
    expect(normalize({ seed: 7 })).toEqual({
      temperature: 1,
      topK: 0,
      topP: 1,
      minP: 0,
      repetitionPenalty: 1,
      presencePenalty: 0,
      frequencyPenalty: 0,
      biasTokens: new Int32Array(0),
      biasValues: new Float32Array(0),
      tokenMask: null,
      seed: 7n,
      topLogprobs: 0,
    });
  });

  test("takes undefined for an option that is left out", () => {
    const names = ["temperature", "topK", "topP", "minP", "repetitionPenalty", "topLogprobs"];
    const more = ["presencePenalty", "frequencyPenalty", "logitBias"];
    const options = Object.fromEntries([...names, ...more].map((name) => [name, undefined]));
    expect(normalize({ ...options, seed: 7 })).toEqual(normalize({ seed: 7 }));
    expect(typeof normalize({ seed: undefined }).seed).toBe("bigint");
  });

  test("keeps what is in range, rounded to fp32", () => {
    fc.assert(
      fc.property(
        fc.record({
          temperature: fc.double({ min: 0, max: 100, noNaN: true }),
          topK: fc.nat({ max: 2 ** 31 - 1 }),
          topP: fc.double({ min: 1e-6, max: 1, noNaN: true }),
          minP: fc.double({ min: 0, max: 0.9999999, noNaN: true }),
          repetitionPenalty: fc.double({ min: 1e-6, max: 1e6, noNaN: true }),
          presencePenalty: fc.double({ min: -1e6, max: 1e6, noNaN: true }),
          frequencyPenalty: fc.double({ min: -1e6, max: 1e6, noNaN: true }),
          seed: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
          topLogprobs: fc.nat({ max: MAX_TOP_LOGPROBS }),
        }),
        ({ topK, seed, topLogprobs, ...reals }) => {
          const { biasTokens, biasValues, tokenMask, ...rest } = normalize({
            topK,
            seed,
            topLogprobs,
            ...reals,
          });
          const rounded = Object.entries(reals).map(([name, value]) => [name, Math.fround(value)]);
          expect(rest).toEqual({ topK, seed, topLogprobs, ...Object.fromEntries(rounded) });
          expect([biasTokens.length, biasValues.length, tokenMask]).toEqual([0, 0, null]);
        },
      ),
      { seed: 30 },
    );
  });

  test.each<[string, unknown, string]>([
    ["temperature", "hot", 'options.temperature must be a number, got "hot"'],
    ["temperature", null, "options.temperature must be a number, got null"],
    ["topP", true, "options.topP must be a number, got true"],
    ["minP", [0.1], "options.minP must be a number, got an array"],
    [
      "repetitionPenalty",
      1n,
      "options.repetitionPenalty must be a number, got a value of type bigint",
    ],
    ["presencePenalty", {}, "options.presencePenalty must be a number, got a value of type object"],
    ["frequencyPenalty", "1", 'options.frequencyPenalty must be a number, got "1"'],
    ["topK", 2.5, "options.topK must be an integer, got 2.5"],
    ["topK", NaN, "options.topK must be an integer, got NaN"],
    ["topLogprobs", "5", 'options.topLogprobs must be an integer, got "5"'],
    ["seed", "1", 'options.seed must be an integer or a bigint, got "1"'],
    ["seed", 1.5, "options.seed must be an integer or a bigint, got 1.5"],
    ["seed", Infinity, "options.seed must be an integer or a bigint, got Infinity"],
  ])("refuses %s: %p with a TypeError", (name, value, message) => {
    expect(messageOf(TypeError, { [name]: value })).toBe(message);
  });

  test.each<[string, unknown, string]>([
    ["temperature", -0.1, "finite and at least 0"],
    ["temperature", Infinity, "finite and at least 0"],
    ["temperature", 1e39, "finite and at least 0"],
    ["temperature", NaN, "finite and at least 0"],
    ["topP", 0, "above 0 and at most 1"],
    ["topP", 1e-50, "above 0 and at most 1"],
    ["topP", 1.01, "above 0 and at most 1"],
    ["minP", -0.01, "at least 0 and below 1"],
    ["minP", 1, "at least 0 and below 1"],
    ["repetitionPenalty", 0, "finite and above 0"],
    ["repetitionPenalty", -1, "finite and above 0"],
    ["presencePenalty", -Infinity, "finite"],
    ["frequencyPenalty", NaN, "finite"],
  ])("refuses %s: %p with a RangeError", (name, value, range) => {
    expect(messageOf(RangeError, { [name]: value })).toBe(
      `options.${name} must be ${range} as a 32-bit float, got ${String(value)}`,
    );
  });

  test.each<[string, unknown, string]>([
    ["topK", -1, "options.topK must be from 0 to 2147483647, got -1"],
    ["topK", 2 ** 31, "options.topK must be from 0 to 2147483647, got 2147483648"],
    ["topLogprobs", 21, "options.topLogprobs must be from 0 to 20, got 21"],
    ["seed", -1, "options.seed must be from 0 to 2^64 - 1, got -1"],
    ["seed", -1n, "options.seed must be from 0 to 2^64 - 1, got -1"],
    ["seed", 2n ** 64n, "options.seed must be from 0 to 2^64 - 1, got 18446744073709551616"],
    [
      "seed",
      2 ** 53,
      "options.seed must be a bigint when it is beyond 2^53 - 1, got 9007199254740992",
    ],
  ])("refuses %s: %p, which is out of range", (name, value, message) => {
    expect(messageOf(RangeError, { [name]: value })).toBe(message);
  });

  test("takes a token mask of a bit a token, which must allow one", () => {
    const mask = Uint32Array.of(0, 0, 0, 0b1000);
    expect(normalize({ tokenMask: mask }).tokenMask).toBe(mask);
    expect(messageOf(TypeError, { tokenMask: [1, 2, 3, 4] })).toBe(
      "options.tokenMask must be a Uint32Array, got an array",
    );
    expect(messageOf(RangeError, { tokenMask: new Uint32Array(3) })).toBe(
      "options.tokenMask must have 4 words, got 3",
    );
    // 100 tokens: the fifth bit of the last word is that of none.
    for (const last of [0, 0b10000]) {
      expect(messageOf(RangeError, { tokenMask: Uint32Array.of(0, 0, 0, last) })).toBe(
        "options.tokenMask must allow at least one token",
      );
    }
  });

  test.each([undefined, null, 3, "greedy"])("refuses options that are %p", (options) => {
    expect(messageOf(TypeError, options)).toMatch(/^options must be an object, got /);
  });

  test("names the place that the options came from", () => {
    const where = "requests[3].sample";
    const call = () => normalizeSampling({ topP: 2 }, vocabSize, where);
    expect(call).toThrow("requests[3].sample.topP must be");
  });
});

describe("seeds", () => {
  test("numbers and bigints are the same seed", () => {
    expect(normalize({ seed: 0 }).seed).toBe(0n);
    expect(normalize({ seed: 2 ** 53 - 1 }).seed).toBe(2n ** 53n - 1n);
    expect(normalize({ seed: 2n ** 64n - 1n }).seed).toBe(2n ** 64n - 1n);
  });

  test("are random when there is none", () => {
    const seeds = Array.from({ length: 100 }, () => normalize({}).seed);
    expect(new Set(seeds).size).toBe(100);
    expect(seeds.every((seed) => seed >= 0n && seed < 2n ** 64n)).toBe(true);
    expect(seeds.some((seed) => seed >= 2n ** 63n)).toBe(true);
    expect(typeof randomSeed()).toBe("bigint");
  });
});

describe("logit biases", () => {
  test("are at most as many as the addon has room for", () => {
    const biases = (count: number): Map<number, number> =>
      new Map(Array.from({ length: count }, (_, token) => [token, 1]));
    const normalize = (count: number) =>
      normalizeSampling({ logitBias: biases(count) }, 1000, "options");
    expect(normalize(300).biasTokens).toHaveLength(300);
    expect(() => normalize(301)).toThrow(
      new RangeError("options.logitBias must have at most 300 entries, got 301"),
    );
  });

  const biases = (logitBias: unknown) => {
    const { biasTokens, biasValues } = normalize({ logitBias });
    return [[...biasTokens], [...biasValues]];
  };

  test("come as a Map or as an object", () => {
    const map = new Map([
      [99, -2.5],
      [0, 100],
      [7, -Infinity],
    ]);
    expect(biases(map)).toEqual([
      [99, 0, 7],
      [-2.5, 100, -Infinity],
    ]);
    expect(biases({ 99: -2.5, 0: 100 })).toEqual([
      [0, 99],
      [100, -2.5],
    ]);
    expect(biases(new Map())).toEqual([[], []]);
    expect(biases({})).toEqual([[], []]);
  });

  test.each<[unknown, string]>([
    [null, "options.logitBias must be a Map or an object of token ids and numbers, got null"],
    [
      [[1, 2]],
      "options.logitBias must be a Map or an object of token ids and numbers, got an array",
    ],
    ["5=1", 'options.logitBias must be a Map or an object of token ids and numbers, got "5=1"'],
    [{ yes: 1 }, 'a token id in options.logitBias must be an integer, got "yes"'],
    [{ "1.5": 1 }, 'a token id in options.logitBias must be an integer, got "1.5"'],
    [{ "-1": 1 }, 'a token id in options.logitBias must be an integer, got "-1"'],
    [new Map([["5", 1]]), 'a token id in options.logitBias must be an integer, got "5"'],
    [new Map([[1.5, 1]]), "a token id in options.logitBias must be an integer, got 1.5"],
    [{ 5: "1" }, 'options.logitBias[5] must be a number, got "1"'],
  ])("refuses %p with a TypeError", (logitBias, message) => {
    expect(messageOf(TypeError, { logitBias })).toBe(message);
  });

  test.each<[unknown, string]>([
    [{ 100: 1 }, "a token id in options.logitBias must be from 0 to 99, got 100"],
    [new Map([[-1, 1]]), "a token id in options.logitBias must be from 0 to 99, got -1"],
    [{ 5: NaN }, "options.logitBias[5] must be finite or -Infinity as a 32-bit float, got NaN"],
    [
      { 5: Infinity },
      "options.logitBias[5] must be finite or -Infinity as a 32-bit float, got Infinity",
    ],
    [
      { 5: -1e39 },
      "options.logitBias[5] must be finite or -Infinity as a 32-bit float, got -1e+39",
    ],
  ])("refuses %p with a RangeError", (logitBias, message) => {
    expect(messageOf(RangeError, { logitBias })).toBe(message);
  });
});
