import { CommanderError } from "commander";
import { HymbaError, type HymbaErrorCode } from "../errors";
import { colour } from "./format";
import type { CliIo } from "./io";

/** A command found what it looked for, and it is bad news; the process exits with 1. */
export class CommandFailure extends Error {}

/** The command line makes no sense; the process exits with 2. */
export class UsageError extends Error {}

/** What to try next, where the message of the library cannot know the command line. */
const HINTS: Readonly<Partial<Record<HymbaErrorCode, string>>> = {
  ERR_NO_DEVICE: "`hymba doctor` says which devices there are and why the others are not usable.",
  ERR_UNSUPPORTED_DEVICE: "`hymba doctor` says what this machine has.",
  ERR_OUT_OF_MEMORY:
    "`hymba info` shows what a model takes; --context with fewer tokens takes less.",
  ERR_CONTEXT_FULL: "Raise --context, up to the model's own limit, or shorten the text.",
  ERR_DEVICE_LOST: "The device failed; start the command again, and see `hymba doctor`.",
  ERR_INTERNAL: "This is a bug. Please report it, with the output of `hymba doctor`.",
};

/**
 * Prints a failure the way a user wants to read it and returns the exit code: 2 for a wrong command
 * line, 1 for everything else, 0 for what is no failure (`--help`, or a reader that went away).
 */
export function reportFailure(error: unknown, io: CliIo): number {
  // commander has already printed its own message.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  if ((error as NodeJS.ErrnoException | undefined)?.code === "EPIPE") return 0;
  // RangeError: a value that the library refuses, such as a token that the model does not have.
  if (error instanceof UsageError || error instanceof RangeError) {
    printError(io, error.message, "Run the command with --help for its options.");
    return 2;
  }
  if (error instanceof CommandFailure) {
    printError(io, error.message);
    return 1;
  }
  if (error instanceof HymbaError) {
    printError(io, `${error.message} (${error.code})`, HINTS[error.code]);
    return 1;
  }
  const details = error instanceof Error ? (error.stack ?? error.message) : String(error);
  printError(io, details, HINTS.ERR_INTERNAL);
  return 1;
}

/** One line of error and at most one of advice, on stderr. */
export function printError(io: CliIo, message: string, hint?: string): void {
  io.stderr.write(`${colour(io, io.stderr, "red", "error:")} ${message}\n`);
  if (hint !== undefined) io.stderr.write(`${colour(io, io.stderr, "dim", hint)}\n`);
}
