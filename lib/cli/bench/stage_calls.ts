/** Calls of the stages with random arguments, as the forward pass makes them. */
import type { VisibleKeys } from "../../cost/keys";
import {
  type ActivationDType,
  type Batch,
  type KvLayerView,
  MAX_TOP_LOGPROBS,
  packSamplingRows,
  type StageArgs,
  type StageName,
  type Tensor,
} from "../../kernels";
import type { Inputs } from "./inputs";

/** A stage and what it is called with. */
export type StageCall = {
  readonly [Stage in StageName]: {
    readonly stage: Stage;
    readonly args: StageArgs[Stage];
    /** For `attention` and `hybridHeads`. */
    readonly keys?: VisibleKeys;
  };
}[StageName];

/** The first stage of a step. */
export function embedTokens(inputs: Inputs): StageCall {
  const { hiddenSize, vocabSize } = inputs.config;
  const args = {
    tokenIds: inputs.tokenIds(),
    table: inputs.matrix(vocabSize, hiddenSize),
    out: inputs.zeroes("f32", [inputs.load.tokens, hiddenSize]),
  };
  return { stage: "embedTokens", args };
}

/** Of prompts, or of tokens that were generated. */
export function countTokens(inputs: Inputs): StageCall {
  const { mode, sequences } = inputs.load;
  const { spanOffsets, stateSlot } = inputs.batch();
  const each = (value: number) => inputs.integers(Array<number>(sequences).fill(value));
  const args = {
    tokenIds: inputs.tokenIds(),
    spanOffsets,
    stateSlot,
    isGenerated: each(mode === "decode" ? 1 : 0),
    fresh: each(0),
    history: inputs.zeroes("u16", [sequences, inputs.config.vocabSize]),
  };
  return { stage: "countTokens", args };
}

/** From the residual stream. */
export function rmsNorm(inputs: Inputs): StageCall {
  const { hiddenSize, rmsNormEps } = inputs.config;
  const args = {
    in: inputs.floats([inputs.load.tokens, hiddenSize]),
    weight: inputs.floats([hiddenSize]),
    epsilon: rmsNormEps,
    out: inputs.activations(hiddenSize),
  };
  return { stage: "rmsNorm", args };
}

/** in_proj of a layer with K/V of its own. */
export function inProj(inputs: Inputs): StageCall {
  return projection(inputs, inProjRows(inputs));
}

/** in_proj of a layer that reads another layer's K/V. */
export function inProjConsumer(inputs: Inputs): StageCall {
  const { hiddenSize, innerSize } = inputs.config;
  return projection(inputs, hiddenSize + 2 * innerSize);
}

/** In a window layer with K/V of its own. */
export function rotaryKvWrite(inputs: Inputs): StageCall {
  const { kv } = inputs.cache(inputs.config.slidingWindow);
  return {
    stage: "rotaryKvWrite",
    args: rotaryArgs(inputs, inputs.batch(), inProjParts(inputs), kv),
  };
}

/** Over the window and the meta tokens. */
export function windowAttention(inputs: Inputs): StageCall {
  return attention(inputs, inputs.config.slidingWindow);
}

/** Over everything. */
export function globalAttention(inputs: Inputs): StageCall {
  return attention(inputs, -1);
}

/** Over the x of in_proj. */
export function causalConv1d(inputs: Inputs): StageCall {
  return { stage: "causalConv1d", args: convArgs(inputs, inputs.batch(), inProjParts(inputs)) };
}

/** With the three inner norms. */
export function xProj(inputs: Inputs): StageCall {
  return { stage: "xProj", args: xProjArgs(inputs, inputs.activations(inputs.config.innerSize)) };
}

/** From the dt of x_proj. */
export function dtProj(inputs: Inputs): StageCall {
  return { stage: "dtProj", args: dtProjArgs(inputs, dtBC(inputs)) };
}

/** From a state, to the same. */
export function selectiveScan(inputs: Inputs): StageCall {
  const { innerSize } = inputs.config;
  const [u, delta] = [inputs.activations(innerSize), inputs.activations(innerSize)];
  // Signs and sizes as in a model: states fade.
  delta.write(delta.read().map((value) => Math.abs(value) / 16));
  const parts = inProjParts(inputs);
  return {
    stage: "selectiveScan",
    args: scanArgs(inputs, inputs.batch(), u, delta, dtBC(inputs), parts),
  };
}

/** All heads of a window layer with K/V of its own. */
export function hybridHeads(inputs: Inputs): StageCall {
  const window = inputs.config.slidingWindow;
  const batch = inputs.batch();
  const parts = inProjParts(inputs);
  const { kv, keys } = inputs.cache(window);
  const convolution = convArgs(inputs, batch, parts);
  const projection = xProjArgs(inputs, convolution.out);
  const step = dtProjArgs(inputs, projection.out);
  const args = {
    rotaryKvWrite: rotaryArgs(inputs, batch, parts, kv),
    attention: attentionArgs(inputs, batch, parts, kv, window),
    causalConv1d: convolution,
    xProj: projection,
    dtProj: step,
    selectiveScan: scanArgs(inputs, batch, convolution.out, step.delta, projection.out, parts),
  };
  return { stage: "hybridHeads", args, keys };
}

/** Of both branches. */
export function fuseHeads(inputs: Inputs): StageCall {
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
}

/** Added to the residual stream. */
export function outProj(inputs: Inputs): StageCall {
  return residual(inputs, inputs.config.innerSize);
}

/** Gate and up. */
export function gatedLinear(inputs: Inputs): StageCall {
  const { hiddenSize, intermediateSize, mlpActivation } = inputs.config;
  const blocks = mlpActivation === "silu" ? 2 : 1;
  const args = {
    in: inputs.activations(hiddenSize),
    weight: inputs.matrix(intermediateSize, hiddenSize, blocks),
    activation: mlpActivation,
    out: inputs.activations(intermediateSize),
  };
  return { stage: "gatedLinear", args };
}

/** Added to the residual stream. */
export function downProj(inputs: Inputs): StageCall {
  return residual(inputs, inputs.config.intermediateSize);
}

/** The last row of each sequence. */
export function gatherRows(inputs: Inputs): StageCall {
  const { tokens } = inputs.load;
  const shape = [tokens, inputs.config.hiddenSize];
  const args = {
    in: inputs.floats(shape),
    rows: inputs.integers(Array.from({ length: tokens }, (_, row) => tokens - 1 - row)),
    out: inputs.zeroes("f32", shape),
  };
  return { stage: "gatherRows", args };
}

/** One row a sequence. */
export function lmHead(inputs: Inputs): StageCall {
  const { hiddenSize, vocabSize } = inputs.config;
  const args = {
    in: inputs.activations(hiddenSize),
    weight: inputs.matrix(vocabSize, hiddenSize),
    out: inputs.zeroes("f32", [inputs.load.tokens, vocabSize]),
  };
  return { stage: "linear", args };
}

/** The most likely token. */
export function sampleGreedily(inputs: Inputs): StageCall {
  return sample(inputs, { temperature: 0 });
}

/** A draw from the most likely tokens. */
export function sampleTopP(inputs: Inputs): StageCall {
  return sample(inputs, { temperature: 0.8, topP: 0.95 });
}

/** One a sequence. */
export function tokenLogprobs(inputs: Inputs): StageCall {
  const { tokens } = inputs.load;
  const args = {
    logits: inputs.floats([tokens, inputs.config.vocabSize]),
    tokens: inputs.tokenIds(),
    logprob: inputs.zeroes("f32", [tokens]),
  };
  return { stage: "tokenLogprobs", args };
}

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
  const { hiddenSize } = inputs.config;
  const args = {
    in: inputs.activations(hiddenSize),
    weight: inputs.matrix(rows, hiddenSize),
    out: inputs.activations(rows),
  };
  return { stage: "linear", args };
}

function residual(inputs: Inputs, cols: number): StageCall {
  const { hiddenSize } = inputs.config;
  const args = {
    in: inputs.activations(cols),
    weight: inputs.matrix(hiddenSize, cols),
    out: inputs.floats([inputs.load.tokens, hiddenSize]),
    accumulate: true,
  };
  return { stage: "linear", args };
}

function attention(inputs: Inputs, window: number): StageCall {
  const { kv, keys } = inputs.cache(window);
  const args = attentionArgs(inputs, inputs.batch(), inProjParts(inputs), kv, window);
  return { stage: "attention", args, keys };
}

type InProjParts = ReturnType<typeof inProjParts>;

function rotaryArgs(inputs: Inputs, batch: Batch, { q, k, v }: InProjParts, kv: KvLayerView) {
  const { config, load } = inputs;
  const { numHeads, numKvHeads, headDim, valueHeadDim } = config;
  const positions = config.numMetaTokens + load.context + load.tokens;
  return {
    batch,
    q: q.heads(numHeads, headDim),
    k: k.heads(numKvHeads, headDim),
    v: v.heads(numKvHeads, valueHeadDim),
    normEpsilon: config.rmsNormEps,
    cosSin: inputs.floats([positions, headDim]),
    kv,
  };
}

function attentionArgs(
  inputs: Inputs,
  batch: Batch,
  { q }: InProjParts,
  kv: KvLayerView,
  window: number,
) {
  const { numHeads, headDim, valueHeadDim } = inputs.config;
  return {
    batch,
    q: q.heads(numHeads, headDim),
    kv,
    window,
    scale: 1 / Math.sqrt(headDim),
    out: inputs.activations(numHeads * valueHeadDim).heads(numHeads, valueHeadDim),
  };
}

function convArgs(inputs: Inputs, batch: Batch, { x }: InProjParts) {
  const { innerSize, convWidth } = inputs.config;
  const states = inputs.activations((convWidth - 1) * innerSize, inputs.load.sequences);
  return {
    batch,
    u: x,
    weight: inputs.floats([innerSize, convWidth]),
    bias: inputs.floats([innerSize]),
    convState: states.heads(convWidth - 1, innerSize),
    out: inputs.activations(innerSize),
  };
}

function xProjArgs(inputs: Inputs, u: Tensor<ActivationDType>) {
  const { innerSize, dtRank, stateSize, rmsNormEps } = inputs.config;
  return {
    u,
    weight: inputs.matrix(dtRank + 2 * stateSize, innerSize),
    dtNorm: inputs.floats([dtRank]),
    bNorm: inputs.floats([stateSize]),
    cNorm: inputs.floats([stateSize]),
    epsilon: rmsNormEps,
    out: dtBC(inputs),
  };
}

/** What x_proj writes. */
function dtBC(inputs: Inputs): Tensor<ActivationDType> {
  const { dtRank, stateSize } = inputs.config;
  return inputs.activations(dtRank + 2 * stateSize);
}

function dtProjArgs(inputs: Inputs, projected: Tensor<ActivationDType>) {
  const { innerSize, dtRank } = inputs.config;
  return {
    dt: projected.columns(0, dtRank),
    weight: inputs.matrix(innerSize, dtRank),
    bias: inputs.floats([innerSize]),
    delta: inputs.activations(innerSize),
  };
}

function scanArgs(
  inputs: Inputs,
  batch: Batch,
  u: Tensor<ActivationDType>,
  delta: Tensor<ActivationDType>,
  projected: Tensor<ActivationDType>,
  { z }: InProjParts,
) {
  const { innerSize, dtRank, stateSize } = inputs.config;
  const a = inputs.floats([innerSize, stateSize]);
  a.write(a.read().map((value) => -1 - Math.abs(value)));
  return {
    batch,
    u,
    delta,
    b: projected.columns(dtRank, stateSize),
    c: projected.columns(dtRank + stateSize, stateSize),
    z,
    a,
    d: inputs.floats([innerSize]),
    ssmState: inputs.floats([inputs.load.sequences, innerSize, stateSize]),
    out: inputs.activations(innerSize),
  };
}

function sample(inputs: Inputs, options: { temperature: number; topP?: number }): StageCall {
  const { vocabSize } = inputs.config;
  const { tokens } = inputs.load;
  const packed = packSamplingRows(
    Array.from({ length: tokens }, () => options),
    vocabSize,
  );
  const args = {
    logits: inputs.floats([tokens, vocabSize], 3),
    rows: inputs.integers(packed.rows, packed.rows.length / tokens),
    history: inputs.zeroes("u16", [tokens, vocabSize]),
    token: inputs.zeroes("i32", [tokens]),
    logprob: inputs.zeroes("f32", [tokens]),
    topTokens: inputs.zeroes("i32", [tokens, MAX_TOP_LOGPROBS]),
    topLogprobs: inputs.zeroes("f32", [tokens, MAX_TOP_LOGPROBS]),
  };
  return { stage: "sample", args };
}
