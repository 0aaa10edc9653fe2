import os from "node:os";
import { loadBinding } from "./binding";
import { HymbaError } from "./errors";

/** Where a model is to run: `auto` takes a usable GPU, else the CPU. */
export type DeviceRequest = "auto" | "cpu" | "cuda";

/** Where a model runs, and why there. */
export interface DeviceInfo {
  readonly kind: "cpu";
  /** Name of the processor. */
  readonly name: string;
  readonly reason: string;
}

/**
 * Decides where a model runs. Never falls back from what was asked for.
 * @throws HymbaError ERR_NO_DEVICE for `cuda`, with the reason.
 */
export function chooseDevice(request: DeviceRequest): DeviceInfo {
  const name = os.cpus()[0]?.model.trim() ?? "CPU";
  if (request === "cpu") return { kind: "cpu", name, reason: "asked for" };
  const problem = cudaProblem();
  if (request === "cuda") {
    throw new HymbaError("ERR_NO_DEVICE", `cannot run on a GPU: ${problem}`);
  }
  return { kind: "cpu", name, reason: problem };
}

/** Why no GPU is used. */
function cudaProblem(): string {
  const { problem } = loadBinding().probeDevices();
  return problem ?? "this version has no CUDA backend yet";
}
