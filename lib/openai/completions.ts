import { z } from "zod";
import { integer, optional } from "../checkpoint/fields";
import type { HymbaModel } from "../model";
import { MAX_TOP_LOGPROBS } from "../sampling";
import { ApiError } from "./api_error";
import { optionalBoolean, parseBody, type Prompt, prompts } from "./body";
import type { ApiRequest } from "./endpoint";
import { generationFields, generationOptions, streamOptions } from "./generation_fields";
import { completionLogprobs, countCharacters, promptOffset } from "./logprobs";
import { apiFinishReason } from "./texts";

/** OpenAI's. */
const DEFAULT_MAX_TOKENS = 16;

/** What the body of a request can have. */
export const completionBody = z.strictObject(
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
  const body = parseBody(completionBody, json);
  const { echo = false, logprobs, n } = body;
  const promptsOnly = body.max_tokens === 0;
  const stream = streamOptions(body);
  if (stream !== undefined && echo && logprobs !== undefined && (n ?? 1) > 1) {
    // The others may be ahead of the one that brings those of the prompt.
    throw new ApiError("echo with logprobs of several texts cannot be streamed", "stream");
  }
  const textBefore = (prompt: ApiRequest["prompts"][number]): string =>
    echo ? promptText(model, prompt as Prompt) : "";
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
    stream,
    idPrefix: "cmpl",
    object: "text_completion",
    partObject: "text_completion",
    choice: ({ prompt, promptLogprobs, text, tokens, finishReason }, index) => {
      const before = textBefore(prompt);
      const begin = promptOffset(model, before, promptLogprobs);
      const all = [...promptLogprobs, ...tokens];
      return {
        index,
        text: before + text,
        logprobs: logprobs === undefined ? null : completionLogprobs(model, all, begin),
        finish_reason: finishReason,
      };
    },
    newParts() {
      /** Of each text: where its next token begins. */
      const offsets: number[] = [];
      return ({ index, text, finishReason, promptLogprobs = [], ...token }) => {
        const isFirst = offsets[index] === undefined;
        const before = isFirst ? textBefore(body.prompt[Math.floor(index / (n ?? 1))]!) : "";
        const begin = offsets[index] ?? promptOffset(model, before, promptLogprobs);
        offsets[index] = begin;
        const whole = before + text;
        if (whole === "" && finishReason === undefined && logprobs === undefined) return undefined;
        const tokens = [...promptLogprobs, ...(promptsOnly ? [] : [token])];
        if (logprobs !== undefined) offsets[index] += countCharacters(model, tokens);
        return {
          index,
          text: whole,
          logprobs: logprobs === undefined ? null : completionLogprobs(model, tokens, begin),
          finish_reason: finishReason === undefined ? null : apiFinishReason(finishReason),
        };
      };
    },
  };
}

function promptText({ tokenizer }: HymbaModel, prompt: Prompt): string {
  return typeof prompt === "string" ? prompt : tokenizer.decode(prompt);
}
