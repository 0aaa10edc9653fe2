import type { NativeKernelDevice, NativeStageFields } from "../binding";
import { checkBoolean, checkChoice, checkInteger, checkObject, show } from "../validate";
import { Matrix } from "./matrix";
import type { Batch, KvLayerView, StageArgs, StageName } from "./stages";
import { Tensor } from "./tensor";

/** The JavaScript type of a field; those with `?` may be left out. */
type Kind =
  | "tensor"
  | "tensor?"
  | "matrix"
  | "matrix?"
  | "number"
  | "boolean?"
  | "activation"
  | "batch"
  | "kv"
  | "stage"
  | "stage?"
  | IntegerRange;

type IntegerRange = readonly [min: number, max: number];

/** A kind for every field: a field that is added to the arguments must be added here. */
type Fields<Args> = { readonly [Name in keyof Args]-?: Kind };

// No extent of a model comes near; four of them multiplied still fit into 64 bits.
const MAX_SIZE = 2 ** 15;
const SIZE: IntegerRange = [1, MAX_SIZE];
const COUNT: IntegerRange = [0, MAX_SIZE];
const MAX_INT32 = 2 ** 31 - 1;

const BATCH: Fields<Batch> = {
  numTokens: [1, MAX_INT32],
  numSpans: [1, MAX_INT32],
  tokenIds: "tensor?",
  positions: "tensor",
  tokenSpans: "tensor",
  spanOffsets: "tensor",
  stateSource: "tensor",
  stateSlot: "tensor",
};

const KV: Fields<KvLayerView> = {
  pool: "tensor",
  numLayers: SIZE,
  layerIdx: COUNT,
  numKvHeads: SIZE,
  headDim: SIZE,
  valueHeadDim: SIZE,
  pageTable: "tensor",
  numMetaTokens: COUNT,
  metaColumns: COUNT,
  ringColumns: SIZE,
};

const STAGES: { readonly [Stage in keyof StageArgs]: Fields<StageArgs[Stage]> } = {
  embedTokens: { tokenIds: "tensor", table: "matrix", meta: "matrix?", out: "tensor" },
  gatherRows: { in: "tensor", rows: "tensor", out: "tensor" },
  rmsNorm: { in: "tensor", weight: "tensor", epsilon: "number", out: "tensor" },
  linear: {
    in: "tensor",
    weight: "matrix",
    bias: "tensor?",
    out: "tensor",
    accumulate: "boolean?",
  },
  gatedLinear: { in: "tensor", weight: "matrix", activation: "activation", out: "tensor" },
  rotaryKvWrite: {
    batch: "batch",
    q: "tensor",
    k: "tensor?",
    v: "tensor?",
    qNorm: "tensor?",
    kNorm: "tensor?",
    normEpsilon: "number",
    cosSin: "tensor?",
    kv: "kv",
  },
  attention: {
    batch: "batch",
    q: "tensor",
    kv: "kv",
    window: [-1, MAX_INT32],
    scale: "number",
    out: "tensor",
  },
  causalConv1d: {
    batch: "batch",
    u: "tensor",
    weight: "tensor",
    bias: "tensor?",
    convState: "tensor",
    out: "tensor",
  },
  xProj: {
    u: "tensor",
    weight: "matrix",
    dtNorm: "tensor?",
    bNorm: "tensor?",
    cNorm: "tensor?",
    epsilon: "number",
    out: "tensor",
  },
  dtProj: { dt: "tensor", weight: "matrix", bias: "tensor", delta: "tensor" },
  selectiveScan: {
    batch: "batch",
    u: "tensor",
    delta: "tensor",
    b: "tensor",
    c: "tensor",
    z: "tensor",
    a: "tensor",
    d: "tensor",
    ssmState: "tensor",
    out: "tensor",
  },
  // Of this and normedProduct, each field is a stage's name and holds its arguments.
  hybridHeads: {
    rotaryKvWrite: "stage",
    attention: "stage",
    causalConv1d: "stage",
    xProj: "stage",
    dtProj: "stage",
    selectiveScan: "stage",
  },
  fuseHeads: {
    attention: "tensor",
    mamba: "tensor",
    attentionWeight: "tensor",
    mambaWeight: "tensor",
    epsilon: "number",
    out: "tensor",
  },
  normedProduct: {
    rmsNorm: "stage?",
    fuseHeads: "stage?",
    linear: "stage?",
    gatedLinear: "stage?",
  },
  recallTokens: {
    tokenIds: "tensor",
    tokenSpans: "tensor",
    stateSlot: "tensor",
    lastTokens: "tensor",
  },
  rememberTokens: { tokens: "tensor", slots: "tensor", lastTokens: "tensor" },
  countTokens: {
    tokenIds: "tensor?",
    spanOffsets: "tensor",
    stateSlot: "tensor",
    isGenerated: "tensor",
    fresh: "tensor",
    history: "tensor",
  },
  sample: {
    logits: "tensor",
    rows: "tensor",
    biasTokens: "tensor?",
    biasValues: "tensor?",
    masks: "tensor?",
    history: "tensor",
    token: "tensor",
    logprob: "tensor",
    topTokens: "tensor",
    topLogprobs: "tensor",
  },
  tokenLogprobs: { logits: "tensor", tokens: "tensor", logprob: "tensor" },
};

/**
 * A stage's arguments as the addon takes them.
 * @throws TypeError when a field is missing, unknown, of another type or of another device;
 * RangeError when a number is out of range.
 */
export function toNativeFields<Stage extends keyof StageArgs>(
  stage: Stage,
  args: StageArgs[Stage],
  native: NativeKernelDevice,
): NativeStageFields {
  return convertFields(stage, STAGES[stage], args, native);
}

function convertFields(
  where: string,
  kinds: Readonly<Record<string, Kind>>,
  args: object,
  native: NativeKernelDevice,
): NativeStageFields {
  checkObject(where, args);
  for (const name of Object.keys(args)) {
    if (!Object.hasOwn(kinds, name)) throw new TypeError(`${where} has no argument ${name}`);
  }
  const fields: NativeStageFields = {};
  const values = args as Readonly<Record<string, unknown>>;
  for (const name in kinds) {
    const kind = kinds[name]!;
    const value = values[name];
    const isOptional = typeof kind === "string" && kind.endsWith("?");
    if (value === undefined && isOptional) continue;
    const place = `${where}: ${name}`;
    fields[name] =
      kind === "stage" || kind === "stage?"
        ? convertFields(place, STAGES[name as StageName], value as object, native)
        : convertField(place, kind, value, native);
  }
  return fields;
}

function convertField(
  name: string,
  kind: Exclude<Kind, "stage" | "stage?">,
  value: unknown,
  native: NativeKernelDevice,
): NativeStageFields[string] {
  if (typeof kind !== "string") return checkInteger(name, value, kind[0], kind[1]);
  switch (kind) {
    case "tensor":
    case "tensor?":
      if (!(value instanceof Tensor)) throw wrongType(name, "a Tensor", value);
      if (!value.belongsTo(native)) throw new TypeError(`${name} is a tensor of another device`);
      return value.toNative();
    case "matrix":
    case "matrix?":
      if (!(value instanceof Matrix)) throw wrongType(name, "a Matrix", value);
      if (!value.belongsTo(native)) throw new TypeError(`${name} is a matrix of another device`);
      return value.toNative();
    case "number":
      if (typeof value !== "number") throw wrongType(name, "a number", value);
      return value;
    case "boolean?":
      checkBoolean(name, value);
      return value as boolean;
    case "activation":
      return checkChoice(name, value, ["silu", "relu2"]);
    case "batch":
      checkObject(name, value);
      return convertFields(name, BATCH, value, native);
    case "kv":
      checkObject(name, value);
      return convertFields(name, KV, value, native);
  }
}

function wrongType(name: string, expected: string, value: unknown): TypeError {
  return new TypeError(`${name} must be ${expected}, got ${show(value)}`);
}
