import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import type { Checkpoint } from "./checkpoint";
import { cannotRead } from "./files";

/** Of every tensor so much is looked at, from its middle on: all of the weights would take seconds. */
const SAMPLE_BYTES = 1024;

/**
 * Tells models apart: equal for those of equal config and weights, wherever their files are.
 * @throws HymbaError ERR_MODEL_FORMAT when a file cannot be read any more.
 */
export async function fingerprintOf(checkpoint: Checkpoint): Promise<string> {
  const { config, files, tensors, seed } = checkpoint;
  const hash = createHash("sha256");
  hash.update(JSON.stringify([config, seed]));
  const handles = new Map<string, FileHandle>();
  try {
    for (const { name, dtype, shape, source } of tensors) {
      hash.update(JSON.stringify([name, dtype, shape]));
      if (source.kind === "synthetic") {
        hash.update(JSON.stringify(source));
        continue;
      }
      const path = files[source.file]!;
      hash.update(await sample(path, source, handles));
    }
  } finally {
    for (const handle of handles.values()) await handle.close();
  }
  return hash.digest("hex");
}

async function sample(
  path: string,
  { begin, end }: { readonly begin: number; readonly end: number },
  handles: Map<string, FileHandle>,
): Promise<Uint8Array> {
  const first = begin + Math.floor((end - begin) / 2);
  const bytes = new Uint8Array(Math.min(SAMPLE_BYTES, end - first));
  try {
    let handle = handles.get(path);
    if (handle === undefined) handles.set(path, (handle = await open(path)));
    await handle.read(bytes, 0, bytes.length, first);
  } catch (error) {
    throw cannotRead(path, error);
  }
  return bytes;
}
