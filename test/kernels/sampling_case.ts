import {
  type KernelDevice,
  MAX_TOP_LOGPROBS,
  packSamplingRows,
  SAMPLING_ROW_WORDS,
  type SamplingRow,
} from "../../lib/kernels";
import { compare, guarded, type Random } from "./helpers";

/** What is added to a token's logit. Unlike in `logitBias` a token may stand there more than once. */
export type Bias = readonly [token: number, value: number];

/** Input of the stage `sample`, on the host. */
export interface SamplingCase {
  readonly vocabSize: number;
  /** [rows, vocabSize] */
  readonly logits: Float32Array;
  readonly rows: readonly SamplingRow[];
  /** Of each row; none by default. */
  readonly biases?: readonly (readonly Bias[])[];
  /** [slots, vocabSize]; by default one slot a row, all zeroes. */
  readonly history?: Uint16Array;
  /** Poison beside every row of the logits: default 0 columns. */
  readonly gap?: number;
}

/** Output of the stage. */
export interface Drawn {
  readonly tokens: Int32Array;
  readonly logprobs: Float32Array;
  readonly topTokens: Int32Array;
  readonly topLogprobs: Float32Array;
  /** All of it, to be compared bit by bit. */
  readonly bits: readonly number[];
}

const BIAS_BEGIN_WORD = 12;
const BIAS_END_WORD = 13;

/** Runs the stage, and checks that it writes nothing but its results. */
export function draw(device: KernelDevice, input: SamplingCase): Drawn {
  const { vocabSize, logits, rows, biases = [], gap = 0 } = input;
  const history = input.history ?? new Uint16Array(rows.length * vocabSize);
  const { rows: words, masks } = packSamplingRows(rows, vocabSize);
  const maskWords = Math.ceil(vocabSize / 32);
  let end = 0;
  rows.forEach((_, row) => {
    words[row * SAMPLING_ROW_WORDS + BIAS_BEGIN_WORD] = end;
    end += biases[row]?.length ?? 0;
    words[row * SAMPLING_ROW_WORDS + BIAS_END_WORD] = end;
  });
  const list = biases.flat();
  const results = {
    token: guarded(device, "i32", [rows.length]),
    logprob: guarded(device, "f32", [rows.length]),
    topTokens: guarded(device, "i32", [rows.length, MAX_TOP_LOGPROBS]),
    topLogprobs: guarded(device, "f32", [rows.length, MAX_TOP_LOGPROBS]),
  };
  const inputs = {
    logits: guarded(device, "f32", [rows.length, vocabSize], { data: logits, columns: gap }),
    history: guarded(device, "u16", [history.length / vocabSize, vocabSize], { data: history }),
  };
  const before = inputs.logits.tensor.readBits();
  device.sample({
    logits: inputs.logits.tensor,
    rows: device.tensor("i32", [rows.length, SAMPLING_ROW_WORDS], words),
    ...(list.length > 0 && {
      biasTokens: device.tensor(
        "i32",
        [list.length],
        list.map(([token]) => token),
      ),
      biasValues: device.tensor(
        "f32",
        [list.length],
        list.map(([, value]) => value),
      ),
    }),
    ...(masks.length > 0 && {
      masks: device.tensor("i32", [masks.length / maskWords, maskWords], masks),
    }),
    history: inputs.history.tensor,
    token: results.token.tensor,
    logprob: results.logprob.tensor,
    topTokens: results.topTokens.tensor,
    topLogprobs: results.topLogprobs.tensor,
  });
  for (const { check } of [...Object.values(results), ...Object.values(inputs)]) check();
  compare(inputs.logits.tensor.readBits(), before, { name: "logits afterwards" });
  compare(inputs.history.tensor.read(), history, { name: "history afterwards" });
  return {
    tokens: results.token.tensor.read(),
    logprobs: results.logprob.tensor.read(),
    topTokens: results.topTokens.tensor.read(),
    topLogprobs: results.topLogprobs.tensor.read(),
    bits: Object.values(results).flatMap(({ tensor }) => [...tensor.readBits()]),
  };
}

/** Tokens equal; log-probabilities as close as fp32 sums of exponentials get. */
export function expectSameDraws(actual: Drawn, expected: Drawn): void {
  const budget = { absolute: 1e-5, relative: 1e-6 };
  expect([...actual.tokens]).toEqual([...expected.tokens]);
  expect([...actual.topTokens]).toEqual([...expected.topTokens]);
  compare(actual.logprobs, expected.logprobs, { ...budget, name: "logprob" });
  compare(actual.topLogprobs, expected.topLogprobs, {
    ...budget,
    name: "topLogprobs",
    columns: MAX_TOP_LOGPROBS,
  });
}

/** One row of a case, as a case of its own. */
export function rowAlone(input: SamplingCase, row: number): SamplingCase {
  const { vocabSize, logits, rows, biases } = input;
  return {
    ...input,
    logits: logits.slice(row * vocabSize, (row + 1) * vocabSize),
    rows: [{ stateSlot: row, ...rows[row] }],
    biases: biases === undefined ? [] : [biases[row]!],
  };
}

/** Options of every kind, each of them there or not. */
export function anyRow(numbers: Random, vocabSize: number, slots: number): SamplingRow {
  const one = (low: number, high: number) => numbers.uniform(1, low, high)[0]!;
  const pick = <T>(...choices: readonly T[]) => choices[numbers.integer(0, choices.length)]!;
  const maybe = <T extends object>(options: T): T | undefined => pick(options, undefined);
  return {
    temperature: pick(0, 1, 1, 1e-4, Math.exp(one(-3, 3))),
    ...maybe({
      topK: pick(1, numbers.integer(1, 6), numbers.integer(1, vocabSize + 2), 2 ** 31 - 1),
    }),
    ...maybe({ topP: pick(1e-6, 0.1, 0.5, 0.9, 0.99, 1 - 2 ** -24, one(0.001, 1)) }),
    ...maybe(maybe({ minP: pick(0.05, one(0, 0.999)) }) ?? {}),
    ...maybe({ repetitionPenalty: Math.exp(one(-1, 1)) }),
    ...maybe({ presencePenalty: one(-2, 2) }),
    ...maybe({ frequencyPenalty: one(-1, 1) }),
    ...maybe({ tokenMask: anyMask(numbers, vocabSize) }),
    topLogprobs: pick(0, 0, MAX_TOP_LOGPROBS, numbers.integer(0, MAX_TOP_LOGPROBS + 1)),
    seed: numbers.integer(0, 2 ** 32),
    position: numbers.integer(0, 2 ** 31 - 1),
    stateSlot: numbers.integer(0, slots),
  };
}

/** A mask of these tokens. */
export function maskOf(vocabSize: number, tokens: Iterable<number>): Uint32Array {
  const mask = new Uint32Array(Math.ceil(vocabSize / 32));
  for (const token of tokens) mask[token >> 5]! |= 1 << (token & 31);
  return mask;
}

/** A mask of one token, of a few, of half of them or of all but a few. */
function anyMask(numbers: Random, vocabSize: number): Uint32Array {
  const few = numbers.integer(1, 2 + Math.min(10, vocabSize));
  const some = Array.from({ length: few }, () => numbers.integer(0, vocabSize));
  const kind = numbers.integer(0, 4);
  if (kind === 0) return maskOf(vocabSize, some.slice(0, 1));
  if (kind === 1) return maskOf(vocabSize, some);
  const allowed = (token: number): boolean =>
    kind === 2 ? numbers.integer(0, 2) === 0 : !some.slice(1).includes(token);
  const all = Array.from({ length: vocabSize }, (_, token) => token);
  return maskOf(vocabSize, [some[0]!, ...all.filter(allowed)]);
}

/** Biases that often meet on the same tokens. */
export function anyBiases(numbers: Random, vocabSize: number): readonly Bias[] {
  const count = [0, numbers.integer(0, 10), numbers.integer(0, 301)][numbers.integer(0, 3)]!;
  return Array.from({ length: count }, () => {
    const below = numbers.integer(0, 2) === 0 ? Math.min(vocabSize, 5) : vocabSize;
    const value = numbers.integer(0, 8) === 0 ? -Infinity : numbers.uniform(1, -10, 10)[0]!;
    return [numbers.integer(0, below), value] as const;
  });
}
