/**
 * The stages of the forward pass, one by one, on a device of your choice: for tests and for
 * microbenchmarks. What a stage computes stands with its arguments, such as {@link LinearArgs}.
 *
 * @example
 * ```ts
 * import { KernelDevice } from "hymba/kernels";
 *
 * using device = KernelDevice.open("cpu");
 * const x = device.tensor("bf16", [2, 64], new Float32Array(2 * 64).fill(0.5));
 * const data = new Float32Array(32 * 64).fill(0.25);
 * const weight = device.matrix([{ rows: 32, cols: 64, dtype: "bf16", data }], "bf16");
 * const out = device.tensor("f32", [2, 32]);
 * device.linear({ in: x, weight, out });
 * console.log(out.read()[0]); // 8
 * const times = device.timeMs(() => device.linear({ in: x, weight, out }), { iterations: 10 });
 * console.log(Math.min(...times));
 * ```
 * @packageDocumentation
 */
export { KernelDevice, type KernelDeviceOptions, type TimeOptions } from "./kernels/device";
export { Matrix, type MatrixBlock, type WeightDType } from "./kernels/matrix";
export {
  packSamplingRows,
  type PackedSamplingRows,
  SAMPLING_ROW_WORDS,
  type SamplingRow,
} from "./kernels/sampling_rows";
export type {
  AttentionArgs,
  Batch,
  CausalConv1dArgs,
  CountTokensArgs,
  DtProjArgs,
  EmbedTokensArgs,
  FuseHeadsArgs,
  GatedLinearArgs,
  GatherRowsArgs,
  HybridHeadsArgs,
  KvLayerView,
  LinearArgs,
  NormedProductArgs,
  RecallTokensArgs,
  RememberTokensArgs,
  RmsNormArgs,
  RotaryKvWriteArgs,
  SampleArgs,
  SelectiveScanArgs,
  StageArgs,
  StageName,
  TokenLogprobsArgs,
  XProjArgs,
} from "./kernels/stages";
export { SAMPLED_TOKEN } from "./kernels/stages";
export {
  type ActivationDType,
  Tensor,
  type TensorData,
  type TensorDType,
  type TensorValues,
} from "./kernels/tensor";
export { HYMBA_ERROR_CODES, HymbaError, type HymbaErrorCode } from "./errors";
export { MAX_TOP_LOGPROBS, type SamplingOptions } from "./sampling";
