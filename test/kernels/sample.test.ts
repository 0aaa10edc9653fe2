import { HymbaError, type SamplingRow } from "../../lib/kernels";
import { chiSquareRatio, distribution } from "../helpers/sampling_reference";
import { bigTest, cpu, describeCuda, random } from "./helpers";
import { logitRow, logitRows, type LogitStyle } from "./logits";
import {
  anyBiases,
  anyRow,
  draw,
  expectSameDraws,
  maskOf,
  rowAlone,
  type SamplingCase,
} from "./sampling_case";

const IN_PROMPT = 0x8000;

/** Everything at random. */
function anyCase(seed: number, vocabSize: number, rows: number): SamplingCase {
  const numbers = random(seed);
  const slots = 3;
  const history = Uint16Array.from({ length: slots * vocabSize }, () => {
    const generated = [0, 0, numbers.integer(0, 3), numbers.integer(0, 0x8000)];
    return numbers.integer(0, 2) * IN_PROMPT + generated[numbers.integer(0, generated.length)]!;
  });
  return {
    vocabSize,
    logits: logitRows(numbers, rows, vocabSize),
    rows: Array.from({ length: rows }, () => anyRow(numbers, vocabSize, slots)),
    biases: Array.from({ length: rows }, () => anyBiases(numbers, vocabSize)),
    history,
    gap: numbers.integer(0, 3),
  };
}

/** One row of logits for all options. */
function sameLogits(
  logits: Float32Array,
  rows: readonly SamplingRow[],
  rest: Partial<SamplingCase> = {},
): SamplingCase {
  const vocabSize = logits.length;
  const repeated = new Float32Array(rows.length * vocabSize);
  rows.forEach((_, row) => repeated.set(logits, row * vocabSize));
  return { vocabSize, logits: repeated, rows, ...rest };
}

describeCuda("sample", (device) => {
  const expectAsCpu = (input: SamplingCase) => {
    expectSameDraws(draw(device, input), draw(cpu(), input));
  };

  // Around a segment of 2,048 tokens.
  test.each([1, 2, 3, 33, 320, 1000, 2047, 2048, 2049, 5000])(
    "draws the CPU's tokens, whatever the logits and the options: %i tokens",
    (vocabSize) => {
      for (let seed = 0; seed < 5; seed++)
        expectAsCpu(anyCase(1000 * vocabSize + seed, vocabSize, 5));
    },
  );

  test("draws the CPU's tokens from a real vocabulary", () => {
    expectAsCpu(anyCase(1, 32_001, 4));
  });

  test("draws the CPU's tokens from the largest vocabulary, and refuses a larger one", () => {
    const most = 2 ** 18;
    const rows = [{ topP: 0.9, topK: 10_000, topLogprobs: 20 }];
    expectAsCpu(sameLogits(logitRow(random(2), "normal", most), rows));
    let error: unknown;
    try {
      draw(device, sameLogits(new Float32Array(most + 1), rows));
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(HymbaError);
    expect(error).toMatchObject({ code: "ERR_MODEL_UNSUPPORTED" });
    expect((error as HymbaError).message).toContain("262145");
  });

  // A list of candidates holds 4,096, and a block has 1,024 threads.
  test.each<[LogitStyle, readonly number[]]>([
    ["peaked", [1, 50, 1024, 1025, 4096, 4097, 4999, 5000, 2 ** 31 - 1]],
    ["coarse", [1, 40, 1024, 1025, 4200]],
    ["close", [1, 40, 3000]],
    ["zeroes", [1, 1024, 4999]],
    ["special", [3, 2000, 4900]],
  ])("keeps exactly the first k: %s", (style, ks) => {
    const logits = logitRow(random(3), style, 5000);
    // A high temperature makes all that are kept likely.
    const rows = ks.flatMap((topK) =>
      [0, 1].map((position) => ({ topK, temperature: 1000, position })),
    );
    expectAsCpu(sameLogits(logits, rows));
  });

  test.each<LogitStyle>(["peaked", "normal", "coarse", "close", "zeroes", "huge"])(
    "keeps exactly the mass of top-p: %s",
    (style) => {
      const logits = logitRow(random(4), style, 5000);
      const shares = [1e-6, 0.5, 0.9, 1 - 2 ** -24];
      const rows = shares.flatMap((topP, position) => [
        { topP, position },
        { topP, position, topK: 60 },
        { topP, position, temperature: 5, minP: 0.01 },
      ]);
      expectAsCpu(sameLogits(logits, rows));
    },
  );

  test("draws only from what the filters keep, and from all of it", () => {
    const logits = Float32Array.of(1, 3, 1, 2, 1, 1, 3, -Infinity);
    const drawable = (row: SamplingRow) => {
      const rows = Array.from({ length: 40 }, (_, position) => ({ ...row, position }));
      return [...new Set(draw(device, sameLogits(logits, rows)).tokens)].sort((a, b) => a - b);
    };
    const temperature = 1e4;
    expect(drawable({ temperature, topK: 1 })).toEqual([1]);
    expect(drawable({ temperature, topK: 4 })).toEqual([0, 1, 3, 6]);
    expect(drawable({ temperature, topK: 5 })).toEqual([0, 1, 2, 3, 6]);
    expect(drawable({ temperature, topP: 0.3 })).toEqual([1, 3, 6]);
    expect(drawable({ temperature: 10, minP: 0.89 })).toEqual([1, 3, 6]);
  });

  test("adds the biases of a token in their order", () => {
    // (1 + 1e8) - 1e8 is 0, 1 + (1e8 - 1e8) is 1: the rival at 0.5 wins only against the former.
    const rows = [{ temperature: 0 }, { temperature: 0 }, { temperature: 0 }];
    const biases: SamplingCase["biases"] = [
      [
        [0, 1e8],
        [0, -1e8],
      ],
      [
        [0, 1e8],
        [1, 0],
        [0, -1e8],
      ],
      [
        [0, -1],
        [0, 0.75],
      ],
    ];
    const input = sameLogits(Float32Array.of(1, 0.5), rows, { biases });
    expect([...draw(device, input).tokens]).toEqual([1, 1, 0]);
    expectAsCpu(input);
  });

  test("forbids tokens with a bias of -Infinity, whatever their logit", () => {
    const logits = Float32Array.of(5, Infinity, NaN, 1);
    const forbidden = (...tokens: number[]) => tokens.map((token) => [token, -Infinity] as const);
    const options: SamplingRow[] = [{ temperature: 0 }, {}, { topK: 2 }, { topP: 0.5 }];
    for (const [tokens, expected] of [
      [[1], 0],
      [[0, 1], 3],
      [[0, 1, 3], 0],
    ] as const) {
      const biases = options.map(() => forbidden(...tokens));
      const greedyOnly = sameLogits(logits, options, { biases });
      if (tokens.length > 1)
        expect([...draw(device, greedyOnly).tokens]).toEqual(options.map(() => expected));
      expectAsCpu(greedyOnly);
    }
  });

  test("draws only what the mask allows, whatever the other options", () => {
    const vocabSize = 4100;
    const logits = logitRow(random(7), "normal", vocabSize);
    const history = new Uint16Array(vocabSize).fill(3);
    const options: SamplingRow[] = [
      { temperature: 0 },
      {},
      { temperature: 50 },
      { topK: 3 },
      { topP: 0.3, temperature: 9 },
      { minP: 0.2, temperature: 4 },
      { topK: 50, topP: 0.9, minP: 0.01 },
      { repetitionPenalty: 1.5, presencePenalty: 3, frequencyPenalty: 1, stateSlot: 0 },
    ];
    // One token, at the ends of words, of segments and of the vocabulary; then many.
    const sets = [[0], [31], [32], [2047], [2048], [4099], [5, 2049, 4000]];
    sets.push(Array.from({ length: vocabSize }, (_, token) => token).filter((t) => t % 3 === 1));
    for (const tokens of sets) {
      const tokenMask = maskOf(vocabSize, tokens);
      const rows = options.flatMap((row) =>
        [0, 1, 2].map((position) => ({ stateSlot: 0, ...row, position, tokenMask })),
      );
      const input = sameLogits(logits, rows, { history });
      for (const token of draw(device, input).tokens) expect(tokens).toContain(token);
      expectAsCpu(input);
    }
  });

  test("a mask works as a bias of -Infinity for all that it leaves out", () => {
    const vocabSize = 200;
    const numbers = random(8);
    const logits = logitRow(numbers, "coarse", vocabSize);
    const allowed = Array.from({ length: 60 }, () => numbers.integer(0, vocabSize));
    const options: SamplingRow[] = [{ temperature: 0 }, {}, { topK: 7 }, { topP: 0.8 }];
    const rows = options.flatMap((row) => [1, 2, 3].map((position) => ({ ...row, position })));
    const forbidden = Array.from({ length: vocabSize }, (_, token) => token)
      .filter((token) => !allowed.includes(token))
      .map((token) => [token, -Infinity] as const);
    const masked = rows.map((row) => ({ ...row, tokenMask: maskOf(vocabSize, allowed) }));
    expect(draw(device, sameLogits(logits, masked)).bits).toEqual(
      draw(device, sameLogits(logits, rows, { biases: rows.map(() => forbidden) })).bits,
    );
  });

  test("log-probabilities are those of all tokens, also of those that the mask leaves out", () => {
    const logits = Float32Array.of(3, 2, 1, 0);
    const tokenMask = maskOf(4, [2]);
    const options: SamplingRow = { temperature: 0, topLogprobs: 2 };
    const { tokens, logprobs, topTokens, topLogprobs } = draw(
      device,
      sameLogits(logits, [{ ...options, tokenMask }, options]),
    );
    expect([...tokens]).toEqual([2, 0]);
    expect([...topTokens.subarray(0, 2)]).toEqual([0, 1]);
    expect(logprobs[0]).toBeCloseTo(topLogprobs[0]! - 2, 5);
    expect([...topLogprobs.subarray(0, 20)]).toEqual([...topLogprobs.subarray(20)]);
  });

  test("a temperature that makes all logits of a mask infinite draws no other token", () => {
    const logits = Float32Array.of(0, -2e38, -3e38, 1);
    const rows = [0, 0.25].map((temperature) => ({ temperature, tokenMask: maskOf(4, [1, 2]) }));
    for (const on of [device, cpu()])
      expect([...draw(on, sameLogits(logits, rows)).tokens]).toEqual([1, 1]);
  });

  test("the first token of a mask is drawn when all that it allows have no probability", () => {
    const logits = Float32Array.of(1, -Infinity, NaN, -Infinity, 2);
    const tokenMask = maskOf(5, [2, 3]);
    const options: SamplingRow[] = [{ temperature: 0 }, {}, { topK: 1 }, { topP: 0.5 }];
    const rows = options.map((row) => ({ ...row, tokenMask }));
    const input = sameLogits(logits, rows);
    expect([...draw(device, input).tokens]).toEqual([2, 2, 2, 2]);
    expectAsCpu(input);
  });

  test("lists the most probable tokens in order, the lowest ids of equals first", () => {
    const numbers = random(5);
    for (const style of ["coarse", "zeroes", "special", "sparse", "huge", "nothing"] as const) {
      for (const vocabSize of [5, 20, 4500]) {
        const rows = [20, 1, 7].map((topLogprobs) => ({ temperature: 0, topLogprobs }));
        expectAsCpu(sameLogits(logitRow(numbers, style, vocabSize), rows));
      }
    }
  });

  test("reads the history of a row's own slot, and none without penalties", () => {
    const history = Uint16Array.of(0, 0, 0, IN_PROMPT | 2, 0, 0);
    const rows: SamplingRow[] = [
      { temperature: 0, presencePenalty: 1, stateSlot: 0 },
      { temperature: 0, presencePenalty: 1, stateSlot: 1 },
      { temperature: 0, stateSlot: 1 },
      { temperature: 0, stateSlot: 2 ** 31 - 1 },
    ];
    const { tokens } = draw(device, sameLogits(Float32Array.of(2, 1.5, 0), rows, { history }));
    expect([...tokens]).toEqual([0, 1, 0, 0]);
  });

  test("gives the same bits in every run, alone or among other rows", () => {
    const input = anyCase(6, 2500, 7);
    const { bits } = draw(device, input);
    expect(draw(device, input).bits).toEqual(bits);
    const together = draw(device, input);
    input.rows.forEach((_, row) => {
      const alone = draw(device, rowAlone(input, row));
      expect(alone.tokens[0]).toBe(together.tokens[row]);
      expect(alone.logprobs[0]).toBe(together.logprobs[row]);
      expect(alone.topTokens).toEqual(together.topTokens.subarray(row * 20, (row + 1) * 20));
      expect(alone.topLogprobs).toEqual(together.topLogprobs.subarray(row * 20, (row + 1) * 20));
    });
  });

  describe("follows the distribution", () => {
    const logits = [0.3, 1.7, -0.4, 2.1, 0, 1.6, -1.2, 0.9, 1.1, -2.5].map(Math.fround);
    const options: readonly SamplingRow[] = [
      {},
      { temperature: 3 },
      { topK: 4 },
      { topP: 0.75 },
      { minP: 0.25 },
      { temperature: 1.5, topK: 8, topP: 0.9, minP: 0.1 },
    ];
    const expectDistribution = (row: SamplingRow, draws: number) => {
      const rows = Array.from({ length: draws }, (_, position) => ({ ...row, position }));
      const counts = logits.map(() => 0);
      const history = new Uint16Array(draws * logits.length);
      for (const token of draw(device, sameLogits(Float32Array.from(logits), rows, { history }))
        .tokens)
        counts[token]!++;
      expect(chiSquareRatio(counts, distribution(logits, row))).toBeLessThan(1);
    };
    test.each(options)("%j", (row) => expectDistribution(row, 300));
    for (const row of options) {
      bigTest(`${JSON.stringify(row)}, drawn often`, () => expectDistribution(row, 60_000));
    }
  });

  bigTest(
    "draws the CPU's tokens in a thousand batches",
    () => {
      for (let seed = 0; seed < 1000; seed++) {
        const vocabSize = [1, 33, 1000, 2049, 32_001][seed % 5]!;
        expectAsCpu(anyCase(seed, vocabSize, vocabSize > 10_000 ? 4 : 16));
      }
    },
    600_000,
  );
});
