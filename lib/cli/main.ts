#!/usr/bin/env node
import { setMaxListeners } from "node:events";
import { Command } from "commander";
import { packageVersion } from "../package_version";
import { benchCommand } from "./bench/bench";
import { chatCommand } from "./chat";
import type { CliContext, Library } from "./context";
import { doctorCommand } from "./doctor";
import { reportFailure } from "./failure";
import { generateCommand } from "./generate";
import { infoCommand } from "./info";
import { type CliIo, processIo } from "./io";
import { hymbaLibrary } from "./library";
import { runBatchCommand } from "./run_batch";
import { scoreCommand } from "./score";
import { serveCommand } from "./serve";

const COMMANDS = [
  generateCommand,
  chatCommand,
  scoreCommand,
  serveCommand,
  runBatchCommand,
  infoCommand,
  doctorCommand,
  benchCommand,
];

const EXAMPLES = `
Examples:
  $ hymba generate --prompt "The old house stood"
  $ hymba chat --system "You are brief."
  $ hymba serve --port 8000
  $ hymba <command> --help

Exit codes: 0 done, 1 failed, 2 wrong command line, 130 interrupted.
`;

/**
 * Runs one command line and returns the exit code: 0 done, 1 failed, 2 wrong command line, 130
 * interrupted.
 * @param argv the arguments after `hymba`.
 */
export async function run(
  argv: readonly string[],
  io: CliIo = processIo(),
  library: Library = hymbaLibrary,
): Promise<number> {
  const controller = new AbortController();
  // Every request of an engine listens, and there may be any number of them.
  setMaxListeners(0, controller.signal);
  const interrupt = (): void => controller.abort();
  const release = io.onInterrupt(interrupt);
  try {
    await buildProgram({ io, library, signal: controller.signal, interrupt }).parseAsync(argv, {
      from: "user",
    });
    return controller.signal.aborted ? 130 : 0;
  } catch (error) {
    // What fails after Ctrl-C fails because of it.
    return controller.signal.aborted ? 130 : reportFailure(error, io);
  } finally {
    release();
  }
}

function buildProgram(context: CliContext): Command {
  const { stdout, stderr } = context.io;
  const program = new Command("hymba")
    .description("Run Hymba language models.")
    .version(packageVersion())
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void stdout.write(text),
      writeErr: (text) => void stderr.write(text),
    })
    .showHelpAfterError("Run the command with --help for its options.")
    .addHelpText("after", EXAMPLES);
  for (const create of COMMANDS) {
    const command = create(context).copyInheritedSettings(program);
    for (const part of command.commands) part.copyInheritedSettings(command);
    program.addCommand(command);
  }
  return program;
}

if (require.main === module) {
  void run(process.argv.slice(2)).then((code) => {
    process.exitCode = code;
  });
}
