import { HymbaError } from "../errors";
import type { HymbaConfig } from "./config";
import { describeValue, formatList } from "./problems";
import type { SafetensorsEntry } from "./safetensors";
import { type TensorEntry, expectedTensors, isWeightDtype } from "./tensor_table";

/** A tensor of one of the checkpoint's files. */
export interface StoredTensor extends SafetensorsEntry {
  /** Index into `Checkpoint.files`. */
  readonly file: number;
}

/** Rotary frequencies, which some writers store: we compute them. */
const IGNORED = /\.rotary_emb\.(inv_freq|original_inv_freq)$/;

/**
 * The tensors that a config asks for, from those that the files hold.
 * @param where names the checkpoint in error messages.
 * @throws HymbaError ERR_MODEL_FORMAT with every missing, unexpected and mis-shaped tensor, and
 * every tensor of a precision that is not supported.
 */
export function matchTensors(
  config: HymbaConfig,
  stored: ReadonlyMap<string, StoredTensor>,
  where: string,
): readonly TensorEntry[] {
  const expected = expectedTensors(config);
  const missing = expected
    .filter((tensor) => !tensor.optional && !stored.has(tensor.name))
    .map((tensor) => tensor.name);
  const known = new Set(expected.map((tensor) => tensor.name));
  const unexpected = [...stored.keys()]
    .filter((name) => !known.has(name) && !IGNORED.test(name))
    .map(describeValue);
  const misfits: string[] = [];
  const entries: TensorEntry[] = [];
  for (const tensor of expected) {
    const found = stored.get(tensor.name);
    if (found === undefined) continue;
    const { name, dtype, shape, file, begin, end } = found;
    if (shape.join() !== tensor.shape.join()) {
      const [got, want] = [describeValue(shape), describeValue(tensor.shape)];
      misfits.push(`${name} is ${got}, expected ${want}`);
    } else if (!isWeightDtype(dtype)) {
      misfits.push(`${name} is ${describeValue(dtype)}, expected BF16, F16 or F32`);
    } else if (!tensor.optional) {
      entries.push({ name, dtype, shape, source: { kind: "file", file, begin, end } });
    }
  }
  const problems = [
    describe("missing", missing),
    describe("unexpected", unexpected),
    describe("of a wrong shape or precision", misfits),
  ].filter((text) => text !== undefined);
  if (problems.length > 0) {
    throw new HymbaError(
      "ERR_MODEL_FORMAT",
      `the tensors of "${where}" do not fit its config.json: ${problems.join(". ")}. Is it the ` +
        `config.json of this checkpoint, and are the weights complete and not quantised?`,
    );
  }
  return entries;
}

function describe(kind: string, names: readonly string[]): string | undefined {
  return names.length > 0 ? `${names.length} ${kind}: ${formatList(names)}` : undefined;
}
