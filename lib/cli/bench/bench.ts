import { Command } from "commander";
import type { CliContext } from "../context";
import { decodeCommand } from "./decode";
import { engineCommand } from "./engine";
import { kernelsCommand } from "./kernels";
import { prefillCommand } from "./prefill";
import { serveCommand } from "./serve/serve";

const EXAMPLES = `
On a terminal the results are a table. Elsewhere, and with --json, they are JSON objects, one a line,
with the device, the driver, the commit and the bandwidth that was measured in the same run: compare
numbers with it, not with those of another machine.

Examples:
  $ hymba bench decode --batch 1,8,32,128 --context 1024,8192
  $ hymba bench prefill --tokens 8192 --json > before.jsonl
  $ hymba bench engine --requests 1024 --input 1024 --output 256 --sequences 256
  $ hymba bench serve --num-prompts 256 --max-concurrency 64
  $ hymba bench kernels --only linear --tokens 1,2048
`;

/** `hymba bench`: how fast this device is. */
export function benchCommand(context: CliContext): Command {
  const command = new Command("bench")
    .description(
      "Measure speed: of decode steps, of prompts, of the engine, of a server, of single kernels.",
    )
    .addHelpText("after", EXAMPLES);
  for (const part of [decodeCommand, prefillCommand, engineCommand, serveCommand, kernelsCommand]) {
    command.addCommand(part(context));
  }
  return command;
}
