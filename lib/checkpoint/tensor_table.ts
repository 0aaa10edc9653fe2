import type { HymbaConfig } from "./config";

/** Precision of a stored tensor, as the safetensors format names it. */
export type WeightDtype = "BF16" | "F16" | "F32";

/** Bytes of one element. */
export const WEIGHT_DTYPE_BYTES: Readonly<Record<WeightDtype, number>> = {
  BF16: 2,
  F16: 2,
  F32: 4,
};

/** Whether a dtype that a file names is one that we read. */
export function isWeightDtype(dtype: string): dtype is WeightDtype {
  return Object.hasOwn(WEIGHT_DTYPE_BYTES, dtype);
}

/** How a synthetic tensor is filled; the values stand in native/core/synthetic.h. */
export type SyntheticFill = "normal" | "constant" | "log_arange" | "dt_bias";

/** Where the values of a tensor come from. */
export type TensorSource =
  | {
      readonly kind: "file";
      /** Index into `Checkpoint.files`. */
      readonly file: number;
      /** First byte in that file. */
      readonly begin: number;
      /** One past the last byte in that file. */
      readonly end: number;
    }
  | {
      readonly kind: "synthetic";
      readonly fill: SyntheticFill;
      /** Standard deviation of `normal`, value of `constant`; the other fills ignore it. */
      readonly scale: number;
      /** Number of the tensor's random stream, 0 to 2^32 - 1. */
      readonly stream: number;
    };

/** One tensor of a checkpoint, checked against the config. */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: WeightDtype;
  readonly shape: readonly number[];
  readonly source: TensorSource;
}

/** A tensor that a config asks for. */
export interface ExpectedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** A checkpoint may hold it, but nothing reads it. */
  readonly optional?: true;
}

/**
 * The tensors of a checkpoint with this config, under their published names. The order is part of
 * the interface: a tensor's index is its stream of synthetic values.
 */
export function expectedTensors(config: HymbaConfig): readonly ExpectedTensor[] {
  const { hiddenSize, vocabSize, numMetaTokens } = config;
  const tensors: ExpectedTensor[] = [
    { name: "model.embed_tokens.weight", shape: [vocabSize, hiddenSize] },
  ];
  if (numMetaTokens > 0) {
    tensors.push({ name: "model.memory_tokens", shape: [numMetaTokens, hiddenSize] });
  }
  for (let layer = 0; layer < config.numLayers; layer++) {
    const prefix = `model.layers.${layer}.`;
    for (const tensor of layerTensors(config, layer)) {
      tensors.push({ ...tensor, name: prefix + tensor.name });
    }
  }
  tensors.push({ name: "model.final_layernorm.weight", shape: [hiddenSize] });
  tensors.push({
    name: "lm_head.weight",
    shape: [vocabSize, hiddenSize],
    ...(config.tieWordEmbeddings && { optional: true }),
  });
  return tensors;
}

function layerTensors(config: HymbaConfig, layer: number): ExpectedTensor[] {
  const { hiddenSize, innerSize, stateSize, dtRank, intermediateSize } = config;
  const isProducer = config.layers[layer]?.kvProducer === layer;
  const kvRows = isProducer ? config.numKvHeads * (config.headDim + config.valueHeadDim) : 0;
  const inProjRows = hiddenSize + kvRows + 2 * innerSize;
  return [
    { name: "input_layernorm.weight", shape: [hiddenSize] },
    { name: "mamba.in_proj.weight", shape: [inProjRows, hiddenSize] },
    ...only(config.projBias, { name: "mamba.in_proj.bias", shape: [inProjRows] }),
    ...kqNormTensors(config, isProducer),
    { name: "mamba.conv1d.weight", shape: [innerSize, 1, config.convWidth] },
    ...only(config.convBias, { name: "mamba.conv1d.bias", shape: [innerSize] }),
    { name: "mamba.x_proj.0.weight", shape: [dtRank + 2 * stateSize, innerSize] },
    { name: "mamba.dt_proj.0.weight", shape: [innerSize, dtRank] },
    { name: "mamba.dt_proj.0.bias", shape: [innerSize] },
    { name: "mamba.A_log.0", shape: [innerSize, stateSize] },
    { name: "mamba.D.0", shape: [innerSize] },
    ...only(
      config.innerLayernorms,
      { name: "mamba.dt_layernorm.weight", shape: [dtRank] },
      { name: "mamba.B_layernorm.weight", shape: [stateSize] },
      { name: "mamba.C_layernorm.weight", shape: [stateSize] },
    ),
    { name: "mamba.pre_avg_layernorm1.weight", shape: [innerSize] },
    { name: "mamba.pre_avg_layernorm2.weight", shape: [innerSize] },
    { name: "mamba.out_proj.weight", shape: [hiddenSize, innerSize] },
    ...only(config.projBias, { name: "mamba.out_proj.bias", shape: [hiddenSize] }),
    { name: "pre_moe_layernorm.weight", shape: [hiddenSize] },
    ...only(config.mlpActivation === "silu", {
      name: "moe.experts.0.gate_proj.weight",
      shape: [intermediateSize, hiddenSize],
    }),
    { name: "moe.experts.0.up_proj.weight", shape: [intermediateSize, hiddenSize] },
    { name: "moe.experts.0.down_proj.weight", shape: [hiddenSize, intermediateSize] },
  ];
}

/** A consumer takes normalised keys from its producer: its own `k_norm` is never read. */
function kqNormTensors(config: HymbaConfig, isProducer: boolean): ExpectedTensor[] {
  if (config.kqNorm === "none") return [];
  const shape = (heads: number): number[] =>
    config.kqNorm === "rms" ? [config.headDim] : [1, heads, 1, config.headDim];
  return [
    { name: "mamba.self_attn.q_norm.weight", shape: shape(config.numHeads) },
    {
      name: "mamba.self_attn.k_norm.weight",
      shape: shape(config.numKvHeads),
      ...(!isProducer && { optional: true }),
    },
  ];
}

function only(condition: boolean, ...tensors: ExpectedTensor[]): ExpectedTensor[] {
  return condition ? tensors : [];
}

/** Elements of a tensor of this shape. */
export function countElements(shape: readonly number[]): number {
  return shape.reduce((product, extent) => product * extent, 1);
}

/** Parameters of a model with this config: the elements of every tensor that is read. */
export function countParameters(config: HymbaConfig): number {
  return expectedTensors(config)
    .filter((tensor) => tensor.optional === undefined)
    .reduce((sum, tensor) => sum + countElements(tensor.shape), 0);
}
