import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseConfig } from "../../lib/checkpoint/config";
import { expectedTensors } from "../../lib/checkpoint/tensor_table";

/** A parsed config.json to take apart. */
export type ConfigJson = Record<string, unknown>;

/** A config.json of four small layers: global, producer, consumer, global. */
export function smallConfig(changes: ConfigJson = {}): ConfigJson {
  return {
    architectures: ["HymbaForCausalLM"],
    model_type: "hymba",
    hidden_size: 8,
    num_hidden_layers: 4,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    kq_head_dim: -1,
    v_head_dim: 8,
    mamba_expand: 2,
    mamba_d_state: 3,
    mamba_d_conv: 4,
    mamba_dt_rank: 5,
    mamba_conv_bias: true,
    mamba_proj_bias: false,
    mamba_inner_layernorms: true,
    intermediate_size: 12,
    mlp_hidden_act: "silu",
    vocab_size: 20,
    tie_word_embeddings: true,
    num_memory_tokens: 2,
    memory_tokens_interspersed_every: 0,
    sliding_window: 4,
    global_attn_idx: [0, 3],
    kv_reuse_group: [[1, 2]],
    kv_reuse_every_i_layer: -1,
    rope: true,
    rope_theta: 10000.0,
    rope_type: "ntk",
    max_position_embeddings: 64,
    orig_max_position_embeddings: 16,
    kq_norm: "none",
    rms_norm_eps: 1e-6,
    num_experts: 1,
    bos_token_id: 1,
    eos_token_id: 2,
    pad_token_id: 0,
    ...changes,
  };
}

/** The same without some fields. */
export function smallConfigWithout(...fields: readonly string[]): ConfigJson {
  const entries = Object.entries(smallConfig());
  return Object.fromEntries(entries.filter(([field]) => !fields.includes(field)));
}

/** A tensor to be written: zeros. */
export interface TensorSpec {
  readonly dtype: string;
  readonly shape: readonly number[];
}

const elementBytes: Readonly<Record<string, number>> = {
  BF16: 2,
  F16: 2,
  F32: 4,
  I64: 8,
  F8_E4M3: 1,
};

/** The tensors that a config asks for, in BF16, by name. */
export function tensorsOf(config: ConfigJson): Map<string, TensorSpec> {
  const expected = expectedTensors(parseConfig(config, "test config"));
  return new Map(
    expected
      .filter((tensor) => !tensor.optional)
      .map(({ name, shape }) => [name, { dtype: "BF16", shape }]),
  );
}

/** A whole safetensors file, from the object of its header. */
export function encodeSafetensors(header: unknown, dataBytes: number): Buffer {
  return encodeHeader(Buffer.from(JSON.stringify(header)), dataBytes);
}

/** A whole safetensors file, from the bytes of its header. */
export function encodeHeader(header: Buffer, dataBytes: number): Buffer {
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([prefix, header, Buffer.alloc(dataBytes)]);
}

/** A well-formed safetensors file with these tensors, all zeros. */
export function encodeTensors(tensors: ReadonlyMap<string, TensorSpec>): Buffer {
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  let end = 0;
  for (const [name, { dtype, shape }] of tensors) {
    const begin = end;
    end += shape.reduce((a, b) => a * b, elementBytes[dtype] as number);
    header[name] = { dtype, shape, data_offsets: [begin, end] };
  }
  return encodeSafetensors(header, end);
}

/** Temporary folders that vanish with `remove`. */
export class TemporaryFolders {
  readonly #paths: string[] = [];

  /** A new folder with these files; text and buffers are written as they are, objects as JSON. */
  async create(files: Readonly<Record<string, unknown>> = {}): Promise<string> {
    const path = await mkdtemp(join(tmpdir(), "hymba-test-"));
    this.#paths.push(path);
    for (const [name, content] of Object.entries(files)) {
      const raw = typeof content === "string" || Buffer.isBuffer(content);
      await writeFile(join(path, name), raw ? content : JSON.stringify(content));
    }
    return path;
  }

  /** A model folder with the tensors of the config, and further files. */
  createModel(
    config: ConfigJson = smallConfig(),
    files: Readonly<Record<string, unknown>> = {},
  ): Promise<string> {
    const weights = encodeTensors(tensorsOf(config));
    return this.create({ "config.json": config, "model.safetensors": weights, ...files });
  }

  async remove(): Promise<void> {
    await Promise.all(this.#paths.map((path) => rm(path, { recursive: true })));
  }
}
