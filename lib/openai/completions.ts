import { z } from "zod";
import { integer, optional } from "../checkpoint/fields";
import type { HymbaModel } from "../model";
import { MAX_TOP_LOGPROBS } from "../sampling";
import { optionalBoolean, parseBody, prompts } from "./body";
import type { ApiRequest } from "./endpoint";
import { generationFields, generationOptions } from "./generation_fields";
import { completionLogprobs, promptLogprobs } from "./logprobs";
import type { GeneratedText } from "./texts";

/** OpenAI's. */
const DEFAULT_MAX_TOKENS = 16;

const schema = z.strictObject(
  {
    prompt: prompts,
    echo: optionalBoolean,
    logprobs: optional(integer(0, MAX_TOP_LOGPROBS)),
    /** vLLM's way to ask for what `echo` with `logprobs` does. */
    prompt_logprobs: optional(integer(0, MAX_TOP_LOGPROBS)),
    ...generationFields,
  },
  { error: "expected an object" },
);

/** POST /v1/completions: continues texts, and says with `echo` how probable they are. */
export function completions(model: HymbaModel, json: unknown): ApiRequest {
  const body = parseBody(schema, json);
  const { echo = false, logprobs, prompt_logprobs: ofPrompt } = body;
  const asked = [echo ? logprobs : undefined, ofPrompt].filter((count) => count !== undefined);
  const promptsOnly = body.max_tokens === 0;
  return {
    prompts: body.prompt,
    options: {
      maxTokens: DEFAULT_MAX_TOKENS,
      ...generationOptions(body),
      ...(promptsOnly && { maxTokens: 1, minTokens: 0 }),
      ...(logprobs !== undefined && { topLogprobs: logprobs }),
      ...(asked.length > 0 && { promptLogprobs: Math.max(...asked) }),
    },
    promptsOnly,
    model: body.model,
    idPrefix: "cmpl",
    object: "text_completion",
    choice: (generated, index) => {
      const { text, tokens, finishReason } = generated;
      const before = echo ? promptText(model, generated) : "";
      const scored = echo ? generated.promptLogprobs : [];
      return {
        index,
        text: before + text,
        logprobs:
          logprobs === undefined
            ? null
            : completionLogprobs(model, before, scored, tokens, logprobs),
        ...(ofPrompt !== undefined && {
          prompt_logprobs: promptLogprobs(model, generated.promptLogprobs, ofPrompt),
        }),
        finish_reason: finishReason,
      };
    },
  };
}

function promptText({ tokenizer }: HymbaModel, { prompt }: GeneratedText): string {
  return typeof prompt === "string" ? prompt : tokenizer.decode(prompt);
}
