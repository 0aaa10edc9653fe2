import { Command } from "commander";
import { openCheckpoint } from "../checkpoint/checkpoint";
import type { HymbaConfig } from "../checkpoint/config";
import { summarizeCheckpoint } from "../checkpoint/summary";
import { countElements, type TensorEntry, WEIGHT_DTYPE_BYTES } from "../checkpoint/tensor_table";
import type { MemoryPlan } from "../model";
import type { CliContext, Library } from "./context";
import { formatBytes, formatCount, formatTable } from "./format";
import { write, writeJson } from "./io";
import { addLoadOptions, integer, type LoadFlags, loadOptions, modelArgument } from "./options";

interface InfoFlags extends LoadFlags {
  readonly sequences: number;
  readonly tensors?: boolean;
  readonly json?: boolean;
}

const EXAMPLES = `
Nothing is loaded: the numbers come from the checkpoint's headers.

Examples:
  $ hymba info
  $ hymba info synthetic:hymba-1.5b --context 8192
  $ hymba info ./my-model --sequences 64 --dtype bfloat16 --json | jq .memory
`;

/** `hymba info`: what a model is and what it takes. */
export function infoCommand(context: CliContext): Command {
  const command = new Command("info")
    .description("Show a model's configuration, its tensors, and the memory that it takes.")
    .addArgument(modelArgument())
    .option("--sequences <count>", "sequences held at the same time", integer(1), 1)
    .option("--tensors", "list every tensor")
    .option("--json", "print one JSON object");
  return addLoadOptions(command)
    .addHelpText("after", EXAMPLES)
    .action((path: string, flags: InfoFlags) => info(context, path, flags));
}

async function info({ io, library }: CliContext, path: string, flags: InfoFlags): Promise<void> {
  const checkpoint = await openCheckpoint(path);
  const { config, tensors } = checkpoint;
  const summary = summarizeCheckpoint(checkpoint);
  const memory = await library.memoryPlan(path, {
    ...loadOptions(flags),
    maxSequences: flags.sequences,
  });
  const gpu = flags.device === "cpu" ? undefined : usableGpu(library);
  if (flags.json) {
    const list = tensors.map(({ name, dtype, shape }) => ({ name, dtype, shape }));
    await writeJson(io.stdout, {
      path,
      ...summary,
      config,
      memory,
      ...(gpu && { gpu: { ...gpu, fits: memory.totalBytes <= gpu.availableBytes } }),
      ...(flags.tensors && { tensorList: list }),
    });
    return;
  }
  const sections = [
    formatTable([
      ["model", path],
      ["parameters", formatCount(summary.parameters)],
      ["tensors", `${formatCount(summary.tensors)}, ${formatBytes(summary.weightBytes)}`],
    ]),
    "Configuration\n" + formatConfig(config),
    formatMemory(memory, flags.sequences) + (gpu === undefined ? "" : formatGpu(gpu, memory)),
  ];
  if (flags.tensors) sections.push("Tensors\n" + formatTensors(tensors));
  await write(io.stdout, sections.join("\n"));
}

interface UsableGpu {
  readonly name: string;
  readonly availableBytes: number;
}

/** The GPU that a model would be loaded on, if there is one. */
function usableGpu(library: Library): UsableGpu | undefined {
  const gpu = library.diagnose().cuda?.devices[0];
  if (gpu === undefined || gpu.problem !== null) return undefined;
  return { name: gpu.name, availableBytes: gpu.availableBytes };
}

function formatConfig(config: HymbaConfig): string {
  const { layers, ...fields } = config;
  const describe = (isWanted: (layer: (typeof layers)[number], index: number) => boolean): string =>
    layers.flatMap((layer, index) => (isWanted(layer, index) ? [index] : [])).join(" ");
  return formatTable([
    ...Object.entries(fields).map(([name, value]) => [`  ${name}`, JSON.stringify(value)]),
    ["  global layers", describe((layer) => layer.attention === "global")],
    ["  layers with K/V", describe((layer, index) => layer.kvProducer === index)],
  ]);
}

function formatTensors(tensors: readonly TensorEntry[]): string {
  return formatTable(
    tensors.map(({ name, dtype, shape }) => [
      `  ${name}`,
      dtype,
      `[${shape.join(", ")}]`,
      formatBytes(countElements(shape) * WEIGHT_DTYPE_BYTES[dtype]),
    ]),
  );
}

function formatMemory(memory: MemoryPlan, sequences: number): string {
  const { perSequence } = memory;
  const rows: [string, number][] = [
    ["  K/V, global layers", perSequence.globalKvBytes],
    ["  K/V, window layers", perSequence.windowKvBytes],
    ["  K/V together", perSequence.kvBytes],
    ["  SSM state", perSequence.ssmStateBytes],
    ["  convolution state", perSequence.convStateBytes],
    ["  total", perSequence.totalBytes],
  ];
  const totals: [string, number][] = [
    ["  K/V of the meta tokens, once", memory.metaKvBytes],
    ["  weights", memory.weightsBytes],
    [
      `  cache of ${formatCount(sequences)} sequence${sequences === 1 ? "" : "s"}`,
      memory.cacheBytes,
    ],
    ["  workspace", memory.workspaceBytes],
    ["  total", memory.totalBytes],
  ];
  const table = (entries: typeof rows): string =>
    formatTable(entries.map(([name, bytes]) => [name, formatBytes(bytes)]));
  return (
    `Memory of a sequence of ${formatCount(perSequence.contextTokens)} tokens\n${table(rows)}\n` +
    `Memory of the model\n${table(totals)}`
  );
}

function formatGpu({ name, availableBytes }: UsableGpu, { totalBytes }: MemoryPlan): string {
  const answer = totalBytes <= availableBytes ? "it fits" : "it does not fit";
  return formatTable([[`  available on the ${name}`, `${formatBytes(availableBytes)}: ${answer}`]]);
}
