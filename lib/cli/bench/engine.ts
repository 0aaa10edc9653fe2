import { Command, InvalidArgumentError, Option } from "commander";
import type { Engine } from "../../engine/engine";
import type { HymbaModel } from "../../model";
import type { CliContext } from "../context";
import { tokensPerSecond } from "../format";
import { integer } from "../options";
import { Progress } from "../progress";
import { withModel } from "../with_model";
import { heading, measureEnvironment } from "./environment";
import { GpuUsage } from "./gpu_usage";
import { addBenchOptions, type BenchFlags, openReport } from "./options";
import { RandomData } from "./random";
import { type Column, numberColumn, percentColumn, type Row, textColumn } from "./report";
import { quantiles } from "./statistics";

/** A number of tokens, each from `min` to `max` as likely as the others. */
interface Lengths {
  readonly min: number;
  readonly max: number;
}

interface EngineFlags extends BenchFlags {
  readonly requests: number;
  readonly input: Lengths;
  readonly output: Lengths;
  readonly sequences: number;
  readonly batchTokens: number;
  readonly warmup: number;
  readonly seed: number;
}

interface Request {
  readonly prompt: Int32Array;
  readonly maxTokens: number;
}

/** Times of all tokens, in milliseconds. */
interface Times {
  /** From the beginning of the run, one a request. */
  readonly first: number[];
  /** From one token of a request to its next. */
  readonly next: number[];
}

const KIND = {
  bench: "engine",
  key: [
    ...["model", "dtype", "requests", "input", "output"],
    ...["sequences", "batch_tokens", "seed"],
  ],
  time: "ms",
} as const;

const COLUMNS: readonly Column[] = [
  numberColumn("requests", "requests"),
  textColumn("input", "input"),
  textColumn("output", "output"),
  numberColumn("at a time", "sequences"),
  numberColumn("steps", "steps"),
  { title: "s", cell: (row) => (Number(row["ms"]) / 1000).toFixed(2) },
  numberColumn("output tokens/s", "output_tokens_per_s"),
  numberColumn("all tokens/s", "total_tokens_per_s"),
  numberColumn("first token ms", "ttft_ms_p50"),
  numberColumn("p99", "ttft_ms_p99"),
  numberColumn("next token ms", "itl_ms_p50", 1),
  numberColumn("p99", "itl_ms_p99", 1),
  percentColumn("GPU idle", "gpu_idle"),
  percentColumn("main thread", "main_thread_busy"),
];

const EXAMPLES = `
All requests are made at once, with random prompts that have nothing in common; each draws its most
likely tokens, and goes on after the end of a text. Times to the first token count from the beginning,
so that they include the wait for room. The GPU idles when no kernel runs, as nvidia-smi samples it;
the main thread is busy when it runs JavaScript.

Examples:
  $ hymba bench engine --requests 1024 --input 1024 --output 256 --sequences 256
  $ hymba bench engine --model ./my-model --input 128-2048 --output 16-512 --json > before.jsonl
  $ hymba bench engine --model ./my-model --input 128-2048 --output 16-512 --compare before.jsonl
`;

/** `hymba bench engine`: how fast the engine works through a heap of requests. */
export function engineCommand(context: CliContext): Command {
  const command = new Command("engine")
    .description("Measure the throughput of the engine.")
    .option("--requests <count>", "requests", integer(1), 256)
    .addOption(lengthOption("--input <tokens>", "length of the prompts, or a range", "1024"))
    .addOption(lengthOption("--output <tokens>", "tokens to draw, or a range", "256"))
    .option("--sequences <count>", "texts that are generated at a time", integer(1, 65_535), 128)
    .option("--batch-tokens <count>", "most tokens of a step", integer(1), 2048)
    .option("--warmup <count>", "requests before that", integer(0), 16)
    .option("--seed <number>", "of the prompts and the lengths", integer(0), 1);
  return addBenchOptions(command)
    .addHelpText("after", EXAMPLES)
    .action((flags: EngineFlags) => benchEngine(context, flags));
}

function lengthOption(flags: string, description: string, standard: string): Option {
  return new Option(flags, description).argParser(lengths).default(lengths(standard), standard);
}

/** A parser of a number of tokens or a range of them, for commander. */
function lengths(text: string): Lengths {
  const [min, max = min, ...rest] = text.split("-").map(integer(1));
  if (rest.length > 0 || max! < min!) {
    throw new InvalidArgumentError("It must be a number, or a range such as 128-2048.");
  }
  return { min: min!, max: max! };
}

const showLengths = ({ min, max }: Lengths): string => (min === max ? `${min}` : `${min}-${max}`);

async function benchEngine(context: CliContext, flags: EngineFlags): Promise<void> {
  const report = await openReport(context, flags, KIND, COLUMNS);
  const environment = await measureEnvironment(flags);
  const { sequences, input, output } = flags;
  const use = async (model: HymbaModel): Promise<void> => {
    await using engine = model.createEngine();
    const random = new RandomData(flags.seed);
    const makeRequests = (count: number): Request[] =>
      Array.from({ length: count }, () => ({
        prompt: random.tokens(draw(random, input), model.config.vocabSize),
        maxTokens: draw(random, output),
      }));
    const requests = makeRequests(flags.requests);
    await runAll(context, engine, makeRequests(flags.warmup), "Warming up");
    const measured = await measure(context, model, engine, requests);
    await report.add({
      bench: KIND.bench,
      model: flags.model,
      dtype: model.info().dtype,
      requests: flags.requests,
      input: showLengths(input),
      output: showLengths(output),
      sequences,
      batch_tokens: flags.batchTokens,
      seed: flags.seed,
      ...measured,
      ...environment,
    });
  };
  await withModel(context, flags.model, flags, use, {
    maxSequences: sequences,
    maxContextTokens: input.max + output.max,
    maxBatchTokens: flags.batchTokens,
  });
  await report.finish(heading(flags.model, environment));
}

function draw(random: RandomData, { min, max }: Lengths): number {
  return min + random.integer(max - min + 1);
}

async function measure(
  context: CliContext,
  model: HymbaModel,
  engine: Engine,
  requests: readonly Request[],
): Promise<Row> {
  using gpu = model.info().device.kind === "cuda" ? new GpuUsage() : undefined;
  const stepsBefore = model.stepsRun;
  const loopBefore = performance.eventLoopUtilization();
  const start = performance.now();
  const times = await runAll(context, engine, requests, "Generating");
  const ms = performance.now() - start;
  const { utilization } = performance.eventLoopUtilization(loopBefore);
  const gpuIdle = (await gpu?.idleShare()) ?? null;
  const inputTokens = requests.reduce((sum, { prompt }) => sum + prompt.length, 0);
  const outputTokens = times.first.length + times.next.length;
  return {
    ms,
    steps: model.stepsRun - stepsBefore,
    input_tokens: inputTokens,
    output_tokens: outputTokens,
    output_tokens_per_s: tokensPerSecond(outputTokens, ms),
    total_tokens_per_s: tokensPerSecond(inputTokens + outputTokens, ms),
    ...percentiles("ttft_ms", times.first),
    ...percentiles("itl_ms", times.next),
    gpu_idle: gpuIdle,
    main_thread_busy: utilization,
  };
}

function percentiles(name: string, values: readonly number[]): Row {
  const shares = [50, 90, 99];
  // Requests of one token have no time between two.
  const found =
    values.length === 0
      ? []
      : quantiles(
          values,
          shares.map((share) => share / 100),
        );
  return Object.fromEntries(shares.map((share, i) => [`${name}_p${share}`, found[i] ?? null]));
}

/** Has all requests answered. */
async function runAll(
  { io, signal }: CliContext,
  engine: Engine,
  requests: readonly Request[],
  stage: string,
): Promise<Times> {
  const total = requests.reduce((sum, { maxTokens }) => sum + maxTokens, 0);
  const progress = new Progress(io);
  const times: Times = { first: [], next: [] };
  const start = performance.now();
  const read = async (request: Request): Promise<void> => {
    let before: number | undefined;
    const options = { ...request, temperature: 0, seed: 0, ignoreEos: true, signal };
    for await (const _ of engine.generate(options)) {
      const now = performance.now();
      if (before === undefined) times.first.push(now - start);
      else times.next.push(now - before);
      before = now;
      progress.update(stage, (times.first.length + times.next.length) / total);
    }
  };
  try {
    await Promise.all(requests.map(read));
  } finally {
    progress.stop();
  }
  return times;
}
