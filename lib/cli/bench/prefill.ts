import { Command } from "commander";
import { openCheckpoint } from "../../checkpoint/checkpoint";
import { type CostedModel, costedModel, prefillFlops } from "../../cost/model";
import type { HymbaModel } from "../../model";
import type { CliContext } from "../context";
import { tokensPerSecond } from "../format";
import { integer } from "../options";
import { Progress } from "../progress";
import { NO_PREFIX_CACHE, withModel } from "../with_model";
import { heading, measureEnvironment } from "./environment";
import {
  addBenchOptions,
  addPeakOption,
  type BenchFlags,
  openReport,
  type PeakFlags,
  peakOf,
  sizes,
} from "./options";
import { RandomData } from "./random";
import { type Column, numberColumn, percentColumn, type Row } from "./report";
import { spread } from "./statistics";

interface PrefillFlags extends BenchFlags, PeakFlags {
  readonly sequences: readonly number[];
  readonly tokens: readonly number[];
  readonly iterations: number;
  readonly warmup: number;
}

/** Prompts that are read together. */
interface Prompts {
  readonly sequences: number;
  readonly tokens: number;
}

const KIND = {
  bench: "prefill",
  key: ["model", "dtype", "sequences", "tokens"],
  time: "ms",
} as const;

const COLUMNS: readonly Column[] = [
  numberColumn("sequences", "sequences"),
  numberColumn("tokens", "tokens"),
  numberColumn("ms", "ms", 2),
  numberColumn("p10", "ms_p10", 2),
  numberColumn("p90", "ms_p90", 2),
  numberColumn("tokens/s", "tokens_per_s"),
  numberColumn("TFLOP/s", "model_tflops", 1),
  percentColumn("of the peak", "fraction_of_peak"),
];

const EXAMPLES = `
New sequences take random tokens, all in one call, and the first token of each answer is drawn.
TFLOP/s count the matrix products and the attention of the model, and nothing else.

Examples:
  $ hymba bench prefill --tokens 1024,2048,8192 --sequences 1,8
  $ hymba bench prefill --model ./my-model --tokens 2048 --compare before.jsonl
`;

/** `hymba bench prefill`: how long it takes to read prompts. */
export function prefillCommand(context: CliContext): Command {
  const command = new Command("prefill")
    .description("Measure the reading of prompts.")
    .option("--tokens <counts>", "lengths, commas between them", sizes, [1024, 2048, 8192])
    .option("--sequences <counts>", "prompts at a time, commas between them", sizes, [1])
    .option("--iterations <count>", "how often each is measured", integer(1), 7)
    .option("--warmup <count>", "how often it runs before that", integer(0), 2);
  return addBenchOptions(addPeakOption(command))
    .addHelpText("after", EXAMPLES)
    .action((flags: PrefillFlags) => benchPrefill(context, flags));
}

async function benchPrefill(context: CliContext, flags: PrefillFlags): Promise<void> {
  const report = await openReport(context, flags, KIND, COLUMNS);
  const environment = await measureEnvironment(flags);
  const checkpoint = await openCheckpoint(flags.model);
  const maxSequences = Math.max(...flags.sequences);
  const maxContextTokens = Math.max(...flags.tokens);
  const use = async (model: HymbaModel): Promise<void> => {
    const cost = costedModel(checkpoint, model.info().dtype);
    const { flops } = peakOf(environment.device, cost.dtype, flags);
    for (const sequences of flags.sequences) {
      for (const tokens of flags.tokens) {
        const times = await prefillTimes(context, model, { sequences, tokens }, flags);
        await report.add({
          bench: KIND.bench,
          model: flags.model,
          dtype: cost.dtype,
          sequences,
          tokens,
          ...describe({ sequences, tokens }, times, cost, flops),
          ...environment,
        });
      }
    }
  };
  await withModel(context, flags.model, flags, use, {
    ...NO_PREFIX_CACHE,
    maxSequences,
    maxContextTokens,
  });
  await report.finish(heading(flags.model, environment));
}

/** Milliseconds of each reading of the prompts, from the call to the drawn tokens. */
async function prefillTimes(
  { io, signal }: CliContext,
  model: HymbaModel,
  { sequences, tokens }: Prompts,
  { iterations, warmup }: PrefillFlags,
): Promise<number[]> {
  const random = new RandomData(tokens);
  const progress = new Progress(io);
  const times: number[] = [];
  try {
    for (let run = 0; run < warmup + iterations; run++) {
      const requests = Array.from({ length: sequences }, () => ({
        sequence: model.createSequence(),
        tokens: random.tokens(tokens, model.config.vocabSize),
        sample: { temperature: 0, seed: 0 },
      }));
      const start = performance.now();
      await model.prefill(requests, { signal });
      times.push(performance.now() - start);
      for (const { sequence } of requests) sequence.dispose();
      progress.update("Reading prompts", (run + 1) / (warmup + iterations));
    }
  } finally {
    progress.stop();
  }
  return times.slice(warmup);
}

function describe(
  { sequences, tokens }: Prompts,
  times: readonly number[],
  cost: CostedModel,
  peakFlops: number | undefined,
): Row {
  const { median, p10, p90 } = spread(times);
  const flops = sequences * prefillFlops(cost, 0, tokens);
  const flopsPerSecond = flops / (median / 1000);
  return {
    ms: median,
    ms_p10: p10,
    ms_p90: p90,
    tokens_per_s: tokensPerSecond(sequences * tokens, median),
    model_flops: flops,
    model_tflops: flopsPerSecond / 1e12,
    fraction_of_peak: peakFlops === undefined ? null : flopsPerSecond / peakFlops,
  };
}
