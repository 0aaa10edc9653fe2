import type { Checkpoint } from "../checkpoint/checkpoint";
import type { HymbaConfig } from "../checkpoint/config";
import { countElements, type TensorEntry, WEIGHT_DTYPE_BYTES } from "../checkpoint/tensor_table";
import { addKeys, visibleKeys } from "./keys";

/** What the cost of a model's steps is worked out from. */
export interface CostedModel {
  readonly config: HymbaConfig;
  readonly tensors: readonly TensorEntry[];
  readonly dtype: "bfloat16" | "float32";
}

/** Picks what is needed out of a checkpoint. */
export function costedModel(
  { config, tensors }: Checkpoint,
  dtype: CostedModel["dtype"],
): CostedModel {
  return { config, tensors, dtype };
}

const FLOAT_BYTES = 4;

/**
 * Bytes that one decode step has to move through the device's memory: all weights once, the keys and
 * values that are seen, and the states, read and written. Activations between the stages are not
 * counted: they fit in the cache.
 * @param lengths text tokens that each sequence holds before the step.
 */
export function decodeStepBytes(model: CostedModel, lengths: readonly number[]): number {
  const { config, dtype } = model;
  const actBytes = dtype === "bfloat16" ? 2 : FLOAT_BYTES;
  const kvBytes = config.numKvHeads * (config.headDim + config.valueHeadDim) * actBytes;
  let keys = 0;
  let producers = 0;
  for (const [index, { attention, kvProducer }] of config.layers.entries()) {
    const window = attention === "window" ? config.slidingWindow : -1;
    const seen = addKeys(
      lengths.map((length) => visibleKeys(length, 1, window, config.numMetaTokens)),
    );
    keys += seen.textKeys + seen.metaKeys;
    if (kvProducer === index) producers++;
  }
  const { numLayers, innerSize, stateSize, convWidth, hiddenSize, vocabSize } = config;
  const stateBytes =
    2 * numLayers * innerSize * (stateSize * FLOAT_BYTES + (convWidth - 1) * actBytes);
  const [table] = model.tensors;
  const embeddingBytes = hiddenSize * (table ? WEIGHT_DTYPE_BYTES[table.dtype] : actBytes);
  // Logits are written, and read to choose a token.
  const perSequence =
    stateBytes + producers * kvBytes + embeddingBytes + 2 * vocabSize * FLOAT_BYTES;
  return stepWeightBytes(model) + keys * kvBytes + lengths.length * perSequence;
}

/**
 * Floating-point operations of a prefill: matrix products and attention, a multiplication and an
 * addition each. Convolution, recurrence and elementwise work are not counted.
 * @param first text tokens that the sequence holds before.
 * @param count text tokens that it takes; logits are worked out for the last.
 */
export function prefillFlops(model: CostedModel, first: number, count: number): number {
  const { config, tensors } = model;
  const projections = tensors.filter(({ name }) => /_proj(\.0)?\.weight$/.test(name));
  const elements = projections.reduce((sum, { shape }) => sum + countElements(shape), 0);
  const pairs = config.layers.reduce((sum, { attention }) => {
    const window = attention === "window" ? config.slidingWindow : -1;
    return sum + visibleKeys(first, count, window, config.numMetaTokens).pairs;
  }, 0);
  const attention = pairs * config.numHeads * (config.headDim + config.valueHeadDim);
  return 2 * (count * elements + attention + config.vocabSize * config.hiddenSize);
}

/** All tensors but those of which a step reads a few rows; a tied table is read as the lm_head. */
function stepWeightBytes({ config, tensors }: CostedModel): number {
  const isTable = ({ name }: TensorEntry): boolean =>
    name === "model.memory_tokens" ||
    (name === "model.embed_tokens.weight" && !config.tieWordEmbeddings);
  return tensors
    .filter((tensor) => !isTable(tensor))
    .reduce((sum, { dtype, shape }) => sum + countElements(shape) * WEIGHT_DTYPE_BYTES[dtype], 0);
}
