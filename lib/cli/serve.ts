import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { basename } from "node:path";
import { Command, InvalidArgumentError, Option } from "commander";
import { type Logger, pino } from "pino";
import type { HymbaModel } from "../model";
import { DevicesServer } from "../server/devices/server";
import type { ServerAddress, ServerOptions } from "../server/options";
import { HymbaServer } from "../server/server";
import type { CliContext } from "./context";
import { CommandFailure, UsageError } from "./failure";
import { write } from "./io";
import {
  addDeviceOptions,
  count,
  type DeviceFlags,
  integer,
  modelArgument,
  positive,
} from "./options";
import { withModel } from "./with_model";
import { spawnWorker, workerArguments } from "./worker_process";

/** Flags of the command. */
export interface ServeFlags extends DeviceFlags {
  readonly host: string;
  readonly port: number;
  readonly uds?: string;
  readonly apiKey?: readonly string[];
  readonly servedModelName?: readonly string[];
  readonly devices?: readonly string[];
  readonly maxModelLen?: number;
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
  readonly enablePrefixCaching: boolean;
  readonly maxWaiting: number;
  readonly maxBody: number;
  readonly readTimeout: number;
  readonly drainTimeout: number;
  readonly logLevel: string;
  readonly logPrompts: boolean;
}

const EXAMPLES = `
Numbers of tokens and bytes may end with k, m or g, or with K, M or G for powers of 1,024. Logs go to
standard error, a JSON object a line, without prompts. SIGTERM and Ctrl-C stop the server when the
requests that it has are answered; a second one kills it.

Examples:
  $ hymba serve
  $ curl http://localhost:8000/v1/completions -H "Content-Type: application/json" \\
      -d '{"prompt": "Once upon a time", "max_tokens": 64, "stream": true}'
  $ HYMBA_API_KEY=secret hymba serve ./my-model --host 0.0.0.0 --max-model-len 4K --max-num-seqs 256
`;

/** `hymba serve`: answers requests over HTTP. */
export function serveCommand(context: CliContext): Command {
  const command = new Command("serve")
    .description("Serve a model over HTTP, in OpenAI's way.")
    .addArgument(modelArgument())
    .optionsGroup("HTTP:")
    .option("--host <address>", "address to listen at; 0.0.0.0: all", "127.0.0.1")
    .option("--port <number>", "port to listen at; 0: any", integer(0, 65_535), 8000)
    .option("--uds <path>", "listen at a Unix socket instead")
    .addOption(
      new Option(
        "--api-key <key>",
        "key that requests must have; may be repeated, or divided by commas in HYMBA_API_KEY",
      ).argParser(collect),
    )
    .option("--max-body <bytes>", "bytes of a request's body", count(1), 4 * 2 ** 20)
    .option(
      "--max-waiting <count>",
      "texts that may wait beside those that run; of more, requests get 429",
      count(0),
      2048,
    )
    .option(
      "--read-timeout <seconds>",
      "time without reading after which a client is cut off",
      positive,
      60,
    )
    .option("--drain-timeout <seconds>", "time for open requests when it stops", positive, 30)
    .addOption(
      new Option("--log-level <level>", "least severity that is logged")
        .choices(["debug", "info", "warn", "error", "silent"])
        .default("info"),
    )
    .option("--log-prompts", "log the bodies of requests, prompts among them", false)
    .optionsGroup("Model:")
    .option(
      "--served-model-name <name>",
      "what requests may call the model; may be repeated (default: the folder's name)",
      collect,
    )
    .option(
      "--max-model-len <tokens>",
      "longest text, prompt included (default: the model's)",
      count(1),
    )
    .option("--max-num-seqs <count>", "texts that are generated at a time", count(1, 65_535), 64)
    .option("--max-num-batched-tokens <count>", "most tokens of a step", count(1), 2048)
    .option("--enable-prefix-caching", "keep what texts begin with (default)", true)
    .option("--no-enable-prefix-caching", "compute every prompt from its beginning");
  return addDeviceOptions(command)
    .option(
      "--devices <numbers>",
      "GPUs to serve on, each in a process of its own, divided by commas",
      deviceList,
    )
    .addHelpText("after", EXAMPLES)
    .action((path: string, flags: ServeFlags) => serve(context, path, flags));
}

function deviceList(text: string): string[] {
  const devices = text.split(",");
  if (devices.every((device) => /^\w[\w-]*$/.test(device))) return devices;
  throw new InvalidArgumentError("It must be like 0,1,2.");
}

function collect(value: string, previous: readonly string[] = []): string[] {
  return [...previous, value];
}

async function serve(context: CliContext, path: string, flags: ServeFlags): Promise<void> {
  const apiKeys = readKeys(context, flags);
  const options: ServerOptions = {
    names: flags.servedModelName ?? [basename(path)],
    apiKeys,
    maxBodyBytes: flags.maxBody,
    maxWaiting: flags.maxWaiting,
    stallMs: flags.readTimeout * 1000,
    logBodies: flags.logPrompts,
  };
  const logger = pino({ level: flags.logLevel, base: null }, context.io.stderr);
  if (flags.devices !== undefined) {
    const spawn = (device: string, socket: string): ChildProcess =>
      spawnWorker(workerArguments(path, flags, options, socket), device);
    const server = await DevicesServer.start(flags.devices, spawn, options, logger).catch(
      (error: Error) => {
        throw new CommandFailure(error.message);
      },
    );
    await runUntilStopped(context, server, options, flags, logger);
    return;
  }
  const use = async (model: HymbaModel): Promise<void> => {
    const engineOptions = { prefixCache: flags.enablePrefixCaching };
    const server = new HymbaServer(model, options, logger, engineOptions);
    await runUntilStopped(context, server, options, flags, logger);
  };
  await withModel(context, path, flags, use, {
    maxSequences: flags.maxNumSeqs,
    maxBatchTokens: flags.maxNumBatchedTokens,
    ...(flags.maxModelLen !== undefined && { maxContextTokens: flags.maxModelLen }),
    requireTokenizer: true,
  });
}

/** Of the command line, or else of the environment, which other users of the machine do not see. */
function readKeys({ io }: CliContext, { apiKey }: ServeFlags): readonly string[] {
  const keys = apiKey ?? io.env["HYMBA_API_KEY"]?.split(",") ?? [];
  if (keys.some((key) => !/^\S+$/.test(key))) {
    throw new UsageError("an API key must not be empty, nor have spaces in it");
  }
  return keys;
}

/** What a server of one device and one of several have in common. */
interface Server {
  listen(address: ServerAddress): Promise<string>;
  close(graceMs: number): Promise<void>;
  readonly openRequests: number;
  readonly failed?: Promise<unknown>;
}

async function runUntilStopped(
  { io, signal }: CliContext,
  server: Server,
  { names, apiKeys }: ServerOptions,
  flags: ServeFlags,
  logger: Logger,
): Promise<void> {
  const controller = new AbortController();
  const release = io.onTerminate(() => controller.abort());
  try {
    const address = addressOf(flags);
    const url = await server.listen(address).catch((error: Error) => {
      throw new CommandFailure(`cannot listen: ${error.message}`);
    });
    if (apiKeys?.length === 0 && "host" in address && !isLoopback(address.host)) {
      logger.warn("there is no --api-key: whoever reaches this address can use the model");
    }
    await write(io.stdout, `${names[0]} at ${url}, until Ctrl-C\n`);
    const stopped = AbortSignal.any([signal, controller.signal]);
    if (!stopped.aborted) {
      const ends = [
        once(stopped, "abort"),
        ...(server.failed === undefined ? [] : [server.failed]),
      ];
      const failure: unknown = await Promise.race(ends);
      if (!stopped.aborted) throw failure;
    }
    logger.info({ open: server.openRequests }, "stopping");
  } finally {
    await server.close(flags.drainTimeout * 1000);
    release();
  }
}

function addressOf({ host, port, uds }: ServeFlags): ServerAddress {
  return uds === undefined ? { host, port } : { path: uds };
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || host.startsWith("127.");
}
