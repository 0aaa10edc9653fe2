// Reads the JSON lines of `hymba bench` and checks that they belong together.
import { z } from "zod";

/**
 * @template T
 * @typedef {object} Bench
 * @property {string} name as in the rows' field `bench`.
 * @property {z.ZodType<T>} schema
 * @property {(row: T) => readonly number[]} key what tells cases apart, and their order.
 */

/**
 * @typedef {z.infer<typeof decodeRow>} DecodeRow
 * @typedef {z.infer<typeof prefillRow>} PrefillRow
 * @typedef {{ readonly name: string, readonly text: string }} File
 */

const positive = z.number().positive();

const common = {
  // What the references are of. Other names would tell paths of who measured.
  model: z.literal("synthetic:hymba-1.5b"),
  dtype: z.literal("bfloat16"),
  device: z.string(),
  driver: z.string().nullable(),
  sm_mhz: positive.nullable(),
  memory_mhz: positive.nullable(),
  version: z.string(),
  commit: z.string().nullable(),
  copy_tbps: positive,
  ms_p10: positive,
  ms_p90: positive,
  tokens_per_s: positive,
};

const decodeRow = z.strictObject({
  ...common,
  bench: z.literal("decode"),
  batch: z.int().positive(),
  context: z.int().positive(),
  mean_length: positive,
  steps: z.int().positive(),
  ms_per_step: positive,
  bytes_per_step: positive,
  floor_ms: positive,
  fraction_of_floor: positive,
});

const prefillRow = z.strictObject({
  ...common,
  bench: z.literal("prefill"),
  sequences: z.int().positive(),
  tokens: z.int().positive(),
  ms: positive,
  model_flops: positive,
  model_tflops: positive,
  fraction_of_peak: positive.nullable(),
});

/** @type {Bench<DecodeRow>} */
export const DECODE = {
  name: "decode",
  schema: decodeRow,
  key: ({ context, batch }) => [context, batch],
};

/** @type {Bench<PrefillRow>} */
export const PREFILL = {
  name: "prefill",
  schema: prefillRow,
  key: ({ sequences, tokens }) => [sequences, tokens],
};

/**
 * The rows of one bench, in the order of their cases. Of several rows of a case the last counts; rows of
 * other benches may stand between them.
 * @template {{ device: string }} T
 * @param {Bench<T>} bench @param {readonly File[]} files
 * @returns {{ device: string, rows: T[] }}
 */
export function readRows(bench, files) {
  /** @type {Map<string, T>} */
  const cases = new Map();
  /** @type {Map<string, string>} */
  const devices = new Map();
  for (const { where, line } of files.flatMap(linesOf)) {
    const row = parseRow(bench, line, where);
    if (row === undefined) continue;
    cases.set(JSON.stringify(bench.key(row)), row);
    if (!devices.has(row.device)) devices.set(row.device, where);
  }
  const [device, ...others] = devices.keys();
  if (device === undefined) {
    throw new Error(`no row of the bench ${bench.name} in ${files.map(({ name }) => name).join()}`);
  }
  if (others.length > 0) {
    const list = [...devices].map(([name, where]) => `${name} (${where})`).join(", ");
    throw new Error(`the rows are of several devices, expected one: ${list}`);
  }
  return { device, rows: [...cases.values()].sort((a, b) => compare(bench.key(a), bench.key(b))) };
}

/** @param {File} file @returns {{ where: string, line: string }[]} */
function linesOf({ name, text }) {
  return text
    .split("\n")
    .map((line, i) => ({ where: `${name}:${i + 1}`, line }))
    .filter(({ line }) => line.trim() !== "");
}

/**
 * @template T
 * @param {Bench<T>} bench @param {string} line @param {string} where
 * @returns {T | undefined} undefined: a row of another bench.
 */
function parseRow({ name, schema }, line, where) {
  const row = z.object({ bench: z.string() }).loose().safeParse(parseJson(line));
  if (!row.success) {
    throw new Error(`${where} is no row of a bench: expected a JSON object a line`);
  }
  if (row.data.bench !== name) return undefined;
  const { error, data } = schema.safeParse(row.data);
  if (error === undefined) return data;
  const problems = error.issues.map(({ path, message }) => [...path, message].join(": "));
  throw new Error(`${where}: ${problems.join("; ")}`);
}

/** @param {string} text @returns {unknown} undefined where it is no JSON. */
function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** @param {readonly number[]} a @param {readonly number[]} b @returns {number} */
function compare(a, b) {
  const differences = a.map((value, i) => value - (b[i] ?? 0));
  return differences.find((difference) => difference !== 0) ?? 0;
}

/**
 * A device's name as part of a file's: "NVIDIA H100 80GB HBM3" is h100.
 * @param {string} device @returns {string}
 */
export function shortName(device) {
  const words = device.toLowerCase().match(/[a-z0-9]+/g) ?? [];
  return words.filter((word) => !/^(nvidia|geforce|\d+gb|hbm\w*)$/.test(word)).join("-");
}
