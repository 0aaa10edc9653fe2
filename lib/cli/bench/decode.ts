import { Command } from "commander";
import { openCheckpoint } from "../../checkpoint/checkpoint";
import { type CostedModel, costedModel, decodeStepBytes } from "../../cost/model";
import type { HymbaModel, Sequence } from "../../model";
import type { CliContext } from "../context";
import { tokensPerSecond } from "../format";
import { integer } from "../options";
import { Progress } from "../progress";
import { NO_PREFIX_CACHE, withModel } from "../with_model";
import { type BenchEnvironment, heading, measureEnvironment } from "./environment";
import { addBenchOptions, type BenchFlags, openReport, sizes } from "./options";
import { RandomData } from "./random";
import { type Column, numberColumn, percentColumn, type Row } from "./report";
import { spread } from "./statistics";

interface DecodeFlags extends BenchFlags {
  readonly batch: readonly number[];
  readonly context: readonly number[];
  readonly steps: number;
  readonly warmup: number;
}

const KIND = {
  bench: "decode",
  key: ["model", "dtype", "batch", "context"],
  time: "ms_per_step",
} as const;

const COLUMNS: readonly Column[] = [
  numberColumn("batch", "batch"),
  numberColumn("context", "context"),
  numberColumn("ms/step", "ms_per_step", 3),
  numberColumn("p10", "ms_p10", 3),
  numberColumn("p90", "ms_p90", 3),
  numberColumn("tokens/s", "tokens_per_s"),
  { title: "GB/step", cell: (row) => (Number(row["bytes_per_step"]) / 1e9).toFixed(2) },
  percentColumn("of the limit", "fraction_of_floor"),
];

const EXAMPLES = `
Sequences are filled with random tokens up to the context; then every step draws the most likely
token of each. The limit is the time that the same device takes to copy as many bytes as a step has
to read and write. Sequences that were measured in a smaller batch take part in larger ones with the
tokens that they have gained; mean_length says how long they are on average.

Examples:
  $ hymba bench decode --batch 1,8,32,128 --context 1024,8192
  $ hymba bench decode --model ./my-model --batch 16 --context 2048 --json > before.jsonl
  $ hymba bench decode --model ./my-model --batch 16 --context 2048 --compare before.jsonl
`;

/** `hymba bench decode`: how long a step takes that adds one token to each sequence. */
export function decodeCommand(context: CliContext): Command {
  const command = new Command("decode")
    .description("Measure decode steps.")
    .option("--batch <sizes>", "sequences at a time, commas between them", sizes, [1])
    .option("--context <tokens>", "lengths, commas between them", sizes, [1024])
    .option("--steps <count>", "steps to measure", integer(1), 64)
    .option("--warmup <count>", "steps before that", integer(0), 8);
  return addBenchOptions(command)
    .addHelpText("after", EXAMPLES)
    .action((flags: DecodeFlags) => benchDecode(context, flags));
}

async function benchDecode(context: CliContext, flags: DecodeFlags): Promise<void> {
  const report = await openReport(context, flags, KIND, COLUMNS);
  // Before the model is loaded, so that its memory is free again.
  const environment = await measureEnvironment(flags);
  const checkpoint = await openCheckpoint(flags.model);
  const maxSequences = Math.max(...flags.batch);
  // Those of the smallest batch gain tokens in all of them.
  const gained = flags.batch.length * (flags.warmup + flags.steps);
  const maxContextTokens = Math.max(...flags.context) + gained;
  const { context: _, ...loadFlags } = flags;
  const use = async (model: HymbaModel): Promise<void> => {
    const cost = costedModel(checkpoint, model.info().dtype);
    const sequences = Array.from({ length: maxSequences }, () => model.createSequence());
    for (const length of flags.context) {
      await fill(context, model, sequences, length);
      for (const batch of flags.batch) {
        const chosen = sequences.slice(0, batch);
        const measured = await measure(context, model, chosen, flags, cost, environment);
        await report.add({
          bench: KIND.bench,
          model: flags.model,
          dtype: cost.dtype,
          batch,
          context: length,
          ...measured,
          ...environment,
        });
      }
    }
  };
  await withModel(context, flags.model, loadFlags, use, {
    ...NO_PREFIX_CACHE,
    maxSequences,
    maxContextTokens,
  });
  await report.finish(heading(flags.model, environment));
}

/** Lets sequences grow to a length, with random tokens. */
async function fill(
  { io, signal }: CliContext,
  model: HymbaModel,
  sequences: readonly Sequence[],
  length: number,
): Promise<void> {
  const random = new RandomData(length);
  const requests = sequences
    .filter((sequence) => sequence.length < length)
    .map((sequence) => ({
      sequence,
      tokens: random.tokens(length - sequence.length, model.config.vocabSize),
      logits: "none" as const,
    }));
  if (requests.length === 0) return;
  const progress = new Progress(io);
  const onProgress = (fraction: number): void => progress.update("Filling sequences", fraction);
  await model.prefill(requests, { signal, onProgress }).finally(() => progress.stop());
}

async function measure(
  { io, signal }: CliContext,
  model: HymbaModel,
  sequences: readonly Sequence[],
  { steps, warmup }: DecodeFlags,
  cost: CostedModel,
  { copy_tbps }: BenchEnvironment,
): Promise<Row> {
  const batch = sequences.length;
  // The middle of the measured steps stands for all: a step's bytes grow evenly with the length.
  const middle = warmup + Math.floor(steps / 2);
  const lengths = sequences.map((sequence) => sequence.length + middle);
  const progress = new Progress(io);
  const times = await decodeSteps(model, sequences, {
    steps: warmup + steps,
    signal,
    onStep: (step) => progress.update("Decoding", step / (warmup + steps)),
  }).finally(() => progress.stop());
  const { median, p10, p90 } = spread(times.slice(warmup));
  const bytes = decodeStepBytes(cost, lengths);
  const floorMs = bytes / (copy_tbps * 1e9);
  return {
    mean_length: lengths.reduce((sum, length) => sum + length, 0) / batch,
    steps,
    ms_per_step: median,
    ms_p10: p10,
    ms_p90: p90,
    tokens_per_s: tokensPerSecond(batch, median),
    bytes_per_step: bytes,
    floor_ms: floorMs,
    fraction_of_floor: floorMs / median,
  };
}

/**
 * Draws `steps` tokens for each sequence, greedily and after a random first one. Returns the
 * milliseconds from one step's results to those of the next: a GPU already has the next step then.
 */
async function decodeSteps(
  model: HymbaModel,
  sequences: readonly Sequence[],
  options: {
    readonly steps: number;
    readonly signal: AbortSignal;
    readonly onStep: (step: number) => void;
  },
): Promise<number[]> {
  const random = new RandomData(sequences.length);
  const requests = sequences.map((sequence) => ({
    sequence,
    token: random.integer(model.config.vocabSize),
    sample: { temperature: 0, seed: 0 },
  }));
  const { steps, signal, onStep } = options;
  const times: number[] = [];
  let before = performance.now();
  for await (const _ of model.draw(requests, steps, { ahead: true, signal })) {
    const now = performance.now();
    times.push(now - before);
    before = now;
    onStep(times.length);
  }
  return times;
}
