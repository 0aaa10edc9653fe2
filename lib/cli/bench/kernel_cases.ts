import type { Inputs, Load } from "./inputs";
import * as calls from "./stage_calls";

/** A stage at one of the places where the forward pass calls it. */
export interface KernelCase {
  /** The stage, and behind a slash the place, when there are several. */
  readonly name: string;
  /** Default: both. Where a prefill does no more than one decode step, the latter alone. */
  readonly modes?: readonly Load["mode"][];
  /** The call, with arguments of its own. */
  readonly call: (inputs: Inputs) => calls.StageCall;
}

const modes = ["decode"] as const;

/** The calls of one step, in the order of the forward pass. */
export const KERNEL_CASES: readonly KernelCase[] = [
  { name: "countTokens", call: calls.countTokens },
  { name: "embedTokens", call: calls.embedTokens },
  { name: "rmsNorm", call: calls.rmsNorm },
  { name: "linear/in_proj", call: calls.inProj },
  { name: "linear/in_proj_consumer", call: calls.inProjConsumer },
  { name: "rotaryKvWrite", call: calls.rotaryKvWrite },
  { name: "attention/window", call: calls.windowAttention },
  { name: "attention/global", call: calls.globalAttention },
  { name: "causalConv1d", call: calls.causalConv1d },
  { name: "xProj", call: calls.xProj },
  { name: "dtProj", call: calls.dtProj },
  { name: "selectiveScan", call: calls.selectiveScan },
  { name: "hybridHeads", modes, call: calls.hybridHeads },
  { name: "fuseHeads", call: calls.fuseHeads },
  { name: "linear/out_proj", call: calls.outProj },
  { name: "gatedLinear", call: calls.gatedLinear },
  { name: "linear/down_proj", call: calls.downProj },
  { name: "gatherRows", modes, call: calls.gatherRows },
  { name: "linear/lm_head", modes, call: calls.lmHead },
  { name: "sample/greedy", modes, call: calls.sampleGreedily },
  { name: "sample/top_p", modes, call: calls.sampleTopP },
  { name: "tokenLogprobs", modes, call: calls.tokenLogprobs },
];
