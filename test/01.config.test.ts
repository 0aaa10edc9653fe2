import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseConfig } from "../lib/checkpoint/config";
import { HYMBA_1_5B_CONFIG } from "../lib/checkpoint/hymba_1_5b";
import { countParameters, expectedTensors } from "../lib/checkpoint/tensor_table";
import { HYMBA_ERROR_CODES, HymbaError } from "../lib/errors";
import { messageOf } from "./helpers/error";
import { type ConfigJson, smallConfig, smallConfigWithout } from "./helpers/model_files";

const parse = (changes: ConfigJson = {}) => parseConfig(smallConfig(changes), "config");

describe("errors", () => {
  test("the codes are those of the native enum, in its order", () => {
    const header = readFileSync(join(__dirname, "../native/core/error.h"), "utf8");
    const enumBody = /enum class ErrorCode \{([^}]*)\}/.exec(header)?.[1] ?? "";
    const names = [...enumBody.matchAll(/k(\w+),/g)].map(([, name = ""]) => {
      return `ERR${name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`;
    });
    expect(names).toEqual(HYMBA_ERROR_CODES);
  });

  test("an error has a name, a code and a cause", () => {
    const cause = new Error("below");
    const error = new HymbaError("ERR_BUSY", "the sequence is in use", { cause });
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({ name: "HymbaError", code: "ERR_BUSY", cause });
    expect(error.stack).toContain("HymbaError: the sequence is in use");
  });
});

describe("a config that is right", () => {
  test("Hymba-1.5B", () => {
    const config = parseConfig(HYMBA_1_5B_CONFIG, "config");
    expect(config).toMatchObject({
      hiddenSize: 1600,
      numLayers: 32,
      numHeads: 25,
      numKvHeads: 5,
      headDim: 64,
      valueHeadDim: 128,
      innerSize: 3200,
      dtRank: 100,
      rope: { type: "ntk", theta: 10000, maxPositions: 8192, originalMaxPositions: 2048 },
      bosTokenId: 1,
      eosTokenIds: [2],
      padTokenId: 0,
    });
    const globals = config.layers.flatMap((layer, i) => (layer.attention === "global" ? [i] : []));
    expect(globals).toEqual([0, 15, 31]);
    const producers = config.layers.filter((layer, i) => layer.kvProducer === i);
    expect(producers).toHaveLength(17);
    expect([16, 17, 18].map((layer) => config.layers[layer]?.kvProducer)).toEqual([16, 16, 16]);
    expect(countParameters(config)).toBe(1_522_797_824);
  });

  test("what is not ours to read is ignored", () => {
    const config = parse();
    const changes = { v_head_dim: 5, attention_dropout: "?", seq_length: -1, layer_type: ["h"] };
    expect(parse({ ...changes, conv_dim: { 0: 3200 }, __proto__: null })).toEqual(config);
  });

  test("fields with a neutral value may be left out, or null", () => {
    const fields = ["kq_norm", "num_experts", "memory_tokens_interspersed_every", "kq_head_dim"];
    const neutral = [...fields, "kv_reuse_every_i_layer"];
    expect(parseConfig(smallConfigWithout(...neutral), "config")).toEqual(parse());
    expect(parse(Object.fromEntries(neutral.map((field) => [field, null])))).toEqual(parse());
  });

  test("either name of the architecture is enough", () => {
    expect(parseConfig(smallConfigWithout("architectures"), "config")).toEqual(parse());
    expect(parseConfig(smallConfigWithout("model_type"), "config")).toEqual(parse());
  });

  test("special tokens may be missing, or several", () => {
    const without = { bos_token_id: null, eos_token_id: null, pad_token_id: null };
    const config = parse(without);
    expect(config).not.toHaveProperty("bosTokenId");
    expect(config).not.toHaveProperty("padTokenId");
    expect(config.eosTokenIds).toEqual([]);
    expect(parse({ eos_token_id: [2, 5] }).eosTokenIds).toEqual([2, 5]);
  });

  test("time step rank", () => {
    expect(parse({ mamba_dt_rank: "auto" }).dtRank).toBe(1);
    expect(parse({ mamba_dt_rank: "auto", hidden_size: 36 }).dtRank).toBe(3);
    expect(parse({ mamba_dt_rank: 7 }).dtRank).toBe(7);
  });

  test("the size of query heads may be written out", () => {
    expect(parse({ kq_head_dim: 4 }).headDim).toBe(4);
  });

  test.each([
    [{ rope: false }, "none", 16],
    [{ rope_type: null }, "default", 16],
    [{ rope_type: "default", orig_max_position_embeddings: null }, "default", 64],
    [{ rope_type: "dynamic_ntk" }, "dynamic_ntk", 16],
  ])("rope %j", (changes, type, originalMaxPositions) => {
    const { rope } = parse(changes);
    expect(rope).toEqual({ type, theta: 10000, maxPositions: 64, originalMaxPositions });
  });

  test("K/V shared every few layers", () => {
    const every = { kv_reuse_group: null, kv_reuse_every_i_layer: 2, num_hidden_layers: 5 };
    const producers = parse({ ...every, global_attn_idx: [2] }).layers.map((l) => l.kvProducer);
    expect(producers).toEqual([0, 0, 2, 2, 4]);
    const both = parse({ ...every, global_attn_idx: [2, 3] }).layers;
    expect(both.slice(2)).toEqual([
      { attention: "global", kvProducer: 2 },
      { attention: "global", kvProducer: 2 },
      { attention: "window", kvProducer: 4 },
    ]);
  });

  test("no K/V shared, no global layer, no meta tokens", () => {
    const config = parse({ kv_reuse_group: [], global_attn_idx: [], num_memory_tokens: 0 });
    expect(config.layers).toEqual(
      [0, 1, 2, 3].map((kvProducer) => ({ attention: "window", kvProducer })),
    );
    expect(expectedTensors(config).map((tensor) => tensor.name)).not.toContain(
      "model.memory_tokens",
    );
  });
});

describe("the tensors of a config", () => {
  const shapes = (changes: ConfigJson) =>
    Object.fromEntries(expectedTensors(parse(changes)).map(({ name, shape }) => [name, shape]));
  const layer = (i: number, name: string): string => `model.layers.${i}.mamba.${name}`;

  test("a producer's in_proj has rows for keys and values", () => {
    const small = shapes({});
    expect(small[layer(1, "in_proj.weight")]).toEqual([8 + 1 * (4 + 8) + 2 * 16, 8]);
    expect(small[layer(2, "in_proj.weight")]).toEqual([8 + 2 * 16, 8]);
    expect(small[layer(2, "conv1d.weight")]).toEqual([16, 1, 4]);
    expect(small[layer(2, "x_proj.0.weight")]).toEqual([5 + 2 * 3, 16]);
  });

  test("biases, inner norms and the MLP's gate are optional", () => {
    const full = shapes({ mamba_proj_bias: true });
    expect(full[layer(1, "in_proj.bias")]).toEqual([52]);
    expect(full[layer(1, "out_proj.bias")]).toEqual([8]);
    expect(full["model.layers.1.moe.experts.0.gate_proj.weight"]).toEqual([12, 8]);
    const bare = shapes({
      mamba_conv_bias: false,
      mamba_inner_layernorms: false,
      mlp_hidden_act: "relu2",
    });
    const extra = Object.keys(shapes({})).filter((name) => !Object.hasOwn(bare, name));
    expect(extra.filter((name) => name.startsWith("model.layers.0."))).toEqual([
      layer(0, "conv1d.bias"),
      layer(0, "dt_layernorm.weight"),
      layer(0, "B_layernorm.weight"),
      layer(0, "C_layernorm.weight"),
      "model.layers.0.moe.experts.0.gate_proj.weight",
    ]);
    expect(extra).toHaveLength(4 * (1 + 3 + 1));
  });

  test("norms of queries and keys", () => {
    const rms = shapes({ kq_norm: "rms" });
    expect(rms[layer(0, "self_attn.q_norm.weight")]).toEqual([4]);
    expect(rms[layer(0, "self_attn.k_norm.weight")]).toEqual([4]);
    const perHead = expectedTensors(parse({ kq_norm: "perhead-rms" }));
    const find = (name: string) => perHead.find((tensor) => tensor.name === name);
    expect(find(layer(1, "self_attn.q_norm.weight"))?.shape).toEqual([1, 2, 1, 4]);
    expect(find(layer(1, "self_attn.k_norm.weight"))).toEqual({
      name: layer(1, "self_attn.k_norm.weight"),
      shape: [1, 1, 1, 4],
    });
    expect(find(layer(2, "self_attn.k_norm.weight"))?.optional).toBe(true);
  });

  test("lm_head is read only when it is not tied", () => {
    const tied = countParameters(parse());
    expect(countParameters(parse({ tie_word_embeddings: false }))).toBe(tied + 20 * 8);
  });
});

describe("another model is refused by name", () => {
  test.each([
    [{ model_type: "llama", architectures: ["LlamaForCausalLM"] }, /"LlamaForCausalLM".*"llama"/],
    [{ model_type: "hymba2" }, /model_type "hymba2"/],
    [{ architectures: "HymbaForCausalLM" }, /architectures "HymbaForCausalLM"/],
    [{ architectures: [] }, /architectures \[\]/],
  ])("%j", (changes, message) => {
    expect(messageOf("ERR_MODEL_UNSUPPORTED", () => parse(changes))).toMatch(message);
  });

  test("a config that does not say what it is of", () => {
    const anonymous = smallConfigWithout("architectures", "model_type");
    const message = messageOf("ERR_MODEL_FORMAT", () => parseConfig(anonymous, "config"));
    expect(message).toMatch(/neither architectures nor model_type/);
  });

  test.each([[null], [undefined], [[]], ["hymba"], [7]])("%j is no config", (json) => {
    const message = messageOf("ERR_MODEL_FORMAT", () => parseConfig(json, "config"));
    expect(message).toMatch(/expected an object/);
  });
});

describe("a variant that is not implemented", () => {
  test.each([
    [{ num_experts: 4 }, "num_experts is 4 (supported: 1)"],
    [{ memory_tokens_interspersed_every: 256 }, "memory_tokens_interspersed_every is 256"],
    [{ rope_type: "yarn" }, 'rope_type is "yarn" (supported: "default", "ntk", "dynamic_ntk")'],
    [{ kq_norm: "layer" }, 'kq_norm is "layer"'],
    [{ mlp_hidden_act: "gelu" }, 'mlp_hidden_act is "gelu"'],
    [{ hidden_act: "gelu" }, 'hidden_act is "gelu"'],
    [{ num_mamba: 2 }, "num_mamba is 2"],
    [{ attn_hidden_size: 16 }, "attn_hidden_size is 16"],
    [{ kv_weight_reuse: true }, "kv_weight_reuse is true"],
  ])("%j", (changes, message) => {
    expect(messageOf("ERR_MODEL_UNSUPPORTED", () => parse(changes))).toContain(message);
  });

  test("the values that the published configs have are supported", () => {
    const published = { num_mamba: 1, attn_hidden_size: -1, kv_weight_reuse: false };
    expect(parse({ ...published, hidden_act: "silu" })).toEqual(parse());
    expect(parse({ attn_hidden_size: 8 })).toEqual(parse());
  });

  test("all of them are named at once", () => {
    const changes = { num_experts: 2, kq_norm: "x", rope_type: "y" };
    const message = messageOf("ERR_MODEL_UNSUPPORTED", () => parse(changes));
    expect(message).toMatch(/kq_norm is "x".*rope_type is "y".*num_experts is 2/);
  });
});

describe("fields that are malformed", () => {
  const required = Object.keys(
    smallConfigWithout(
      ...["architectures", "model_type", "kq_head_dim", "v_head_dim", "kq_norm", "num_experts"],
      ...["memory_tokens_interspersed_every", "kv_reuse_group", "kv_reuse_every_i_layer"],
      ...["rope_type", "orig_max_position_embeddings"],
      ...["bos_token_id", "eos_token_id", "pad_token_id"],
    ),
  );

  test.each(required)("%s is missing", (field) => {
    const message = messageOf("ERR_MODEL_FORMAT", () =>
      parseConfig(smallConfigWithout(field), "config"),
    );
    expect(message).toMatch(new RegExp(`${field}: expected .*, got nothing`));
  });

  const sizes = Object.entries(smallConfig())
    .filter(([field, value]) => typeof value === "number" && required.includes(field))
    .map(([field]) => field)
    .filter((field) => field !== "rms_norm_eps" && field !== "rope_theta");

  describe.each(sizes)("%s", (field) => {
    test.each([-1, 1.5, NaN, Infinity, 2 ** 40, "8", true, [8], {}])("is %p", (value) => {
      const message = messageOf("ERR_MODEL_FORMAT", () => parse({ [field]: value }));
      expect(message).toContain(`${field}: expected `);
    });
  });

  test.each([
    ["rms_norm_eps", 0],
    ["rms_norm_eps", NaN],
    ["rms_norm_eps", "1e-6"],
    ["rope_theta", 0],
    ["rope_theta", Infinity],
    ["rope", "yes"],
    ["tie_word_embeddings", 1],
    ["mamba_dt_rank", "large"],
    ["mamba_dt_rank", 0],
    ["kq_head_dim", 0],
    ["kq_head_dim", -2],
    ["kq_norm", 3],
    ["rope_type", 3],
    ["mlp_hidden_act", null],
    ["global_attn_idx", null],
    ["global_attn_idx", 3],
    ["global_attn_idx", [-1]],
    ["global_attn_idx", [0.5]],
    ["kv_reuse_group", 5],
    ["kv_reuse_group", [1, 2]],
    ["kv_reuse_group", [[1, -2]]],
    ["kv_reuse_every_i_layer", 0],
    ["kv_reuse_every_i_layer", 1.5],
    ["orig_max_position_embeddings", 0],
    ["num_experts", "one"],
    ["memory_tokens_interspersed_every", "never"],
    ["bos_token_id", -1],
    ["eos_token_id", "</s>"],
    ["eos_token_id", [2, -1]],
    ["pad_token_id", 0.5],
  ])("%s is %j", (field, value) => {
    const message = messageOf("ERR_MODEL_FORMAT", () => parse({ [field]: value }));
    expect(message).toContain(`${field}: expected `);
  });

  test("the message says what was expected and what was found", () => {
    expect(messageOf("ERR_MODEL_FORMAT", () => parse({ hidden_size: -8 }))).toBe(
      "config cannot be used: hidden_size: expected an integer from 1 to 16777216, got -8",
    );
    const list = Array.from({ length: 100 }, (_, i) => i - 1);
    const message = messageOf("ERR_MODEL_FORMAT", () => parse({ global_attn_idx: list }));
    expect(message).toMatch(
      /global_attn_idx: expected a list of layer indices, got \[-1,0.*\.\.\.$/,
    );
    expect(message.length).toBeLessThan(180);
  });

  test("a value nested a hundred thousand levels deep", () => {
    const deep = JSON.parse("[".repeat(1e5) + "]".repeat(1e5)) as unknown;
    const message = messageOf("ERR_MODEL_FORMAT", () => parse({ hidden_size: deep }));
    expect(message).toMatch(/hidden_size: expected .*, got something nested too deeply$/);
  });

  test("all of them are named at once, up to twenty", () => {
    const two = messageOf("ERR_MODEL_FORMAT", () => parse({ hidden_size: 0, rope: 5 }));
    expect(two).toMatch(/hidden_size: .*got 0; rope: .*got 5$/);
    const all = messageOf("ERR_MODEL_FORMAT", () => parseConfig({ model_type: "hymba" }, "config"));
    expect(all).toMatch(new RegExp(`and ${required.length - 20} more$`));
  });
});

describe("fields that contradict each other", () => {
  test.each<[ConfigJson, string]>([
    [{ num_attention_heads: 3 }, "hidden_size 8 is not a multiple of num_attention_heads 3"],
    [
      { num_attention_heads: 4, num_key_value_heads: 3 },
      "num_attention_heads 4 is not a multiple of num_key_value_heads 3",
    ],
    [{ hidden_size: 6 }, "heads of odd size 3"],
    [{ kq_head_dim: 8 }, "kq_head_dim is 8, but hidden_size / num_attention_heads is 4"],
    [{ mamba_expand: 2 ** 22 }, "mamba_expand 4194304 times hidden_size 8 is more than 16777216"],
    [{ orig_max_position_embeddings: 65 }, "65 is more than max_position_embeddings 64"],
    [{ orig_max_position_embeddings: null }, "orig_max_position_embeddings is missing"],
    [{ hidden_size: 4 }, 'rope_type "ntk" is not defined for heads of size 2'],
    [{ global_attn_idx: [0, 4] }, "global_attn_idx names layer 4 of 4 layers"],
    [{ global_attn_idx: [0, 3, 0] }, "global_attn_idx names layer 0 twice"],
    [{ kv_reuse_group: [[1, 4]] }, "kv_reuse_group [1,4] names layer 4 of 4 layers"],
    [{ kv_reuse_group: [[1]] }, "kv_reuse_group [1] needs at least two layers"],
    [{ kv_reuse_group: [[]] }, "kv_reuse_group [] needs at least two layers"],
    [{ kv_reuse_group: [[2, 1]] }, "lets layer 1 read the K/V of a later layer, 2"],
    [{ kv_reuse_group: [[1, 1]] }, "kv_reuse_group [1,1] repeats layer 1"],
    [{ kv_reuse_group: [[0, 1]] }, "kv_reuse_group [0,1] contains layer 0, which has global"],
    [{ kv_reuse_group: [[2, 3]] }, "kv_reuse_group [2,3] contains layer 3, which has global"],
    [
      {
        kv_reuse_group: [
          [1, 2],
          [2, 3],
        ],
        global_attn_idx: [],
      },
      "kv_reuse_group [2,3] repeats layer 2",
    ],
    [
      {
        kv_reuse_group: [
          [2, 3],
          [0, 1],
        ],
        global_attn_idx: [],
      },
      "kv_reuse_group [0,1] is out of order: layer 0 comes after layer 3",
    ],
    [
      { kv_reuse_group: [[0, 3, 2]], global_attn_idx: [] },
      "kv_reuse_group [0,3,2] is out of order: layer 2 comes after layer 3",
    ],
    [{ kv_reuse_every_i_layer: 2 }, "only one of the two can be followed"],
    [
      { kv_reuse_group: null, kv_reuse_every_i_layer: 2, global_attn_idx: [3] },
      "makes layer 3, which has global attention, read the K/V of layer 2",
    ],
    [{ bos_token_id: 20 }, "bos_token_id [20] is not in the vocabulary of 20 tokens"],
    [{ eos_token_id: [2, 20, 21] }, "eos_token_id [20,21] is not in the vocabulary of 20 tokens"],
  ])("%j", (changes, message) => {
    expect(messageOf("ERR_MODEL_FORMAT", () => parse(changes))).toContain(message);
  });

  test("a long group is cut short", () => {
    const group = Array.from({ length: 1e4 }, (_, i) => i + 10);
    const message = messageOf("ERR_MODEL_FORMAT", () => parse({ kv_reuse_group: [group] }));
    expect(message).toMatch(/kv_reuse_group \[10,11,.*\.\.\. names layer 10 .* and 9980 more$/);
    expect(message.length).toBeLessThan(3000);
  });

  test("all of them are named at once", () => {
    const changes = { num_attention_heads: 3, global_attn_idx: [9], pad_token_id: 99 };
    const message = messageOf("ERR_MODEL_FORMAT", () => parse(changes));
    expect(message).toMatch(/^config contradicts itself: .*num_attention_heads 3.*9.*99/);
  });
});
