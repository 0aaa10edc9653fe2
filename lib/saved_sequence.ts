import { createHash, randomUUID } from "node:crypto";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import type { ModelDtype } from "./binding";
import type { DeviceKind } from "./device";
import { HymbaError } from "./errors";

/** What an image can be restored on: each device orders its pages as it likes. */
export interface ImageKind {
  /** Which model, by its shape and weights. */
  readonly model: string;
  readonly device: DeviceKind;
  readonly dtype: ModelDtype;
}

/** A sequence outside of the cache. */
export interface SavedSequence extends ImageKind {
  /** Tokens of its text. */
  readonly tokens: number;
  /** What the cache has of it. */
  readonly image: Uint8Array;
}

// A file: MAGIC, VERSION and the header's length (32 bits each, little-endian); the header, in JSON: all of
// a SavedSequence but its image; the image; SHA-256 of all before.
const MAGIC = Buffer.from("hymbaseq");
/** Counts up whenever the meaning of a header or an image changes. */
const VERSION = 1;
const PREFIX_BYTES = MAGIC.length + 8;
const CHECKSUM_BYTES = 32;

/** Read at a time: one call of the system takes no more than 2 GB. */
const READ_BYTES = 2 ** 30;

/**
 * Writes a file, or leaves what was there: never a part of one.
 * @throws HymbaError ERR_INVALID_ARGUMENT when it cannot be written.
 */
export async function writeSavedSequence(path: string, saved: SavedSequence): Promise<void> {
  const { image, ...header } = saved;
  const headerBytes = Buffer.from(JSON.stringify(header));
  const prefix = Buffer.concat([MAGIC, Buffer.alloc(8)]);
  prefix.writeUInt32LE(VERSION, MAGIC.length);
  prefix.writeUInt32LE(headerBytes.length, MAGIC.length + 4);
  const parts = [prefix, headerBytes, image];
  const checksum = checksumOf(parts);
  const temporary = `${path}.${randomUUID()}.tmp`;
  try {
    const file = await open(temporary, "wx");
    try {
      for (const part of [...parts, checksum]) await file.writeFile(part);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw failure(`cannot write "${path}": ${(error as Error).message}`, error);
  }
}

/**
 * Reads a file.
 * @param kind what it must be of.
 * @throws HymbaError ERR_INVALID_ARGUMENT when it cannot be read, is no such file or a damaged one, or is
 * of another kind.
 */
export async function readSavedSequence(path: string, kind: ImageKind): Promise<SavedSequence> {
  const bytes = await readWhole(path);
  if (bytes.length < PREFIX_BYTES + CHECKSUM_BYTES || !MAGIC.equals(bytes.subarray(0, 8))) {
    throw failure(`"${path}" is no saved sequence`);
  }
  const version = bytes.readUInt32LE(MAGIC.length);
  if (version !== VERSION) {
    throw failure(
      `"${path}" is a saved sequence of version ${version}, this release reads version ${VERSION}`,
    );
  }
  const content = bytes.subarray(0, -CHECKSUM_BYTES);
  if (!checksumOf([content]).equals(bytes.subarray(-CHECKSUM_BYTES))) {
    throw failure(`"${path}" is damaged: its checksum is wrong`);
  }
  const imageBegin = PREFIX_BYTES + content.readUInt32LE(MAGIC.length + 4);
  const header = JSON.parse(content.toString("utf8", PREFIX_BYTES, imageBegin)) as Omit<
    SavedSequence,
    "image"
  >;
  if (header.model !== kind.model) {
    throw failure(`"${path}" was saved by another model: its shape or its weights differ`);
  }
  if (header.device !== kind.device || header.dtype !== kind.dtype) {
    throw failure(
      `"${path}" was saved by a model in ${header.dtype} on the device "${header.device}", ` +
        `this one is in ${kind.dtype} on "${kind.device}": load it the same way`,
    );
  }
  return { ...header, image: content.subarray(imageBegin) };
}

function checksumOf(parts: readonly Uint8Array[]): Buffer {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
}

async function readWhole(path: string): Promise<Buffer> {
  let file: FileHandle | undefined;
  try {
    file = await open(path);
    const bytes = Buffer.allocUnsafe((await file.stat()).size);
    for (let begin = 0; begin < bytes.length;) {
      const length = Math.min(READ_BYTES, bytes.length - begin);
      const { bytesRead } = await file.read(bytes, begin, length);
      if (bytesRead === 0) throw new Error("it became shorter meanwhile");
      begin += bytesRead;
    }
    return bytes;
  } catch (error) {
    throw failure(`cannot read "${path}": ${(error as Error).message}`, error);
  } finally {
    await file?.close();
  }
}

function failure(message: string, cause?: unknown): HymbaError {
  return new HymbaError("ERR_INVALID_ARGUMENT", message, cause === undefined ? {} : { cause });
}
