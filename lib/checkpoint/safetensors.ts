import { type FileHandle, open } from "node:fs/promises";
import { HymbaError } from "../errors";
import { findDuplicateKey } from "./duplicate_keys";
import { cannotRead } from "./files";
import { describeValue, formatList } from "./problems";
import { WEIGHT_DTYPE_BYTES, countElements, isWeightDtype } from "./tensor_table";

/** A tensor as a safetensors header describes it. */
export interface SafetensorsEntry {
  readonly name: string;
  /** Any name the file uses; the range was checked against it if it is a `WeightDtype`. */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** First byte, counted from the start of the file. */
  readonly begin: number;
  /** One past the last byte, counted from the start of the file. */
  readonly end: number;
}

/** The length of the header comes first, as 8 bytes. */
const PREFIX_BYTES = 8;

/** The format's own limit; a real header has some hundred bytes a tensor. */
const MAX_HEADER_BYTES = 100_000_000;

/**
 * Reads the header of a safetensors file, and nothing else of it.
 * @throws HymbaError ERR_MODEL_FORMAT when the file cannot be read or its header is damaged.
 */
export async function readSafetensorsHeader(path: string): Promise<readonly SafetensorsEntry[]> {
  try {
    await using file = await open(path, "r");
    const stats = await file.stat();
    if (!stats.isFile()) damaged(path, "it is not a file");
    const prefix = await readBytes(file, path, 0, Math.min(PREFIX_BYTES, stats.size));
    const headerBytes = parsePrefix(prefix, stats.size, path);
    const header = await readBytes(file, path, PREFIX_BYTES, headerBytes);
    return parseSafetensorsHeader(header, stats.size, path);
  } catch (error) {
    if (error instanceof HymbaError) throw error;
    throw cannotRead(path, error);
  }
}

async function readBytes(
  file: FileHandle,
  path: string,
  position: number,
  bytes: number,
): Promise<Buffer> {
  const buffer = Buffer.alloc(bytes);
  const { bytesRead } = await file.read(buffer, 0, bytes, position);
  if (bytesRead < bytes) damaged(path, `reading stopped after ${position + bytesRead} bytes`);
  return buffer;
}

/**
 * The bytes of the header, from the first 8 bytes of a file.
 * @throws HymbaError ERR_MODEL_FORMAT when no header can be that long.
 */
export function parsePrefix(prefix: Buffer, fileBytes: number, path: string): number {
  if (prefix.length < PREFIX_BYTES) {
    damaged(path, `it has ${prefix.length} bytes, expected at least ${PREFIX_BYTES}`);
  }
  const headerBytes = prefix.readBigUInt64LE();
  if (headerBytes === 0n) damaged(path, "its header is empty");
  if (headerBytes > MAX_HEADER_BYTES) {
    damaged(path, `its header claims ${headerBytes} bytes, expected at most ${MAX_HEADER_BYTES}`);
  }
  const limit = fileBytes - PREFIX_BYTES;
  if (headerBytes > limit) {
    damaged(path, `its header claims ${headerBytes} bytes, but only ${limit} bytes follow`);
  }
  return Number(headerBytes);
}

/**
 * Parses a safetensors header and checks every range against the file.
 * @param header the bytes between the 8-byte length and the data.
 * @param fileBytes size of the whole file.
 * @throws HymbaError ERR_MODEL_FORMAT; problems of single tensors are listed together.
 */
export function parseSafetensorsHeader(
  header: Uint8Array,
  fileBytes: number,
  path: string,
): readonly SafetensorsEntry[] {
  const dataBegin = PREFIX_BYTES + header.length;
  const json = parseHeaderJson(header, path);
  const entries: SafetensorsEntry[] = [];
  const problems: string[] = [];
  for (const [name, value] of Object.entries(json)) {
    if (name === "__metadata__") continue;
    const problem = addEntry(name, value, dataBegin, fileBytes, entries);
    if (problem !== undefined) problems.push(`tensor ${describeValue(name)} ${problem}`);
  }
  findOverlaps(entries, problems);
  if (problems.length > 0) damaged(path, formatList(problems));
  return entries;
}

function parseHeaderJson(header: Uint8Array, path: string): object {
  let text: string;
  let json: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(header);
    json = JSON.parse(text);
  } catch (error) {
    damaged(path, `its header is not JSON: ${(error as Error).message}`, error);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    damaged(path, `its header should be an object, but is ${describeValue(json)}`);
  }
  const key = findDuplicateKey(text);
  if (key !== undefined) damaged(path, `its header has the key ${describeValue(key)} twice`);
  return json;
}

/** Adds the entry that `value` describes, or returns what is wrong with it. */
function addEntry(
  name: string,
  value: unknown,
  dataBegin: number,
  fileBytes: number,
  entries: SafetensorsEntry[],
): string | undefined {
  if (typeof value !== "object" || value === null) {
    return `is ${describeValue(value)}, not an object`;
  }
  const { dtype, shape, data_offsets: offsets } = value as Readonly<Record<string, unknown>>;
  if (typeof dtype !== "string") return `has dtype ${describeValue(dtype)}, expected a name`;
  if (!isSizeList(shape)) return `has shape ${describeValue(shape)}, expected a list of sizes`;
  if (!isSizeList(offsets) || offsets.length !== 2) {
    return `has data_offsets ${describeValue(offsets)}, expected [begin, end]`;
  }
  const [begin, end] = offsets as readonly [number, number];
  const range = `bytes ${begin} to ${end}`;
  if (begin > end) return `ends before it begins: ${range}`;
  const dataBytes = fileBytes - dataBegin;
  if (end > dataBytes) return `takes ${range} of ${dataBytes}; is the file truncated?`;
  if (isWeightDtype(dtype)) {
    const expected = countElements(shape) * WEIGHT_DTYPE_BYTES[dtype];
    if (end - begin !== expected) {
      const type = `${dtype} ${describeValue(shape)}`;
      return `takes ${end - begin} bytes, expected ${expected} for ${type}`;
    }
  }
  entries.push({ name, dtype, shape, begin: dataBegin + begin, end: dataBegin + end });
  return undefined;
}

function isSizeList(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

/** Empty tensors cover nothing, wherever they are. */
function findOverlaps(entries: readonly SafetensorsEntry[], problems: string[]): void {
  const sorted = entries.filter((entry) => entry.end > entry.begin);
  sorted.sort((a, b) => a.begin - b.begin);
  let previous: SafetensorsEntry | undefined;
  for (const entry of sorted) {
    if (previous !== undefined && entry.begin < previous.end) {
      problems.push(
        `tensors ${describeValue(previous.name)} and ${describeValue(entry.name)} overlap`,
      );
    }
    if (previous === undefined || entry.end > previous.end) previous = entry;
  }
}

function damaged(path: string, what: string, cause?: unknown): never {
  throw new HymbaError(
    "ERR_MODEL_FORMAT",
    `"${path}" is not a usable safetensors file: ${what}. Download the file again`,
    cause === undefined ? undefined : { cause },
  );
}
