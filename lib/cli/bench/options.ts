import type { Command } from "commander";
import { devicePeak, type Peak } from "../../cost/peaks";
import { chooseDevice } from "../../device";
import { KernelDevice } from "../../kernels";
import type { CliContext } from "../context";
import { addDeviceOptions, type DeviceFlags, integers, positive } from "../options";
import { Baseline, type RowKind } from "./baseline";
import { type Column, Report } from "./report";

/** Flags of every bench. */
export interface BenchFlags extends DeviceFlags {
  readonly model: string;
  readonly json?: boolean;
  readonly compare?: string;
}

/** Flags of the benches that count operations. */
export interface PeakFlags {
  readonly peakTflops?: number;
}

/** Adds the options of {@link BenchFlags}. */
export function addBenchOptions(command: Command): Command {
  command
    .option("--model <model>", "model to measure", "synthetic:hymba-1.5b")
    .option("--json", "print a JSON object a line, also on a terminal")
    .option("--compare <file>", "JSON lines of an earlier run to compare with");
  return addDeviceOptions(command);
}

/** Adds the option of {@link PeakFlags}. */
export function addPeakOption(command: Command): Command {
  return command.option(
    "--peak-tflops <number>",
    "what the device computes at most (default: from its data sheet, where it is known)",
    positive,
  );
}

/** A parser of sizes with commas between them, for commander: the smallest first, each once. */
export function sizes(text: string): number[] {
  return [...new Set(integers(1)(text))].sort((a, b) => a - b);
}

/** The report that the flags ask for. */
export async function openReport(
  { io }: CliContext,
  flags: BenchFlags,
  kind: RowKind,
  columns: readonly Column[],
): Promise<Report> {
  const baseline =
    flags.compare === undefined ? undefined : await Baseline.read(flags.compare, kind);
  return new Report(io, { json: flags.json ?? false, columns, baseline });
}

/** The device that the flags ask for, stage by stage. */
export function openDevice({ device = "auto", threads }: DeviceFlags): KernelDevice {
  return KernelDevice.open(chooseDevice(device).kind, threads === undefined ? {} : { threads });
}

/** What a device can do, operations a second of a dtype among it; undefined: not known. */
export function peakOf(
  device: string,
  dtype: "bfloat16" | "float32",
  { peakTflops }: PeakFlags,
): { readonly flops?: number; readonly exponentials?: number } {
  const known: Peak | undefined = devicePeak(device);
  const flops =
    peakTflops === undefined
      ? known?.[dtype === "bfloat16" ? "bfloat16Flops" : "float32Flops"]
      : peakTflops * 1e12;
  return {
    ...(flops !== undefined && { flops }),
    ...(known !== undefined && { exponentials: known.exponentials }),
  };
}
