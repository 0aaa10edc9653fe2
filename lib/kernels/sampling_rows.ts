import { normalizeSampling, type SamplingOptions } from "../sampling";
import { checkInteger } from "../validate";

/** 32-bit words of a row of {@link SampleArgs.rows}: `SamplingRow` in native/ops/sampling.h. */
export const SAMPLING_ROW_WORDS = 16;

/** How the token of one row of logits is drawn. The seed is 0 by default, not random. */
export interface SamplingRow extends SamplingOptions {
  /** Position of the token being drawn, which the noise depends on. Default 0. */
  readonly position?: number;
  /** Row of the history that the penalties look at. Default: the index of the row. */
  readonly stateSlot?: number;
}

/** Contents of the tensors that {@link SampleArgs} takes. */
export interface PackedSamplingRows {
  /** [K, {@link SAMPLING_ROW_WORDS}] */
  readonly rows: Int32Array;
  /** [B]; B may be 0, and both are then to be left out. */
  readonly biasTokens: Int32Array;
  /** [B] */
  readonly biasValues: Float32Array;
  /** [M, ⌈V/32⌉]; M may be 0, and it is then to be left out. */
  readonly masks: Int32Array;
}

const MAX_INT32 = 2 ** 31 - 1;
const WORD_BYTES = 4;

/**
 * Lays sampling options out as the stage `sample` reads them.
 * @param vocabSize token ids are below it.
 * @throws TypeError when an option has the wrong type; RangeError when it is out of range.
 */
export function packSamplingRows(
  rows: readonly SamplingRow[],
  vocabSize: number,
): PackedSamplingRows {
  checkInteger("vocabSize", vocabSize, 1, MAX_INT32);
  const view = new DataView(new ArrayBuffer(rows.length * SAMPLING_ROW_WORDS * WORD_BYTES));
  const biasTokens: number[] = [];
  const biasValues: number[] = [];
  const masks: number[] = [];
  let numMasks = 0;
  rows.forEach(({ position = 0, stateSlot, ...options }, i) => {
    const where = `rows[${i}]`;
    const sampling = normalizeSampling({ seed: 0, ...options }, vocabSize, where);
    const biasBegin = biasTokens.length;
    biasTokens.push(...sampling.biasTokens);
    biasValues.push(...sampling.biasValues);
    if (sampling.tokenMask !== null) masks.push(...sampling.tokenMask);

    // In the order of the struct. Both the addon and the GPUs are little-endian.
    let offset = i * SAMPLING_ROW_WORDS * WORD_BYTES;
    const next = (bytes: number): number => (offset += bytes) - bytes;
    const float = (value: number): void => view.setFloat32(next(4), value, true);
    const int = (value: number): void => view.setInt32(next(4), value, true);
    float(sampling.temperature);
    int(sampling.topK);
    float(sampling.topP);
    float(sampling.minP);
    float(sampling.repetitionPenalty);
    float(sampling.presencePenalty);
    float(sampling.frequencyPenalty);
    int(sampling.topLogprobs);
    view.setBigUint64(next(8), sampling.seed, true);
    int(checkInteger(`${where}.position`, position, 0, MAX_INT32));
    int(checkInteger(`${where}.stateSlot`, stateSlot ?? i, 0, MAX_INT32));
    int(biasBegin);
    int(biasTokens.length);
    int(sampling.tokenMask === null ? -1 : numMasks++);
    int(0);
  });
  return {
    rows: new Int32Array(view.buffer),
    biasTokens: Int32Array.from(biasTokens),
    biasValues: Float32Array.from(biasValues),
    masks: Int32Array.from(masks),
  };
}
