import { rm } from "node:fs/promises";
import { join } from "node:path";
import { openCheckpoint } from "../lib/checkpoint/checkpoint";
import { summarizeCheckpoint } from "../lib/checkpoint/summary";
import { expectedTensors } from "../lib/checkpoint/tensor_table";
import { rejectionOf } from "./helpers/error";
import { TemporaryFolders, smallConfig, smallConfigWithout } from "./helpers/model_files";
import { syntheticBits, syntheticNormal, toBfloat16 } from "./helpers/synthetic";

const folders = new TemporaryFolders();
afterAll(() => folders.remove());

const formatError = (path: string) => rejectionOf("ERR_MODEL_FORMAT", openCheckpoint(path));

describe("synthetic models", () => {
  test("Hymba-1.5B", async () => {
    const checkpoint = await openCheckpoint("synthetic:hymba-1.5b");
    expect(checkpoint).toMatchObject({
      path: "synthetic:hymba-1.5b",
      files: [],
      seed: 0,
      generationConfig: {},
    });
    expect(checkpoint).not.toHaveProperty("folder");
    expect(summarizeCheckpoint(checkpoint)).toEqual({
      parameters: 1_522_797_824,
      tensors: 611,
      weightBytes: 3_045_595_648,
      weightBytesByDtype: { BF16: 3_045_595_648, F16: 0, F32: 0 },
    });
  });

  test("a config.json, or a folder with one", async () => {
    const folder = await folders.createModel(smallConfig(), {
      "generation_config.json": { top_k: 5 },
    });
    await rm(join(folder, "model.safetensors"));
    const fromFolder = await openCheckpoint(`synthetic:${folder}`);
    expect(fromFolder).toMatchObject({ folder, files: [], generationConfig: { topK: 5 } });
    const spec = `synthetic:${join(folder, "config.json")}`;
    expect(await openCheckpoint(spec)).toEqual({ ...fromFolder, path: spec });
  });

  test("the seed", async () => {
    for (const seed of [0, 1, 4294967295]) {
      const checkpoint = await openCheckpoint(`synthetic:hymba-1.5b?seed=${seed}`);
      expect(checkpoint.seed).toBe(seed);
    }
  });

  test.each([
    "",
    "?seed=1",
    "hymba-1.5b?seed=",
    "hymba-1.5b?seed=-1",
    "hymba-1.5b?seed=1.5",
    "hymba-1.5b?seed=4294967296",
    "hymba-1.5b?seed=99999999999999999999",
    "hymba-1.5b?seed=1&seed=2",
    "hymba-1.5b?scale=2",
    "hymba-1.5b?",
  ])("synthetic:%s is malformed", async (rest) => {
    const message = await rejectionOf("ERR_INVALID_ARGUMENT", openCheckpoint(`synthetic:${rest}`));
    expect(message).toMatch(/is not a synthetic model; expected synthetic:<name or path>/);
  });

  test("nothing there, or no config there", async () => {
    const missing = await formatError("synthetic:hymba-7b");
    expect(missing).toMatch(/there is no ".*hymba-7b".*built-in model \(hymba-1.5b\)/);
    const folder = await folders.create();
    expect(await formatError(`synthetic:${folder}`)).toMatch(/there is no ".*config.json"/);
  });

  test("a config that cannot be used", async () => {
    const folder = await folders.create({ "config.json": smallConfigWithout("hidden_size") });
    expect(await formatError(`synthetic:${folder}`)).toMatch(/hidden_size: expected/);
  });

  test("values are chosen so that activations stay of order 1", async () => {
    const config = smallConfig({
      mamba_proj_bias: true,
      kq_norm: "perhead-rms",
      tie_word_embeddings: false,
    });
    const folder = await folders.create({ "config.json": config });
    const { tensors } = await openCheckpoint(`synthetic:${folder}`);
    const residual = Math.sqrt(2 * 4);
    const fills = Object.fromEntries(
      tensors.map(({ name, source }) => {
        if (source.kind !== "synthetic") throw new Error(`${name} is not synthetic`);
        return [name.replace("model.layers.1.", ""), [source.fill, source.scale]];
      }),
    );
    expect(fills).toMatchObject({
      "model.embed_tokens.weight": ["normal", 1],
      "model.memory_tokens": ["normal", 1],
      "lm_head.weight": ["normal", 1],
      "model.final_layernorm.weight": ["normal", 1 / Math.sqrt(8)],
      "input_layernorm.weight": ["constant", 1],
      "pre_moe_layernorm.weight": ["constant", 1],
      "mamba.pre_avg_layernorm1.weight": ["constant", 1],
      "mamba.pre_avg_layernorm2.weight": ["constant", 1],
      "mamba.dt_layernorm.weight": ["constant", 1],
      "mamba.self_attn.q_norm.weight": ["constant", 1],
      "mamba.self_attn.k_norm.weight": ["constant", 1],
      "mamba.D.0": ["constant", 1],
      "mamba.A_log.0": ["log_arange", 1],
      "mamba.dt_proj.0.bias": ["dt_bias", 1],
      "mamba.in_proj.weight": ["normal", 1 / Math.sqrt(8)],
      "mamba.in_proj.bias": ["normal", 0.1],
      "mamba.conv1d.weight": ["normal", 1 / Math.sqrt(4)],
      "mamba.conv1d.bias": ["normal", 0.1],
      "mamba.x_proj.0.weight": ["normal", 1 / Math.sqrt(16)],
      "mamba.dt_proj.0.weight": ["normal", 1 / Math.sqrt(5)],
      "mamba.out_proj.weight": ["normal", 1 / Math.sqrt(16) / residual],
      "mamba.out_proj.bias": ["normal", 0.1 / residual],
      "moe.experts.0.gate_proj.weight": ["normal", 1 / Math.sqrt(8)],
      "moe.experts.0.up_proj.weight": ["normal", 1 / Math.sqrt(8)],
      "moe.experts.0.down_proj.weight": ["normal", 1 / Math.sqrt(12) / residual],
    });
  });

  test("a tensor's stream is its index among the expected ones", async () => {
    const { config, tensors } = await openCheckpoint("synthetic:hymba-1.5b");
    const names = expectedTensors(config).map((tensor) => tensor.name);
    for (const { name, dtype, source } of tensors) {
      expect(dtype).toBe("BF16");
      expect(source).toMatchObject({ kind: "synthetic", stream: names.indexOf(name) });
    }
  });
});

describe("synthetic values", () => {
  // Computed by native/core/synthetic.h with scale 0.025: seed, stream, index, value, as bfloat16.
  test.each([
    [0, 0, 0, 0.0267699324, 0.0267333984],
    [0, 0, 1, 0.0134886997, 0.0134887695],
    [0, 700, 51201600, 0.0122927874, 0.0122680664],
    [1, 7, 0, -0.000138091506, -0.000138282776],
    [1, 7, 51201600, 0.0507212095, 0.05078125],
    [4294967295, 0, 2, -0.030734282, -0.0307617188],
    [4294967295, 700, 1, -0.0500452891, -0.0500488281],
  ])("seed %d, stream %d, element %d", (seed, stream, index, value, rounded) => {
    const computed = syntheticNormal(seed, stream, index, 0.025);
    expect(computed).toBe(Math.fround(value));
    expect(toBfloat16(computed)).toBe(Math.fround(rounded));
  });

  test("mean, deviation and independence of streams", () => {
    const count = 20_000;
    const a = Array.from({ length: count }, (_, i) => syntheticNormal(5, 0, i, 2));
    const b = Array.from({ length: count }, (_, i) => syntheticNormal(5, 1, i, 2));
    const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / count;
    const tolerance = 4 / Math.sqrt(count);
    expect(Math.abs(mean(a)) / 2).toBeLessThan(tolerance);
    expect(Math.abs(Math.sqrt(mean(a.map((x) => x * x))) / 2 - 1)).toBeLessThan(tolerance);
    expect(Math.abs(mean(a.map((x, i) => x * (b[i] as number))) / 4)).toBeLessThan(tolerance);
    expect(Math.abs(mean(a.slice(1).map((x, i) => x * (a[i] as number))) / 4)).toBeLessThan(
      tolerance,
    );
  });

  test("seeds, streams and elements have words of their own", () => {
    const words = new Set<bigint>();
    for (let i = 0; i < 30 ** 3; i++) {
      words.add(syntheticBits(i % 30, Math.floor(i / 30) % 30, Math.floor(i / 900)));
    }
    expect(words.size).toBe(30 ** 3);
  });
});
