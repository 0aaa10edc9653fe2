import type { KernelDevice } from "../../lib/kernels";
import { bigTest, compare, cpu, describeCuda, guarded, random, type Random } from "./helpers";

/** The tokens of one sequence in a step. */
interface CountedSpan {
  readonly tokens: readonly number[];
  /** -1: a padded lane. */
  readonly slot: number;
  readonly generated?: boolean;
  readonly fresh?: boolean;
}

const IN_PROMPT = 0x8000;
const MOST = 0x7fff;

/** The history [slots, vocabSize] after the spans were counted. */
function count(
  device: KernelDevice,
  history: Uint16Array,
  vocabSize: number,
  spans: readonly CountedSpan[],
): Uint16Array {
  const ints = (values: readonly number[]) => device.tensor("i32", [values.length], values);
  let end = 0;
  const tokens = spans.flatMap((span) => span.tokens);
  const shape = [history.length / vocabSize, vocabSize];
  const counted = guarded(device, "u16", shape, { data: history });
  device.countTokens({
    tokenIds: tokens.length > 0 ? ints(tokens) : undefined,
    spanOffsets: ints([0, ...spans.map((span) => (end += span.tokens.length))]),
    stateSlot: ints(spans.map(({ slot }) => slot)),
    isGenerated: ints(spans.map(({ generated = false }) => Number(generated))),
    fresh: ints(spans.map(({ fresh = false }) => Number(fresh))),
    history: counted.tensor,
  });
  counted.check();
  return counted.tensor.read();
}

/** A history in which everything occurs: unseen, seen in a prompt, generated, almost full, full. */
function anyHistory(numbers: Random, slots: number, vocabSize: number): Uint16Array {
  return Uint16Array.from({ length: slots * vocabSize }, () => {
    const prompt = numbers.integer(0, 2) * IN_PROMPT;
    const counts = [0, 0, numbers.integer(0, 100), MOST - numbers.integer(0, 3)];
    return prompt | counts[numbers.integer(0, counts.length)]!;
  });
}

function anySpan(numbers: Random, slot: number, vocabSize: number, most: number): CountedSpan {
  // Often the same few tokens, now and then a meta token.
  const below = numbers.integer(0, 2) === 0 ? Math.min(vocabSize, 3) : vocabSize;
  const tokens = [...numbers.integers(numbers.integer(0, most), 0, below)].map((token) =>
    numbers.integer(0, 10) === 0 ? -1 - token : token,
  );
  const flag = () => numbers.integer(0, 2) === 1;
  return { tokens, slot, generated: flag(), fresh: flag() };
}

describeCuda("count_tokens", (device) => {
  // Around the 8 entries that are zeroed at once; odd ones, which move rows out of line.
  test.each([1, 2, 7, 8, 9, 33, 320, 1001])("is the CPU's, for a vocabulary of %i", (vocabSize) => {
    const numbers = random(vocabSize);
    for (let round = 0; round < 8; round++) {
      const history = anyHistory(numbers, 6, vocabSize);
      const slots = numbers.distinct(4, 6);
      const spans = [...slots].map((slot) => anySpan(numbers, slot, vocabSize, 300));
      const expected = count(cpu(), history, vocabSize, spans);
      compare(count(device, history, vocabSize, spans), expected, { columns: vocabSize });
    }
  });

  test("leaves padded lanes, meta tokens and other slots alone", () => {
    const history = anyHistory(random(1), 3, 33);
    const spans = [
      { tokens: [1, 2], slot: -1, fresh: true },
      { tokens: [-1, -5], slot: 1 },
      { tokens: [3], slot: -1, generated: true },
    ];
    expect(count(device, history, 33, spans)).toEqual(history);
  });

  test("counts a decode step: a generated token a sequence", () => {
    const spans = [0, 1, 2, 3].map((slot) => ({ tokens: [slot], slot, generated: true }));
    const history = new Uint16Array(4 * 5);
    history[1 * 5 + 1] = IN_PROMPT;
    history[2 * 5 + 2] = MOST;
    history[3 * 5 + 3] = IN_PROMPT | MOST;
    const expected = Uint16Array.from(history);
    expected[0] = 1;
    expected[1 * 5 + 1] = IN_PROMPT | 1;
    expect(count(device, history, 5, spans)).toEqual(expected);
  });

  test("counts every repetition within a span, up to the most", () => {
    const history = Uint16Array.of(0, MOST - 500);
    const spans = [{ tokens: Array<number>(2000).fill(0), slot: 0, generated: true }];
    spans[0]!.tokens.push(...Array<number>(700).fill(1));
    expect([...count(device, history, 2, spans)]).toEqual([2000, MOST]);
  });

  test("forgets all of a fresh slot, and nothing of its neighbours", () => {
    const vocabSize = 32_001;
    const numbers = random(2);
    const history = anyHistory(numbers, 3, vocabSize);
    for (const slot of [0, 1, 2]) {
      const spans = [{ tokens: [0, 32_000, 77], slot, fresh: true }];
      const expected = Uint16Array.from(history);
      expected.fill(0, slot * vocabSize, (slot + 1) * vocabSize);
      for (const token of spans[0]!.tokens) expected[slot * vocabSize + token] = IN_PROMPT;
      compare(count(device, history, vocabSize, spans), expected, { columns: vocabSize });
    }
  });

  bigTest("is the CPU's for 128 long spans of a real vocabulary", () => {
    const numbers = random(3);
    const history = anyHistory(numbers, 130, 32_001);
    const slots = numbers.distinct(128, 130);
    const spans = [...slots].map((slot) => anySpan(numbers, slot, 32_001, 3000));
    const expected = count(cpu(), history, 32_001, spans);
    for (const run of [1, 2]) {
      const counted = count(device, history, 32_001, spans);
      compare(counted, expected, { name: `history of run ${run}`, columns: 32_001 });
    }
  });
});
