import {
  KernelDevice,
  MAX_TOP_LOGPROBS,
  packSamplingRows,
  type SamplingRow,
  type Tensor,
} from "../../lib/kernels";

/** One row: how its token is drawn. */
export interface SampleRow extends Omit<SamplingRow, "stateSlot"> {
  /** What the sequence has seen. Ids below 0 are meta tokens. */
  readonly historyTokens?: { readonly prompt?: number[]; readonly generated?: number[] };
}

/** What came out, row by row. */
export interface Sampled {
  readonly tokens: Int32Array;
  readonly logprobs: Float32Array;
  /** [rows · 20], most probable first; -1 where there is none. */
  readonly topTokens: Int32Array;
  readonly topLogprobs: Float32Array;
}

/** One more than is needed to notice when rows are not independent. */
const THREADS = 2;

/** Draws a token from each row of logits. The seed is 0 unless a row has one. */
export function sample(logits: readonly ArrayLike<number>[], rows: readonly SampleRow[]): Sampled {
  const vocabSize = logits[0]!.length;
  using device = KernelDevice.open("cpu", { threads: THREADS });
  const count = rows.length;
  // Not zeroes: that a fresh slot forgets what it held is up to countTokens.
  const history = device.tensor("u16", [count, vocabSize]);
  history.fill(0xffff);
  for (const kind of ["prompt", "generated"] as const) {
    const spans = rows.map(({ historyTokens }) => historyTokens?.[kind] ?? []);
    countSpans(device, history, spans, kind === "generated");
  }
  const options = rows.map(({ historyTokens: _, ...row }) => row);
  const packed = packSamplingRows(options, vocabSize);
  const biases = packed.biasTokens.length;
  const token = device.tensor("i32", [count]);
  const logprob = device.tensor("f32", [count]);
  const topTokens = device.tensor("i32", [count, MAX_TOP_LOGPROBS]);
  const topLogprobs = device.tensor("f32", [count, MAX_TOP_LOGPROBS]);
  device.sample({
    logits: device.tensor(
      "f32",
      [logits.length, vocabSize],
      Float32Array.from(logits.flatMap((row) => Array.from(row))),
    ),
    rows: device.tensor("i32", [count, packed.rows.length / count], packed.rows),
    biasTokens: biases > 0 ? device.tensor("i32", [biases], packed.biasTokens) : undefined,
    biasValues: biases > 0 ? device.tensor("f32", [biases], packed.biasValues) : undefined,
    history,
    token,
    logprob,
    topTokens,
    topLogprobs,
  });
  return {
    tokens: token.read(),
    logprobs: logprob.read(),
    topTokens: topTokens.read(),
    topLogprobs: topLogprobs.read(),
  };
}

/** The token drawn from one row. */
export function sampleOne(logits: ArrayLike<number>, row: SampleRow): number {
  return sample([logits], [row]).tokens[0]!;
}

/** How often each token was drawn from the same logits, at positions or with seeds from 0 on. */
export function countDraws(
  logits: readonly number[],
  row: SampleRow,
  draws: number,
  vary: "position" | "seed" = "position",
): number[] {
  const batch = 10_000;
  const counts = logits.map(() => 0);
  const repeated = Array.from({ length: batch }, () => logits);
  for (let first = 0; first < draws; first += batch) {
    const rows = repeated.map((_, i) => ({ ...row, [vary]: first + i }));
    for (const token of sample(repeated, rows).tokens) counts[token]!++;
  }
  return counts;
}

/** Span s is counted in slot s. */
function countSpans(
  device: KernelDevice,
  history: Tensor<"u16">,
  spans: readonly (readonly number[])[],
  areGenerated: boolean,
): void {
  const ints = (values: readonly number[]) => device.tensor("i32", [values.length], values);
  const offsets = [0];
  for (const span of spans) offsets.push(offsets.at(-1)! + span.length);
  const tokens = spans.flat();
  device.countTokens({
    tokenIds: tokens.length > 0 ? ints(tokens) : undefined,
    spanOffsets: ints(offsets),
    stateSlot: ints(spans.map((_, slot) => slot)),
    isGenerated: ints(spans.map(() => Number(areGenerated))),
    fresh: ints(spans.map(() => Number(!areGenerated))),
    history,
  });
}
