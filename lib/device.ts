import os from "node:os";
import { loadBinding } from "./binding";
import { HymbaError } from "./errors";

/** Where a model is to run: `auto` takes a usable GPU, else the CPU. */
export type DeviceRequest = "auto" | "cpu" | "cuda";

/** What a model runs on. */
export type DeviceKind = "cpu" | "cuda";

/** Where a model runs, and why there. */
export interface DeviceInfo {
  readonly kind: DeviceKind;
  /** Name of the processor. */
  readonly name: string;
  readonly reason: string;
}

/**
 * Decides where a model runs: the first GPU that the driver lists, or the CPU. Never falls back from
 * what was asked for.
 * @throws HymbaError ERR_NO_DEVICE, ERR_UNSUPPORTED_DEVICE for `cuda`, with the reason.
 */
export function chooseDevice(request: DeviceRequest): DeviceInfo {
  const cpu = { kind: "cpu", name: os.cpus()[0]?.model.trim() ?? "CPU" } as const;
  if (request === "cpu") return { ...cpu, reason: "asked for" };
  const { problem, devices } = loadBinding().probeDevices();
  const gpu = devices[0];
  if (gpu === undefined) {
    const reason = problem ?? "the driver lists no GPU";
    if (request === "auto") return { ...cpu, reason };
    throw new HymbaError("ERR_NO_DEVICE", `cannot run on a GPU: ${reason}`);
  }
  if (gpu.problem !== null) {
    const reason = `the kernels do not run on the ${gpu.name}: ${gpu.problem}`;
    if (request === "auto") return { ...cpu, reason };
    throw new HymbaError("ERR_UNSUPPORTED_DEVICE", `cannot run on the GPU: ${reason}`);
  }
  const reason = request === "cuda" ? "asked for" : "the first GPU that the driver lists";
  return { kind: "cuda", name: gpu.name, reason };
}
