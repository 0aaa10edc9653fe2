import { z } from "zod";
import type { HymbaModel } from "../model";
import { ApiError } from "./api_error";
import { optionalBoolean, optionalInteger, parseBody } from "./body";
import type { ApiRequest } from "./endpoint";
import { generationFields, generationOptions, streamOptions } from "./generation_fields";
import { chatLogprobs } from "./logprobs";
import { encodeMessages, messages } from "./messages";
import { apiFinishReason } from "./texts";

/** As many as the context has room for. */
const DEFAULT_MAX_TOKENS = 2 ** 31 - 1;

/** What the body of a request can have. */
export const chatBody = z.strictObject(
  {
    messages,
    max_completion_tokens: optionalInteger,
    logprobs: optionalBoolean,
    top_logprobs: optionalInteger,
    ...generationFields,
  },
  { error: "expected an object" },
);

/** POST /v1/chat/completions: the next message of a conversation, written by the model's template. */
export async function chatCompletions(model: HymbaModel, json: unknown): Promise<ApiRequest> {
  const body = parseBody(chatBody, json);
  const { logprobs = false, top_logprobs: topLogprobs, max_completion_tokens } = body;
  if (topLogprobs !== undefined && !logprobs) {
    throw new ApiError("top_logprobs needs logprobs: true", "top_logprobs");
  }
  return {
    prompts: [await encodeMessages(model, body.messages)],
    options: {
      maxTokens: DEFAULT_MAX_TOKENS,
      ...generationOptions(body),
      ...(max_completion_tokens !== undefined && { maxTokens: max_completion_tokens }),
      ...(logprobs && { topLogprobs: topLogprobs ?? 0 }),
    },
    model: body.model,
    stream: streamOptions(body),
    idPrefix: "chatcmpl",
    object: "chat.completion",
    partObject: "chat.completion.chunk",
    choice: ({ text, tokens, finishReason }, index) => ({
      index,
      message: { role: "assistant", content: text, refusal: null },
      logprobs: logprobs ? chatLogprobs(model, tokens) : null,
      finish_reason: finishReason,
    }),
    newParts() {
      const begun = new Set<number>();
      return ({ index, text, finishReason, ...token }) => {
        if (text === "" && finishReason === undefined && !logprobs) return undefined;
        const isFirst = !begun.has(index);
        begun.add(index);
        return {
          index,
          delta: { ...(isFirst && { role: "assistant" }), content: text },
          logprobs: logprobs ? chatLogprobs(model, [token]) : null,
          finish_reason: finishReason === undefined ? null : apiFinishReason(finishReason),
        };
      };
    },
  };
}
