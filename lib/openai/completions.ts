import { z } from "zod";
import { integer, optional } from "../checkpoint/fields";
import type { HymbaModel } from "../model";
import { MAX_TOP_LOGPROBS } from "../sampling";
import { parseBody, prompts } from "./body";
import type { ApiRequest } from "./endpoint";
import { generationFields, generationOptions, streamOptions } from "./generation_fields";
import { completionLogprobs, tokenLength } from "./logprobs";
import { apiFinishReason } from "./texts";

/** OpenAI's. */
const DEFAULT_MAX_TOKENS = 16;

const schema = z.strictObject(
  {
    prompt: prompts,
    logprobs: optional(integer(0, MAX_TOP_LOGPROBS)),
    ...generationFields,
  },
  { error: "expected an object" },
);

/** POST /v1/completions: continues a text. */
export function completions(model: HymbaModel, json: unknown): ApiRequest {
  const body = parseBody(schema, json);
  const { logprobs } = body;
  return {
    prompts: body.prompt,
    options: {
      maxTokens: DEFAULT_MAX_TOKENS,
      ...generationOptions(body),
      ...(logprobs !== undefined && { topLogprobs: logprobs }),
    },
    model: body.model,
    stream: streamOptions(body),
    idPrefix: "cmpl",
    object: "text_completion",
    partObject: "text_completion",
    choice: ({ text, tokens, finishReason }, index) => ({
      index,
      text,
      logprobs: logprobs === undefined ? null : completionLogprobs(model, tokens),
      finish_reason: finishReason,
    }),
    newParts() {
      /** Of each text: where its next token begins. */
      const offsets: number[] = [];
      return ({ index, text, finishReason, ...token }) => {
        if (text === "" && finishReason === undefined && logprobs === undefined) return undefined;
        const begin = offsets[index] ?? 0;
        if (logprobs !== undefined) offsets[index] = begin + tokenLength(model, token.token);
        return {
          index,
          text,
          logprobs: logprobs === undefined ? null : completionLogprobs(model, [token], begin),
          finish_reason: finishReason === undefined ? null : apiFinishReason(finishReason),
        };
      };
    },
  };
}
