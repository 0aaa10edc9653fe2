import { execFile } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import type { KernelDevice } from "../../kernels";
import type { DeviceFlags } from "../options";
import { copyBandwidth } from "./copy_bandwidth";
import { openDevice } from "./options";

/** Where and with what a bench ran; part of every row. */
export interface BenchEnvironment {
  readonly device: string;
  /** Version of NVIDIA's driver; null when nvidia-smi does not say, or on the CPU. */
  readonly driver: string | null;
  /** Clocks right after the copy, when the GPU is busy; null as for `driver`. */
  readonly sm_mhz: number | null;
  readonly memory_mhz: number | null;
  readonly version: string;
  /** The commit that was built, with "-dirty" when it was changed; null when nobody knows. */
  readonly commit: string | null;
  /** Bytes copied on the device in this run, read and written, in 10^12 a second. */
  readonly copy_tbps: number;
}

const PACKAGE_FOLDER = join(__dirname, "..", "..", "..");
const execute = promisify(execFile);

/** Looks around and measures the bandwidth of the device that the flags ask for, and leaves it. */
export async function measureEnvironment(flags: DeviceFlags): Promise<BenchEnvironment> {
  using device = openDevice(flags);
  return await benchEnvironment(device);
}

/** The first line of a table. */
export function heading(model: string, { device, copy_tbps }: BenchEnvironment): string {
  return `${model} on ${device}, which copies ${(copy_tbps * 1000).toFixed(0)} GB/s`;
}

/** Looks around and measures the memory's bandwidth. */
export async function benchEnvironment(device: KernelDevice): Promise<BenchEnvironment> {
  const copy_tbps = copyBandwidth(device) / 1e12;
  const gpu = device.kind === "cuda" ? await queryGpu() : undefined;
  const manifest = JSON.parse(readFileSync(join(PACKAGE_FOLDER, "package.json"), "utf8")) as {
    readonly version: string;
    /** Written by who packs: there is no repository then. */
    readonly gitHead?: string;
  };
  return {
    device: device.name,
    driver: gpu?.driver ?? null,
    sm_mhz: gpu?.smMhz ?? null,
    memory_mhz: gpu?.memoryMhz ?? null,
    version: manifest.version,
    commit: manifest.gitHead ?? (await queryCommit()) ?? null,
    copy_tbps,
  };
}

async function queryGpu() {
  const fields = "driver_version,clocks.sm,clocks.mem";
  const format = ["--format=csv,noheader,nounits", "--id=0"];
  const line = await firstLine("nvidia-smi", [`--query-gpu=${fields}`, ...format]);
  if (line === undefined) return undefined;
  const [driver = "", sm, memory] = line.split(",").map((field) => field.trim());
  const mhz = (text: string | undefined) => (/^\d+$/.test(text ?? "") ? Number(text) : null);
  return { driver, smMhz: mhz(sm), memoryMhz: mhz(memory) };
}

async function queryCommit(): Promise<string | undefined> {
  // Without it, git would find whatever repository the package is installed in.
  if (!existsSync(join(PACKAGE_FOLDER, ".git"))) return undefined;
  return firstLine("git", [
    ...["-C", PACKAGE_FOLDER],
    ...["describe", "--always", "--dirty", "--abbrev=12"],
  ]);
}

/** What a program says first; undefined when it is not there, fails or says nothing. */
async function firstLine(program: string, argv: readonly string[]): Promise<string | undefined> {
  try {
    const { stdout } = await execute(program, argv, { timeout: 10_000 });
    return stdout.split("\n")[0] || undefined;
  } catch {
    return undefined;
  }
}
