import { Command, Option } from "commander";
import type { CliContext } from "../../context";
import { CommandFailure } from "../../failure";
import { formatCount } from "../../format";
import { write } from "../../io";
import { count, integer, positive } from "../../options";
import { Progress } from "../../progress";
import { Baseline } from "../baseline";
import { RandomData } from "../random";
import { type Column, numberColumn, Report } from "../report";
import { sendAll } from "./load";
import { type BenchPrompt, filePrompts, randomPrompts } from "./prompts";
import { openTarget, type Target, timeStream, type Timing } from "./stream";
import { summarize } from "./summary";

interface ServeFlags {
  readonly baseUrl: string;
  readonly endpoint: Endpoint;
  readonly model?: string;
  readonly apiKey?: string;
  readonly numPrompts: number;
  readonly requestRate: number;
  readonly maxConcurrency?: number;
  readonly randomInputLen: number;
  readonly randomOutputLen: number;
  readonly datasetPath?: string;
  readonly warmups: number;
  readonly seed: number;
  readonly json?: boolean;
  readonly compare?: string;
}

const ENDPOINTS = ["/v1/completions", "/v1/chat/completions"] as const;
type Endpoint = (typeof ENDPOINTS)[number];

const KIND = {
  bench: "serve",
  key: [
    ...["model", "endpoint", "requests", "request_rate", "max_concurrency"],
    ...["input", "output", "seed"],
  ],
  time: "ms",
} as const;

const COLUMNS: readonly Column[] = [
  numberColumn("requests", "requests"),
  numberColumn("failed", "failed"),
  { title: "s", cell: (row) => (Number(row["ms"]) / 1000).toFixed(2) },
  numberColumn("requests/s", "requests_per_s", 2),
  numberColumn("output tokens/s", "output_tokens_per_s"),
  numberColumn("all tokens/s", "total_tokens_per_s"),
  numberColumn("TTFT ms", "ttft_ms_p50", 1),
  numberColumn("p99", "ttft_ms_p99", 1),
  numberColumn("TPOT ms", "tpot_ms_p50", 2),
  numberColumn("p99", "tpot_ms_p99", 2),
  numberColumn("ITL ms", "itl_ms_p50", 2),
  numberColumn("p99", "itl_ms_p99", 2),
];

const EXAMPLES = `
Any server with OpenAI's endpoints. Definitions are vLLM's: TTFT, from sending a request to its first
text; TPOT, the time from there to the last text, divided by the tokens but one; ITL, from each part
with text to the next, of all requests together; throughput, over the time from the first request to
the last answer. JSON has their means, medians and 99th percentiles, and those of whole requests (E2EL).
Random prompts of one seed are the same every time: a server that has seen them may have them in its
prefix cache.

Examples:
  $ hymba bench serve --num-prompts 256 --random-input-len 1024 --random-output-len 256
  $ hymba bench serve --request-rate 8 --max-concurrency 64 --json > before.jsonl
  $ hymba bench serve --endpoint /v1/chat/completions --dataset-path prompts.jsonl
`;

/** `hymba bench serve`: how fast a server answers. */
export function serveCommand(context: CliContext): Command {
  return new Command("serve")
    .description("Measure a server over HTTP: this one, or any other with OpenAI's endpoints.")
    .option("--base-url <url>", "of the server", "http://localhost:8000")
    .addOption(
      new Option("--endpoint <path>", "what is asked").choices(ENDPOINTS).default(ENDPOINTS[0]),
    )
    .option("--model <name>", "as the server calls it (default: the first of /v1/models)")
    .option("--api-key <key>", "of the server (default: OPENAI_API_KEY)")
    .option("--num-prompts <count>", "requests", count(1), 256)
    .option(
      "--request-rate <number>",
      "requests a second, at random times; inf: all at once",
      rate,
      Infinity,
    )
    .option(
      "--max-concurrency <count>",
      "requests under way at a time (default: no limit)",
      count(1),
    )
    .option("--random-input-len <tokens>", "length of random prompts", count(1), 1024)
    .option(
      "--random-output-len <tokens>",
      "tokens to generate, past the end of a text",
      count(1),
      128,
    )
    .option(
      "--dataset-path <file>",
      'prompts to send instead, a line each: {"prompt": "Once", "max_tokens": 64}',
    )
    .option("--warmups <count>", "requests before that", integer(0), 1)
    .option("--seed <number>", "of the prompts and the times", integer(0), 1)
    .option("--json", "print a JSON object, also on a terminal")
    .option("--compare <file>", "JSON lines of an earlier run to compare with")
    .addHelpText("after", EXAMPLES)
    .action((flags: ServeFlags) => benchServe(context, flags));
}

function rate(text: string): number {
  return text === "inf" ? Infinity : positive(text);
}

async function benchServe(context: CliContext, flags: ServeFlags): Promise<void> {
  const { io, signal } = context;
  const baseline =
    flags.compare === undefined ? undefined : await Baseline.read(flags.compare, KIND);
  const report = new Report(io, { json: flags.json ?? false, columns: COLUMNS, baseline });
  const apiKey = flags.apiKey ?? io.env["OPENAI_API_KEY"];
  const target = openTarget(new URL(flags.endpoint, flags.baseUrl).href, apiKey);
  const model = flags.model ?? (await firstModel(target));
  const random = new RandomData(flags.seed);
  const prompts = await readPrompts(flags, target, random);
  try {
    await run(context, flags, { target, model, random }, prompts.slice(0, flags.warmups));
    const begin = performance.now();
    const { timings, failures } = await run(context, flags, { target, model, random }, prompts);
    const ms = performance.now() - begin;
    signal.throwIfAborted();
    if (failures.length > 0) {
      await write(io.stderr, `${formatCount(failures.length)} requests failed: ${failures[0]}\n`);
    }
    if (timings.length === 0) throw new CommandFailure("no request was answered");
    await report.add({
      bench: KIND.bench,
      model,
      endpoint: flags.endpoint,
      requests: timings.length,
      failed: failures.length,
      request_rate: flags.requestRate === Infinity ? "inf" : flags.requestRate,
      max_concurrency: flags.maxConcurrency ?? null,
      input: flags.datasetPath ?? flags.randomInputLen,
      output: flags.randomOutputLen,
      seed: flags.seed,
      ...summarize(timings, ms),
    });
    await report.finish(`${model} at ${flags.baseUrl}`);
  } finally {
    target.agent.destroy();
  }
}

async function run(
  { io, signal }: CliContext,
  flags: ServeFlags,
  { target, model, random }: { target: Target; model: string; random: RandomData },
  prompts: readonly BenchPrompt[],
): Promise<{ readonly timings: Timing[]; readonly failures: string[] }> {
  const timings: Timing[] = [];
  const failures: string[] = [];
  const progress = new Progress(io);
  const send = async ({ prompt, maxTokens }: BenchPrompt): Promise<void> => {
    const asked =
      flags.endpoint === "/v1/completions"
        ? { prompt }
        : { messages: [{ role: "user", content: prompt }] };
    // vLLM's field: every request is to have as many tokens as it asks for.
    const body = { model, ...asked, max_tokens: maxTokens, temperature: 0, ignore_eos: true };
    try {
      timings.push(await timeStream(target, body, signal));
    } catch (error) {
      failures.push((error as Error).message);
    }
    progress.update("Asking", (timings.length + failures.length) / prompts.length);
  };
  try {
    await sendAll(prompts, send, {
      requestRate: flags.requestRate,
      maxConcurrency: flags.maxConcurrency ?? Infinity,
      ...{ random, signal },
    });
  } finally {
    progress.stop();
  }
  return { timings, failures };
}

async function readPrompts(
  flags: ServeFlags,
  target: Target,
  random: RandomData,
): Promise<BenchPrompt[]> {
  const { numPrompts: amount, randomInputLen, randomOutputLen, datasetPath } = flags;
  if (datasetPath !== undefined) {
    return filePrompts(datasetPath, { count: amount, outputTokens: randomOutputLen });
  }
  return randomPrompts(random, {
    count: amount,
    inputTokens: randomInputLen,
    outputTokens: randomOutputLen,
    vocabSize: flags.endpoint === "/v1/completions" ? await vocabSize(target) : undefined,
  });
}

/** Of our servers; others may not say, but all vocabularies are larger than the second number. */
async function vocabSize(target: Target): Promise<number> {
  const info = await getJson(target, "/tokenizer_info").catch(() => ({}));
  return (info as { vocab_size?: number }).vocab_size ?? 30_000;
}

async function firstModel(target: Target): Promise<string> {
  const list = (await getJson(target, "/v1/models")) as { data?: readonly { id: string }[] };
  const [model] = list.data ?? [];
  if (model === undefined)
    throw new CommandFailure("the server lists no model: name it by --model");
  return model.id;
}

async function getJson({ url, headers }: Target, path: string): Promise<unknown> {
  const { origin } = url;
  try {
    const response = await fetch(new URL(path, origin), { headers });
    if (response.ok) return await response.json();
    throw new Error(`status ${response.status}`);
  } catch (error) {
    // What went wrong is the cause of what `fetch` says.
    const { message, cause } = error as Error & { readonly cause?: Error };
    const reason = cause?.message ?? message;
    throw new CommandFailure(`cannot ask ${origin} for ${path}: ${reason}`);
  }
}
