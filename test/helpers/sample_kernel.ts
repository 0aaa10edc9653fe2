import { join } from "node:path";
import { normalizeSampling, type NativeSampling, type SamplingOptions } from "../../lib/sampling";

/** One row of `kernels.sample`: how its token is drawn. */
export interface SampleRow extends SamplingOptions {
  /** Position of the token being drawn. Default 0. */
  readonly position?: number;
  /** What the sequence has seen. Ids below 0 are meta tokens. */
  readonly historyTokens?: { readonly prompt?: number[]; readonly generated?: number[] };
}

/** What came out of `kernels.sample`, row by row. */
export interface Sampled {
  readonly tokens: Int32Array;
  readonly logprobs: Float32Array;
  /** [rows · 20], most probable first; -1 where there is none. */
  readonly topTokens: Int32Array;
  readonly topLogprobs: Float32Array;
}

type NativeRow = NativeSampling & Pick<SampleRow, "historyTokens"> & { readonly position: number };

interface SampleKernel {
  readonly kernels: {
    sample(options: { logits: Float32Array; vocabSize: number; rows: NativeRow[] }): Sampled;
  };
}

const loadAddon = jest.requireActual<(root: string) => SampleKernel>("node-gyp-build");
const { kernels } = loadAddon(join(__dirname, "..", ".."));

/** Draws a token from each row of logits. The seed is 0 unless a row has one. */
export function sample(logits: readonly ArrayLike<number>[], rows: readonly SampleRow[]): Sampled {
  const vocabSize = logits[0]!.length;
  return kernels.sample({
    logits: Float32Array.from(logits.flatMap((row) => Array.from(row))),
    vocabSize,
    rows: rows.map(({ position = 0, historyTokens, ...options }) => ({
      ...normalizeSampling({ seed: 0, ...options }, vocabSize, "row"),
      position,
      ...(historyTokens && { historyTokens }),
    })),
  });
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
  const vocabSize = logits.length;
  const counts = logits.map(() => 0);
  const { historyTokens, ...options } = row;
  const fixed = {
    ...normalizeSampling({ seed: 0, ...options }, vocabSize, "row"),
    position: 0,
    ...(historyTokens && { historyTokens }),
  };
  const repeated = new Float32Array(batch * vocabSize).map((_, i) => logits[i % vocabSize]!);
  for (let first = 0; first < draws; first += batch) {
    const rows = Array.from({ length: batch }, (_, i) =>
      vary === "position"
        ? { ...fixed, position: first + i }
        : { ...fixed, seed: BigInt(first + i) },
    );
    const { tokens } = kernels.sample({ logits: repeated, vocabSize, rows });
    for (const token of tokens) counts[token]!++;
  }
  return counts;
}
