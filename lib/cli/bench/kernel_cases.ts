import type { VisibleKeys } from "../../cost/keys";
import { packSamplingRows, type StageArgs, type StageName } from "../../kernels";
import { MAX_TOP_LOGPROBS } from "../../sampling";
import type { Inputs, Load } from "./inputs";

/** A stage and what it is called with. */
export type StageCall = {
  readonly [Stage in StageName]: {
    readonly stage: Stage;
    readonly args: StageArgs[Stage];
    /** For `attention`. */
    readonly keys?: VisibleKeys;
  };
}[StageName];

/** A stage at one of the places where the forward pass calls it. */
export interface KernelCase {
  /** The stage, and behind a slash the place, when there are several. */
  readonly name: string;
  /** Default: both. Where a prefill does no more than one decode step, the latter alone. */
  readonly modes?: readonly Load["mode"][];
  readonly call: (inputs: Inputs) => StageCall;
}

const PER_SEQUENCE = ["decode"] as const;

/** The calls of one step, in the order of the forward pass. */
export const KERNEL_CASES: readonly KernelCase[] = [
  {
    name: "embedTokens",
    call: (inputs) => {
      const { hiddenSize, vocabSize } = inputs.config;
      const out = inputs.zeroes("f32", [inputs.load.tokens, hiddenSize]);
      const table = inputs.matrix(vocabSize, hiddenSize);
      return { stage: "embedTokens", args: { tokenIds: inputs.tokenIds(), table, out } };
    },
  },
  {
    name: "rmsNorm",
    call: (inputs) => {
      const { hiddenSize, rmsNormEps } = inputs.config;
      const args = {
        in: inputs.floats([inputs.load.tokens, hiddenSize]),
        weight: inputs.floats([hiddenSize]),
        epsilon: rmsNormEps,
        out: inputs.activations(hiddenSize),
      };
      return { stage: "rmsNorm", args };
    },
  },
  {
    name: "linear/in_proj",
    call: (inputs) => projection(inputs, inProjRows(inputs)),
  },
  {
    name: "linear/in_proj_consumer",
    call: (inputs) => {
      const { hiddenSize, innerSize } = inputs.config;
      return projection(inputs, hiddenSize + 2 * innerSize);
    },
  },
  {
    name: "rotaryKvWrite",
    call: (inputs) => {
      const { config, load } = inputs;
      const { numHeads, numKvHeads, headDim, valueHeadDim } = config;
      const { q, k, v } = inProjParts(inputs);
      const positions = config.numMetaTokens + load.context + load.tokens;
      const args = {
        batch: inputs.batch(),
        q: q.heads(numHeads, headDim),
        k: k.heads(numKvHeads, headDim),
        v: v.heads(numKvHeads, valueHeadDim),
        normEpsilon: config.rmsNormEps,
        cosSin: inputs.floats([positions, headDim]),
        kv: inputs.cache(config.slidingWindow).kv,
      };
      return { stage: "rotaryKvWrite", args };
    },
  },
  { name: "attention/window", call: (inputs) => attention(inputs, inputs.config.slidingWindow) },
  { name: "attention/global", call: (inputs) => attention(inputs, -1) },
  {
    name: "causalConv1d",
    call: (inputs) => {
      const { innerSize, convWidth } = inputs.config;
      const args = {
        batch: inputs.batch(),
        u: inProjParts(inputs).x,
        weight: inputs.floats([innerSize, convWidth]),
        bias: inputs.floats([innerSize]),
        convState: stateSlots(inputs, convWidth - 1, innerSize),
        out: inputs.activations(innerSize),
      };
      return { stage: "causalConv1d", args };
    },
  },
  {
    name: "xProj",
    call: (inputs) => {
      const { innerSize, dtRank, stateSize, rmsNormEps } = inputs.config;
      const args = {
        u: inputs.activations(innerSize),
        weight: inputs.matrix(dtRank + 2 * stateSize, innerSize),
        dtNorm: inputs.floats([dtRank]),
        bNorm: inputs.floats([stateSize]),
        cNorm: inputs.floats([stateSize]),
        epsilon: rmsNormEps,
        out: inputs.activations(dtRank + 2 * stateSize),
      };
      return { stage: "xProj", args };
    },
  },
  {
    name: "dtProj",
    call: (inputs) => {
      const { innerSize, dtRank, stateSize } = inputs.config;
      const args = {
        dt: inputs.activations(dtRank + 2 * stateSize).columns(0, dtRank),
        weight: inputs.matrix(innerSize, dtRank),
        bias: inputs.floats([innerSize]),
        delta: inputs.activations(innerSize),
      };
      return { stage: "dtProj", args };
    },
  },
  {
    name: "selectiveScan",
    call: (inputs) => {
      const { innerSize, dtRank, stateSize } = inputs.config;
      const projected = inputs.activations(dtRank + 2 * stateSize);
      const decay = inputs.floats([innerSize, stateSize]);
      // States decay, by a share of the usual size.
      decay.write(decay.read().map((value) => -Math.abs(value) - 1));
      const delta = inputs.activations(innerSize);
      delta.write(delta.read().map((value) => Math.abs(value) / 16));
      const args = {
        batch: inputs.batch(),
        u: inputs.activations(innerSize),
        delta,
        b: projected.columns(dtRank, stateSize),
        c: projected.columns(dtRank + stateSize, stateSize),
        z: inProjParts(inputs).z,
        a: decay,
        d: inputs.floats([innerSize]),
        ssmState: inputs.floats([inputs.load.sequences, innerSize, stateSize]),
        out: inputs.activations(innerSize),
      };
      return { stage: "selectiveScan", args };
    },
  },
  {
    name: "fuseHeads",
    call: (inputs) => {
      const { innerSize, rmsNormEps } = inputs.config;
      const args = {
        attention: inputs.activations(innerSize),
        mamba: inputs.activations(innerSize),
        attentionWeight: inputs.floats([innerSize]),
        mambaWeight: inputs.floats([innerSize]),
        epsilon: rmsNormEps,
        out: inputs.activations(innerSize),
      };
      return { stage: "fuseHeads", args };
    },
  },
  { name: "linear/out_proj", call: (inputs) => residual(inputs, "innerSize") },
  {
    name: "gatedLinear",
    call: (inputs) => {
      const { hiddenSize, intermediateSize, mlpActivation } = inputs.config;
      const blocks = mlpActivation === "silu" ? 2 : 1;
      const args = {
        in: inputs.activations(hiddenSize),
        weight: inputs.matrix(intermediateSize, hiddenSize, blocks),
        activation: mlpActivation,
        out: inputs.activations(intermediateSize),
      };
      return { stage: "gatedLinear", args };
    },
  },
  { name: "linear/down_proj", call: (inputs) => residual(inputs, "intermediateSize") },
  {
    name: "gatherRows",
    modes: PER_SEQUENCE,
    call: (inputs) => {
      const { hiddenSize } = inputs.config;
      const { tokens } = inputs.load;
      const args = {
        in: inputs.floats([tokens, hiddenSize]),
        rows: inputs.integers(Array.from({ length: tokens }, (_, row) => tokens - 1 - row)),
        out: inputs.zeroes("f32", [tokens, hiddenSize]),
      };
      return { stage: "gatherRows", args };
    },
  },
  {
    name: "linear/lm_head",
    modes: PER_SEQUENCE,
    call: (inputs) => {
      const { hiddenSize, vocabSize } = inputs.config;
      const args = {
        in: inputs.activations(hiddenSize),
        weight: inputs.matrix(vocabSize, hiddenSize),
        out: inputs.zeroes("f32", [inputs.load.tokens, vocabSize]),
      };
      return { stage: "linear", args };
    },
  },
  { name: "sample/greedy", modes: PER_SEQUENCE, call: (inputs) => sample(inputs, 0, 1) },
  { name: "sample/top_p", modes: PER_SEQUENCE, call: (inputs) => sample(inputs, 0.8, 0.95) },
  {
    name: "tokenLogprobs",
    modes: PER_SEQUENCE,
    call: (inputs) => {
      const { tokens } = inputs.load;
      const args = {
        logits: inputs.floats([tokens, inputs.config.vocabSize]),
        tokens: inputs.tokenIds(),
        logprob: inputs.zeroes("f32", [tokens]),
      };
      return { stage: "tokenLogprobs", args };
    },
  },
];

function inProjRows({ config }: Inputs): number {
  const { hiddenSize, numKvHeads, headDim, valueHeadDim, innerSize } = config;
  return hiddenSize + numKvHeads * (headDim + valueHeadDim) + 2 * innerSize;
}

/** What in_proj of a layer with K/V of its own writes: its parts are columns of the same rows. */
function inProjParts(inputs: Inputs) {
  const { hiddenSize, numKvHeads, headDim, valueHeadDim, innerSize } = inputs.config;
  const whole = inputs.activations(inProjRows(inputs));
  let begin = 0;
  const take = (columns: number) => whole.columns((begin += columns) - columns, columns);
  return {
    q: take(hiddenSize),
    k: take(numKvHeads * headDim),
    v: take(numKvHeads * valueHeadDim),
    x: take(innerSize),
    z: take(innerSize),
  };
}

function projection(inputs: Inputs, rows: number): StageCall {
  const cols = inputs.config.hiddenSize;
  const args = {
    in: inputs.activations(cols),
    weight: inputs.matrix(rows, cols),
    out: inputs.activations(rows),
  };
  return { stage: "linear", args };
}

/** A projection that is added to the residual stream. */
function residual(inputs: Inputs, from: "innerSize" | "intermediateSize"): StageCall {
  const { hiddenSize, [from]: cols } = inputs.config;
  const args = {
    in: inputs.activations(cols),
    weight: inputs.matrix(hiddenSize, cols),
    out: inputs.floats([inputs.load.tokens, hiddenSize]),
    accumulate: true,
  };
  return { stage: "linear", args };
}

function attention(inputs: Inputs, window: number): StageCall {
  const { numHeads, headDim, valueHeadDim } = inputs.config;
  const { kv, keys } = inputs.cache(window);
  const args = {
    batch: inputs.batch(),
    q: inProjParts(inputs).q.heads(numHeads, headDim),
    kv,
    window,
    scale: 1 / Math.sqrt(headDim),
    out: inputs.activations(numHeads * valueHeadDim).heads(numHeads, valueHeadDim),
  };
  return { stage: "attention", args, keys };
}

function stateSlots(inputs: Inputs, rows: number, columns: number) {
  const flat = inputs.activations(rows * columns, inputs.load.sequences);
  return flat.heads(rows, columns);
}

function sample(inputs: Inputs, temperature: number, topP: number): StageCall {
  const { vocabSize } = inputs.config;
  const { tokens } = inputs.load;
  const options = Array.from({ length: tokens }, () => ({ temperature, topP }));
  const { rows } = packSamplingRows(options, vocabSize);
  const args = {
    logits: inputs.floats([tokens, vocabSize], 3),
    rows: inputs.integers(rows, rows.length / tokens),
    history: inputs.zeroes("u16", [tokens, vocabSize]),
    token: inputs.zeroes("i32", [tokens]),
    logprob: inputs.zeroes("f32", [tokens]),
    topTokens: inputs.zeroes("i32", [tokens, MAX_TOP_LOGPROBS]),
    topLogprobs: inputs.zeroes("f32", [tokens, MAX_TOP_LOGPROBS]),
  };
  return { stage: "sample", args };
}
