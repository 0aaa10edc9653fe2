import type { Matrix } from "./matrix";
import type { ActivationDType, Tensor } from "./tensor";

// Dimensions: T tokens of all spans together, S spans (one a sequence), C hidden size, H query heads,
// G K/V heads, Dk and Dv head dims, E Mamba channels, N states a channel, W convolution width, R dt
// rank, F MLP width, V vocabulary, M meta tokens. "act" is the dtype of the activations. The field
// names are those of native/ops/ops.h.

/** The ragged batch of one call. Rows of all activations follow it: span after span. */
export interface Batch {
  /** T. */
  readonly numTokens: number;
  /** S. */
  readonly numSpans: number;
  /** [T] token ids; meta token j is -1-j. The stages below take ids of their own. */
  readonly tokenIds?: Tensor<"i32"> | undefined;
  /** [T], counted from the first meta token: text token i stands at M + i. */
  readonly positions: Tensor<"i32">;
  /** [T] the span that a token belongs to. */
  readonly tokenSpans: Tensor<"i32">;
  /** [S + 1] span s owns rows [offsets[s], offsets[s + 1]). */
  readonly spanOffsets: Tensor<"i32">;
  /** [S] state slot that a span goes on from; -1: from zeroes. */
  readonly stateSource: Tensor<"i32">;
  /**
   * [S] state slot that a span leaves its state in; -1: a padded lane, whose results mean nothing and
   * which touches no cache.
   */
  readonly stateSlot: Tensor<"i32">;
}

/**
 * The paged K/V cache of one layer. A page holds a tile for each (layer of the pool, K/V head), and a
 * tile the keys and values of 64 tokens, in an order that is the device's own: what one device wrote
 * only it can read.
 */
export interface KvLayerView {
  /** [pages, numLayers · numKvHeads · 64 · (headDim + valueHeadDim)] act. */
  readonly pool: Tensor<ActivationDType>;
  /** Layers that share the pool. */
  readonly numLayers: number;
  /** Of this layer in the pool. */
  readonly layerIdx: number;
  /** G. */
  readonly numKvHeads: number;
  /** Dk, even. */
  readonly headDim: number;
  /** Dv. */
  readonly valueHeadDim: number;
  /**
   * [S, metaColumns + ringColumns] page ids: meta token j is slot j % 64 of the page in column j / 64;
   * text token i is slot i % 64 of the page in column metaColumns + (i / 64) % ringColumns.
   */
  readonly pageTable: Tensor<"i32">;
  /** M, at most 64 · metaColumns. */
  readonly numMetaTokens: number;
  readonly metaColumns: number;
  /** At least 1. */
  readonly ringColumns: number;
}

/** `out[t] = table[id]`, or `meta[-1 - id]` for meta tokens. */
export interface EmbedTokensArgs {
  /** [T] */
  readonly tokenIds: Tensor<"i32">;
  /** [V, C] */
  readonly table: Matrix;
  /** [M, C] */
  readonly meta?: Matrix | undefined;
  /** [T, C] */
  readonly out: Tensor<"f32">;
}

/** `out[i] = in[rows[i]]`. */
export interface GatherRowsArgs {
  /** [T, C] */
  readonly in: Tensor<"f32">;
  /** [K] */
  readonly rows: Tensor<"i32">;
  /** [K, C] */
  readonly out: Tensor<"f32">;
}

/** `out = weight · in / sqrt(mean(in²) + epsilon)`, row by row. */
export interface RmsNormArgs {
  /** [T, D] */
  readonly in: Tensor<ActivationDType>;
  /** [D] */
  readonly weight: Tensor<"f32">;
  readonly epsilon: number;
  /** [T, D]; may be `in`. */
  readonly out: Tensor<ActivationDType>;
}

/** `out = in · weightᵀ (+ bias)`, added to what `out` holds when `accumulate`. */
export interface LinearArgs {
  /** [T, K] */
  readonly in: Tensor<ActivationDType>;
  /** [N, K] */
  readonly weight: Matrix;
  /** [N] */
  readonly bias?: Tensor<"f32"> | undefined;
  /** [T, N] */
  readonly out: Tensor<ActivationDType>;
  /** Default false; `out` must then be `f32`. */
  readonly accumulate?: boolean | undefined;
}

/** `out = silu(in · gateᵀ) ⊙ (in · upᵀ)`, or `relu(in · upᵀ)²` without a gate. */
export interface GatedLinearArgs {
  /** [T, C] */
  readonly in: Tensor<ActivationDType>;
  /** [F, C] blocks gate and up for `silu`, up alone for `relu2`. */
  readonly weight: Matrix;
  readonly activation: "silu" | "relu2";
  /** [T, F] */
  readonly out: Tensor<ActivationDType>;
}

/**
 * `q, k ← rope(norm(q)), rope(norm(k))` in place; k and v are then written to their pages. With i <
 * Dk/2, `rope(x)[i] = x[i]·cos[i] - x[i + Dk/2]·sin[i]` and `rope(x)[i + Dk/2] = x[i + Dk/2]·cos[i] +
 * x[i]·sin[i]`.
 */
export interface RotaryKvWriteArgs {
  readonly batch: Batch;
  /** [T, H, Dk] */
  readonly q: Tensor<ActivationDType>;
  /** [T, G, Dk]; without k and v nothing is written to the cache. */
  readonly k?: Tensor<ActivationDType> | undefined;
  /** [T, G, Dv] */
  readonly v?: Tensor<ActivationDType> | undefined;
  /** [H, Dk] */
  readonly qNorm?: Tensor<"f32"> | undefined;
  /** [G, Dk] */
  readonly kNorm?: Tensor<"f32"> | undefined;
  readonly normEpsilon: number;
  /** [positions, Dk] a row holds Dk/2 cosines, then Dk/2 sines. Without it nothing is rotated. */
  readonly cosSin?: Tensor<"f32"> | undefined;
  readonly kv: KvLayerView;
}

/**
 * Softmax attention of each token's H queries over the keys that it may see: at positions `j ≤ i`
 * and, with a window, also `i - j ≤ window` or `j < M`.
 */
export interface AttentionArgs {
  readonly batch: Batch;
  /** [T, H, Dk] */
  readonly q: Tensor<ActivationDType>;
  readonly kv: KvLayerView;
  /** In tokens; -1: all. */
  readonly window: number;
  /** The scores are multiplied by it. */
  readonly scale: number;
  /** [T, H, Dv] */
  readonly out: Tensor<ActivationDType>;
}

/**
 * `out = silu(depthwise causal convolution over u)`. The last W - 1 rows of u of each span are left in
 * its state.
 */
export interface CausalConv1dArgs {
  readonly batch: Batch;
  /** [T, E] */
  readonly u: Tensor<ActivationDType>;
  /** [E, W] */
  readonly weight: Tensor<"f32">;
  /** [E] */
  readonly bias?: Tensor<"f32"> | undefined;
  /** [slots, W - 1, E] act, oldest row first. */
  readonly convState: Tensor<ActivationDType>;
  /** [T, E] */
  readonly out: Tensor<ActivationDType>;
}

/** `[dt | B | C] = u · weightᵀ`, each through its own RMS norm, or all without one. */
export interface XProjArgs {
  /** [T, E] */
  readonly u: Tensor<ActivationDType>;
  /** [R + 2N, E] */
  readonly weight: Matrix;
  /** [R] */
  readonly dtNorm?: Tensor<"f32"> | undefined;
  /** [N] */
  readonly bNorm?: Tensor<"f32"> | undefined;
  /** [N] */
  readonly cNorm?: Tensor<"f32"> | undefined;
  readonly epsilon: number;
  /** [T, R + 2N] */
  readonly out: Tensor<ActivationDType>;
}

/** `delta = softplus(dt · weightᵀ + bias)`. */
export interface DtProjArgs {
  /** [T, R] */
  readonly dt: Tensor<ActivationDType>;
  /** [E, R] */
  readonly weight: Matrix;
  /** [E] */
  readonly bias: Tensor<"f32">;
  /** [T, E] */
  readonly delta: Tensor<ActivationDType>;
}

/**
 * `s ← exp(delta·a)·s + delta·b·u` and `out = (Σ_n s·c + d·u) · silu(z)`, token after token, from the
 * state in `stateSource` to that in `stateSlot`.
 */
export interface SelectiveScanArgs {
  readonly batch: Batch;
  /** [T, E] */
  readonly u: Tensor<ActivationDType>;
  /** [T, E] */
  readonly delta: Tensor<ActivationDType>;
  /** [T, N] */
  readonly b: Tensor<ActivationDType>;
  /** [T, N] */
  readonly c: Tensor<ActivationDType>;
  /** [T, E] */
  readonly z: Tensor<ActivationDType>;
  /** [E, N] */
  readonly a: Tensor<"f32">;
  /** [E] */
  readonly d: Tensor<"f32">;
  /** [slots, E, N] */
  readonly ssmState: Tensor<"f32">;
  /** [T, E] */
  readonly out: Tensor<ActivationDType>;
}

/**
 * All heads of a layer: the six stages, in this order, as one. They must fit together: one batch,
 * attention to the queries and the cache of `rotaryKvWrite`, and the Mamba stages each reading what
 * the one before it wrote. Of what they hand to each other (rotated q and k, `causalConv1d.out`,
 * `xProj.out`, `delta`) nothing is promised: a device may keep it to itself.
 */
export interface HybridHeadsArgs {
  readonly rotaryKvWrite: RotaryKvWriteArgs;
  readonly attention: AttentionArgs;
  readonly causalConv1d: CausalConv1dArgs;
  readonly xProj: XProjArgs;
  readonly dtProj: DtProjArgs;
  readonly selectiveScan: SelectiveScanArgs;
}

/** `out = (rms(attention) + rms(mamba)) / 2`. */
export interface FuseHeadsArgs {
  /** [T, E] */
  readonly attention: Tensor<ActivationDType>;
  /** [T, E] */
  readonly mamba: Tensor<ActivationDType>;
  /** [E] */
  readonly attentionWeight: Tensor<"f32">;
  /** [E] */
  readonly mambaWeight: Tensor<"f32">;
  readonly epsilon: number;
  /** [T, E] */
  readonly out: Tensor<ActivationDType>;
}

/**
 * A norm, `rmsNorm` or `fuseHeads`, and a product of what it gives, `linear` or `gatedLinear`: one of
 * each. Nothing is promised of the norm's `out`, which must be the product's `in`: a device may keep it
 * to itself. So the product's `out` may not overlap what the norm reads.
 */
export interface NormedProductArgs {
  readonly rmsNorm?: RmsNormArgs | undefined;
  readonly fuseHeads?: FuseHeadsArgs | undefined;
  readonly linear?: LinearArgs | undefined;
  readonly gatedLinear?: GatedLinearArgs | undefined;
}

/** `tokenIds[t] ← lastTokens[slot of its span]` wherever it is {@link SAMPLED_TOKEN}. */
export interface RecallTokensArgs {
  /** [T], in place. */
  readonly tokenIds: Tensor<"i32">;
  /** [T] */
  readonly tokenSpans: Tensor<"i32">;
  /** [S] */
  readonly stateSlot: Tensor<"i32">;
  /** [slots] */
  readonly lastTokens: Tensor<"i32">;
}

/** `lastTokens[slots[i]] ← tokens[i]`. */
export interface RememberTokensArgs {
  /** [K] */
  readonly tokens: Tensor<"i32">;
  /** [K]; -1: nothing to remember. */
  readonly slots: Tensor<"i32">;
  /** [slots] */
  readonly lastTokens: Tensor<"i32">;
}

/**
 * Counts the tokens of each span in the history of its slot: the top bit of an entry says that the
 * token stands in the prompt, the other 15 how often it was generated.
 */
export interface CountTokensArgs {
  /** [T]; ids below 0 are not counted. Not needed when all spans are empty. */
  readonly tokenIds?: Tensor<"i32"> | undefined;
  /** [S + 1] */
  readonly spanOffsets: Tensor<"i32">;
  /** [S], each slot at most once. */
  readonly stateSlot: Tensor<"i32">;
  /** [S] 1: generated, 0: of a prompt. */
  readonly isGenerated: Tensor<"i32">;
  /** [S] 1: forget what the slot held before. */
  readonly fresh: Tensor<"i32">;
  /** [slots, V] */
  readonly history: Tensor<"u16">;
}

/** Draws a token from each row of logits. {@link packSamplingRows} makes `rows`, biases and masks. */
export interface SampleArgs {
  /** [K, V] */
  readonly logits: Tensor<"f32">;
  /** [K, {@link SAMPLING_ROW_WORDS}] */
  readonly rows: Tensor<"i32">;
  /** [B] */
  readonly biasTokens?: Tensor<"i32"> | undefined;
  /** [B] */
  readonly biasValues?: Tensor<"f32"> | undefined;
  /** [M, ⌈V/32⌉] */
  readonly masks?: Tensor<"i32"> | undefined;
  /** [slots, V], as `countTokens` leaves it. */
  readonly history: Tensor<"u16">;
  /** [K] the tokens. */
  readonly token: Tensor<"i32">;
  /** [K] their log-probabilities after the raw logits. */
  readonly logprob: Tensor<"f32">;
  /** [K, {@link MAX_TOP_LOGPROBS}] the most probable tokens, -1 where none was wanted. */
  readonly topTokens: Tensor<"i32">;
  /** [K, {@link MAX_TOP_LOGPROBS}] */
  readonly topLogprobs: Tensor<"f32">;
}

/** `logprob[i] = log softmax(logits[i])[tokens[i]]`. */
export interface TokenLogprobsArgs {
  /** [K, V] */
  readonly logits: Tensor<"f32">;
  /** [K] */
  readonly tokens: Tensor<"i32">;
  /** [K] */
  readonly logprob: Tensor<"f32">;
}

/** Every stage and its arguments. */
export interface StageArgs {
  readonly embedTokens: EmbedTokensArgs;
  readonly gatherRows: GatherRowsArgs;
  readonly rmsNorm: RmsNormArgs;
  readonly linear: LinearArgs;
  readonly gatedLinear: GatedLinearArgs;
  readonly rotaryKvWrite: RotaryKvWriteArgs;
  readonly attention: AttentionArgs;
  readonly causalConv1d: CausalConv1dArgs;
  readonly xProj: XProjArgs;
  readonly dtProj: DtProjArgs;
  readonly selectiveScan: SelectiveScanArgs;
  readonly hybridHeads: HybridHeadsArgs;
  readonly fuseHeads: FuseHeadsArgs;
  readonly normedProduct: NormedProductArgs;
  readonly recallTokens: RecallTokensArgs;
  readonly rememberTokens: RememberTokensArgs;
  readonly countTokens: CountTokensArgs;
  readonly sample: SampleArgs;
  readonly tokenLogprobs: TokenLogprobsArgs;
}

/** Name of a stage. */
export type StageName = keyof StageArgs;

export { SAMPLED_TOKEN } from "../binding";
