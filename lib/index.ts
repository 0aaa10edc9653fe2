/**
 * Serves NVIDIA's Hymba hybrid-head language models from Node.js.
 * @packageDocumentation
 */
export {
  Engine,
  type EngineGenerateOptions,
  type EngineLoad,
  type EngineOptions,
} from "./engine/engine";
export type { EndReason, EngineObserver, RequestMetrics } from "./engine/metrics";
export type { PromptToken } from "./engine/prompt_scores";
export type { EngineChunk } from "./engine/request";
export { HYMBA_ERROR_CODES, HymbaError, type HymbaErrorCode } from "./errors";
export {
  HymbaModel,
  type LoadOptions,
  type LoadProgress,
  type MemoryOptions,
  type MemoryPlan,
  Sequence,
} from "./model";
export type { DeviceMemory, ModelInfo, ModelLimits } from "./model_info";
export type {
  DecodeRequest,
  OutputOptions,
  PrefillRequest,
  StepResult,
  TokenLogprob,
} from "./requests";
export type { CacheUsage, LogitsWanted, ModelDtype, PoolUsage, TracedTensor } from "./binding";
export type { HymbaConfig, LayerConfig, RopeConfig } from "./checkpoint/config";
export type { DeviceInfo, DeviceRequest } from "./device";
export type { FinishReason, GenerateOptions, GenerationChunk } from "./generation";
export type { ResponseFormat } from "./grammar/response_format";
export type { JsonSchema } from "./grammar/schema_keywords";
export type { RunOptions } from "./runner";
export type { SamplingOptions } from "./sampling";
export type { SequenceOwner } from "./sequence";
export type { ChatMessage, ChatTemplateOptions } from "./text/chat_template";
export { Tokenizer, type TokenizerLoadOptions } from "./text/tokenizer";
