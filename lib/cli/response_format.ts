import { type Command, Option } from "commander";
import { HymbaError } from "../errors";
import type { GenerateOptions } from "../generation";
import type { JsonSchema } from "../grammar/schema_keywords";
import { readTextFile } from "./input";

/** Flags that say what a generated text must be. */
export interface FormatFlags {
  readonly jsonSchema?: string;
  readonly regex?: string;
}

/** The option of `model.generate` that they become. */
export type FormatOption = Pick<GenerateOptions, "responseFormat">;

/** Adds the options of {@link FormatFlags}. */
export function addFormatOptions(command: Command): Command {
  return command
    .optionsGroup("Format:")
    .option("--json-schema <path>", "write JSON that this schema allows, and nothing else")
    .addOption(
      new Option("--regex <pattern>", "write what this pattern matches as a whole").conflicts(
        "jsonSchema",
      ),
    );
}

/**
 * The flags of {@link addFormatOptions}, with the schema read.
 * @throws HymbaError ERR_INVALID_ARGUMENT when its file cannot be read, or is not JSON.
 */
export async function readFormat({ jsonSchema, regex }: FormatFlags): Promise<FormatOption> {
  if (regex !== undefined) return { responseFormat: { type: "regex", pattern: regex } };
  if (jsonSchema === undefined) return {};
  const text = await readTextFile(jsonSchema);
  try {
    return { responseFormat: { type: "json_schema", schema: JSON.parse(text) as JsonSchema } };
  } catch (cause) {
    throw new HymbaError(
      "ERR_INVALID_ARGUMENT",
      `"${jsonSchema}" is not JSON: ${(cause as Error).message}`,
      { cause },
    );
  }
}
