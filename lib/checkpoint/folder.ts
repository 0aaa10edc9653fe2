import { basename, join, resolve } from "node:path";
import { z } from "zod";
import { HymbaError } from "../errors";
import type { Checkpoint } from "./checkpoint";
import { readConfig } from "./config";
import { checkFields, field } from "./fields";
import { kindOf, readJsonIfPresent } from "./files";
import { readGenerationConfig } from "./generation_config";
import { type StoredTensor, matchTensors } from "./match_tensors";
import { describeValue, formatList } from "./problems";
import { readSafetensorsHeader } from "./safetensors";

const SINGLE_FILE = "model.safetensors";
const INDEX_FILE = "model.safetensors.index.json";

interface StoredTensors {
  /** Absolute paths. */
  readonly files: readonly string[];
  readonly tensors: ReadonlyMap<string, StoredTensor>;
}

/** Opens a model folder in Hugging Face layout; see `openCheckpoint`. */
export async function openFolder(path: string): Promise<Checkpoint> {
  const folder = resolve(path);
  await checkFolder(folder);
  const config = await readConfig(join(folder, "config.json"));
  const generationConfig = await readGenerationConfig(folder, config.vocabSize);
  const { files, tensors: stored } = await readStoredTensors(folder);
  const tensors = matchTensors(config, stored, folder);
  return { path, config, files, tensors, seed: 0, generationConfig, folder };
}

async function checkFolder(folder: string): Promise<void> {
  const kind = await kindOf(folder);
  if (kind === "folder") return;
  throw new HymbaError(
    "ERR_MODEL_FORMAT",
    (kind === "file" ? `"${folder}" is a file` : `there is no folder "${folder}"`) +
      `. Expected the folder of a model in Hugging Face layout, with config.json and ` +
      `${SINGLE_FILE}, or synthetic:hymba-1.5b for random weights`,
  );
}

/** One file goes before an index, as it does in Hugging Face's own loader. */
async function readStoredTensors(folder: string): Promise<StoredTensors> {
  const single = join(folder, SINGLE_FILE);
  if ((await kindOf(single)) !== "nothing") {
    const entries = await readSafetensorsHeader(single);
    const tensors = new Map(entries.map((entry) => [entry.name, { ...entry, file: 0 }]));
    return { files: [single], tensors };
  }
  const indexPath = join(folder, INDEX_FILE);
  const index = await readJsonIfPresent(indexPath);
  if (index !== undefined) return readShards(folder, parseIndex(index, indexPath), indexPath);
  const hasPickle = (await kindOf(join(folder, "pytorch_model.bin"))) === "file";
  throw new HymbaError(
    "ERR_MODEL_FORMAT",
    `"${folder}" has neither ${SINGLE_FILE} nor ${INDEX_FILE}. ` +
      (hasPickle ? "Convert its PyTorch weights to safetensors" : "Download its weights"),
  );
}

const indexSchema = z.object(
  {
    weight_map: field<Readonly<Record<string, string>>>(
      (value) =>
        typeof value === "object" &&
        value !== null &&
        Object.values(value).every((file) => typeof file === "string"),
      "an object from tensor names to file names",
    ),
  },
  { error: "expected an object" },
);

/** Tensor name to file name. A name that leads out of the folder is refused. */
function parseIndex(json: unknown, path: string): ReadonlyMap<string, string> {
  const { weight_map: weightMap } = checkFields(indexSchema, json, `"${path}"`);
  const map = new Map(Object.entries(weightMap));
  const strange = [...new Set(map.values())].filter(
    (name) => !name.endsWith(".safetensors") || basename(name) !== name || /[\\\0]/.test(name),
  );
  if (strange.length > 0) {
    throw new HymbaError(
      "ERR_MODEL_FORMAT",
      `"${path}" names ${formatList(strange.map(describeValue), ", ")}; expected the plain names ` +
        `of .safetensors files in its folder`,
    );
  }
  return map;
}

async function readShards(
  folder: string,
  index: ReadonlyMap<string, string>,
  indexPath: string,
): Promise<StoredTensors> {
  const names = [...new Set(index.values())].sort();
  const files = names.map((name) => join(folder, name));
  const kinds = await Promise.all(files.map(kindOf));
  const absent = names.filter((_, i) => kinds[i] === "nothing");
  if (absent.length > 0) {
    throw new HymbaError(
      "ERR_MODEL_FORMAT",
      `"${folder}" lacks ${absent.length} of ${names.length} weight files: ` +
        `${formatList(absent.map(describeValue), ", ")}. Download them`,
    );
  }
  const headers = await Promise.all(files.map(readSafetensorsHeader));
  const tensors = new Map<string, StoredTensor>();
  const problems: string[] = [];
  for (const [file, entries] of headers.entries()) {
    for (const entry of entries) {
      if (index.get(entry.name) === names[file]) tensors.set(entry.name, { ...entry, file });
      else problems.push(`${describeValue(entry.name)} is in ${names[file]}, but not listed there`);
    }
  }
  for (const [name, file] of index) {
    if (tensors.has(name)) continue;
    problems.push(`${describeValue(name)} is listed in ${file}, but not there`);
  }
  if (problems.length > 0) {
    throw new HymbaError(
      "ERR_MODEL_FORMAT",
      `"${indexPath}" and the files that it names disagree: ${formatList(problems)}`,
    );
  }
  return { files, tensors };
}
