import { z } from "zod";
import { integer, optional } from "../checkpoint/fields";
import type { HymbaModel } from "../model";
import { MAX_TOP_LOGPROBS } from "../sampling";
import { optionalBoolean, parseBody, prompts } from "./body";
import type { ApiRequest } from "./endpoint";
import { generationFields, generationOptions } from "./generation_fields";
import { completionLogprobs } from "./logprobs";
import type { GeneratedText } from "./texts";

/** OpenAI's. */
const DEFAULT_MAX_TOKENS = 16;

const schema = z.strictObject(
  {
    prompt: prompts,
    echo: optionalBoolean,
    logprobs: optional(integer(0, MAX_TOP_LOGPROBS)),
    ...generationFields,
  },
  { error: "expected an object" },
);

/** POST /v1/completions: continues texts, and says with `echo` how probable they are. */
export function completions(model: HymbaModel, json: unknown): ApiRequest {
  const body = parseBody(schema, json);
  const { echo = false, logprobs } = body;
  const promptsOnly = body.max_tokens === 0;
  return {
    prompts: body.prompt,
    options: {
      maxTokens: DEFAULT_MAX_TOKENS,
      ...generationOptions(body),
      ...(promptsOnly && { maxTokens: 1 }),
      ...(logprobs !== undefined && { topLogprobs: logprobs }),
      ...(logprobs !== undefined && echo && { promptLogprobs: logprobs }),
    },
    promptsOnly,
    model: body.model,
    idPrefix: "cmpl",
    object: "text_completion",
    choice: (generated, index) => {
      const before = echo ? promptText(model, generated) : "";
      return {
        index,
        text: before + generated.text,
        logprobs: logprobs === undefined ? null : completionLogprobs(model, before, generated),
        finish_reason: generated.finishReason,
      };
    },
  };
}

function promptText({ tokenizer }: HymbaModel, { prompt }: GeneratedText): string {
  return typeof prompt === "string" ? prompt : tokenizer.decode(prompt);
}
