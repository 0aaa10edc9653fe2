import { setImmediate as nextTurn } from "node:timers/promises";
import { Command } from "commander";
import { openCheckpoint } from "../../checkpoint/checkpoint";
import { type Cost, stageCost } from "../../cost/stages";
import type { KernelDevice } from "../../kernels";
import { throwIfAborted } from "../../runner";
import type { CliContext } from "../context";
import { UsageError } from "../failure";
import { integer } from "../options";
import { Progress } from "../progress";
import { benchEnvironment, heading } from "./environment";
import { type InputSource, Inputs, lengthsOf, type Load, Weights } from "./inputs";
import { KERNEL_CASES, type KernelCase } from "./kernel_cases";
import {
  addBenchOptions,
  addPeakOption,
  type BenchFlags,
  openDevice,
  openReport,
  type PeakFlags,
  peakOf,
  sizes,
} from "./options";
import { RandomData } from "./random";
import { type Column, numberColumn, percentColumn, type Row, textColumn } from "./report";
import type { StageCall } from "./stage_calls";
import { spread } from "./statistics";

interface KernelFlags extends BenchFlags, PeakFlags {
  readonly only?: string;
  readonly tokens: readonly number[];
  readonly prompts: readonly number[];
  readonly context: number;
  readonly iterations: number;
  readonly warmup: number;
}

const KIND = {
  bench: "kernels",
  key: ["model", "dtype", "kernel", "tokens", "sequences", "context"],
  time: "us",
} as const;

const COLUMNS: readonly Column[] = [
  textColumn("kernel", "kernel"),
  numberColumn("tokens", "tokens"),
  numberColumn("sequences", "sequences"),
  textColumn("mode", "mode"),
  numberColumn("µs", "us", 1),
  numberColumn("p10", "us_p10", 1),
  numberColumn("p90", "us_p90", 1),
  numberColumn("GB/s", "gb_per_s"),
  numberColumn("TFLOP/s", "tflops", 1),
  textColumn("bound by", "bound_by"),
  percentColumn("of the limit", "fraction_of_roofline"),
];

/** Up to here tokens are of as many sequences, beyond of --prompts: what the GEMMs call decode, too. */
const MAX_DECODE_TOKENS = 256;

/** Sets of arguments that are used in turn: more than caches hold, where their number suffices. */
const ROTATED_BYTES = 2 ** 27;
const MAX_SETS = 32;

/** Calls of a recording, at least. */
const MIN_CALLS = 40;

const EXAMPLES = `
Up to ${MAX_DECODE_TOKENS} tokens are one each of as many sequences with --context tokens before
them; more are a prompt, or the --prompts, whose lengths are as 1 to 2 to 3 and so on. The limit is
the longest of three times: that of copying as many bytes as the stage has to read and write, of its
operations at the device's peak, and of its exponentials. Arguments are random, and several sets of
them are used in turn.

Examples:
  $ hymba bench kernels
  $ hymba bench kernels --only linear,gatedLinear --tokens 1,2048
  $ hymba bench kernels --only attention,selectiveScan --tokens 8192 --prompts 1,8
  $ hymba bench kernels --only attention/global --tokens 8 --context 8192 --json
`;

/** `hymba bench kernels`: how long every stage takes, and how far that is from the limit. */
export function kernelsCommand(context: CliContext): Command {
  const command = new Command("kernels")
    .description("Measure the stages of the forward pass one by one, by the GPU's own clock.")
    .option("--only <stages>", "stages, or single calls such as linear/out_proj; commas between")
    .option("--tokens <counts>", "commas between them", sizes, [1, 8, 32, 128, 2048])
    .option(
      "--prompts <counts>",
      "prompts that more tokens are of, commas between them",
      sizes,
      [1],
    )
    .option("--context <tokens>", "length of the sequences that decode", integer(0), 1024)
    .option("--iterations <count>", "how often each is measured", integer(1), 20)
    .option("--warmup <count>", "how often it runs before that", integer(0), 3);
  return addBenchOptions(addPeakOption(command))
    .addHelpText("after", EXAMPLES)
    .action((flags: KernelFlags) => benchKernels(context, flags));
}

async function benchKernels(context: CliContext, flags: KernelFlags): Promise<void> {
  const cases = chooseCases(flags.only);
  const report = await openReport(context, flags, KIND, COLUMNS);
  const { config } = await openCheckpoint(flags.model);
  using device = openDevice(flags);
  const environment = await benchEnvironment(device);
  const dtype = flags.dtype ?? "bfloat16";
  const activations = dtype === "bfloat16" ? "bf16" : "f32";
  const source = { device, dtype: activations, config, random: new RandomData(1) } as const;
  const limits = { ...peakOf(device.name, dtype, flags), bytes: environment.copy_tbps * 1e12 };
  const progress = new Progress(context.io);
  try {
    for (const [index, kernel] of cases.entries()) {
      using weights = new Weights(source);
      for (const load of loadsOf(kernel, flags)) {
        progress.update(kernel.name, index / cases.length);
        // Measuring blocks; an interrupt gets its turn here.
        await nextTurn();
        throwIfAborted(context.signal);
        await report.add({
          bench: KIND.bench,
          kernel: kernel.name,
          model: flags.model,
          dtype,
          ...load,
          ...measure(kernel, source, weights, load, flags, limits),
          ...environment,
        });
      }
    }
  } finally {
    progress.stop();
  }
  await report.finish(heading(flags.model, environment));
}

function chooseCases(only: string | undefined): readonly KernelCase[] {
  if (only === undefined) return KERNEL_CASES;
  const chosen = new Set<KernelCase>();
  for (const name of only.split(",").map((part) => part.trim())) {
    const found = KERNEL_CASES.filter((one) => one.name === name || stageOf(one) === name);
    if (found.length === 0) {
      const names = KERNEL_CASES.map((one) => one.name).join(", ");
      throw new UsageError(`--only: there is no stage ${JSON.stringify(name)}, only ${names}`);
    }
    for (const one of found) chosen.add(one);
  }
  return [...chosen];
}

function stageOf({ name }: KernelCase): string {
  return name.split("/")[0]!;
}

function loadsOf({ modes }: KernelCase, { tokens, prompts, context }: KernelFlags): Load[] {
  return tokens
    .flatMap((count): Load[] =>
      count <= MAX_DECODE_TOKENS
        ? [{ mode: "decode", tokens: count, sequences: count, context }]
        : prompts.map((sequences) => prefillLoad(count, sequences)),
    )
    .filter(({ mode }) => modes === undefined || modes.includes(mode));
}

function prefillLoad(tokens: number, sequences: number): Load {
  const load: Load = { mode: "prefill", tokens, sequences, context: 0 };
  if (lengthsOf(load).includes(0)) {
    throw new UsageError(`--prompts: ${tokens} tokens are too few for ${sequences} prompts`);
  }
  return load;
}

/** What the device does a second at most. */
interface Limits {
  readonly bytes: number;
  readonly flops?: number;
  readonly exponentials?: number;
}

function measure(
  { call }: KernelCase,
  source: InputSource,
  weights: Weights,
  load: Load,
  { iterations, warmup }: KernelFlags,
  limits: Limits,
): Row {
  const { device } = source;
  const sets: Inputs[] = [];
  const newCall = (): StageCall => {
    const inputs = new Inputs(source, weights, load, sets.length, sets[0]);
    sets.push(inputs);
    return call(inputs);
  };
  try {
    const first = newCall();
    const cost = stageCost(first.stage, first.args as never, first.keys);
    const count = Math.min(Math.ceil(ROTATED_BYTES / cost.bytes), MAX_SETS);
    const calls = [first, ...Array.from({ length: count - 1 }, newCall)];
    // So many that starting and ending the recording does not count.
    const rounds = Math.ceil(MIN_CALLS / count);
    const times = device.timeMs(
      () => {
        for (let round = 0; round < rounds; ++round) calls.forEach((one) => run(device, one));
      },
      { iterations, warmup, replay: true },
    );
    const seconds = times.map((ms) => ms / 1000 / (rounds * count));
    return { sets: count, ...describe(seconds, cost, limits) };
  } finally {
    for (const inputs of sets) inputs[Symbol.dispose]();
  }
}

function run(device: KernelDevice, { stage, args }: StageCall): void {
  device[stage](args as never);
}

function describe(seconds: readonly number[], cost: Cost, limits: Limits): Row {
  const { median, p10, p90 } = spread(seconds);
  const bounds = (["bytes", "flops", "exponentials"] as const).map((name) => {
    const rate = limits[name];
    return { name, seconds: rate === undefined ? 0 : cost[name] / rate };
  });
  const roofline = bounds.reduce((a, b) => (b.seconds > a.seconds ? b : a));
  return {
    us: median * 1e6,
    us_p10: p10 * 1e6,
    us_p90: p90 * 1e6,
    bytes: cost.bytes,
    flops: cost.flops,
    exponentials: cost.exponentials,
    gb_per_s: cost.bytes / median / 1e9,
    tflops: cost.flops / median / 1e12,
    bound_by: roofline.name,
    roofline_us: roofline.seconds * 1e6,
    fraction_of_roofline: roofline.seconds / median,
  };
}
