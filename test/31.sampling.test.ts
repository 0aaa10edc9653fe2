import fc from "fast-check";
import { countDraws, sample, sampleOne, type SampleRow } from "./helpers/sample_kernel";
import {
  argmax,
  chiSquareRatio,
  distribution,
  gumbel,
  logSoftmax,
  type ReferenceOptions,
} from "./helpers/sampling_reference";

const greedy = { temperature: 0 } as const;

/** Logits on a coarse grid, so that equals are frequent; exact in fp32, as are their sums. */
const coarseLogits = fc.array(
  fc.integer({ min: -32, max: 32 }).map((n) => n / 4),
  { minLength: 1, maxLength: 40 },
);
const fineLogits = fc.array(fc.float({ min: -8, max: 8, noNaN: true }).map(Math.fround), {
  minLength: 2,
  maxLength: 60,
});

/** Tokens that can be drawn, found by drawing often. All of them must have a fair chance. */
const drawable = (logits: readonly number[], row: SampleRow): number[] =>
  countDraws(logits, row, 10_000).flatMap((count, token) => (count > 0 ? [token] : []));

describe("greedy", () => {
  test("takes the largest logit, the lowest id among equals", () => {
    fc.assert(
      fc.property(coarseLogits, (logits) => {
        expect(sampleOne(logits, greedy)).toBe(argmax(logits));
      }),
      { seed: 31, numRuns: 500 },
    );
  });

  test("ignores top-k, top-p, min-p, seed and position", () => {
    const filters = { topK: 3, topP: 0.5, minP: 0.3 };
    const rows = Array.from({ length: 50 }, (_, i) => ({
      ...greedy,
      ...filters,
      seed: i,
      position: i,
    }));
    const logits = [0.5, 2, 2, 1.5];
    expect(
      new Set(
        sample(
          rows.map(() => logits),
          rows,
        ).tokens,
      ),
    ).toEqual(new Set([1]));
  });

  test("is what a temperature below 1e-4 means", () => {
    const logits = [1, 1 + 2 ** -20, 1];
    expect(countDraws(logits, { temperature: 9e-5 }, 10_000)).toEqual([0, 10_000, 0]);
    expect(drawable(logits, { temperature: 1.1e-4 })).toEqual([0, 1, 2]);
  });

  test("works at the size of a real vocabulary", () => {
    const logits = new Float32Array(32_001).map((_, i) => Math.sin(i));
    logits[31_999] = 7;
    logits[32_000] = 7;
    expect(sampleOne(logits, greedy)).toBe(31_999);
  });
});

describe("draws", () => {
  const logits = [0.3, 1.7, -0.4, 2.1, 0, 1.6, -1.2, 0.9, 1.1, -2.5].map(Math.fround);

  test.each<[string, ReferenceOptions]>([
    ["no option", {}],
    ["temperature 0.5", { temperature: 0.5 }],
    ["temperature 3", { temperature: 3 }],
    ["top-k", { topK: 4 }],
    ["top-p", { topP: 0.75 }],
    ["min-p", { minP: 0.25 }],
    ["top-k and top-p", { topK: 6, topP: 0.6 }],
    ["all of them", { temperature: 1.5, topK: 8, topP: 0.9, minP: 0.2 }],
  ])("follow the distribution: %s", (_, options) => {
    const counts = countDraws(logits, options, 200_000);
    expect(chiSquareRatio(counts, distribution(logits, options))).toBeLessThan(1);
  });

  test("follow the distribution over a million positions, and over a million seeds", () => {
    const million = 1_000_000;
    const probabilities = distribution(logits, {});
    expect(chiSquareRatio(countDraws(logits, {}, million), probabilities)).toBeLessThan(1);
    const counts = countDraws(logits, {}, million, "seed");
    expect(chiSquareRatio(counts, probabilities)).toBeLessThan(1);
  });

  test("follow the distribution after bias and penalties", () => {
    const row: SampleRow = {
      repetitionPenalty: 1.5,
      presencePenalty: 0.25,
      frequencyPenalty: 0.5,
      logitBias: { 1: -1, 4: 2 },
      historyTokens: { prompt: [3, 6], generated: [5, 6, 6, 4] },
      topK: 9,
    };
    const adjusted = [...logits];
    adjusted[1]! -= 1;
    adjusted[3]! /= 1.5;
    adjusted[4] = 2 / 1.5 - 0.25 - 0.5;
    adjusted[5] = adjusted[5]! / 1.5 - 0.25 - 0.5;
    adjusted[6] = adjusted[6]! * 1.5 - 0.25 - 2 * 0.5;
    const counts = countDraws(logits, row, 200_000);
    expect(chiSquareRatio(counts, distribution(adjusted, { topK: 9 }))).toBeLessThan(1);
  });

  test("reach rare tokens as often as they should", () => {
    // Expected 100, give or take 4 standard deviations.
    const counts = countDraws([0, Math.log(1e-4)], {}, 1_000_000);
    expect(Math.abs(counts[1]! - 100)).toBeLessThan(40);
  });

  test("are the argmax of logit / temperature + noise, for every seed, position and token", () => {
    const seed = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
    const position = fc.nat({ max: 2 ** 31 - 1 });
    const temperature = fc.constantFrom(0.5, 1, 2);
    fc.assert(
      fc.property(fineLogits, seed, position, temperature, (row, seed, position, temperature) => {
        const scores = row.map(
          (logit, token) => logit / temperature + gumbel(seed, position, token),
        );
        const [best, second = -Infinity] = [...scores].sort((a, b) => b - a);
        fc.pre(best! - second > 1e-4);
        expect(sampleOne(row, { seed, position, temperature })).toBe(argmax(scores));
      }),
      { seed: 32, numRuns: 2000 },
    );
  });
});

describe("top-k", () => {
  test("keeps exactly k tokens: of equals at the border those with the lowest ids", () => {
    expect(drawable([1, 2, 1, 1, 1], { topK: 3 })).toEqual([0, 1, 2]);
    expect(drawable([0, 0, 0, 0], { topK: 1 })).toEqual([0]);
    expect(drawable([0, 0, 1, 1], { topK: 1 })).toEqual([2]);
  });

  test("of the vocabulary's size or more changes nothing", () => {
    for (const topK of [0, 4, 5, 2 ** 31 - 1]) {
      expect(drawable([0, 1, 0, 1], { topK })).toEqual([0, 1, 2, 3]);
    }
  });
});

describe("top-p", () => {
  test("keeps the fewest tokens that reach the mass: of equals the lowest ids", () => {
    const equal = [0, 0, 0, 0];
    expect(drawable(equal, { topP: 0.25 })).toEqual([0]);
    expect(drawable(equal, { topP: 0.26 })).toEqual([0, 1]);
    expect(drawable(equal, { topP: 0.5 })).toEqual([0, 1]);
    expect(drawable(equal, { topP: 0.51 })).toEqual([0, 1, 2]);
    expect(drawable(equal, { topP: 0.76 })).toEqual([0, 1, 2, 3]);
  });

  test("keeps at least one token", () => {
    expect(drawable([0, 0.5, 0], { topP: 1e-6 })).toEqual([1]);
  });

  test("is a share of what top-k left, at the temperature", () => {
    const logits = [0.4, 0.3, 0.2, 0.1].map(Math.log);
    expect(drawable(logits, { topP: 0.5 })).toEqual([0, 1]);
    expect(drawable(logits, { topP: 0.5, topK: 2 })).toEqual([0]);
    expect(drawable(logits, { topP: 0.6, topK: 3 })).toEqual([0, 1]);
    expect(drawable(logits, { topP: 0.5, temperature: 100 })).toEqual([0, 1]);
    expect(drawable(logits, { topP: 0.3, temperature: 100 })).toEqual([0, 1]);
    expect(drawable(logits, { topP: 0.3 })).toEqual([0]);
  });

  test("is exact over a real vocabulary, flat or peaked", () => {
    for (const scale of [0.1, 3]) {
      const logits = Array.from({ length: 32_001 }, (_, token) =>
        Math.fround(scale * gumbel(1n, 0, token)),
      );
      const row = { topK: 300, topP: 0.9 };
      const kept = distribution(logits, row).flatMap((p, token) => (p > 0 ? [token] : []));
      const rows = Array.from({ length: 200 }, (_, position) => ({ ...row, position }));
      const expected = rows.map(({ position }) => {
        const scores = kept.map((token) => logits[token]! + gumbel(0n, position, token));
        return kept[argmax(scores)]!;
      });
      const tokens = sample(
        rows.map(() => logits),
        rows,
      ).tokens;
      expect([...tokens]).toEqual(expected);
    }
  });
});

describe("min-p", () => {
  test("keeps tokens at least that share as probable as the likeliest one", () => {
    const logits = [8, 4, 2, 1].map(Math.log2).map((power) => power * Math.LN2);
    expect(drawable(logits, { minP: 0.51 })).toEqual([0]);
    expect(drawable(logits, { minP: 0.49 })).toEqual([0, 1]);
    expect(drawable(logits, { minP: 0.24 })).toEqual([0, 1, 2]);
    expect(drawable(logits, { minP: 0.1 })).toEqual([0, 1, 2, 3]);
    expect(drawable(logits, { minP: 0.49, temperature: 3 })).toEqual([0, 1, 2, 3]);
    expect(drawable(logits, { minP: 0.1, topK: 2 })).toEqual([0, 1]);
  });

  test("keeps all tokens that are equal to the likeliest one", () => {
    expect(drawable([1, 1, 0.9, 1], { minP: 0.99 })).toEqual([0, 1, 3]);
  });
});

describe("bias and penalties", () => {
  /** The logit of token 0 after bias and penalties: it must win against less, and lose against more. */
  function expectAdjusted(logit: number, row: SampleRow, expected: number): void {
    const tokens = sample(
      [
        [logit, expected - 1e-4],
        [logit, expected + 1e-4],
      ],
      [row, row].map((each) => ({ ...each, ...greedy })),
    ).tokens;
    expect([...tokens]).toEqual([0, 1]);
  }
  const prompt = { historyTokens: { prompt: [0] } };
  const once = { historyTokens: { generated: [0] } };
  const thrice = { historyTokens: { prompt: [0], generated: [0, 0, 0] } };

  test.each<[string, number, SampleRow, number]>([
    ["a bias is added", 3, { logitBias: { 0: -1.5 } }, 1.5],
    ["a bias acts on no other token: here on the rival", 3, { logitBias: { 1: 1 } }, 2],
    ["repetition divides a positive logit", 3, { repetitionPenalty: 1.5, ...prompt }, 2],
    ["repetition multiplies a negative one", -3, { repetitionPenalty: 1.5, ...prompt }, -4.5],
    ["repetition counts generated tokens", 3, { repetitionPenalty: 1.5, ...once }, 2],
    ["repetition acts once", 3, { repetitionPenalty: 1.5, ...thrice }, 2],
    ["repetition needs a repetition", 3, { repetitionPenalty: 1.5 }, 3],
    ["repetition below 1 invites", 3, { repetitionPenalty: 0.5, ...prompt }, 6],
    ["presence leaves the prompt alone", 3, { presencePenalty: 0.5, ...prompt }, 3],
    ["presence acts once", 3, { presencePenalty: 0.5, ...thrice }, 2.5],
    ["frequency leaves the prompt alone", 3, { frequencyPenalty: 0.5, ...prompt }, 3],
    ["frequency acts every time", 3, { frequencyPenalty: 0.5, ...thrice }, 1.5],
    ["negative penalties invite", 3, { presencePenalty: -1, frequencyPenalty: -2, ...once }, 6],
    [
      "all in order: bias, repetition, presence and frequency",
      3,
      {
        logitBias: { 0: 1 },
        repetitionPenalty: 2,
        presencePenalty: 0.25,
        frequencyPenalty: 0.5,
        ...thrice,
      },
      (3 + 1) / 2 - 0.25 - 3 * 0.5,
    ],
    [
      "repetition sees the sign after the bias",
      3,
      { logitBias: { 0: -5 }, repetitionPenalty: 2, ...prompt },
      -4,
    ],
  ])("%s", (_, logit, row, expected) => expectAdjusted(logit, row, expected));

  test("a count stops at 32,767", () => {
    const generated = Array<number>(40_000).fill(0);
    expectAdjusted(
      1,
      { frequencyPenalty: 2 ** -10, historyTokens: { generated } },
      1 - 32_767 / 1024,
    );
  });

  test("meta tokens are not counted", () => {
    const history = { prompt: [-1, -2], generated: [-1] };
    expectAdjusted(3, { repetitionPenalty: 2, presencePenalty: 1, historyTokens: history }, 3);
  });

  test("a bias of -Infinity forbids a token, and the others share its probability", () => {
    const logits = [0, 5, 1];
    const counts = countDraws(logits, { logitBias: { 1: -Infinity } }, 100_000);
    expect(chiSquareRatio(counts, distribution([0, -Infinity, 1], {}))).toBeLessThan(1);
  });

  test("temperature divides what bias and penalties left", () => {
    const row = { logitBias: new Map([[0, 1]]), presencePenalty: 0.5, temperature: 2, ...once };
    const counts = countDraws([0, 1, -1], row, 100_000);
    const adjusted = distribution([0.5, 1, -1], { temperature: 2 });
    expect(chiSquareRatio(counts, adjusted)).toBeLessThan(1);
  });
});

describe("log-probabilities", () => {
  test("are those of the raw logits, whatever the options", () => {
    const row: SampleRow = {
      temperature: 0.7,
      topK: 5,
      topP: 0.9,
      repetitionPenalty: 2,
      logitBias: { 0: 3 },
      historyTokens: { prompt: [0, 1] },
      topLogprobs: 20,
    };
    fc.assert(
      fc.property(fineLogits, fc.nat(), (logits, position) => {
        const result = sample([logits], [{ ...row, position }]);
        const expected = logSoftmax(logits);
        const ranked = logits.map((_, id) => id).sort((a, b) => logits[b]! - logits[a]! || a - b);
        expect(result.logprobs[0]).toBeCloseTo(expected[result.tokens[0]!]!, 5);
        const listed = ranked.slice(0, 20);
        const rest = 20 - listed.length;
        expect([...result.topTokens]).toEqual([...listed, ...Array<number>(rest).fill(-1)]);
        listed.forEach((token, i) =>
          expect(result.topLogprobs[i]).toBeCloseTo(expected[token]!, 5),
        );
        for (let i = listed.length; i < 20; i++) expect(result.topLogprobs[i]).toBe(-Infinity);
      }),
      { seed: 33, numRuns: 500 },
    );
  });

  test("of the top come as many as were asked for, the lowest ids of equals first", () => {
    const { topTokens, topLogprobs } = sample([[1, 2, 1, 2, 1]], [{ topLogprobs: 4 }]);
    expect([...topTokens.subarray(0, 5)]).toEqual([1, 3, 0, 2, -1]);
    expect([...topTokens.subarray(5)].every((token) => token === -1)).toBe(true);
    expect(topLogprobs[0]).toBe(topLogprobs[1]);
    expect([...topLogprobs.subarray(4)].every((logprob) => logprob === -Infinity)).toBe(true);
  });

  test("are precise over a real vocabulary", () => {
    const logits = Array.from({ length: 32_001 }, (_, i) => Math.fround(2 * gumbel(2n, 0, i)));
    const expected = logSoftmax(logits);
    const { tokens, logprobs } = sample([logits], [{}]);
    expect(Math.abs(logprobs[0]! - expected[tokens[0]!]!)).toBeLessThan(2e-6);
  });
});

describe("the same seed", () => {
  const logits = Array.from({ length: 1000 }, (_, i) => Math.fround(Math.sin(i * i)));

  test("draws the same tokens, in this version and every later one", () => {
    const rows = Array.from({ length: 8 }, (_, position) => ({ seed: 42, position }));
    const { tokens } = sample(
      rows.map(() => logits),
      rows,
    );
    expect([...tokens]).toEqual([384, 281, 78, 361, 831, 104, 901, 974]);
  });

  test("draws the same token whatever shares the batch, and in whatever order", () => {
    const rows: SampleRow[] = Array.from({ length: 40 }, (_, i) => ({
      seed: BigInt(i) * 10n ** 17n,
      position: i * 1000,
      ...(i % 2 && { topP: 0.9 }),
      ...(i % 3 && { topK: 50 }),
      ...(i % 5 && { repetitionPenalty: 1.3, historyTokens: { prompt: [i, i + 1] } }),
      ...(i % 7 && { logitBias: { [i]: 2 } }),
    }));
    const alone = rows.map((row) => sampleOne(logits, row));
    const together = sample(
      rows.map(() => logits),
      rows,
    ).tokens;
    const reversed = sample(
      rows.map(() => logits),
      [...rows].reverse(),
    ).tokens;
    expect([...together]).toEqual(alone);
    expect([...reversed].reverse()).toEqual(alone);
  });

  test("says nothing about other seeds and positions", () => {
    // Of pairs of draws from 1,000 equal tokens one in a thousand agrees by chance.
    const flat = logits.map(() => 0);
    const draw = (seed: number, position: number) => ({ seed, position });
    const series = [0, 1, 2, 1000].map((seed) => {
      const rows = Array.from({ length: 1000 }, (_, position) => draw(seed, position));
      return sample(
        rows.map(() => flat),
        rows,
      ).tokens;
    });
    const [first, ...others] = series;
    for (const other of others) {
      expect(other.filter((token, i) => token === first![i]).length).toBeLessThan(10);
      expect(other.filter((token, i) => token === first![i + 1]).length).toBeLessThan(10);
    }
    expect(first!.filter((token, i) => token === first![i + 1]).length).toBeLessThan(10);
  });
});

describe("logits that are no numbers", () => {
  test("NaN counts as -Infinity", () => {
    expect(sampleOne([NaN, 1, NaN, 2], greedy)).toBe(3);
    expect(drawable([NaN, 1, 1, NaN], {})).toEqual([1, 2]);
    const { topTokens, logprobs } = sample([[NaN, 1, 1, NaN]], [{ topLogprobs: 4 }]);
    expect([...topTokens.subarray(0, 4)]).toEqual([1, 2, -1, -1]);
    expect(logprobs[0]).toBeCloseTo(Math.log(0.5), 6);
  });

  test("an infinite one wins", () => {
    expect(sampleOne([1, Infinity, 2], greedy)).toBe(1);
    expect(drawable([1, Infinity, 2], { topP: 0.9, minP: 0.1 })).toEqual([1]);
  });

  test("when none can be drawn it is token 0, with no probability", () => {
    const nothing = [NaN, -Infinity, NaN];
    for (const row of [greedy, {}, { topK: 2 }, { topP: 0.5 }, { minP: 0.5 }]) {
      const { tokens, logprobs } = sample([nothing], [row]);
      expect([tokens[0], logprobs[0]]).toEqual([0, -Infinity]);
    }
    expect(sampleOne([1, 2], { logitBias: { 0: -Infinity, 1: -Infinity } })).toBe(0);
  });
});

describe("kernels.sample", () => {
  test("refuses logits that do not fit its rows", () => {
    expect(() => sample([[1, 2]], [{}, {}])).toThrow(
      expect.objectContaining({ code: "ERR_INVALID_ARGUMENT" }) as Error,
    );
  });
});
