import { z } from "zod";
import { integer, optional } from "../checkpoint/fields";
import type { HymbaModel } from "../model";
import { MAX_TOP_LOGPROBS } from "../sampling";
import { parseBody, textOrTokens } from "./body";
import type { ApiRequest } from "./endpoint";
import { generationFields, generationOptions } from "./generation_fields";
import { completionLogprobs } from "./logprobs";

/** OpenAI's. */
const DEFAULT_MAX_TOKENS = 16;

const schema = z.strictObject(
  {
    prompt: textOrTokens,
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
    options: {
      maxTokens: DEFAULT_MAX_TOKENS,
      ...generationOptions(body),
      prompt: body.prompt,
      ...(logprobs !== undefined && { topLogprobs: logprobs }),
    },
    model: body.model,
    idPrefix: "cmpl",
    object: "text_completion",
    choice: ({ text, tokens, finishReason }, index) => ({
      index,
      text,
      logprobs: logprobs === undefined ? null : completionLogprobs(model, tokens),
      finish_reason: finishReason,
    }),
  };
}
