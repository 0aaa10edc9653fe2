import { z } from "zod";
import {
  MAX_SIZE,
  checkFields,
  field,
  integer,
  isIndexList,
  isInteger,
  oneOf,
  optional,
  tokenId,
  tokenIdList,
  withDefault,
} from "./fields";

const MAX_LAYERS = 4096;

const size = integer(1, MAX_SIZE);
const flag = field<boolean>((value) => typeof value === "boolean", "true or false");

const rawConfigSchema = z.object(
  {
    hidden_size: size,
    num_hidden_layers: integer(1, MAX_LAYERS),
    num_attention_heads: size,
    num_key_value_heads: size,
    kq_head_dim: withDefault(
      field<number>((value) => value === -1 || isInteger(value, 1, MAX_SIZE), "-1 or a size"),
      -1,
    ),
    mamba_expand: size,
    mamba_d_state: size,
    mamba_d_conv: size,
    mamba_dt_rank: field<number | "auto">(
      (value) => value === "auto" || isInteger(value, 1, MAX_SIZE),
      `"auto" or an integer from 1 to ${MAX_SIZE}`,
    ),
    mamba_conv_bias: flag,
    mamba_proj_bias: flag,
    mamba_inner_layernorms: flag,
    intermediate_size: size,
    mlp_hidden_act: oneOf("silu", "relu2"),
    vocab_size: size,
    tie_word_embeddings: flag,
    num_memory_tokens: integer(0, MAX_SIZE),
    memory_tokens_interspersed_every: withDefault(integer(0, 0), 0),
    sliding_window: size,
    global_attn_idx: field<readonly number[]>(isIndexList, "a list of layer indices"),
    kv_reuse_group: withDefault(
      field<readonly (readonly number[])[]>(
        (value) => Array.isArray(value) && value.every(isIndexList),
        "a list of lists of layer indices",
      ),
      [],
    ),
    kv_reuse_every_i_layer: withDefault(
      field<number>((value) => value === -1 || isInteger(value, 1, MAX_LAYERS), "-1 or at least 1"),
      -1,
    ),
    rope: flag,
    rope_theta: field<number>(
      (value) => Number.isFinite(value) && (value as number) > 0,
      "a positive number",
    ),
    rope_type: withDefault(oneOf("default", "ntk", "dynamic_ntk"), "default"),
    max_position_embeddings: size,
    orig_max_position_embeddings: optional(size),
    kq_norm: withDefault(oneOf("none", "rms", "perhead-rms"), "none"),
    rms_norm_eps: field<number>(
      (value) => typeof value === "number" && value > 0 && value < 1,
      "a number between 0 and 1",
    ),
    num_experts: withDefault(integer(1, 1), 1),
    bos_token_id: tokenId,
    eos_token_id: tokenIdList,
    pad_token_id: tokenId,
  },
  { error: "expected an object" },
);

/** The fields of config.json that bear on inference, each of its type and in its range. */
export type RawConfig = z.infer<typeof rawConfigSchema>;

/**
 * The fields of a parsed config.json, each checked on its own.
 * @throws HymbaError ERR_MODEL_FORMAT with every field that is missing, of a wrong type or out of
 * range.
 */
export function checkRawConfig(json: unknown, where: string): RawConfig {
  return checkFields(rawConfigSchema, json, where);
}
