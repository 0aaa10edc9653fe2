import { HymbaError } from "../errors";
import { type RawConfig, checkRawConfig } from "./config_fields";
import { MAX_SIZE } from "./fields";
import { readJsonIfPresent } from "./files";
import { type LayerConfig, planLayers } from "./layers";
import { describeValue, formatList } from "./problems";
import { checkSupported } from "./supported";

export type { LayerConfig } from "./layers";

/** Rotary position embedding. */
export interface RopeConfig {
  readonly type: "none" | "default" | "ntk" | "dynamic_ntk";
  /** Base of the rotation frequencies before scaling. */
  readonly theta: number;
  /** Positions, meta tokens included, that the model is meant for; `ntk` scales to them. */
  readonly maxPositions: number;
  /** Positions it was first trained on, at most `maxPositions`. */
  readonly originalMaxPositions: number;
}

/** The shape of a Hymba model: config.json, checked, with everything derived. */
export interface HymbaConfig {
  /** C, width of the residual stream. */
  readonly hiddenSize: number;
  /** L. */
  readonly numLayers: number;
  /** H, query heads; divides `hiddenSize`. */
  readonly numHeads: number;
  /** G, key and value heads; divides `numHeads`. */
  readonly numKvHeads: number;
  /** Dk = C / H, width of a query or key head; even. */
  readonly headDim: number;
  /** Dv = E / H, width of a value head. */
  readonly valueHeadDim: number;
  /** E, Mamba channels. */
  readonly innerSize: number;
  /** N, state size of a Mamba channel. */
  readonly stateSize: number;
  /** W, taps of the causal convolution. */
  readonly convWidth: number;
  /** R, rank of the projection of the time step. */
  readonly dtRank: number;
  /** F, width of the MLP. */
  readonly intermediateSize: number;
  /** `silu`: gated by gate_proj; `relu2`: squared ReLU, without a gate. */
  readonly mlpActivation: "silu" | "relu2";
  /** V. */
  readonly vocabSize: number;
  /** Whether lm_head is the embedding table. */
  readonly tieWordEmbeddings: boolean;
  /** M, learned tokens before every prompt; may be 0. */
  readonly numMetaTokens: number;
  /** Positions before its own that a query of a window layer sees, besides the meta tokens. */
  readonly slidingWindow: number;
  readonly layers: readonly LayerConfig[];
  readonly rope: RopeConfig;
  /** Norm of queries and keys before rotation. */
  readonly kqNorm: "none" | "rms" | "perhead-rms";
  readonly rmsNormEps: number;
  /** Whether the convolution has a bias. */
  readonly convBias: boolean;
  /** Whether in_proj and out_proj have a bias. */
  readonly projBias: boolean;
  /** Whether Δ, B and C pass through norms. */
  readonly innerLayernorms: boolean;
  /** Default limit of a sequence, in text tokens. */
  readonly maxPositionEmbeddings: number;
  readonly bosTokenId?: number;
  /** Any of them ends a text; may be empty. */
  readonly eosTokenIds: readonly number[];
  readonly padTokenId?: number;
}

/**
 * Checks a parsed config.json and derives the shape of the model. Fields that do not bear on
 * inference are ignored.
 * @param where names the config in error messages.
 * @throws HymbaError ERR_MODEL_FORMAT when fields are missing, malformed or contradict each other;
 * ERR_MODEL_UNSUPPORTED when it is another architecture or a variant that is not implemented. The
 * message lists all problems of its kind.
 */
export function parseConfig(json: unknown, where: string): HymbaConfig {
  checkSupported(json, where);
  const raw = checkRawConfig(json, where);
  const problems: string[] = [];
  const config = derive(raw, problems);
  if (problems.length > 0) {
    throw new HymbaError(
      "ERR_MODEL_FORMAT",
      `${where} contradicts itself: ${formatList(problems)}`,
    );
  }
  return config;
}

/**
 * Reads and checks a config.json.
 * @throws HymbaError ERR_MODEL_FORMAT, ERR_MODEL_UNSUPPORTED: see `parseConfig`.
 */
export async function readConfig(path: string): Promise<HymbaConfig> {
  const json = await readJsonIfPresent(path);
  if (json === undefined) {
    throw new HymbaError(
      "ERR_MODEL_FORMAT",
      `there is no "${path}". Expected the folder of a model in Hugging Face layout`,
    );
  }
  return parseConfig(json, `"${path}"`);
}

function derive(raw: RawConfig, problems: string[]): HymbaConfig {
  const hiddenSize = raw.hidden_size;
  const numHeads = raw.num_attention_heads;
  const innerSize = raw.mamba_expand * hiddenSize;
  checkHeads(raw, problems);
  return {
    hiddenSize,
    numLayers: raw.num_hidden_layers,
    numHeads,
    numKvHeads: raw.num_key_value_heads,
    headDim: hiddenSize / numHeads,
    valueHeadDim: innerSize / numHeads,
    innerSize,
    stateSize: raw.mamba_d_state,
    convWidth: raw.mamba_d_conv,
    dtRank: raw.mamba_dt_rank === "auto" ? Math.ceil(hiddenSize / 16) : raw.mamba_dt_rank,
    intermediateSize: raw.intermediate_size,
    mlpActivation: raw.mlp_hidden_act,
    vocabSize: raw.vocab_size,
    tieWordEmbeddings: raw.tie_word_embeddings,
    numMetaTokens: raw.num_memory_tokens,
    slidingWindow: raw.sliding_window,
    layers: planLayers(
      {
        numLayers: raw.num_hidden_layers,
        globalLayers: raw.global_attn_idx,
        groups: raw.kv_reuse_group,
        everyLayers: raw.kv_reuse_every_i_layer === -1 ? undefined : raw.kv_reuse_every_i_layer,
      },
      problems,
    ),
    rope: deriveRope(raw, problems),
    kqNorm: raw.kq_norm,
    rmsNormEps: raw.rms_norm_eps,
    convBias: raw.mamba_conv_bias,
    projBias: raw.mamba_proj_bias,
    innerLayernorms: raw.mamba_inner_layernorms,
    maxPositionEmbeddings: raw.max_position_embeddings,
    ...deriveTokenIds(raw, problems),
  };
}

/** The query heads share C rows of in_proj: H·Dk = C. Both branches are averaged: H·Dv = E. */
function checkHeads(raw: RawConfig, problems: string[]): void {
  const { hidden_size, num_attention_heads, num_key_value_heads, kq_head_dim, mamba_expand } = raw;
  if (mamba_expand * hidden_size > MAX_SIZE) {
    problems.push(
      `mamba_expand ${mamba_expand} times hidden_size ${hidden_size} is more than ${MAX_SIZE}`,
    );
  }
  if (num_attention_heads % num_key_value_heads !== 0) {
    problems.push(
      `num_attention_heads ${num_attention_heads} is not a multiple of num_key_value_heads ` +
        `${num_key_value_heads}`,
    );
  }
  const headDim = hidden_size / num_attention_heads;
  if (!Number.isInteger(headDim)) {
    problems.push(
      `hidden_size ${hidden_size} is not a multiple of num_attention_heads ${num_attention_heads}`,
    );
    return;
  }
  if (headDim % 2 !== 0) {
    problems.push(
      `hidden_size ${hidden_size} / num_attention_heads ${num_attention_heads} gives heads of ` +
        `odd size ${headDim}, which cannot be rotated`,
    );
  }
  if (kq_head_dim !== -1 && kq_head_dim !== headDim) {
    problems.push(
      `kq_head_dim is ${kq_head_dim}, but hidden_size / num_attention_heads is ${headDim}`,
    );
  }
}

function deriveRope(raw: RawConfig, problems: string[]): RopeConfig {
  const type = raw.rope ? raw.rope_type : "none";
  const maxPositions = raw.max_position_embeddings;
  const originalMaxPositions = raw.orig_max_position_embeddings ?? maxPositions;
  if (type === "ntk" || type === "dynamic_ntk") {
    if (raw.orig_max_position_embeddings === undefined) {
      problems.push(`rope_type is "${type}", but orig_max_position_embeddings is missing`);
    }
    if (originalMaxPositions > maxPositions) {
      problems.push(
        `orig_max_position_embeddings ${originalMaxPositions} is more than ` +
          `max_position_embeddings ${maxPositions}`,
      );
    }
    if (raw.hidden_size / raw.num_attention_heads === 2) {
      problems.push(`rope_type "${type}" is not defined for heads of size 2`);
    }
  }
  return { type, theta: raw.rope_theta, maxPositions, originalMaxPositions };
}

function deriveTokenIds(
  raw: RawConfig,
  problems: string[],
): Pick<HymbaConfig, "bosTokenId" | "eosTokenIds" | "padTokenId"> {
  const { bos_token_id, eos_token_id, pad_token_id } = raw;
  checkTokenIds({ bos_token_id, eos_token_id, pad_token_id }, raw.vocab_size, problems);
  return {
    ...(bos_token_id !== undefined && { bosTokenId: bos_token_id }),
    eosTokenIds: eos_token_id,
    ...(pad_token_id !== undefined && { padTokenId: pad_token_id }),
  };
}

/** Adds a problem for each field with a token id that the vocabulary does not have. */
export function checkTokenIds(
  fields: Readonly<Record<string, number | readonly number[] | undefined>>,
  vocabSize: number,
  problems: string[],
): void {
  for (const [field, ids] of Object.entries(fields)) {
    const unknown = [ids ?? []].flat().filter((id) => id >= vocabSize);
    if (unknown.length > 0) {
      problems.push(
        `${field} ${describeValue(unknown)} is not in the vocabulary of ${vocabSize} tokens`,
      );
    }
  }
}
