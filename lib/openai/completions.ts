import { z } from "zod";
import { integer, optional } from "../checkpoint/fields";
import type { PromptToken } from "../engine/prompt_scores";
import type { HymbaModel } from "../model";
import { MAX_TOP_LOGPROBS } from "../sampling";
import { ApiError } from "./api_error";
import { optionalBoolean, parseBody, type Prompt, prompts } from "./body";
import type { ApiRequest } from "./endpoint";
import { generationFields, generationOptions, streamOptions } from "./generation_fields";
import { completionLogprobs, countCharacters, promptLogprobs, promptOffset } from "./logprobs";
import { apiFinishReason, type DrawnToken } from "./texts";

/** OpenAI's. */
const DEFAULT_MAX_TOKENS = 16;

/** What the body of a request can have. */
export const completionBody = z.strictObject(
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
  const body = parseBody(completionBody, json);
  const { echo = false, logprobs, prompt_logprobs: ofPrompt, n } = body;
  const asked = [echo ? logprobs : undefined, ofPrompt].filter((count) => count !== undefined);
  const promptsOnly = body.max_tokens === 0;
  const stream = streamOptions(body);
  if (stream !== undefined && echo && logprobs !== undefined && (n ?? 1) > 1) {
    // The others may be ahead of the one that brings those of the prompt.
    throw new ApiError("echo with logprobs of several texts cannot be streamed", "stream");
  }
  if (stream !== undefined && ofPrompt !== undefined) {
    throw new ApiError("prompt_logprobs cannot be streamed: use echo with logprobs", "stream");
  }
  const textBefore = (prompt: ApiRequest["prompts"][number]): string =>
    echo ? promptText(model, prompt as Prompt) : "";
  const toLogprobs = (tokens: readonly (PromptToken | DrawnToken)[], begin: number) =>
    logprobs === undefined ? null : completionLogprobs(model, tokens, { begin, count: logprobs });
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
    stream,
    idPrefix: "cmpl",
    object: "text_completion",
    partObject: "text_completion",
    choice: ({ prompt, promptLogprobs: scores, text, tokens, finishReason }, index) => {
      const before = textBefore(prompt);
      const scored = echo ? scores : [];
      return {
        index,
        text: before + text,
        logprobs: toLogprobs([...scored, ...tokens], promptOffset(model, before, scored)),
        ...(ofPrompt !== undefined && {
          prompt_logprobs: promptLogprobs(model, scores, ofPrompt),
        }),
        finish_reason: finishReason,
      };
    },
    newParts() {
      /** Of each text: where its next token begins. */
      const offsets: number[] = [];
      return ({ index, text, finishReason, promptLogprobs: scored = [], ...token }) => {
        const isFirst = offsets[index] === undefined;
        const before = isFirst ? textBefore(body.prompt[Math.floor(index / (n ?? 1))]!) : "";
        const begin = offsets[index] ?? promptOffset(model, before, scored);
        offsets[index] = begin;
        const whole = before + text;
        if (whole === "" && finishReason === undefined && logprobs === undefined) return undefined;
        const tokens = [...scored, ...(promptsOnly ? [] : [token])];
        if (logprobs !== undefined) offsets[index] += countCharacters(model, tokens);
        return {
          index,
          text: whole,
          logprobs: toLogprobs(tokens, begin),
          finish_reason: finishReason === undefined ? null : apiFinishReason(finishReason),
        };
      };
    },
  };
}

function promptText({ tokenizer }: HymbaModel, prompt: Prompt): string {
  return typeof prompt === "string" ? prompt : tokenizer.decode(prompt);
}
