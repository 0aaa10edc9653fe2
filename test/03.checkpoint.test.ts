import { cp, mkdir, rename, rm, symlink, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { openCheckpoint } from "../lib/checkpoint/checkpoint";
import { parseGenerationConfig } from "../lib/checkpoint/generation_config";
import { summarizeCheckpoint } from "../lib/checkpoint/summary";
import { expectedTensors } from "../lib/checkpoint/tensor_table";
import { messageOf, rejectionOf } from "./helpers/error";
import {
  type ConfigJson,
  TemporaryFolders,
  type TensorSpec,
  encodeTensors,
  smallConfig,
  tensorsOf,
} from "./helpers/model_files";

const folders = new TemporaryFolders();
afterAll(() => folders.remove());

const golden = join(__dirname, "golden/micro");

const formatError = (path: string) => rejectionOf("ERR_MODEL_FORMAT", openCheckpoint(path));

/** A model folder whose weights are those of the small config, changed. */
async function modelWith(
  change: (tensors: Map<string, TensorSpec>) => void,
  config: ConfigJson = smallConfig(),
): Promise<string> {
  const tensors = tensorsOf(config);
  change(tensors);
  return folders.createModel(config, { "model.safetensors": encodeTensors(tensors) });
}

/** A model folder with the weights in two shards; `index` is the weight map, to be changed. */
async function shardedModel(
  change: (index: Record<string, unknown>, shards: Map<string, TensorSpec>[]) => void = () => {},
): Promise<string> {
  const index: Record<string, unknown> = {};
  const shards = [new Map<string, TensorSpec>(), new Map<string, TensorSpec>()];
  for (const [i, [name, tensor]] of [...tensorsOf(smallConfig())].entries()) {
    shards[i % 2]?.set(name, tensor);
    index[name] = `model-0000${(i % 2) + 1}-of-00002.safetensors`;
  }
  change(index, shards);
  const files: Record<string, Buffer> = {};
  for (const [i, tensors] of shards.entries()) {
    files[`model-0000${i + 1}-of-00002.safetensors`] = encodeTensors(tensors);
  }
  return folders.create({
    "config.json": smallConfig(),
    "model.safetensors.index.json": { metadata: { total_size: 1 }, weight_map: index },
    ...files,
  });
}

describe("a folder that is right", () => {
  test("the micro checkpoint", async () => {
    const checkpoint = await openCheckpoint(golden);
    expect(checkpoint).toMatchObject({
      path: golden,
      folder: golden,
      files: [join(golden, "model.safetensors")],
      seed: 0,
      generationConfig: {},
      config: { hiddenSize: 128, numMetaTokens: 16, numLayers: 8 },
    });
    expect(checkpoint.tensors.map((tensor) => tensor.name)).toEqual(
      expectedTensors(checkpoint.config)
        .filter((tensor) => !tensor.optional)
        .map((tensor) => tensor.name),
    );
    expect(summarizeCheckpoint(checkpoint)).toEqual({
      parameters: 2_120_128,
      tensors: 155,
      weightBytes: 4_240_256,
      weightBytesByDtype: { BF16: 4_240_256, F16: 0, F32: 0 },
    });
  });

  test("paths are made absolute", async () => {
    const folder = await folders.createModel();
    const before = process.cwd();
    process.chdir(folder);
    try {
      const checkpoint = await openCheckpoint(".");
      expect(checkpoint.path).toBe(".");
      expect(checkpoint.files.map((file) => basename(file))).toEqual(["model.safetensors"]);
      expect(checkpoint.files[0]).toBe(join(checkpoint.folder ?? "", "model.safetensors"));
    } finally {
      process.chdir(before);
    }
  });

  test("each tensor keeps its precision", async () => {
    const folder = await modelWith((tensors) => {
      tensors.set("model.memory_tokens", { dtype: "F32", shape: [2, 8] });
      tensors.set("model.final_layernorm.weight", { dtype: "F16", shape: [8] });
    });
    const checkpoint = await openCheckpoint(folder);
    const { weightBytes, weightBytesByDtype, parameters } = summarizeCheckpoint(checkpoint);
    expect(weightBytesByDtype).toMatchObject({ F16: 16, F32: 64 });
    expect(weightBytes).toBe(2 * parameters + 32);
  });

  test("shards", async () => {
    const folder = await shardedModel();
    const checkpoint = await openCheckpoint(folder);
    expect(checkpoint.files.map((file) => basename(file))).toEqual([
      "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors",
    ]);
    expect(checkpoint.tensors.slice(0, 3).map(({ source }) => source)).toMatchObject([
      { kind: "file", file: 0 },
      { kind: "file", file: 1 },
      { kind: "file", file: 0 },
    ]);
  });

  test("one file goes before an index", async () => {
    const folder = await shardedModel();
    await cp(
      join(await folders.createModel(), "model.safetensors"),
      join(folder, "model.safetensors"),
    );
    expect((await openCheckpoint(folder)).files).toEqual([join(folder, "model.safetensors")]);
  });

  test("links are followed, as in a Hugging Face cache", async () => {
    const blobs = await folders.createModel();
    const snapshot = await folders.create();
    for (const name of ["config.json", "model.safetensors"]) {
      await symlink(join(blobs, name), join(snapshot, name));
    }
    expect((await openCheckpoint(snapshot)).files).toEqual([join(snapshot, "model.safetensors")]);
  });

  test("tensors that nothing reads may be there, and are left out", async () => {
    const config = smallConfig({ kq_norm: "rms" });
    const extra = {
      "lm_head.weight": { dtype: "BF16", shape: [20, 8] },
      "model.layers.2.mamba.self_attn.k_norm.weight": { dtype: "BF16", shape: [4] },
      "model.layers.0.mamba.self_attn.rotary_emb.inv_freq": { dtype: "I64", shape: [2] },
    };
    const plain = await openCheckpoint(await modelWith(() => {}, config));
    const folder = await modelWith((tensors) => {
      for (const [name, tensor] of Object.entries(extra)) tensors.set(name, tensor);
    }, config);
    const names = (await openCheckpoint(folder)).tensors.map((tensor) => tensor.name);
    expect(names).toEqual(plain.tensors.map((tensor) => tensor.name));
    expect(names).toContain("model.layers.1.mamba.self_attn.k_norm.weight");
  });

  test("an untied lm_head is read", async () => {
    const folder = await folders.createModel(smallConfig({ tie_word_embeddings: false }));
    expect((await openCheckpoint(folder)).tensors.at(-1)?.name).toBe("lm_head.weight");
  });
});

describe("a path that cannot be opened", () => {
  test.each<[unknown]>([[undefined], [null], [5], [{}]])("%p is a TypeError", async (path) => {
    await expect(openCheckpoint(path as string)).rejects.toThrow(TypeError);
  });

  test("it is empty", async () => {
    const message = await rejectionOf("ERR_INVALID_ARGUMENT", openCheckpoint(""));
    expect(message).toBe("the path of the model is empty");
  });

  test("nothing is there, or a file", async () => {
    const folder = await folders.createModel();
    expect(await formatError(join(folder, "nowhere"))).toMatch(/there is no folder ".*nowhere"/);
    expect(await formatError(join(folder, "config.json"))).toMatch(/config.json" is a file/);
    expect(await formatError(join(folder, "config.json", "x"))).toMatch(/there is no folder/);
  });

  test("the system refuses the path", async () => {
    expect(await formatError("x".repeat(5000))).toMatch(/cannot read ".*ENAMETOOLONG/);
    expect(await formatError("a\0b")).toMatch(/cannot read/);
  });
});

describe("a folder with files missing or damaged", () => {
  test("no config.json", async () => {
    expect(await formatError(await folders.create())).toMatch(/there is no ".*config.json"/);
  });

  test("a config.json that is not JSON, or cannot be read", async () => {
    const folder = await folders.create({ "config.json": '{"hidden_size": ' });
    expect(await formatError(folder)).toMatch(
      /config.json" is not JSON: .*Download the file again/s,
    );
    await rm(join(folder, "config.json"));
    await mkdir(join(folder, "config.json"));
    expect(await formatError(folder)).toMatch(/cannot read ".*config.json": EISDIR/);
  });

  test("a config.json of another model", async () => {
    const folder = await folders.createModel(smallConfig(), {
      "config.json": smallConfig({ model_type: "qwen2", architectures: ["Qwen2ForCausalLM"] }),
    });
    const message = await rejectionOf("ERR_MODEL_UNSUPPORTED", openCheckpoint(folder));
    expect(message).toMatch(/^".*config.json" is of another model: .*Qwen2ForCausalLM/);
  });

  test("no weights", async () => {
    const folder = await folders.create({ "config.json": smallConfig() });
    expect(await formatError(folder)).toMatch(/has neither model.safetensors nor .*Download/);
    await writeFile(join(folder, "pytorch_model.bin"), "");
    expect(await formatError(folder)).toMatch(/Convert its PyTorch weights to safetensors/);
  });

  test("damaged weights", async () => {
    const folder = await folders.createModel(smallConfig(), { "model.safetensors": "short" });
    expect(await formatError(folder)).toMatch(/it has 5 bytes, expected at least 8/);
  });

  test("a malformed generation_config.json", async () => {
    const folder = await folders.createModel(smallConfig(), {
      "generation_config.json": { temperature: "hot", eos_token_id: 20 },
    });
    expect(await formatError(folder)).toMatch(
      /generation_config.json" cannot be used: temperature: expected .*got "hot"$/,
    );
  });
});

describe("tensors that do not fit the config", () => {
  test("missing, unexpected, mis-shaped and of a wrong type, all in one error", async () => {
    const folder = await modelWith((tensors) => {
      tensors.delete("model.memory_tokens");
      tensors.delete("model.layers.3.mamba.D.0");
      tensors.set("model.layers.4.input_layernorm.weight", { dtype: "BF16", shape: [8] });
      tensors.set("model.final_layernorm.weight", { dtype: "BF16", shape: [9] });
      tensors.set("model.layers.0.mamba.conv1d.weight", { dtype: "BF16", shape: [16, 4] });
      tensors.set("model.layers.1.mamba.out_proj.weight", { dtype: "F8_E4M3", shape: [8, 16] });
    });
    const message = await formatError(folder);
    expect(message).toContain("2 missing: model.memory_tokens; model.layers.3.mamba.D.0. ");
    expect(message).toContain('1 unexpected: "model.layers.4.input_layernorm.weight". ');
    expect(message).toContain("3 of a wrong shape or precision: ");
    expect(message).toContain("layers.0.mamba.conv1d.weight is [16,4], expected [16,1,4]; ");
    expect(message).toContain('out_proj.weight is "F8_E4M3", expected BF16, F16 or F32; ');
    expect(message).toContain("model.final_layernorm.weight is [9], expected [8]. ");
    expect(message).toMatch(
      /do not fit its config.json: .*Is it the config.json of this checkpoint/,
    );
  });

  test("a tied lm_head of another vocabulary", async () => {
    const folder = await modelWith((tensors) => {
      tensors.set("lm_head.weight", { dtype: "BF16", shape: [21, 8] });
    });
    expect(await formatError(folder)).toContain("lm_head.weight is [21,8], expected [20,8]");
  });

  test("long lists are cut and counted", async () => {
    const folder = await modelWith((tensors) => {
      for (const name of tensors.keys()) if (name.includes("mamba")) tensors.delete(name);
    });
    expect(await formatError(folder)).toMatch(/56 missing: (model[^;]*; ){20}and 36 more\. Is it/);
  });

  test("the config of another checkpoint", async () => {
    const folder = await folders.createModel();
    await writeFile(
      join(folder, "config.json"),
      JSON.stringify(smallConfig({ kv_reuse_group: [], global_attn_idx: [1] })),
    );
    expect(await formatError(folder)).toMatch(
      /1 of a wrong .*layers.2.mamba.in_proj.weight is \[40,8\], expected \[52,8\]/,
    );
  });
});

describe("an index that is malformed", () => {
  test.each<[unknown, RegExp]>([
    ["not JSON", /is not JSON/],
    [{}, /weight_map: expected an object from tensor names to file names, got nothing/],
    [[], /expected an object, got \[\]/],
    [null, /expected an object, got null/],
    [{ weight_map: null }, /got null/],
    [{ weight_map: { a: 1 } }, /got \{"a":1\}/],
  ])("%j", async (index, message) => {
    const folder = await shardedModel();
    const text = typeof index === "string" ? index : JSON.stringify(index);
    await writeFile(join(folder, "model.safetensors.index.json"), text);
    expect(await formatError(folder)).toMatch(message);
  });

  test.each([
    "../outside.safetensors",
    "/etc/outside.safetensors",
    "sub/inside.safetensors",
    "..\\outside.safetensors",
    "a\0b.safetensors",
    "config.json",
    "..",
    "",
  ])("a shard called %j", async (name) => {
    const folder = await shardedModel((index) => {
      index["model.memory_tokens"] = name;
    });
    const message = await formatError(folder);
    expect(message).toContain(`names ${JSON.stringify(name)}; expected the plain names`);
  });

  test("a shard that is missing", async () => {
    const folder = await shardedModel();
    await rename(join(folder, "model-00002-of-00002.safetensors"), join(folder, "elsewhere"));
    expect(await formatError(folder)).toMatch(
      /lacks 1 of 2 weight files: "model-00002-of-00002.safetensors". Download/,
    );
  });

  test("a shard that is a folder", async () => {
    const folder = await shardedModel();
    await rm(join(folder, "model-00002-of-00002.safetensors"));
    await mkdir(join(folder, "model-00002-of-00002.safetensors"));
    expect(await formatError(folder)).toMatch(/00002.safetensors" .*it is not a file/);
  });

  test("index and shards disagree", async () => {
    const folder = await shardedModel((index, shards) => {
      index["model.extra"] = "model-00001-of-00002.safetensors";
      delete index["model.memory_tokens"];
      shards[0]?.set("model.memory_tokens", { dtype: "BF16", shape: [2, 8] });
    });
    const message = await formatError(folder);
    expect(message).toContain(
      '"model.memory_tokens" is in model-00001-of-00002.safetensors, but not listed there',
    );
    expect(message).toContain(
      '"model.extra" is listed in model-00001-of-00002.safetensors, but not there',
    );
  });

  test("a tensor called __proto__ is one like any other", async () => {
    const folder = await shardedModel();
    await writeFile(
      join(folder, "model.safetensors.index.json"),
      '{"weight_map": {"__proto__": "model-00003-of-00003.safetensors"}}',
    );
    expect(await formatError(folder)).toMatch(/lacks 1 of 1 weight files: "model-00003-of-00003/);
  });
});

describe("generation_config.json", () => {
  test("recommended values", async () => {
    const folder = await folders.createModel(smallConfig(), {
      "generation_config.json": {
        do_sample: true,
        temperature: 0.6,
        top_k: 50,
        top_p: 0.9,
        repetition_penalty: 1.1,
        bos_token_id: 1,
        eos_token_id: [2, 3],
        pad_token_id: 0,
        transformers_version: "4.44.0",
        max_length: "ignored",
      },
    });
    expect((await openCheckpoint(folder)).generationConfig).toEqual({
      doSample: true,
      temperature: 0.6,
      topK: 50,
      topP: 0.9,
      repetitionPenalty: 1.1,
      bosTokenId: 1,
      eosTokenIds: [2, 3],
      padTokenId: 0,
    });
  });

  test("what is missing or null stays absent", () => {
    const nothing = { do_sample: null, temperature: null, top_k: null, eos_token_id: null };
    expect(parseGenerationConfig({}, 20, "file")).toEqual({});
    expect(parseGenerationConfig(nothing, 20, "file")).toEqual({});
    expect(parseGenerationConfig({ eos_token_id: 2 }, 20, "file")).toEqual({ eosTokenIds: [2] });
    expect(parseGenerationConfig({ temperature: 0, top_k: 0, top_p: 1 }, 20, "file")).toEqual({
      temperature: 0,
      topK: 0,
      topP: 1,
    });
  });

  test.each<[unknown, RegExp]>([
    [null, /expected an object/],
    [{ do_sample: 1 }, /do_sample: expected true or false, got 1/],
    [{ temperature: -1 }, /temperature: .*got -1/],
    [{ top_k: -1 }, /top_k: .*got -1/],
    [{ top_k: 1.5 }, /top_k: .*got 1.5/],
    [{ top_p: 0 }, /top_p: .*got 0/],
    [{ top_p: 1.01 }, /top_p: .*got 1.01/],
    [{ repetition_penalty: 0 }, /repetition_penalty: .*got 0/],
    [{ eos_token_id: "</s>" }, /eos_token_id: .*got "<\/s>"/],
    [
      { eos_token_id: [2, 20] },
      /does not fit the model: eos_token_id \[20\] is not in the vocabulary/,
    ],
    [{ pad_token_id: 20 }, /pad_token_id \[20\] is not in the vocabulary of 20/],
  ])("%j", (json, message) => {
    expect(messageOf("ERR_MODEL_FORMAT", () => parseGenerationConfig(json, 20, "f"))).toMatch(
      message,
    );
  });
});
