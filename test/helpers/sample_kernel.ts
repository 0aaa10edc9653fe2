import {
  KernelDevice,
  MAX_TOP_LOGPROBS,
  type PackedSamplingRows,
  packSamplingRows,
  SAMPLING_ROW_WORDS,
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

type History = NonNullable<SampleRow["historyTokens"]>;

/** Draws a token from each row of logits. The seed is 0 unless a row has one. */
export function sample(logits: readonly ArrayLike<number>[], rows: readonly SampleRow[]): Sampled {
  const vocabSize = logits[0]!.length;
  const flat = Float32Array.from(logits.flatMap((row) => Array.from(row)));
  const options = rows.map(({ historyTokens: _, ...row }) => row);
  const histories = rows.map(({ historyTokens = {} }) => historyTokens);
  return run(flat, vocabSize, packSamplingRows(options, vocabSize), histories);
}

/** The token drawn from one row. */
export function sampleOne(logits: ArrayLike<number>, row: SampleRow): number {
  return sample([logits], [row]).tokens[0]!;
}

/** How often each token was drawn from the same logits, at positions or with seeds from 0 on. */
export function countDraws(
  logits: readonly number[],
  { historyTokens = {}, ...options }: SampleRow,
  draws: number,
  vary: "position" | "seed" = "position",
): number[] {
  const batch = 10_000;
  const vocabSize = logits.length;
  const counts = logits.map(() => 0);
  const repeated = new Float32Array(batch * vocabSize).map((_, i) => logits[i % vocabSize]!);
  const histories = Array.from({ length: batch }, () => historyTokens);
  // Packed once and repeated, with the two words of each row that differ.
  const { rows: row, ...biases } = packSamplingRows([options], vocabSize);
  const rows = new Int32Array(batch * SAMPLING_ROW_WORDS);
  const varied = vary === "seed" ? SEED_WORD : POSITION_WORD;
  for (let first = 0; first < draws; first += batch) {
    for (let i = 0; i < batch; i++) {
      rows.set(row, i * SAMPLING_ROW_WORDS);
      rows[i * SAMPLING_ROW_WORDS + varied] = first + i;
      rows[i * SAMPLING_ROW_WORDS + STATE_SLOT_WORD] = i;
    }
    for (const token of run(repeated, vocabSize, { rows, ...biases }, histories).tokens) {
      counts[token]!++;
    }
  }
  return counts;
}

// Places in a packed row, of which the seed has two.
const SEED_WORD = 8;
const POSITION_WORD = 10;
const STATE_SLOT_WORD = 11;

function run(
  logits: Float32Array,
  vocabSize: number,
  { rows, biasTokens, biasValues, masks }: PackedSamplingRows,
  histories: readonly History[],
): Sampled {
  using device = KernelDevice.open("cpu", { threads: THREADS });
  const count = histories.length;
  // Not zeroes: that a fresh slot forgets what it held is up to countTokens.
  const history = device.tensor("u16", [count, vocabSize]);
  history.fill(0xffff);
  for (const kind of ["prompt", "generated"] as const) {
    const spans = histories.map((tokens) => tokens[kind] ?? []);
    countSpans(device, history, spans, kind === "generated");
  }
  const biases = biasTokens.length;
  const maskWords = Math.ceil(vocabSize / 32);
  const token = device.tensor("i32", [count]);
  const logprob = device.tensor("f32", [count]);
  const topTokens = device.tensor("i32", [count, MAX_TOP_LOGPROBS]);
  const topLogprobs = device.tensor("f32", [count, MAX_TOP_LOGPROBS]);
  device.sample({
    logits: device.tensor("f32", [logits.length / vocabSize, vocabSize], logits),
    rows: device.tensor("i32", [count, SAMPLING_ROW_WORDS], rows),
    biasTokens: biases > 0 ? device.tensor("i32", [biases], biasTokens) : undefined,
    biasValues: biases > 0 ? device.tensor("f32", [biases], biasValues) : undefined,
    masks:
      masks.length > 0
        ? device.tensor("i32", [masks.length / maskWords, maskWords], masks)
        : undefined,
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

/** Span s is counted in slot s. */
function countSpans(
  device: KernelDevice,
  history: Tensor<"u16">,
  spans: readonly (readonly number[])[],
  areGenerated: boolean,
): void {
  const ints = (values: readonly number[]) => device.tensor("i32", [values.length], values);
  let end = 0;
  const offsets = [0, ...spans.map((span) => (end += span.length))];
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
