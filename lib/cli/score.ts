import { Command, Option } from "commander";
import { HymbaError } from "../errors";
import type { HymbaModel } from "../model";
import type { CliContext } from "./context";
import { UsageError } from "./failure";
import { formatCount, formatTable } from "./format";
import { readText, readTextFile } from "./input";
import { write, writeJson } from "./io";
import { addLoadOptions, integer, type LoadFlags, modelArgument } from "./options";
import { Progress } from "./progress";
import { withModel } from "./with_model";

interface ScoreFlags extends LoadFlags {
  readonly text?: string;
  readonly file?: readonly string[];
  readonly window?: number;
  readonly summary?: boolean;
  readonly json?: boolean;
}

/** A text and what each of its tokens costs. */
interface ScoredText {
  readonly tokens: Int32Array;
  /** Log-probability of each token; NaN for one that nothing stands before. */
  readonly logprobs: Float32Array;
  /** UTF-8 bytes of the tokens that have a log-probability. */
  readonly bytes: number;
}

/** What all texts together cost. */
interface ScoreSummary {
  readonly texts: number;
  readonly tokens: number;
  readonly bytes: number;
  /** Negative log-likelihood of everything. */
  readonly nats: number;
  readonly natsPerToken: number;
  readonly perplexity: number;
  readonly bitsPerByte: number;
}

const EXAMPLES = `
A text longer than --window is cut into windows, each scored on its own: it begins with the model's
BOS token, or where a model has none with the token before the window. Several files are scored one
after the other and summed up together; write the model before --file.

Examples:
  $ hymba score --text "The old house stood on a hill."
  $ hymba score ./my-model --window 1024 --summary --file held-out/*.txt
  $ cat chapter.txt | hymba score --json | jq -c 'select(.type == "summary")'
`;

/** `hymba score`: how likely the model finds a text. */
export function scoreCommand(context: CliContext): Command {
  const command = new Command("score")
    .description("Print the log-probability of every token of a text, and its perplexity.")
    .addArgument(modelArgument())
    .option("--text <text>", "text to score")
    .addOption(
      new Option("-f, --file <path...>", "read texts from files, - for standard input").conflicts(
        "text",
      ),
    )
    .option("--window <tokens>", "tokens scored at a time (default: the context)", integer(1))
    .option("--summary", "leave out the single tokens")
    .option("--json", "print a JSON object a line: every token, then the summary");
  return addLoadOptions(command)
    .addHelpText("after", EXAMPLES)
    .action(async (path: string, flags: ScoreFlags) => {
      const texts = await readTexts(context, flags);
      await withModel(context, path, flags, (model) => score(context, model, texts, flags));
    });
}

async function readTexts(context: CliContext, { text, file }: ScoreFlags): Promise<string[]> {
  if (file !== undefined && file.length > 1) return Promise.all(file.map(readTextFile));
  return [await readText(context, { option: ["--text", text], file: file?.[0] })];
}

async function score(
  context: CliContext,
  model: HymbaModel,
  texts: readonly string[],
  flags: ScoreFlags,
): Promise<void> {
  const { io } = context;
  // A window is read with one token before it, and its last token need not be read.
  const longest = model.limits.maxContextTokens;
  const window = flags.window ?? longest;
  if (window > longest) {
    throw new UsageError(`--window ${window} exceeds the context: at most ${longest} tokens`);
  }
  const progress = new Progress(io);
  const scored: ScoredText[] = [];
  try {
    for (const [index, text] of texts.entries()) {
      const result = await scoreText(context, model, text, window, (fraction) =>
        progress.update("Scoring", (index + fraction) / texts.length),
      );
      scored.push(result);
      if (!flags.summary) await writeTokens(context, model, result, flags.json ?? false);
    }
  } finally {
    progress.stop();
  }
  const summary = summarise(scored);
  if (flags.json) await writeJson(io.stdout, { type: "summary", window, ...summary });
  else await write(io.stdout, formatSummary(summary));
}

async function scoreText(
  { signal }: CliContext,
  model: HymbaModel,
  text: string,
  window: number,
  onProgress: (fraction: number) => void,
): Promise<ScoredText> {
  const { tokenizer } = model;
  const tokens = await tokenizer.encode(text, { addSpecialTokens: false });
  const [first] = await tokenizer.encode("");
  const bos = first !== undefined && first === tokenizer.bosTokenId ? first : undefined;
  const begin = bos === undefined ? 1 : 0;
  if (tokens.length <= begin) {
    throw new HymbaError("ERR_INVALID_ARGUMENT", "the text is too short: it has no token to score");
  }
  const logprobs = new Float32Array(tokens.length).fill(NaN);
  for (let start = begin; start < tokens.length; start += window) {
    const part = tokens.subarray(start, start + window);
    const before = bos ?? tokens[start - 1]!;
    const options = {
      signal,
      onProgress: (done: number) => onProgress((start + done * part.length) / tokens.length),
    };
    logprobs.set(await model.score([before, ...part], options), start);
  }
  const unscored = tokenizer.decode(tokens.subarray(0, begin));
  return { tokens, logprobs, bytes: Buffer.byteLength(text) - Buffer.byteLength(unscored) };
}

function summarise(texts: readonly ScoredText[]): ScoreSummary {
  let nats = 0;
  let tokens = 0;
  let bytes = 0;
  for (const text of texts) {
    const logprobs = text.logprobs.filter((logprob) => !Number.isNaN(logprob));
    nats -= logprobs.reduce((sum, logprob) => sum + logprob, 0);
    tokens += logprobs.length;
    bytes += text.bytes;
  }
  const natsPerToken = nats / tokens;
  return {
    texts: texts.length,
    tokens,
    bytes,
    nats,
    natsPerToken,
    perplexity: Math.exp(natsPerToken),
    bitsPerByte: nats / Math.LN2 / bytes,
  };
}

async function writeTokens(
  { io }: CliContext,
  { tokenizer }: HymbaModel,
  { tokens, logprobs }: ScoredText,
  json: boolean,
): Promise<void> {
  for (const [index, token] of tokens.entries()) {
    const text = tokenizer.decode([token], { skipSpecialTokens: false });
    const logprob = logprobs[index]!;
    if (json) {
      // JSON has no NaN: a token without a log-probability has null.
      await writeJson(io.stdout, { type: "token", token, text, logprob });
    } else {
      const column = Number.isNaN(logprob) ? "-" : logprob.toFixed(4);
      await write(io.stdout, `${column.padStart(9)}  ${JSON.stringify(text)}\n`);
    }
  }
}

function formatSummary(summary: ScoreSummary): string {
  return formatTable([
    ["tokens", formatCount(summary.tokens)],
    ["bytes", formatCount(summary.bytes)],
    ["nats/token", summary.natsPerToken.toFixed(4)],
    ["perplexity", summary.perplexity.toFixed(3)],
    ["bits/byte", summary.bitsPerByte.toFixed(4)],
  ]);
}
