import { HymbaError } from "../errors";
import { describeValue, formatList } from "./problems";

type Fields = Readonly<Record<string, unknown>>;

/** A field with values that exist but are not implemented; wrong types are not its concern. */
interface Restriction {
  readonly field: string;
  readonly isUnsupported: (value: unknown, fields: Fields) => boolean;
  readonly supported: string;
}

const restrictions: readonly Restriction[] = [
  onlyNames("hidden_act", "silu"),
  onlyNames("mlp_hidden_act", "silu", "relu2"),
  onlyNames("kq_norm", "none", "rms", "perhead-rms"),
  onlyNames("rope_type", "default", "ntk", "dynamic_ntk"),
  onlyNumber("num_experts", 1),
  onlyNumber("num_mamba", 1),
  onlyNumber("memory_tokens_interspersed_every", 0),
  {
    field: "attn_hidden_size",
    isUnsupported: (value, { hidden_size }) =>
      typeof value === "number" && value !== -1 && value !== hidden_size,
    supported: "-1 or hidden_size",
  },
  {
    field: "kv_weight_reuse",
    isUnsupported: (value) => value === true,
    supported: "false",
  },
];

function onlyNames(field: string, ...names: readonly string[]): Restriction {
  return {
    field,
    isUnsupported: (value) => typeof value === "string" && !names.includes(value),
    supported: names.map(describeValue).join(", "),
  };
}

function onlyNumber(field: string, number: number): Restriction {
  return {
    field,
    isUnsupported: (value) => Number.isFinite(value) && value !== number,
    supported: String(number),
  };
}

/**
 * Checks that a parsed config.json is of a model that we implement; whether it is well-formed
 * beyond that is left open.
 * @throws HymbaError ERR_MODEL_FORMAT when it does not say what it is of, ERR_MODEL_UNSUPPORTED
 * with every field that asks for something else.
 */
export function checkSupported(json: unknown, where: string): void {
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new HymbaError(
      "ERR_MODEL_FORMAT",
      `${where} cannot be used: expected an object, got ${describeValue(json)}`,
    );
  }
  const fields = json as Fields;
  checkArchitecture(fields, where);
  const problems = restrictions
    .filter(({ field, isUnsupported }) => isUnsupported(fields[field], fields))
    .map(({ field, supported }) => {
      return `${field} is ${describeValue(fields[field])} (supported: ${supported})`;
    });
  if (problems.length > 0) {
    throw new HymbaError(
      "ERR_MODEL_UNSUPPORTED",
      `${where} is of a variant that is not implemented: ${formatList(problems)}`,
    );
  }
}

function checkArchitecture(fields: Fields, where: string): void {
  const { architectures, model_type: modelType } = fields;
  if (modelType === undefined && architectures === undefined) {
    throw new HymbaError(
      "ERR_MODEL_FORMAT",
      `${where} has neither architectures nor model_type; expected "HymbaForCausalLM", "hymba"`,
    );
  }
  const isHymba =
    (modelType === undefined || modelType === "hymba") &&
    (architectures === undefined ||
      (Array.isArray(architectures) && architectures.includes("HymbaForCausalLM")));
  if (!isHymba) {
    throw new HymbaError(
      "ERR_MODEL_UNSUPPORTED",
      `${where} is of another model: architectures ${describeValue(architectures)}, model_type ` +
        `${describeValue(modelType)}; only "HymbaForCausalLM" ("hymba") is supported`,
    );
  }
}
