import { readFile } from "node:fs/promises";
import { addAbortSignal } from "node:stream";
import { text as readAll } from "node:stream/consumers";
import { HymbaError } from "../errors";
import type { CliContext } from "./context";
import { UsageError } from "./failure";

/**
 * The text a command works on: what the option says, else the file, else what is piped in.
 * @param sources.option the value of the option, and the option's name for the error message.
 */
export async function readText(
  { io, signal }: CliContext,
  sources: {
    readonly option: readonly [name: string, value: string | undefined];
    readonly file: string | undefined;
  },
): Promise<string> {
  const [name, value] = sources.option;
  if (value !== undefined) return value;
  if (sources.file !== undefined && sources.file !== "-") return readTextFile(sources.file);
  if (io.stdin.isTTY && sources.file === undefined) {
    throw new UsageError(`no text: give ${name} or --file, or pipe text into the command`);
  }
  return readAll(addAbortSignal(signal, io.stdin));
}

/**
 * Reads a file that the command line names.
 * @throws HymbaError ERR_INVALID_ARGUMENT when it cannot be read.
 */
export async function readTextFile(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new HymbaError("ERR_INVALID_ARGUMENT", `cannot read the file: ${reason}`, {
      cause: error,
    });
  }
}
