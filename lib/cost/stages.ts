import type { StageArgs, StageName } from "../kernels/stages";
import type { Matrix } from "../kernels/matrix";
import type { Tensor, TensorDType } from "../kernels/tensor";
import type { VisibleKeys } from "./keys";

/** The least that a call of a stage has to do. */
export interface Cost {
  /** Bytes through the device's memory: every input read once, every output written once. */
  readonly bytes: number;
  /** Operations of matrix products, attention, convolution and recurrence; others are not counted. */
  readonly flops: number;
  /** Exponentials and logarithms, which GPUs compute on a unit of its own. */
  readonly exponentials: number;
}

const DTYPE_BYTES: Readonly<Record<TensorDType | "f16", number>> = {
  f32: 4,
  bf16: 2,
  f16: 2,
  i32: 4,
  u16: 2,
};

/**
 * The cost of a call, from its arguments.
 * @param keys what the queries of `attention` and `hybridHeads` see: it does not show in the shapes.
 */
export function stageCost<Stage extends StageName>(
  stage: Stage,
  args: StageArgs[Stage],
  keys?: VisibleKeys,
): Cost {
  const { read, written, flops = 0, exponentials = 0 } = COSTS[stage](args, keys ?? NO_KEYS);
  return { bytes: sum(read) + sum(written), flops, exponentials };
}

const NO_KEYS: VisibleKeys = { pairs: 0, textKeys: 0, metaKeys: 0 };

/** Bytes, entry by entry. */
interface StageWork {
  readonly read: readonly number[];
  readonly written: readonly number[];
  readonly flops?: number;
  readonly exponentials?: number;
}

const COSTS: {
  readonly [Stage in StageName]: (args: StageArgs[Stage], keys: VisibleKeys) => StageWork;
} = {
  embedTokens: ({ tokenIds, table, out }) => ({
    read: [bytes(tokenIds), out.length * DTYPE_BYTES[table.dtype]],
    written: [bytes(out)],
  }),

  gatherRows: ({ rows, out }) => ({ read: [bytes(rows), bytes(out)], written: [bytes(out)] }),

  rmsNorm: ({ in: input, weight, out }) => ({
    read: [bytes(input), bytes(weight)],
    written: [bytes(out)],
  }),

  linear: ({ in: input, weight, bias, out, accumulate = false }) => ({
    read: [bytes(input), matrixBytes(weight), bytes(bias), accumulate ? bytes(out) : 0],
    written: [bytes(out)],
    flops: productFlops(input, weight),
  }),

  gatedLinear: ({ in: input, weight, activation, out }) => ({
    read: [bytes(input), matrixBytes(weight)],
    written: [bytes(out)],
    flops: productFlops(input, weight),
    exponentials: activation === "silu" ? out.length : 0,
  }),

  rotaryKvWrite: ({ batch, q, k, v, qNorm, kNorm, cosSin, kv }) => {
    const angles = cosSin === undefined ? 0 : batch.numTokens * kv.headDim * DTYPE_BYTES.f32;
    return {
      read: [bytes(q), bytes(k), bytes(v), bytes(qNorm), bytes(kNorm), angles],
      written: [bytes(q), bytes(k), bytes(v)],
    };
  },

  attention: ({ q, kv, out }, { pairs, textKeys, metaKeys }) => {
    const heads = q.shape[1] ?? 1;
    const keyElements = kv.numKvHeads * (kv.headDim + kv.valueHeadDim);
    return {
      read: [bytes(q), (textKeys + metaKeys) * keyElements * DTYPE_BYTES[kv.pool.dtype]],
      written: [bytes(out)],
      flops: 2 * heads * (kv.headDim + kv.valueHeadDim) * pairs,
      exponentials: heads * pairs,
    };
  },

  causalConv1d: ({ batch, u, weight, bias, convState, out }) => {
    const state = (batch.numSpans * bytes(convState)) / (convState.shape[0] ?? 1);
    return {
      read: [bytes(u), bytes(weight), bytes(bias), state],
      written: [bytes(out), state],
      flops: 2 * u.length * (weight.shape[1] ?? 1),
      exponentials: u.length,
    };
  },

  xProj: ({ u, weight, dtNorm, bNorm, cNorm, out }) => ({
    read: [bytes(u), matrixBytes(weight), bytes(dtNorm), bytes(bNorm), bytes(cNorm)],
    written: [bytes(out)],
    flops: productFlops(u, weight),
  }),

  dtProj: ({ dt, weight, bias, delta }) => ({
    read: [bytes(dt), matrixBytes(weight), bytes(bias)],
    written: [bytes(delta)],
    flops: productFlops(dt, weight),
    exponentials: 2 * delta.length,
  }),

  selectiveScan: ({ batch, u, delta, b, c, z, a, d, ssmState, out }) => {
    const state = (batch.numSpans * bytes(ssmState)) / (ssmState.shape[0] ?? 1);
    const updates = u.length * (a.shape[1] ?? 1);
    return {
      read: [...[u, delta, b, c, z, a, d].map(bytes), state],
      written: [bytes(out), state],
      flops: 6 * updates,
      exponentials: updates + out.length,
    };
  },

  hybridHeads: (args, keys) =>
    together([
      COSTS.rotaryKvWrite(args.rotaryKvWrite, keys),
      COSTS.attention(args.attention, keys),
      COSTS.causalConv1d(args.causalConv1d, keys),
      COSTS.xProj(args.xProj, keys),
      COSTS.dtProj(args.dtProj, keys),
      COSTS.selectiveScan(args.selectiveScan, keys),
    ]),

  fuseHeads: ({ attention, mamba, attentionWeight, mambaWeight, out }) => ({
    read: [attention, mamba, attentionWeight, mambaWeight].map(bytes),
    written: [bytes(out)],
  }),

  normedProduct: ({ rmsNorm, fuseHeads, linear, gatedLinear }) => {
    const parts = [
      rmsNorm && COSTS.rmsNorm(rmsNorm, NO_KEYS),
      fuseHeads && COSTS.fuseHeads(fuseHeads, NO_KEYS),
      linear && COSTS.linear(linear, NO_KEYS),
      gatedLinear && COSTS.gatedLinear(gatedLinear, NO_KEYS),
    ];
    return together(parts.filter((part) => part !== undefined));
  },

  recallTokens: ({ tokenIds, tokenSpans, stateSlot }) => ({
    read: [bytes(tokenIds), bytes(tokenSpans), bytes(stateSlot), bytes(tokenIds)],
    written: [bytes(tokenIds)],
  }),

  rememberTokens: ({ tokens, slots }) => ({
    read: [bytes(tokens), bytes(slots)],
    written: [bytes(tokens)],
  }),

  countTokens: ({ tokenIds, spanOffsets, stateSlot, isGenerated, fresh }) => {
    const counts = (tokenIds?.length ?? 0) * DTYPE_BYTES.u16;
    return {
      read: [...[tokenIds, spanOffsets, stateSlot, isGenerated, fresh].map(bytes), counts],
      written: [counts],
    };
  },

  sample: ({ logits, rows, token, logprob, topTokens, topLogprobs }) => ({
    read: [bytes(logits), bytes(rows)],
    written: [token, logprob, topTokens, topLogprobs].map(bytes),
    exponentials: logits.length,
  }),

  tokenLogprobs: ({ logits, tokens, logprob }) => ({
    read: [bytes(logits), bytes(tokens)],
    written: [bytes(logprob)],
    exponentials: logits.length,
  }),
};

/** The work of several stages. */
function together(parts: readonly StageWork[]): StageWork {
  return {
    read: parts.flatMap(({ read }) => read),
    written: parts.flatMap(({ written }) => written),
    flops: sum(parts.map(({ flops = 0 }) => flops)),
    exponentials: sum(parts.map(({ exponentials = 0 }) => exponentials)),
  };
}

function bytes(tensor: Tensor | undefined): number {
  return tensor === undefined ? 0 : tensor.length * DTYPE_BYTES[tensor.dtype];
}

function matrixElements({ rows, cols, numBlocks }: Matrix): number {
  return rows * cols * numBlocks;
}

function matrixBytes(matrix: Matrix): number {
  return matrixElements(matrix) * DTYPE_BYTES[matrix.dtype];
}

function productFlops(input: Tensor, matrix: Matrix): number {
  return 2 * (input.shape[0] ?? 0) * matrixElements(matrix);
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
