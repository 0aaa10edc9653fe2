import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import type { ServerOptions } from "../server/options";
import type { ServeFlags } from "./serve";

const MAIN = join(__dirname, "main.js");

/** The command line of the server of one device, at a Unix socket, without keys. */
export function workerArguments(
  model: string,
  flags: ServeFlags,
  { names }: ServerOptions,
  socket: string,
): string[] {
  const values: Readonly<Record<string, string | number | undefined>> = {
    uds: socket,
    device: flags.device,
    dtype: flags.dtype,
    threads: flags.threads,
    "max-model-len": flags.maxModelLen,
    "max-num-seqs": flags.maxNumSeqs,
    "max-num-batched-tokens": flags.maxNumBatchedTokens,
    "max-waiting": flags.maxWaiting,
    "max-body": flags.maxBody,
    "read-timeout": flags.readTimeout,
    "log-level": flags.logLevel === "silent" ? "silent" : "warn",
  };
  return [
    ...["serve", model],
    ...Object.entries(values).flatMap(([name, value]) =>
      value === undefined ? [] : [`--${name}`, String(value)],
    ),
    ...names.flatMap((name) => ["--served-model-name", name]),
    ...(flags.enablePrefixCaching ? [] : ["--no-enable-prefix-caching"]),
  ];
}

/** Starts a command line in a process that sees one GPU alone, and ends with this one. */
export function spawnWorker(argv: readonly string[], device: string): ChildProcess {
  const visible = process.env["CUDA_VISIBLE_DEVICES"]?.split(",");
  return spawn(process.execPath, [MAIN, ...argv], {
    // A key is for those who ask this process, not for this process itself.
    env: {
      ...process.env,
      HYMBA_API_KEY: undefined,
      CUDA_VISIBLE_DEVICES: visible?.[Number(device)] ?? device,
    },
    stdio: ["ignore", "pipe", "inherit", "ipc"],
  });
}
