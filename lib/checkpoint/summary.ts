import type { Checkpoint } from "./checkpoint";
import { WEIGHT_DTYPE_BYTES, type WeightDtype, countElements } from "./tensor_table";

/** How much a checkpoint holds. */
export interface CheckpointSummary {
  /** Elements of all tensors; a tied lm_head counts once. */
  readonly parameters: number;
  readonly tensors: number;
  /** Bytes of all tensors in their stored precision. */
  readonly weightBytes: number;
  /** The same by precision; 0 for one that does not occur. */
  readonly weightBytesByDtype: Readonly<Record<WeightDtype, number>>;
}

/** Adds up the tensors of a checkpoint. */
export function summarizeCheckpoint(checkpoint: Checkpoint): CheckpointSummary {
  const weightBytesByDtype = { BF16: 0, F16: 0, F32: 0 };
  let parameters = 0;
  for (const { dtype, shape } of checkpoint.tensors) {
    const elements = countElements(shape);
    parameters += elements;
    weightBytesByDtype[dtype] += elements * WEIGHT_DTYPE_BYTES[dtype];
  }
  const weightBytes = Object.values(weightBytesByDtype).reduce((sum, bytes) => sum + bytes, 0);
  return { parameters, tensors: checkpoint.tensors.length, weightBytes, weightBytesByDtype };
}
