import { z } from "zod";
import { field, optional } from "../checkpoint/fields";
import type { EngineGenerateOptions } from "../engine/engine";
import { ApiError } from "./api_error";
import {
  isArrayOf,
  optionalBoolean,
  optionalInteger,
  optionalNumber,
  optionalText,
  optionalTokens,
} from "./body";
import { responseFormat } from "./response_format";

/** All of them are looked for after every token. */
const MAX_STOPS = 64;

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
  stream: optionalBoolean,
  stream_options: optional(
    z.strictObject({ include_usage: optionalBoolean }, { error: "expected an object" }),
  ),
  n: optionalInteger,
  max_tokens: optionalInteger,
  temperature: optionalNumber,
  top_p: optionalNumber,
  seed: optionalInteger,
  stop: optional(
    field<string | readonly string[]>(
      (value) =>
        isStop(value) || (isArrayOf(isStop, value) && (value as unknown[]).length <= MAX_STOPS),
      `a text or an array of up to ${MAX_STOPS} texts that are not empty`,
      { anyOf: [{ type: "string" }, { type: "array", items: { type: "string" } }] },
    ),
  ),
  logit_bias: optional(
    field<Readonly<Record<string, number>>>(
      (value) => typeof value === "object" && !Array.isArray(value),
      "an object of token ids and numbers",
      { type: "object", additionalProperties: { type: "number" } },
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

/** How the answer comes in parts. */
export interface StreamOptions {
  /** Whether what the request took follows the last part. */
  readonly includeUsage: boolean;
}

/** How the answer comes; undefined: whole. */
export function streamOptions(body: Fields): StreamOptions | undefined {
  const { stream = false, stream_options: options } = body;
  if (!stream && options !== undefined) {
    throw new ApiError("stream_options needs stream: true", "stream_options");
  }
  return stream ? { includeUsage: options?.include_usage ?? false } : undefined;
}

/** The object without what is undefined. */
function defined<T extends object>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const entries = Object.entries(values).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as ReturnType<typeof defined<T>>;
}
