import { join } from "node:path";
import { Argument, type Command, InvalidArgumentError, Option } from "commander";
import type { LoadOptions } from "../model";

/** The model that comes with the package. */
export const BUNDLED_MODEL = join(__dirname, "..", "..", "models", "hymba-tiny");

/** The `[model]` argument. */
export function modelArgument(): Argument {
  return new Argument(
    "[model]",
    'model folder, or "synthetic:hymba-1.5b" or "synthetic:<config.json>" for random weights',
  ).default(BUNDLED_MODEL, "the bundled hymba-tiny");
}

/** Flags that say what a model runs on, and how precisely. */
export interface DeviceFlags {
  readonly device?: "auto" | "cpu" | "cuda";
  readonly dtype?: "bfloat16" | "float32";
  readonly threads?: number;
}

/** Flags that say how a model is loaded. */
export interface LoadFlags extends DeviceFlags {
  readonly context?: number;
}

/** Adds the options of {@link DeviceFlags}. */
export function addDeviceOptions(command: Command): Command {
  return command
    .optionsGroup("Loading:")
    .addOption(
      new Option("--device <name>", "where to run: auto takes a usable GPU, else the CPU").choices([
        "auto",
        "cpu",
        "cuda",
      ]),
    )
    .addOption(
      new Option("--dtype <name>", "precision of activations and cache").choices([
        "bfloat16",
        "float32",
      ]),
    )
    .option("--threads <count>", "CPU threads (default: all cores)", integer(1, 1024));
}

/** Adds the options of {@link LoadFlags}. */
export function addLoadOptions(command: Command): Command {
  return addDeviceOptions(command).option(
    "--context <tokens>",
    "longest sequence (default: the model's limit)",
    integer(1),
  );
}

/** The flags of {@link addLoadOptions} as options of `HymbaModel.load`. */
export function loadOptions({ device, dtype, threads, context }: LoadFlags): LoadOptions {
  return {
    ...(device !== undefined && { device }),
    ...(dtype !== undefined && { dtype }),
    ...(threads !== undefined && { threads }),
    ...(context !== undefined && { maxContextTokens: context }),
  };
}

function number(isValid: (value: number) => boolean, expected: string): (text: string) => number {
  return (text) => {
    const value = text.trim() === "" ? NaN : Number(text);
    if (Number.isFinite(value) && isValid(value)) return value;
    throw new InvalidArgumentError(`It must be ${expected}.`);
  };
}

const anyNumber = number(() => true, "a number");
const notNegative = number((value) => value >= 0, "a number >= 0");
/** A parser of numbers above zero, for commander. */
export const positive = number((value) => value > 0, "a number > 0");

/** Flags that say how tokens are chosen; each is named like the option of `model.generate`. */
export interface SamplingFlags {
  readonly maxTokens?: number;
  readonly minTokens?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly presencePenalty?: number;
  readonly frequencyPenalty?: number;
  readonly logitBias?: Readonly<Record<number, number>>;
  readonly seed?: number;
  readonly stop?: readonly string[];
  readonly stopTokenIds?: readonly number[];
  readonly ignoreEos?: boolean;
}

/** Adds the options of {@link SamplingFlags}. */
export function addSamplingOptions(command: Command): Command {
  return command
    .optionsGroup("Sampling:")
    .option("-n, --max-tokens <count>", "most tokens to generate (default: 128)", integer(1))
    .option("--min-tokens <count>", "tokens before one that may end the text", integer(0))
    .option("-t, --temperature <value>", "0 always takes the most likely token", notNegative)
    .option("--top-k <count>", "choose among the k most likely tokens; 0: all", integer(0))
    .option(
      "--top-p <share>",
      "choose among the tokens that make up this probability",
      number((value) => value > 0 && value <= 1, "a number > 0 and <= 1"),
    )
    .option(
      "--min-p <share>",
      "least probability, as a share of the largest",
      number((value) => value >= 0 && value < 1, "a number >= 0 and < 1"),
    )
    .option("--repetition-penalty <factor>", "above 1: fewer repetitions", positive)
    .option("--presence-penalty <value>", "taken off tokens already generated", anyNumber)
    .option("--frequency-penalty <value>", "taken off for every time generated", anyNumber)
    .option("--logit-bias <id=value>", "added to a token's logit; may be repeated", collectBias)
    .option("--seed <number>", "the same seed gives the same text", integer(0))
    .option(
      "--stop <text>",
      "end before this text (\\n is a new line); may be repeated",
      collectStop,
    )
    .option("--stop-token-ids <ids>", "end at these tokens, divided by commas", integers(0))
    .option("--ignore-eos", "go on after the end-of-text token");
}

const SAMPLING_NAMES = [
  "maxTokens",
  "minTokens",
  "temperature",
  "topK",
  "topP",
  "minP",
  "repetitionPenalty",
  "presencePenalty",
  "frequencyPenalty",
  "logitBias",
  "seed",
  "stop",
  "stopTokenIds",
  "ignoreEos",
] as const satisfies readonly (keyof SamplingFlags)[];

/** The sampling flags alone, out of all flags of a command. */
export function samplingOptions(flags: SamplingFlags): SamplingFlags {
  return Object.fromEntries(
    SAMPLING_NAMES.filter((name) => name in flags).map((name) => [name, flags[name]]),
  );
}

/** A parser of integers in a range, for commander. */
export function integer(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = /^[+-]?\d+$/.test(text) ? Number(text) : NaN;
    if (value >= min && value <= max) return value;
    throw new InvalidArgumentError(
      max === Number.MAX_SAFE_INTEGER
        ? `It must be an integer >= ${min}.`
        : `It must be an integer from ${min} to ${max}.`,
    );
  };
}

/** What a number may end with, as in `32K`. */
const MULTIPLES: Readonly<Record<string, number>> = {
  ...{ k: 1e3, m: 1e6, g: 1e9 },
  ...{ K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 },
};

/** A parser of integers in a range that may end with k, m or g, or K, M or G for powers of 1,024. */
export function count(min: number, max?: number): (text: string) => number {
  return (text) => {
    const multiple = MULTIPLES[text.slice(-1)];
    if (multiple === undefined) return integer(min, max)(text);
    return integer(min, max)(String(Math.round(positive(text.slice(0, -1)) * multiple)));
  };
}

/** A parser of integers with commas between them, for commander. */
export function integers(min: number, max?: number): (text: string) => number[] {
  return (text) => text.split(",").map((part) => integer(min, max)(part.trim()));
}

const ESCAPES: Readonly<Record<string, string>> = { n: "\n", t: "\t", r: "\r", "\\": "\\" };

function collectStop(text: string, previous: readonly string[] = []): string[] {
  if (text === "") throw new InvalidArgumentError("It must not be empty.");
  return [...previous, text.replace(/\\([ntr\\])/g, (_, letter: string) => ESCAPES[letter] ?? "")];
}

function collectBias(text: string, previous: Readonly<Record<number, number>> = {}) {
  const [id, value, ...rest] = text.split("=");
  if (id === undefined || value === undefined || rest.length > 0) {
    throw new InvalidArgumentError("It must look like 42=-1.5.");
  }
  return { ...previous, [integer(0)(id)]: anyNumber(value) };
}
