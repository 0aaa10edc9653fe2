import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { openCheckpoint } from "../lib/checkpoint/checkpoint";
import { KERNEL_CASES } from "../lib/cli/bench/kernel_cases";
import { GpuUsage } from "../lib/cli/bench/gpu_usage";
import { RandomData } from "../lib/cli/bench/random";
import { spread } from "../lib/cli/bench/statistics";
import { run } from "../lib/cli/main";
import { addKeys, visibleKeys } from "../lib/cost/keys";
import { costedModel, decodeStepBytes, prefillFlops } from "../lib/cost/model";
import { devicePeak } from "../lib/cost/peaks";
import { stageCost } from "../lib/cost/stages";
import { KernelDevice } from "../lib/kernels";
import { FakeTerminal } from "./helpers/fake_cli";
import { MICRO } from "./helpers/golden";

const MODEL = `synthetic:${MICRO}`;

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "hymba-bench-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** Runs a bench of the small model on the CPU. */
async function bench(argv: readonly string[], isTTY = false) {
  const terminal = new FakeTerminal("", isTTY);
  const common = ["--model", MODEL, "--device", "cpu", "--threads", "2"];
  const code = await run(["bench", ...argv, ...common], terminal);
  return { code, out: terminal.out, err: terminal.err, rows: () => terminal.json };
}

/** What every row says about where it was measured. */
const ENVIRONMENT = {
  device: expect.any(String),
  driver: null,
  sm_mhz: null,
  memory_mhz: null,
  version: expect.stringMatching(/^\d+\.\d+\.\d+$/),
  copy_tbps: expect.any(Number),
};

describe("what is visible", () => {
  test("is what the mask of each query lets it see", () => {
    const small = fc.nat(40);
    fc.assert(
      fc.property(
        small,
        small,
        fc.integer({ min: -1, max: 20 }),
        small,
        (first, extra, ...rest) => {
          const [window, meta] = rest;
          const count = extra + 1;
          let pairs = 0;
          const text = new Set<number>();
          for (let query = first; query < first + count; query++) {
            pairs += meta;
            for (let key = 0; key <= query; key++) {
              if (window >= 0 && query - key > window) continue;
              pairs++;
              text.add(key);
            }
          }
          const expected = { pairs, textKeys: text.size, metaKeys: meta };
          expect(visibleKeys(first, count, window, meta)).toEqual(expected);
        },
      ),
    );
  });

  test("meta tokens count once for all sequences", () => {
    const one = visibleKeys(10, 1, -1, 4);
    expect(addKeys([one, one])).toEqual({ pairs: 30, textKeys: 22, metaKeys: 4 });
    expect(addKeys([])).toEqual({ pairs: 0, textKeys: 0, metaKeys: 0 });
  });
});

describe("the cost of Hymba-1.5B", () => {
  const load = async (dtype: "bfloat16" | "float32" = "bfloat16") =>
    costedModel(await openCheckpoint("synthetic:hymba-1.5b"), dtype);
  const lengths = (batch: number, length: number) => Array<number>(batch).fill(length);

  // Weights 3.05 GB, shared meta keys 8 MB; per sequence a window of 57 MB, states of 14 MB, and
  // global keys of 6 or 47 MB.
  test.each([
    [1, 1024, 3.13],
    [32, 1024, 5.54],
    [128, 1024, 12.98],
    [1, 8192, 3.18],
    [128, 8192, 18.27],
  ])("a step of %i sequences of %i tokens moves %f GB", async (batch, length, gigabytes) => {
    const bytes = decodeStepBytes(await load(), lengths(batch, length));
    expect(bytes / 1e9 / gigabytes).toBeCloseTo(1, 2);
  });

  test("fp32 doubles the cache and leaves the weights and the SSM state", async () => {
    const perSequence = async (dtype: "bfloat16" | "float32") => {
      const model = await load(dtype);
      return decodeStepBytes(model, lengths(2, 8192)) - decodeStepBytes(model, lengths(1, 8192));
    };
    const [half, full] = [await perSequence("bfloat16"), await perSequence("float32")];
    const { numLayers, innerSize, stateSize, vocabSize, hiddenSize } = (await load()).config;
    const same = 2 * numLayers * innerSize * stateSize * 4 + 2 * vocabSize * 4 + 2 * hiddenSize;
    expect(full - same).toBe(2 * (half - same));
  });

  test("a token of a prompt takes 2.94 GFLOP of matrix products, and attention more", async () => {
    const model = await load();
    const { numHeads, headDim, valueHeadDim, numMetaTokens, vocabSize, hiddenSize } = model.config;
    const flops = prefillFlops(model, 0, 1) - 2 * vocabSize * hiddenSize;
    const attention = 2 * 32 * (numMetaTokens + 1) * numHeads * (headDim + valueHeadDim);
    expect((flops - attention) / 2.937e9).toBeCloseTo(1, 3);
    // 24.06 in products, 3.48 in attention, which also sees the meta tokens here.
    expect(prefillFlops(model, 0, 8192) / 1e12).toBeCloseTo(27.8, 0);
  });

  test("an untied table is not read as a whole", async () => {
    const { config, tensors, dtype } = await load();
    const untied = { config: { ...config, tieWordEmbeddings: false }, tensors, dtype };
    const tied = decodeStepBytes({ config, tensors, dtype }, [1]);
    expect(tied - decodeStepBytes(untied, [1])).toBe(config.vocabSize * config.hiddenSize * 2);
  });
});

describe("the cost of a stage", () => {
  const device = KernelDevice.open("cpu", { threads: 1 });
  afterAll(() => device.dispose());

  test("counts what is read and written once", () => {
    const data = new Float32Array(16 * 8);
    const weight = device.matrix([{ rows: 16, cols: 8, dtype: "bf16", data }], "bf16");
    const input = device.tensor("bf16", [3, 8]);
    const out = device.tensor("f32", [3, 16]);
    const bytes = 3 * 8 * 2 + 16 * 8 * 2 + 3 * 16 * 4;
    const flops = 2 * 3 * 8 * 16;
    expect(stageCost("linear", { in: input, weight, out })).toEqual({
      bytes,
      flops,
      exponentials: 0,
    });
    const bias = device.tensor("f32", [16]);
    expect(stageCost("linear", { in: input, weight, bias, out, accumulate: true })).toEqual({
      bytes: bytes + 16 * 4 + 3 * 16 * 4,
      flops,
      exponentials: 0,
    });
  });

  test("knows every peak by the name that the driver gives", () => {
    expect(devicePeak("NVIDIA H100 80GB HBM3")?.bfloat16Flops).toBe(989e12);
    expect(devicePeak("NVIDIA H100 PCIe")?.bfloat16Flops).toBe(756e12);
    expect(devicePeak("NVIDIA A100-SXM4-80GB")?.float32Flops).toBe(19.5e12);
    expect(devicePeak("AMD EPYC")).toBeUndefined();
  });
});

test("median and percentiles are interpolated", () => {
  expect(spread([4, 1, 3, 2, 5])).toEqual({ median: 3, p10: 1.4, p90: 4.6 });
  expect(spread([7])).toEqual({ median: 7, p10: 7, p90: 7 });
});

test("random data are the same for a seed, and normally distributed however long", () => {
  const values = new RandomData(3).normals(5e5, 2);
  const again = new RandomData(3).normals(5e5, 2);
  expect(values.every((value, i) => value === again[i])).toBe(true);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance = values.reduce((sum, value) => sum + value * value, 0) / values.length;
  expect(mean).toBeCloseTo(0, 1);
  expect(variance).toBeCloseTo(4, 1);
  expect(Math.max(...new RandomData(4).tokens(1000, 7))).toBe(6);
});

describe("hymba bench", () => {
  test.each(["", "decode", "prefill", "engine", "kernels"])(
    "bench %s --help explains itself with examples",
    async (part) => {
      const terminal = new FakeTerminal("");
      const argv = ["bench", ...part.split(" ").filter(Boolean), "--help"];
      expect(await run(argv, terminal)).toBe(0);
      expect(terminal.out).toContain(`Usage: hymba bench ${part}`);
      expect(terminal.out).toContain("Examples:\n  $ hymba bench");
    },
  );

  test.each([
    [["decode", "--batch", "0"], /integer >= 1/],
    [["decode", "--batch", "1,x"], /integer >= 1/],
    [["prefill", "--peak-tflops", "0"], /number > 0/],
    [["engine", "--input", "20-10"], /a number, or a range such as 128-2048/],
    [["engine", "--output", "1-2-3"], /a number, or a range such as 128-2048/],
    [["engine", "--input", "8-"], /integer >= 1/],
    [["kernels", "--only", "linear,nothing"], /no stage "nothing", only countTokens, embedTokens/],
    [["kernels", "--tokens", "260", "--prompts", "23"], /260 tokens are too few for 23 prompts/],
    [["kernels", "--no-such-option"], /unknown option/],
  ])("%j is a wrong command line", async (argv, message) => {
    const { code, out, err } = await bench(argv);
    expect({ code, out }).toEqual({ code: 2, out: "" });
    expect(err).toMatch(message);
  });

  test("decode: a row for every batch and context, the shortest and smallest first", async () => {
    const argv = ["decode", "--batch", "3,1", "--context", "40,8", "--steps", "3", "--warmup", "2"];
    const { code, err, rows } = await bench(argv);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(rows().map(({ batch, context }) => [batch, context])).toEqual([
      [1, 8],
      [3, 8],
      [1, 40],
      [3, 40],
    ]);
    const costed = costedModel(await openCheckpoint(MODEL), "bfloat16");
    for (const row of rows()) {
      expect(row).toMatchObject({
        bench: "decode",
        model: MODEL,
        dtype: "bfloat16",
        steps: 3,
        ...ENVIRONMENT,
      });
      const { ms_per_step: ms, bytes_per_step: bytes, copy_tbps: copy } = row as never;
      expect(row["tokens_per_s"]).toBeCloseTo(((row["batch"] as number) * 1000) / ms);
      expect(row["fraction_of_floor"]).toBeCloseTo(bytes / (copy * 1e9) / ms);
      expect(row["ms_p10"]).toBeLessThanOrEqual(ms);
      expect(row["ms_p90"]).toBeGreaterThanOrEqual(ms);
    }
    // Measured in the third of five steps.
    expect(rows()[0]).toMatchObject({
      mean_length: 8 + 3,
      bytes_per_step: decodeStepBytes(costed, [11]),
    });
    // The first sequence has taken the five tokens of the row before.
    expect(rows()[1]).toMatchObject({ bytes_per_step: decodeStepBytes(costed, [16, 11, 11]) });
  });

  test("prefill: a row for every number of sequences and tokens", async () => {
    const argv = ["prefill", "--tokens", "16,70", "--sequences", "1,2", "--iterations", "2"];
    const { code, err, rows } = await bench([...argv, "--peak-tflops", "1"]);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    expect(rows().map(({ sequences, tokens }) => [sequences, tokens])).toEqual([
      [1, 16],
      [1, 70],
      [2, 16],
      [2, 70],
    ]);
    const costed = costedModel(await openCheckpoint(MODEL), "bfloat16");
    const row = rows()[3]!;
    expect(row).toMatchObject({ bench: "prefill", dtype: "bfloat16", ...ENVIRONMENT });
    expect(row["model_flops"]).toBe(2 * prefillFlops(costed, 0, 70));
    expect(row["fraction_of_peak"]).toBeCloseTo(row["model_tflops"] as number);
  });

  test("prefill: without a known peak there is no share of it", async () => {
    const argv = ["prefill", "--tokens", "4", "--iterations", "1", "--dtype", "float32"];
    expect((await bench(argv)).rows()).toMatchObject([
      { dtype: "float32", fraction_of_peak: null },
    ]);
  });

  const mix = ["engine", "--requests", "9", "--input", "6-20", "--output", "2-5"];
  const narrow = ["--sequences", "3", "--batch-tokens", "32", "--warmup", "2"];

  test("engine: a row for the mix, which a seed repeats", async () => {
    const { code, err, rows } = await bench([...mix, ...narrow, "--seed", "4"]);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    const [row] = rows() as Record<string, number>[];
    expect(rows()).toHaveLength(1);
    expect(row).toMatchObject({
      ...{ bench: "engine", model: MODEL, dtype: "bfloat16", requests: 9, input: "6-20" },
      ...{ output: "2-5", sequences: 3, batch_tokens: 32, seed: 4, gpu_idle: null },
      ...ENVIRONMENT,
    });
    const [ms, input, output, steps] = ["ms", "input_tokens", "output_tokens", "steps"].map(
      (name) => row![name]!,
    ) as [number, number, number, number];
    expect(input).toBeGreaterThan(9 * 6);
    expect(input).toBeLessThan(9 * 20);
    expect(output).toBeGreaterThan(9 * 2);
    expect(output).toBeLessThan(9 * 5);
    // Three texts at a time, and a step for all but the last token of each prompt.
    expect(steps).toBeGreaterThanOrEqual(output / 3);
    expect(steps).toBeLessThanOrEqual(output + 9);
    expect(row!["output_tokens_per_s"]).toBeCloseTo((output * 1000) / ms);
    expect(row!["total_tokens_per_s"]).toBeCloseTo(((input + output) * 1000) / ms);
    for (const name of ["ttft_ms", "itl_ms"]) {
      const [p50, p90, p99] = [50, 90, 99].map((share) => row![`${name}_p${share}`]!);
      expect(p50).toBeGreaterThan(0);
      expect(p90).toBeGreaterThanOrEqual(p50!);
      expect(p99).toBeGreaterThanOrEqual(p90!);
      expect(p99).toBeLessThanOrEqual(ms);
    }
    expect(row!["main_thread_busy"]).toBeGreaterThan(0);
    expect(row!["main_thread_busy"]).toBeLessThanOrEqual(1);

    const again = (await bench([...mix, ...narrow, "--seed", "4"])).rows()[0]!;
    expect([again["input_tokens"], again["output_tokens"]]).toEqual([input, output]);
    const other = (await bench([...mix, ...narrow, "--seed", "5"])).rows()[0]!;
    expect([other["input_tokens"], other["output_tokens"]]).not.toEqual([input, output]);
  });

  test("engine: texts of one token, in a table, compared", async () => {
    const single = ["engine", "--requests", "3", "--input", "4", "--output", "1", ...narrow];
    const [row] = (await bench(single)).rows();
    expect(row).toMatchObject({ input: "4", output: "1", output_tokens: 3, itl_ms_p50: null });
    const file = join(folder, "engine.jsonl");
    await writeFile(file, JSON.stringify({ ...row, ms: 1e9 }));
    const { out } = await bench([...single, "--compare", file], true);
    const [, , titles, line] = out.trimEnd().split("\n");
    expect(titles).toMatch(/^requests +input +output +at a time +steps +s +output tokens\/s/);
    expect(line).toMatch(/^3 +4 +1 +3 +\d+ +[\d.]+ .* - +- +- +[\d.]+ % +0\.000$/);
  });

  test("the idle share of a GPU is what nvidia-smi samples, if it is there", async () => {
    const program = join(folder, "nvidia-smi");
    const idleShare = async (output: string) => {
      const printed = await mkdtemp(join(folder, "printed-"));
      const script = `#!/bin/sh\nprintf '${output}'\nrmdir ${printed}\nexec sleep 60\n`;
      await writeFile(program, script, { mode: 0o755 });
      const usage = new GpuUsage(program);
      while (existsSync(printed)) await sleep(2);
      return usage.idleShare();
    };
    expect(await new GpuUsage(program).idleShare()).toBeNull();
    expect(await idleShare("100\\n50\\n")).toBeCloseTo(0.25);
    // A line that is not whole counts for nothing.
    expect(await idleShare("90\\n1")).toBeCloseTo(0.1);
    expect(await idleShare("[N/A]\\n")).toBeNull();
    expect(await idleShare("")).toBeNull();
  });

  test.each(["bfloat16", "float32"])(
    "kernels: every stage in %s, decode and prefill",
    async (dtype) => {
      const argv = ["kernels", "--tokens", "2,260", "--context", "70", "--dtype", dtype];
      const { code, err, rows } = await bench([...argv, "--iterations", "1", "--warmup", "0"]);
      expect({ code, err }).toEqual({ code: 0, err: "" });
      const expected = KERNEL_CASES.flatMap(({ name, modes }) =>
        modes === undefined ? [`${name} decode`, `${name} prefill`] : [`${name} decode`],
      );
      const measured = rows();
      expect(measured.map(({ kernel, mode }) => `${String(kernel)} ${String(mode)}`)).toEqual(
        expected,
      );
      for (const row of measured) {
        expect(row).toMatchObject({ bench: "kernels", dtype, ...ENVIRONMENT });
        for (const name of ["us", "bytes", "gb_per_s", "roofline_us", "fraction_of_roofline"]) {
          expect(row[name]).toBeGreaterThan(0);
        }
      }
    },
  );

  test("kernels: --prompts are of unequal lengths", async () => {
    const argv = ["kernels", "--only", "attention/global", "--tokens", "260", "--prompts", "1,4"];
    const [one, four] = (await bench([...argv, "--iterations", "1"])).rows();
    expect(one).toMatchObject({ tokens: 260, sequences: 1 });
    expect(four).toMatchObject({ tokens: 260, sequences: 4 });
    const { numHeads, headDim, valueHeadDim, numMetaTokens } = (await openCheckpoint(MODEL)).config;
    const pairs = [26, 52, 78, 104].map((n) => (n * (n + 1)) / 2 + n * numMetaTokens);
    const flops = 2 * numHeads * (headDim + valueHeadDim) * pairs.reduce((a, b) => a + b);
    expect(four!["flops"]).toBe(flops);
  });

  test("kernels: --only takes stages and single calls", async () => {
    const names = async (only: string) =>
      (await bench(["kernels", "--only", only, "--tokens", "1", "--iterations", "1"]))
        .rows()
        .map(({ kernel }) => kernel);
    expect(await names("attention")).toEqual(["attention/window", "attention/global"]);
    expect(await names("linear/out_proj, rmsNorm")).toEqual(["linear/out_proj", "rmsNorm"]);
  });

  const quick = ["kernels", "--only", "rmsNorm,fuseHeads", "--tokens", "1", "--iterations", "1"];

  test("on a terminal there is a table, and no JSON unless it is asked for", async () => {
    const { out } = await bench(quick, true);
    const [heading, , titles, ...lines] = out.trimEnd().split("\n");
    expect(heading).toMatch(/^synthetic:.* on .*, which copies \d+ GB\/s$/);
    expect(titles).toMatch(/^kernel +tokens +sequences +mode +µs +p10 +p90 +GB\/s/);
    expect(lines).toHaveLength(2);
    expect(lines[0]).toMatch(/^rmsNorm +1 +1 +decode +[\d.]+ .* bytes +[\d.]+ %$/);
    expect((await bench([...quick, "--json"], true)).rows()).toHaveLength(2);
  });

  test("--compare gives the ratio to an earlier run and marks what is worse", async () => {
    const { rows } = await bench(quick);
    const [norm] = rows();
    const before = [
      { ...norm, us: 1e-3 },
      { ...norm, us: 1e9, dtype: "float32" },
      { bench: "decode", us: 1 },
    ];
    const file = join(folder, "before.jsonl");
    await writeFile(file, before.map((row) => `${JSON.stringify(row)}\n`).join("\n"));
    const compared = (await bench([...quick, "--compare", file])).rows();
    expect(compared[0]).toMatchObject({ worse: true });
    expect(compared[0]!["ratio"]).toBeCloseTo((compared[0]!["us"] as number) / 1e-3, 0);
    expect(compared[1]).not.toHaveProperty("ratio");
    const { out } = await bench([...quick, "--compare", file], true);
    const plain = out.replaceAll("\u001b[31m", "<").replaceAll("\u001b[39m", ">");
    expect(plain).toMatch(/time \/ before\nrmsNorm .* <[\d.]+ worse>\n.* new\n$/);

    await writeFile(file, JSON.stringify({ ...norm, us: 1e9 }));
    const better = (await bench([...quick, "--compare", file])).rows();
    expect(better[0]).toMatchObject({ worse: false });
    expect((await bench([...quick, "--compare", file], true)).out).not.toContain("worse");
  });

  test("--compare with something else is a wrong command line", async () => {
    const file = join(folder, "text");
    await writeFile(file, "no json\n");
    const { code, err } = await bench([...quick, "--compare", file]);
    expect(code).toBe(2);
    expect(err).toMatch(/text:1 is no row of a bench/);
    expect((await bench([...quick, "--compare", join(folder, "missing")])).code).toBe(1);
  });

  test("Ctrl-C ends a bench between two measurements", async () => {
    const terminal = new FakeTerminal("");
    const argv = ["bench", "kernels", "--model", MODEL, "--device", "cpu", "--iterations", "1"];
    const running = run(argv, terminal);
    const wait = setInterval(() => {
      if (terminal.out !== "") terminal.interrupt();
    }, 1);
    expect(await running).toBe(130);
    clearInterval(wait);
    expect(terminal.err).toBe("");
  });
});
