import { basename } from "node:path";
import { Command } from "commander";
import type { HymbaModel } from "../model";
import { checkBatch, countLeft } from "./batch/input";
import { BatchOutput, type OutputLine } from "./batch/output";
import { runBatch } from "./batch/run";
import type { CliContext } from "./context";
import { CommandFailure } from "./failure";
import { formatCount, tokensPerSecond } from "./format";
import { write } from "./io";
import { addLoadOptions, integer, type LoadFlags, modelArgument } from "./options";
import { Progress } from "./progress";
import { withModel } from "./with_model";

interface RunBatchFlags extends LoadFlags {
  readonly sequences: number;
}

const EXAMPLES = `
Each line of the input is a request of OpenAI's batch format, for /v1/completions or
/v1/chat/completions, each with a custom_id of its own. Each gets a line of the output, in the order in
which they end. A request that is wrong gets an error there, and the others go on; then the exit code is
1. An output that is there already is gone on with: what it has an answer to is not asked again, be it
after Ctrl-C, which drops the requests that run, or a crash. To ask everything again, remove it.

Examples:
  $ hymba run-batch requests.jsonl answers.jsonl
  $ hymba run-batch requests.jsonl answers.jsonl ./my-model --sequences 256 --context 2048
  $ jq -r 'select(.response.status_code == 200) | .response.body.choices[0].text' answers.jsonl

A line of requests.jsonl:
  {"custom_id": "1", "method": "POST", "url": "/v1/completions",
   "body": {"prompt": "Once upon a time", "max_tokens": 40, "seed": 1}}     (without the line break)
`;

/** `hymba run-batch`: answers a file of requests. */
export function runBatchCommand(context: CliContext): Command {
  const command = new Command("run-batch")
    .description("Answer the requests of a file, many at a time, in OpenAI's batch format.")
    .argument("<input>", "file of requests, a JSON object a line")
    .argument("<output>", "file of answers, made or gone on with")
    .addArgument(modelArgument())
    .option(
      "--sequences <count>",
      "texts that are generated at a time; fewer take less memory",
      integer(1, 65_535),
      64,
    );
  return addLoadOptions(command)
    .addHelpText("after", EXAMPLES)
    .action(async (input: string, output: string, model: string, flags: RunBatchFlags) => {
      await runFiles(context, { input, output, model }, flags);
    });
}

interface Paths {
  readonly input: string;
  readonly output: string;
  readonly model: string;
}

async function runFiles(context: CliContext, paths: Paths, flags: RunBatchFlags): Promise<void> {
  const total = await checkBatch(paths.input);
  const output = await BatchOutput.open(paths.output);
  try {
    const left = output.done === 0 ? total : await countLeft(paths.input, output);
    const tally = new Tally(total, left);
    // Nothing to load a model for.
    if (left > 0) {
      const use = (model: HymbaModel): Promise<void> =>
        runWith(context, model, paths, output, tally);
      const limits = { maxSequences: flags.sequences, requireTokenizer: true };
      await withModel(context, paths.model, flags, use, limits);
    }
    await write(context.io.stderr, `${tally.summary()}\n`);
  } finally {
    await output.close();
  }
  if (output.failed > 0) {
    throw new CommandFailure(
      `${formatCount(output.failed)} of them failed: see "error" and "status_code" in ${paths.output}`,
    );
  }
}

async function runWith(
  { io, signal }: CliContext,
  model: HymbaModel,
  { input, model: path }: Paths,
  output: BatchOutput,
  tally: Tally,
): Promise<void> {
  const progress = new Progress(io);
  await using engine = model.createEngine();
  tally.start();
  try {
    await runBatch({ model, engine, name: basename(path) }, input, output, {
      // Twice those that can run, so that there is always one to come in.
      maxRequests: 2 * model.limits.maxSequences,
      signal,
      onDone(line) {
        tally.add(line);
        progress.update("Answering", tally.share);
      },
    });
  } finally {
    progress.stop();
    if (signal.aborted) {
      await write(io.stderr, `${tally.summary()}; the same command goes on with the others\n`);
    }
  }
}

/** Counts what is done. */
class Tally {
  readonly #total: number;
  readonly #before: number;
  #done = 0;
  #tokens = 0;
  #startedAt = 0;

  /** @param left lines of the `total` that are not done yet. */
  constructor(total: number, left: number) {
    this.#total = total;
    this.#before = total - left;
  }

  /** From 0 to 1. */
  get share(): number {
    return (this.#before + this.#done) / this.#total;
  }

  /** The requests begin to run. */
  start(): void {
    this.#startedAt = performance.now();
  }

  /** One is done. */
  add({ response }: OutputLine): void {
    this.#done += 1;
    if (response !== null && "usage" in response.body) {
      this.#tokens += response.body.usage.completion_tokens;
    }
  }

  /** A line for people. */
  summary(): string {
    const done = this.#before + this.#done;
    const before = this.#before > 0 ? `, ${formatCount(this.#before)} of them before` : "";
    const counts = `${formatCount(done)} of ${formatCount(this.#total)} requests done${before}`;
    if (this.#done === 0) return counts;
    const ms = performance.now() - this.#startedAt;
    const rate = formatCount(tokensPerSecond(this.#tokens, ms));
    return (
      `${counts}; ${formatCount(this.#tokens)} tokens generated in ${(ms / 1000).toFixed(1)} s, ` +
      `${rate} tokens/s`
    );
  }
}
