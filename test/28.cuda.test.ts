import { spawnSync } from "node:child_process";
import { HymbaModel, type LoadOptions, type SamplingOptions } from "../lib";
import { MICRO, relativeError } from "./helpers/golden";
import { logSoftmax } from "./helpers/sampling_reference";
import { bigTest, describeCuda } from "./kernels/helpers";

// What is special about whole models on a GPU. The golden, property and error tests run there too:
// HYMBA_TEST_DEVICE=cuda.

const TINY = "models/hymba-tiny";
const VOCABULARY = 320;
const MAX_SEQUENCES = 12;

const load = (options: LoadOptions = {}): Promise<HymbaModel> =>
  HymbaModel.load(MICRO, {
    device: "cuda",
    maxSequences: MAX_SEQUENCES,
    maxContextTokens: 256,
    maxBatchTokens: 256,
    ...options,
  });

const promptOf = (index: number, length: number): number[] =>
  Array.from({ length }, (_, i) => (i * 7 + index * 31 + 3) % VOCABULARY);

/** Continues prompts side by side, one prefill and `steps` decode steps; tokens of each. */
async function continueAll(
  model: HymbaModel,
  prompts: readonly (readonly number[])[],
  steps: number,
  { ahead, sample }: { ahead: boolean; sample: SamplingOptions },
): Promise<number[][]> {
  const sequences = prompts.map(() => model.createSequence());
  const first = await model.prefill(
    sequences.map((sequence, i) => ({ sequence, tokens: prompts[i]!, sample })),
  );
  const drawn = first.map(({ token }) => [token!]);
  const requests = sequences.map((sequence, i) => ({ sequence, token: drawn[i]![0]!, sample }));
  for await (const results of model.draw(requests, steps, { ahead })) {
    for (const [i, { token }] of results.entries()) drawn[i]!.push(token!);
  }
  for (const sequence of sequences) sequence.dispose();
  return drawn;
}

describeCuda("a model on a GPU", () => {
  const STEPS = 12;
  const prompts = Array.from({ length: 7 }, (_, i) => promptOf(i, 3 + 9 * i));

  describe.each(["float32", "bfloat16"] as const)("in %s", (dtype) => {
    let model: HymbaModel;
    beforeAll(async () => {
      model = await load({ dtype });
    });
    afterAll(() => model.dispose());

    test("gives the same bits when run twice", async () => {
      const run = async () => {
        using sequence = model.createSequence();
        const [prefill] = await model.prefill([
          { sequence, tokens: promptOf(1, 150), logits: "all" },
        ]);
        const [decode] = await model.decode([{ sequence, token: 5 }]);
        return [...prefill!.logits!, ...decode!.logits!];
      };
      expect(await run()).toEqual(await run());
    });

    test("decodes the same bits whatever shares the batch", async () => {
      const runs = prompts.map((tokens) => ({ tokens, together: model.createSequence() }));
      const decodeAll = async (sequences: ReturnType<HymbaModel["createSequence"]>[]) => {
        const logits: Float32Array[][] = sequences.map(() => []);
        for (let step = 0; step < 4; step++) {
          const results = await model.decode(
            sequences.map((sequence, i) => ({ sequence, token: (11 * step + i) % VOCABULARY })),
          );
          for (const [i, result] of results.entries()) logits[i]!.push(result.logits!);
        }
        return logits;
      };
      for (const { tokens, together } of runs) {
        await model.prefill([{ sequence: together, tokens, logits: "none" }]);
      }
      const batch = await decodeAll(runs.map(({ together }) => together));
      for (const [i, { tokens, together }] of runs.entries()) {
        together.dispose();
        using alone = model.createSequence();
        await model.prefill([{ sequence: alone, tokens, logits: "none" }]);
        for (let step = 0; step < 4; step++) {
          const [result] = await model.decode([
            { sequence: alone, token: (11 * step + i) % VOCABULARY },
          ]);
          expect(result!.logits).toEqual(batch[i]![step]);
        }
      }
    });

    test("draws the same tokens ahead of their arrival, awaited, replayed and alone", async () => {
      const sample = { temperature: 0.9, topK: 50, seed: 3, repetitionPenalty: 1.2 };
      const awaited = await continueAll(model, prompts, STEPS, { ahead: false, sample });
      expect(await continueAll(model, prompts, STEPS, { ahead: true, sample })).toEqual(awaited);
      // Batches of other sizes are padded to other ones.
      for (const count of [1, 2, 3, 5]) {
        const some = prompts.slice(0, count);
        expect(await continueAll(model, some, STEPS, { ahead: true, sample })).toEqual(
          awaited.slice(0, count),
        );
      }
      expect(new Set(awaited.map(String)).size).toBe(prompts.length);
    });

    test("greedy tokens are those of the logits", async () => {
      const sample = { temperature: 0, topLogprobs: 3 };
      using sequence = model.createSequence();
      const [result] = await model.prefill([
        { sequence, tokens: promptOf(2, 40), logits: "last", sample },
      ]);
      const best = result!.logits!.indexOf(Math.max(...result!.logits!));
      expect(result!.token).toBe(best);
      const expected = logSoftmax([...result!.logits!])[best]!;
      expect(Math.abs(result!.logprob! - expected)).toBeLessThan(1e-4);
      expect(result!.topLogprobs![0]!.token).toBe(best);
    });
  });

  test("agrees with the CPU in bfloat16", async () => {
    await using gpu = await load();
    await using cpu = await load({ device: "cpu" });
    const tokens = promptOf(4, 180);
    const logits = await Promise.all(
      [gpu, cpu].map(async (model) => {
        using sequence = model.createSequence();
        const [result] = await model.prefill([{ sequence, tokens, logits: "all" }]);
        return result!.logits!;
      }),
    );
    expect(relativeError(logits[0]!, logits[1]!)).toBeLessThan(2e-2);
  });

  test("says where it runs and what it takes there", async () => {
    await using model = await load();
    const { device, memory, deviceMemory } = model.info();
    expect(device.kind).toBe("cuda");
    expect(memory.totalBytes).toBe(memory.weightsBytes + memory.cacheBytes + memory.workspaceBytes);
    const { totalBytes, usedBytes, otherBytes, availableBytes } = deviceMemory!;
    expect(usedBytes).toBe(memory.totalBytes + otherBytes);
    expect(otherBytes).toBeGreaterThan(0);
    expect(availableBytes).toBeGreaterThan(0);
    expect(availableBytes).toBeLessThan(totalBytes - usedBytes);
  });

  test("admits what the cache has room for, and more when there is room again", async () => {
    // Room for one sequence of the longest.
    await using model = await load({ maxSequences: 2, cacheTokens: 256, dtype: "float32" });
    const options = { ahead: false, sample: { temperature: 0 } };
    const alone = await continueAll(model, [promptOf(1, 100)], 2, options);
    const first = model.createSequence();
    const second = model.createSequence();
    await model.prefill([{ sequence: first, tokens: promptOf(0, 200), logits: "none" }]);
    const { cache } = model.info();
    await expect(
      model.prefill([{ sequence: second, tokens: promptOf(1, 100), logits: "none" }]),
    ).rejects.toMatchObject({
      code: "ERR_OUT_OF_MEMORY",
      message: expect.stringMatching(/pool is full.*dispose a sequence, or load with a larger/),
    });
    expect(() => model.createSequence()).toThrow(/all 2 sequences are in use: dispose one or load/);
    // Nothing of it was taken.
    expect(second.length).toBe(0);
    expect(model.info().cache).toEqual(cache);
    await model.decode([{ sequence: first, token: 1 }]);
    first.dispose();
    second.dispose();
    expect(await continueAll(model, [promptOf(1, 100)], 2, options)).toEqual(alone);
  });

  bigTest("does not load what the GPU has no room for, and loads again afterwards", async () => {
    const huge = load({ maxSequences: 60_000, maxContextTokens: 2 ** 20, maxBatchTokens: 256 });
    await expect(huge).rejects.toMatchObject({ code: "ERR_OUT_OF_MEMORY" });
    await using model = await load();
    using sequence = model.createSequence();
    await model.prefill([{ sequence, tokens: [1, 2, 3] }]);
  });
});

describeCuda("a GPU that fails", () => {
  bigTest("is lost for the process, which says so every time and can go on with the CPU", () => {
    const script = `
      const { KernelDevice } = require("./dist/kernels.js");
      const { HymbaModel } = require("./dist/index.js");
      const device = KernelDevice.open("cuda");
      const table = device.tensor("f32", [4, 8]);
      const rows = device.tensor("i32", [1], Int32Array.of(2 ** 30));
      device.gatherRows({ in: table, rows, out: device.tensor("f32", [1, 8]) });
      const codes = [1, 2].map(() => {
        try {
          device.synchronize();
        } catch (error) {
          return error.code;
        }
      });
      (async () => {
        const load = (device) => HymbaModel.load("models/hymba-tiny", { device, maxSequences: 1 });
        codes.push(await load("cuda").then(() => "loaded", (error) => error.code));
        await (await load("cpu")).dispose();
        console.log(JSON.stringify(codes));
      })();`;
    const { stdout, status } = spawnSync(process.execPath, ["-e", script], { encoding: "utf8" });
    expect({ status, codes: JSON.parse(stdout) as unknown }).toEqual({
      status: 0,
      codes: ["ERR_DEVICE_LOST", "ERR_DEVICE_LOST", expect.stringMatching(/^ERR_/)],
    });
  });
});

describeCuda("the bundled model on a GPU", () => {
  test("generates the CPU's greedy text", async () => {
    const texts = [];
    for (const device of ["cuda", "cpu"] as const) {
      await using model = await HymbaModel.load(TINY, {
        device,
        dtype: "float32",
        maxSequences: 1,
        maxContextTokens: 256,
      });
      let text = "";
      const options = { prompt: "Once upon a time", maxTokens: 24, temperature: 0 };
      for await (const chunk of model.generate(options)) text += chunk.text;
      texts.push(text);
    }
    expect(texts[0]).toBe(texts[1]);
  });
});

describeCuda("a full-size model on a GPU", () => {
  const FULL = "synthetic:hymba-1.5b";
  const tokens = Array.from({ length: 64 }, (_, i) => (i * 7919 + 13) % 32001);
  const options = { maxSequences: 1, maxContextTokens: 256, maxBatchTokens: 256 } as const;

  const layerOutputs = async (model: HymbaModel): Promise<Float32Array[]> => {
    const outputs: Float32Array[] = [];
    // A trace holds every activation: some layers at a time.
    for (let first = 0; first < model.config.numLayers; first += 8) {
      const layers = Array.from({ length: 8 }, (_, i) => first + i);
      const traced = await model.trace(tokens, layers);
      outputs.push(...traced.filter(({ name }) => name === "out").map(({ values }) => values));
    }
    return outputs;
  };
  const logitsOf = async (model: HymbaModel): Promise<Float32Array> => {
    using sequence = model.createSequence();
    const [result] = await model.prefill([{ sequence, tokens, logits: "all" }]);
    return result!.logits!;
  };

  bigTest("is as close to float32 as bfloat16 activations allow, layer by layer", async () => {
    await using gpu = await HymbaModel.load(FULL, { device: "cuda", ...options });
    await using cpu = await HymbaModel.load(FULL, { device: "cpu", dtype: "float32", ...options });
    await using rounded = await HymbaModel.load(FULL, { device: "cpu", ...options });
    const [ours, reference] = [await layerOutputs(gpu), await layerOutputs(cpu)];
    const plain = await layerOutputs(rounded);
    const show = (errors: readonly number[]) => errors.map((e) => e.toExponential(1)).join(" ");
    const errors = ours.map((values, layer) => relativeError(values, reference[layer]!));
    const cpuErrors = plain.map((values, layer) => relativeError(values, reference[layer]!));
    console.log(
      `relative error by layer: ${show(errors)}\nof the CPU in bfloat16: ${show(cpuErrors)}`,
    );
    // Rounding activations to bfloat16 costs this much, whoever does it: the GPU adds nothing.
    for (const [layer, error] of errors.entries()) {
      expect(error).toBeLessThan(1.1 * cpuErrors[layer]!);
      expect(error).toBeLessThanOrEqual(1e-2);
    }

    const [a, b] = [await logitsOf(gpu), await logitsOf(cpu)];
    const vocabSize = gpu.config.vocabSize;
    let divergence = 0;
    for (let row = 0; row < tokens.length; row++) {
      const p = logSoftmax([...b.subarray(row * vocabSize, (row + 1) * vocabSize)]);
      const q = logSoftmax([...a.subarray(row * vocabSize, (row + 1) * vocabSize)]);
      divergence += p.reduce((sum, logp, i) => sum + Math.exp(logp) * (logp - q[i]!), 0);
    }
    console.log(`mean KL divergence of the logits: ${divergence / tokens.length}`);
    expect(divergence / tokens.length).toBeLessThanOrEqual(1e-3);
  });

  bigTest("with 954 sequences of 8,192 tokens planned, loads on an 80 GB GPU", async () => {
    const limits = {
      maxSequences: 954,
      maxContextTokens: 8192,
      maxBatchTokens: 2048,
      prefixCacheBytes: 0,
    };
    await using model = await HymbaModel.load(FULL, { device: "cuda", ...limits });
    const usedMib = Number(
      spawnSync("nvidia-smi", ["--query-gpu=memory.used", "--format=csv,noheader,nounits"], {
        encoding: "utf8",
      }).stdout,
    );
    const { memory, deviceMemory } = model.info();
    const { usedBytes, otherBytes } = deviceMemory!;
    const mib = (bytes: number) => Math.round(bytes / 2 ** 20);
    console.log(
      `planned ${mib(memory.totalBytes)} MiB, others ${mib(otherBytes)} MiB, together ` +
        `${mib(usedBytes)} MiB; nvidia-smi says ${usedMib} MiB`,
    );
    expect(Math.abs(usedMib * 2 ** 20 - usedBytes)).toBeLessThan(300e6);
    // CUDA's context and the code of the kernels, on a GPU that nobody else uses.
    expect(otherBytes).toBeLessThan(2 ** 30);
    using sequence = model.createSequence();
    await model.prefill([{ sequence, tokens }]);
  });
});
