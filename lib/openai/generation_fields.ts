import type { z } from "zod";
import { field, optional } from "../checkpoint/fields";
import type { EngineGenerateOptions } from "../engine/engine";
import {
  isArrayOf,
  optionalBoolean,
  optionalInteger,
  optionalNumber,
  optionalText,
  optionalTokens,
} from "./body";
import { responseFormat } from "./response_format";

const isStop = (value: unknown): boolean => typeof value === "string" && value !== "";

/**
 * Fields that both kinds of requests have: OpenAI's, and those that vLLM adds. null is as good as
 * nothing.
 */
export const generationFields = {
  /** Which model; there is but one, so that the answer repeats it. */
  model: optionalText,
  /** Who asks; not used. */
  user: optionalText,
  stream: optional(field<false>((value) => value === false, "false, as answers come whole")),
  n: optionalInteger,
  max_tokens: optionalInteger,
  temperature: optionalNumber,
  top_p: optionalNumber,
  seed: optionalInteger,
  stop: optional(
    field<string | readonly string[]>(
      (value) => isStop(value) || isArrayOf(isStop, value),
      "a text or an array of texts that are not empty",
    ),
  ),
  logit_bias: optional(
    field<Readonly<Record<string, number>>>(
      (value) => typeof value === "object" && !Array.isArray(value),
      "an object of token ids and numbers",
    ),
  ),
  presence_penalty: optionalNumber,
  frequency_penalty: optionalNumber,
  response_format: responseFormat,
  top_k: optionalInteger,
  min_p: optionalNumber,
  repetition_penalty: optionalNumber,
  stop_token_ids: optionalTokens,
  ignore_eos: optionalBoolean,
  min_tokens: optionalInteger,
  include_stop_str_in_output: optionalBoolean,
  skip_special_tokens: optionalBoolean,
};

type Fields = {
  readonly [Name in keyof typeof generationFields]: z.infer<(typeof generationFields)[Name]>;
};

/** The fields as options of `engine.generate`. What a request leaves out, the model's defaults decide. */
export function generationOptions(body: Fields): Omit<EngineGenerateOptions, "prompt"> {
  const { seed, stop, top_k: topK } = body;
  return defined({
    n: body.n,
    maxTokens: body.max_tokens,
    temperature: body.temperature,
    topP: body.top_p,
    // vLLM's word for all tokens.
    topK: topK === -1 ? 0 : topK,
    minP: body.min_p,
    repetitionPenalty: body.repetition_penalty,
    presencePenalty: body.presence_penalty,
    frequencyPenalty: body.frequency_penalty,
    logitBias: body.logit_bias,
    // OpenAI's seeds have a sign.
    seed: seed === undefined ? undefined : BigInt.asUintN(64, BigInt(seed)),
    stop: typeof stop === "string" ? [stop] : stop,
    stopTokenIds: body.stop_token_ids,
    ignoreEos: body.ignore_eos,
    minTokens: body.min_tokens,
    includeStop: body.include_stop_str_in_output,
    skipSpecialTokens: body.skip_special_tokens,
    responseFormat: body.response_format,
  });
}

/** The object without what is undefined. */
function defined<T extends object>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const entries = Object.entries(values).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as ReturnType<typeof defined<T>>;
}
