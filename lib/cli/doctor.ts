import os from "node:os";
import { Command } from "commander";
import type { BuildInfo, DeviceProbe } from "../binding";
import type { DeviceInfo } from "../device";
import { nativeEncoderProblem } from "../text/encoder";
import type { CliContext } from "./context";
import { CommandFailure } from "./failure";
import { formatBytes, formatTable } from "./format";
import { write, writeJson } from "./io";

/** What the addon says about itself and about the devices it sees. */
export interface Diagnosis {
  /** Where the addon was loaded from and how it was built, or why it could not be loaded. */
  readonly addon: { readonly path: string; readonly build: BuildInfo } | { readonly error: string };
  /** The GPUs; undefined without an addon, which alone can look for them. */
  readonly cuda: DeviceProbe | undefined;
  /** What `device: "auto"` takes, and why; undefined without an addon. */
  readonly chosen: DeviceInfo | undefined;
}

const EXAMPLES = `
Exits with 1 when the addon does not load.

Examples:
  $ hymba doctor
  $ hymba doctor --json
`;

/** `hymba doctor`: whether this installation works, and on what. */
export function doctorCommand(context: CliContext): Command {
  return new Command("doctor")
    .description("Check the installation: Node, addon, compilers, CPU, GPU, driver.")
    .option("--json", "print one JSON object")
    .addHelpText("after", EXAMPLES)
    .action((flags: { readonly json?: boolean }) => doctor(context, flags.json ?? false));
}

async function doctor({ io, library }: CliContext, json: boolean): Promise<void> {
  const report = { ...describeMachine(), ...library.diagnose(), ...(await describeTokenizer()) };
  await (json ? writeJson(io.stdout, report) : write(io.stdout, formatReport(report)));
  if ("error" in report.addon) {
    throw new CommandFailure("the addon does not load: build it with `npm rebuild hymba`");
  }
}

function describeMachine() {
  return {
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    os: `${os.type()} ${os.release()}`,
    cpu: os.cpus()[0]?.model ?? "unknown",
    cpuThreads: os.availableParallelism(),
    memoryBytes: os.totalmem(),
  };
}

async function describeTokenizer() {
  return { nativeTokenizer: (await nativeEncoderProblem()) ?? "works" };
}

type Report = Diagnosis &
  ReturnType<typeof describeMachine> &
  Awaited<ReturnType<typeof describeTokenizer>>;

function formatReport({ addon, cuda, chosen, ...machine }: Report): string {
  return formatTable([
    ["node", `${machine.node}, ${machine.platform}, ${machine.os}`],
    ["cpu", `${machine.cpu}, ${machine.cpuThreads} threads, ${formatBytes(machine.memoryBytes)}`],
    ...formatAddon(addon),
    ...(cuda ? formatCuda(cuda) : []),
    ...(chosen ? [["device", `${chosen.kind}: ${chosen.name} (${chosen.reason})`]] : []),
    ["tokenizer", `native encoder: ${machine.nativeTokenizer}`],
  ]);
}

function formatAddon(addon: Diagnosis["addon"]): string[][] {
  if ("error" in addon) return [["addon", addon.error]];
  const build = Object.entries(addon.build).map(([name, value]) => [`  ${name}`, value]);
  return [["addon", addon.path], ...build];
}

function formatCuda(cuda: DeviceProbe): string[][] {
  return [
    ["driver", cuda.driverVersion === null ? "none" : `CUDA ${cuda.driverVersion}`],
    ...(cuda.problem === null ? [] : [["  problem", cuda.problem]]),
    ...cuda.devices.map((gpu) => [
      "gpu",
      `${gpu.name}, compute ${gpu.computeCapability}, ${gpu.multiprocessors} multiprocessors, ` +
        `${formatBytes(gpu.memoryBytes)}: ` +
        (gpu.problem === null
          ? `usable, ${formatBytes(gpu.availableBytes)} available to a model`
          : `not usable, ${gpu.problem}`),
    ]),
  ];
}
