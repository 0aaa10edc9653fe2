import { Command, Option } from "commander";
import type { HymbaModel } from "../model";
import type { CliContext } from "./context";
import { readText } from "./input";
import { write, writeJson } from "./io";
import {
  addLoadOptions,
  addSamplingOptions,
  type LoadFlags,
  modelArgument,
  type SamplingFlags,
  samplingOptions,
} from "./options";
import {
  addFormatOptions,
  type FormatFlags,
  type FormatOption,
  readFormat,
} from "./response_format";
import { formatStats, GenerationTimer } from "./timing";
import { withModel } from "./with_model";

interface GenerateFlags extends LoadFlags, SamplingFlags, FormatFlags {
  readonly prompt?: string;
  readonly file?: string;
  readonly stats?: boolean;
  readonly json?: boolean;
}

const EXAMPLES = `
Examples:
  $ hymba generate --prompt "The old house stood"
  $ hymba generate ./my-model --prompt "Once upon a time" -n 200 -t 0.8 --top-p 0.95 --seed 7
  $ echo "Dear Sir," | hymba generate --stop "\\n\\n" --stats
  $ hymba generate --prompt "A ship: " --json-schema ship.schema.json
  $ hymba generate --prompt "Born in " --regex "1[89]\\d\\d" --stats
  $ hymba generate --file prompt.txt --json | jq -r 'select(.type == "token").text'
`;

/** `hymba generate`: continues a text. */
export function generateCommand(context: CliContext): Command {
  const command = new Command("generate")
    .description("Continue a text, token by token, on standard output.")
    .addArgument(modelArgument())
    .option("-p, --prompt <text>", "text to continue")
    .addOption(
      new Option(
        "-f, --file <path>",
        "read the text from a file, - for standard input; a last line break is dropped",
      ).conflicts("prompt"),
    )
    .option("--stats", "print speed and cache size on standard error")
    .option("--json", "print a JSON object a line: every token, then a summary");
  return addLoadOptions(addFormatOptions(addSamplingOptions(command)))
    .addHelpText("after", EXAMPLES)
    .action(async (path: string, flags: GenerateFlags) => {
      const prompt = await readPrompt(context, flags);
      const format = await readFormat(flags);
      await withModel(context, path, flags, (model) =>
        generate(context, model, prompt, format, flags),
      );
    });
}

/** Editors and `echo` end a text with a line break that is hardly ever meant. */
async function readPrompt(context: CliContext, { prompt, file }: GenerateFlags): Promise<string> {
  const text = await readText(context, { option: ["--prompt", prompt], file });
  return prompt === undefined ? text.replace(/\r?\n$/, "") : text;
}

async function generate(
  { io, signal }: CliContext,
  model: HymbaModel,
  text: string,
  format: FormatOption,
  flags: GenerateFlags,
): Promise<void> {
  const prompt = await model.tokenizer.encode(text);
  const timer = new GenerationTimer();
  let endsLine = true;
  let finishReason: string | undefined;
  const options = { prompt, ...samplingOptions(flags), ...format, signal };
  for await (const chunk of model.generate(options)) {
    timer.countToken();
    finishReason = chunk.finishReason;
    if (flags.json) {
      const { text, token, logprob } = chunk;
      await writeJson(io.stdout, { type: "token", text, token, logprob });
    } else if (chunk.text !== "") {
      await write(io.stdout, chunk.text);
      endsLine = chunk.text.endsWith("\n");
    }
  }
  // The last token was not run any more.
  const heldTokens = prompt.length + Math.max(timer.tokens - 1, 0);
  const stats = timer.stats(model, prompt.length, heldTokens);
  if (flags.json) {
    await writeJson(io.stdout, { type: "end", finishReason, ...stats });
  } else if (!endsLine) {
    await write(io.stdout, "\n");
  }
  if (flags.stats) await write(io.stderr, formatStats(model, stats));
}
