import type { Matrix } from "./matrix";
import type { ActivationDType, Tensor } from "./tensor";

// Dimensions: T tokens of all spans together, S spans (one a sequence), C hidden size, H query heads,
// G K/V heads, Dk and Dv head dims, E Mamba channels, N states a channel, W convolution width, R dt
// rank, F MLP width, V vocabulary, M meta tokens. "act" is the dtype of the activations. The field
// names are those of native/ops/ops.h.

type Act = Tensor<ActivationDType>;
type Floats = Tensor<"f32">;
type Ints = Tensor<"i32">;

/** The ragged batch of one call. Rows of all activations follow it: span after span. */
export interface Batch {
  /** T. */
  readonly numTokens: number;
  /** S. */
  readonly numSpans: number;
  /** [T] token ids; meta token j is -1-j. The stages below take ids of their own. */
  readonly tokenIds?: Ints | undefined;
  /** [T], counted from the first meta token: text token i stands at M + i. */
  readonly positions: Ints;
  /** [T] the span that a token belongs to. */
  readonly tokenSpans: Ints;
  /** [S + 1] span s owns rows [offsets[s], offsets[s + 1]). */
  readonly spanOffsets: Ints;
  /** [S] state slot that a span goes on from; -1: from zeroes. */
  readonly stateSource: Ints;
  /**
   * [S] state slot that a span leaves its state in; -1: a padded lane, whose results mean nothing and
   * which touches no cache.
   */
  readonly stateSlot: Ints;
}

/**
 * The paged K/V cache of one layer. A page holds a tile for each (layer of the pool, K/V head), and a
 * tile the keys and values of 64 tokens, in an order that is the device's own: what one device wrote
 * only it can read.
 */
export interface KvLayerView {
  /** [pages, numLayers · numKvHeads · 64 · (headDim + valueHeadDim)] act. */
  readonly pool: Act;
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
  readonly pageTable: Ints;
  /** M, at most 64 · metaColumns. */
  readonly numMetaTokens: number;
  readonly metaColumns: number;
  /** At least 1. */
  readonly ringColumns: number;
}

/** `out[t] = table[id]`, or `meta[-1 - id]` for meta tokens. */
export interface EmbedTokensArgs {
  /** [T] */
  readonly tokenIds: Ints;
  /** [V, C] */
  readonly table: Matrix;
  /** [M, C] */
  readonly meta?: Matrix | undefined;
  /** [T, C] */
  readonly out: Floats;
}

/** `out[i] = in[rows[i]]`. */
export interface GatherRowsArgs {
  /** [T, C] */
  readonly in: Floats;
  /** [K] */
  readonly rows: Ints;
  /** [K, C] */
  readonly out: Floats;
}

/** `out = weight · in / sqrt(mean(in²) + epsilon)`, row by row. */
export interface RmsNormArgs {
  /** [T, D] */
  readonly in: Act;
  /** [D] */
  readonly weight: Floats;
  readonly epsilon: number;
  /** [T, D]; may be `in`. */
  readonly out: Act;
}

/** `out = in · weightᵀ (+ bias)`, added to what `out` holds when `accumulate`. */
export interface LinearArgs {
  /** [T, K] */
  readonly in: Act;
  /** [N, K] */
  readonly weight: Matrix;
  /** [N] */
  readonly bias?: Floats | undefined;
  /** [T, N] */
  readonly out: Act;
  /** Default false; `out` must then be `f32`. */
  readonly accumulate?: boolean | undefined;
}

/** `out = silu(in · gateᵀ) ⊙ (in · upᵀ)`, or `relu(in · upᵀ)²` without a gate. */
export interface GatedLinearArgs {
  /** [T, C] */
  readonly in: Act;
  /** [F, C]: blocks gate and up for `silu`, up alone for `relu2`. */
  readonly weight: Matrix;
  readonly activation: "silu" | "relu2";
  /** [T, F] */
  readonly out: Act;
}

/**
 * `q, k ← rope(norm(q)), rope(norm(k))` in place; k and v are then written to their pages. With i <
 * Dk/2, `rope(x)[i] = x[i]·cos[i] - x[i + Dk/2]·sin[i]` and `rope(x)[i + Dk/2] = x[i + Dk/2]·cos[i] +
 * x[i]·sin[i]`.
 */
export interface RotaryKvWriteArgs {
  readonly batch: Batch;
  /** [T, H, Dk] */
  readonly q: Act;
  /** [T, G, Dk]; without k and v nothing is written to the cache. */
  readonly k?: Act | undefined;
  /** [T, G, Dv] */
  readonly v?: Act | undefined;
  /** [H, Dk] */
  readonly qNorm?: Floats | undefined;
  /** [G, Dk] */
  readonly kNorm?: Floats | undefined;
  readonly normEpsilon: number;
  /** [positions, Dk]: Dk/2 cosines, then Dk/2 sines. Without it nothing is rotated. */
  readonly cosSin?: Floats | undefined;
  readonly kv: KvLayerView;
}

/**
 * Softmax attention of each token's H queries over the keys that it may see: at positions `j ≤ i`
 * and, with a window, also `i - j ≤ window` or `j < M`.
 */
export interface AttentionArgs {
  readonly batch: Batch;
  /** [T, H, Dk] */
  readonly q: Act;
  readonly kv: KvLayerView;
  /** In tokens; -1: all. */
  readonly window: number;
  /** The scores are multiplied by it. */
  readonly scale: number;
  /** [T, H, Dv] */
  readonly out: Act;
}

/**
 * `out = silu(depthwise causal convolution over u)`. The last W - 1 rows of u of each span are left in
 * its state.
 */
export interface CausalConv1dArgs {
  readonly batch: Batch;
  /** [T, E] */
  readonly u: Act;
  /** [E, W] */
  readonly weight: Floats;
  /** [E] */
  readonly bias?: Floats | undefined;
  /** [slots, W - 1, E] act, oldest row first. */
  readonly convState: Act;
  /** [T, E] */
  readonly out: Act;
}

/** `[dt | B | C] = u · weightᵀ`, each through its own RMS norm, or all without one. */
export interface XProjArgs {
  /** [T, E] */
  readonly u: Act;
  /** [R + 2N, E] */
  readonly weight: Matrix;
  /** [R] */
  readonly dtNorm?: Floats | undefined;
  /** [N] */
  readonly bNorm?: Floats | undefined;
  /** [N] */
  readonly cNorm?: Floats | undefined;
  readonly epsilon: number;
  /** [T, R + 2N] */
  readonly out: Act;
}

/** `delta = softplus(dt · weightᵀ + bias)`. */
export interface DtProjArgs {
  /** [T, R] */
  readonly dt: Act;
  /** [E, R] */
  readonly weight: Matrix;
  /** [E] */
  readonly bias: Floats;
  /** [T, E] */
  readonly delta: Act;
}

/**
 * `s ← exp(delta·a)·s + delta·b·u` and `out = (Σ_n s·c + d·u) · silu(z)`, token after token, from the
 * state in `stateSource` to that in `stateSlot`.
 */
export interface SelectiveScanArgs {
  readonly batch: Batch;
  /** [T, E] */
  readonly u: Act;
  /** [T, E] */
  readonly delta: Act;
  /** [T, N] */
  readonly b: Act;
  /** [T, N] */
  readonly c: Act;
  /** [T, E] */
  readonly z: Act;
  /** [E, N] */
  readonly a: Floats;
  /** [E] */
  readonly d: Floats;
  /** [slots, E, N] */
  readonly ssmState: Floats;
  /** [T, E] */
  readonly out: Act;
}

/** `out = (rms(attention) + rms(mamba)) / 2`. */
export interface FuseHeadsArgs {
  /** [T, E] */
  readonly attention: Act;
  /** [T, E] */
  readonly mamba: Act;
  /** [E] */
  readonly attentionWeight: Floats;
  /** [E] */
  readonly mambaWeight: Floats;
  readonly epsilon: number;
  /** [T, E] */
  readonly out: Act;
}

/** `tokenIds[t] ← lastTokens[slot of its span]` wherever it is {@link SAMPLED_TOKEN}. */
export interface RecallTokensArgs {
  /** [T], in place. */
  readonly tokenIds: Ints;
  /** [T] */
  readonly tokenSpans: Ints;
  /** [S] */
  readonly stateSlot: Ints;
  /** [slots] */
  readonly lastTokens: Ints;
}

/** `lastTokens[slots[i]] ← tokens[i]`. */
export interface RememberTokensArgs {
  /** [K] */
  readonly tokens: Ints;
  /** [K]; -1: nothing to remember. */
  readonly slots: Ints;
  /** [slots] */
  readonly lastTokens: Ints;
}

/**
 * Counts the tokens of each span in the history of its slot: the top bit of an entry says that the
 * token stands in the prompt, the other 15 how often it was generated.
 */
export interface CountTokensArgs {
  /** [T]; ids below 0 are not counted. Not needed when all spans are empty. */
  readonly tokenIds?: Ints | undefined;
  /** [S + 1] */
  readonly spanOffsets: Ints;
  /** [S], each slot at most once. */
  readonly stateSlot: Ints;
  /** [S] 1: generated, 0: of a prompt. */
  readonly isGenerated: Ints;
  /** [S] 1: forget what the slot held before. */
  readonly fresh: Ints;
  /** [slots, V] */
  readonly history: Tensor<"u16">;
}

/** Draws a token from each row of logits. {@link packSamplingRows} makes `rows` and the biases. */
export interface SampleArgs {
  /** [K, V] */
  readonly logits: Floats;
  /** [K, {@link SAMPLING_ROW_WORDS}] */
  readonly rows: Ints;
  /** [B] */
  readonly biasTokens?: Ints | undefined;
  /** [B] */
  readonly biasValues?: Floats | undefined;
  /** [slots, V], as `countTokens` leaves it. */
  readonly history: Tensor<"u16">;
  /** [K] the tokens. */
  readonly token: Ints;
  /** [K] their log-probabilities after the raw logits. */
  readonly logprob: Floats;
  /** [K, {@link MAX_TOP_LOGPROBS}] the most probable tokens, -1 where none was wanted. */
  readonly topTokens: Ints;
  /** [K, {@link MAX_TOP_LOGPROBS}] */
  readonly topLogprobs: Floats;
}

/** `logprob[i] = log softmax(logits[i])[tokens[i]]`. */
export interface TokenLogprobsArgs {
  /** [K, V] */
  readonly logits: Floats;
  /** [K] */
  readonly tokens: Ints;
  /** [K] */
  readonly logprob: Floats;
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
  readonly fuseHeads: FuseHeadsArgs;
  readonly recallTokens: RecallTokensArgs;
  readonly rememberTokens: RememberTokensArgs;
  readonly countTokens: CountTokensArgs;
  readonly sample: SampleArgs;
  readonly tokenLogprobs: TokenLogprobsArgs;
}

/** Name of a stage. */
export type StageName = keyof StageArgs;

/** A token id that stands for the one drawn last for its sequence: `kSampledToken` in ops.h. */
export const SAMPLED_TOKEN = -(2 ** 31);
