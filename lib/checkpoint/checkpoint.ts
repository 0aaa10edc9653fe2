import { HymbaError } from "../errors";
import type { HymbaConfig } from "./config";
import { openFolder } from "./folder";
import type { GenerationDefaults } from "./generation_config";
import { SYNTHETIC_PREFIX, openSynthetic } from "./synthetic";
import type { TensorEntry } from "./tensor_table";

/** A model's parameters and where they are, checked; no weight has been read yet. */
export interface Checkpoint {
  /** The path or spec that it was opened with. */
  readonly path: string;
  readonly config: HymbaConfig;
  /** Absolute paths of the weight files; empty for a synthetic checkpoint. */
  readonly files: readonly string[];
  /** Every tensor that the config asks for, in the order of `expectedTensors`. */
  readonly tensors: readonly TensorEntry[];
  /** Seed of the synthetic tensors, 0 to 2^32 - 1; 0 when there are none. */
  readonly seed: number;
  readonly generationConfig: GenerationDefaults;
  /** Absolute path of the folder where the tokenizer's files may be. */
  readonly folder?: string;
}

/**
 * Opens a model folder in Hugging Face layout, or a synthetic model: `synthetic:hymba-1.5b` or
 * `synthetic:<config.json, or a folder with one>`, either with `?seed=N`. Only config files and
 * safetensors headers are read.
 * @throws TypeError when it is not given a string.
 * @throws HymbaError ERR_MODEL_FORMAT when files are missing, damaged or contradict each other,
 * ERR_MODEL_UNSUPPORTED for a model that is not implemented, ERR_INVALID_ARGUMENT for an empty
 * path or a malformed spec.
 */
export async function openCheckpoint(pathOrSpec: string): Promise<Checkpoint> {
  if (typeof pathOrSpec !== "string") {
    throw new TypeError(`the path of a model should be a string, but is ${typeof pathOrSpec}`);
  }
  if (pathOrSpec === "") {
    throw new HymbaError("ERR_INVALID_ARGUMENT", "the path of the model is empty");
  }
  const isSynthetic = pathOrSpec.startsWith(SYNTHETIC_PREFIX);
  return isSynthetic ? openSynthetic(pathOrSpec) : openFolder(pathOrSpec);
}
