import { dirname, join, resolve } from "node:path";
import { HymbaError } from "../errors";
import type { Checkpoint } from "./checkpoint";
import { type HymbaConfig, parseConfig, readConfig } from "./config";
import { kindOf } from "./files";
import { readGenerationConfig } from "./generation_config";
import { HYMBA_1_5B_CONFIG } from "./hymba_1_5b";
import {
  type ExpectedTensor,
  type SyntheticFill,
  type TensorEntry,
  countElements,
  expectedTensors,
} from "./tensor_table";

/** What a spec of a synthetic model starts with. */
export const SYNTHETIC_PREFIX = "synthetic:";

/** Configs that need no file. A folder of the same name is reached as `./name`. */
const builtInConfigs: ReadonlyMap<string, unknown> = new Map([["hymba-1.5b", HYMBA_1_5B_CONFIG]]);

const MAX_SEED = 2 ** 32 - 1;

/** Opens a model with random weights; see `openCheckpoint`. */
export async function openSynthetic(spec: string): Promise<Checkpoint> {
  const { model, seed } = parseSpec(spec);
  const builtIn = builtInConfigs.get(model);
  if (builtIn !== undefined) {
    const config = parseConfig(builtIn, spec);
    return {
      path: spec,
      config,
      files: [],
      tensors: synthesize(config),
      seed,
      generationConfig: {},
    };
  }
  const path = resolve(model);
  const kind = await kindOf(path);
  if (kind === "nothing") {
    throw new HymbaError(
      "ERR_MODEL_FORMAT",
      `there is no "${path}". Expected after ${SYNTHETIC_PREFIX} a built-in model ` +
        `(${[...builtInConfigs.keys()].join(", ")}), or the path of a config.json or of a folder ` +
        `with one`,
    );
  }
  const folder = kind === "folder" ? path : dirname(path);
  const config = await readConfig(kind === "folder" ? join(path, "config.json") : path);
  const generationConfig = await readGenerationConfig(folder, config.vocabSize);
  const tensors = synthesize(config);
  return { path: spec, config, files: [], tensors, seed, generationConfig, folder };
}

function parseSpec(spec: string): { readonly model: string; readonly seed: number } {
  const [model, query] = split(spec.slice(SYNTHETIC_PREFIX.length), "?");
  const digits = query === undefined ? "0" : /^seed=([0-9]{1,10})$/.exec(query)?.[1];
  const seed = Number(digits);
  if (model === "" || digits === undefined || seed > MAX_SEED) {
    throw new HymbaError(
      "ERR_INVALID_ARGUMENT",
      `"${spec}" is not a synthetic model; expected ${SYNTHETIC_PREFIX}<name or path>, ` +
        `optionally with ?seed= and an integer from 0 to ${MAX_SEED}`,
    );
  }
  return { model, seed };
}

/** The parts before and after the last separator. */
function split(text: string, separator: string): [string, string?] {
  const at = text.lastIndexOf(separator);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

function synthesize(config: HymbaConfig): readonly TensorEntry[] {
  return expectedTensors(config).flatMap((tensor, stream) => {
    if (tensor.optional) return [];
    const source = { kind: "synthetic", ...chooseFill(tensor, config), stream } as const;
    return [{ name: tensor.name, dtype: "BF16" as const, shape: tensor.shape, source }];
  });
}

/**
 * Values that keep activations of order 1 at any depth and width: tokens begin the residual stream
 * at order 1, what 2L sublayers add to it sums to order 1, a matrix keeps the variance of its input,
 * and Mamba starts as its authors initialise it: A = -(1 … N), D = 1, time steps of 0.001 to 0.1.
 *
 * The head multiplies by embeddings, too, often by the same ones. The weights of the norm before it
 * bring logits down to order 1; their signs are random, for otherwise every token would predict
 * itself.
 */
function chooseFill(
  { name, shape }: ExpectedTensor,
  config: HymbaConfig,
): { readonly fill: SyntheticFill; readonly scale: number } {
  if (/(embed_tokens|lm_head)\.weight$|\.memory_tokens$/.test(name)) {
    return { fill: "normal", scale: 1 };
  }
  if (name.endsWith(".final_layernorm.weight")) {
    return { fill: "normal", scale: 1 / Math.sqrt(config.hiddenSize) };
  }
  if (/norm\d?\.weight$|\.D\.0$/.test(name)) return { fill: "constant", scale: 1 };
  if (name.endsWith(".A_log.0")) return { fill: "log_arange", scale: 1 };
  if (name.endsWith(".dt_proj.0.bias")) return { fill: "dt_bias", scale: 1 };
  const spread = name.endsWith(".bias")
    ? BIAS_SPREAD
    : 1 / Math.sqrt(countElements(shape.slice(1)));
  const addsToResidual = /\.(out_proj|down_proj)\./.test(name);
  return {
    fill: "normal",
    scale: addsToResidual ? spread / Math.sqrt(2 * config.numLayers) : spread,
  };
}

/** Standard deviation of a bias: not zero, so that one that is left out shows, yet small. */
const BIAS_SPREAD = 0.1;
