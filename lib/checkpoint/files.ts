import { readFile, stat } from "node:fs/promises";
import { HymbaError } from "../errors";

/**
 * Reads a JSON file of a model folder.
 * @returns undefined when there is no such file.
 * @throws HymbaError ERR_MODEL_FORMAT when it cannot be read or is not JSON.
 */
export async function readJsonIfPresent(path: string): Promise<unknown> {
  const text = await ifPresent(path, () => readFile(path, "utf8"));
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw new HymbaError(
      "ERR_MODEL_FORMAT",
      `"${path}" is not JSON: ${(error as Error).message}. Download the file again`,
      { cause: error },
    );
  }
}

/**
 * What a path leads to, links followed.
 * @throws HymbaError ERR_MODEL_FORMAT when that cannot be found out.
 */
export async function kindOf(path: string): Promise<"file" | "folder" | "nothing"> {
  const stats = await ifPresent(path, () => stat(path));
  if (stats === undefined) return "nothing";
  return stats.isDirectory() ? "folder" : "file";
}

/** The result of a file system call; undefined when the path does not exist. */
async function ifPresent<T>(path: string, call: () => Promise<T>): Promise<T | undefined> {
  try {
    return await call();
  } catch (error) {
    // ENOTDIR: what should be a folder on the way is a file.
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw cannotRead(path, error);
  }
}

/** The error for a file system call that failed. */
export function cannotRead(path: string, error: unknown): HymbaError {
  return new HymbaError("ERR_MODEL_FORMAT", `cannot read "${path}": ${(error as Error).message}`, {
    cause: error,
  });
}
