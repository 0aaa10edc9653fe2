import { z } from "zod";
import type { HymbaModel } from "../model";
import { ApiError } from "./api_error";
import { optionalBoolean, optionalInteger, parseBody, text } from "./body";
import type { ApiRequest } from "./endpoint";
import { generationFields, generationOptions } from "./generation_fields";
import { chatLogprobs } from "./logprobs";

/** As many as the context has room for. */
const DEFAULT_MAX_TOKENS = 2 ** 31 - 1;

/** A text, or parts of one, which become lines. */
const content = z
  .union([text, z.array(z.strictObject({ type: z.literal("text"), text }))], {
    error: "expected a string or an array of parts of type text",
  })
  .transform((given) =>
    typeof given === "string" ? given : given.map((part) => part.text).join("\n"),
  );

const schema = z.strictObject(
  {
    // Further fields of a message are for the template.
    messages: z.array(z.looseObject({ role: text, content }, { error: "expected an object" }), {
      error: "expected an array of messages",
    }),
    max_completion_tokens: optionalInteger,
    logprobs: optionalBoolean,
    top_logprobs: optionalInteger,
    ...generationFields,
  },
  { error: "expected an object" },
);

/** POST /v1/chat/completions: the next message of a conversation, written by the model's template. */
export async function chatCompletions(model: HymbaModel, json: unknown): Promise<ApiRequest> {
  const body = parseBody(schema, json);
  const { messages, logprobs = false, top_logprobs: topLogprobs, max_completion_tokens } = body;
  if (topLogprobs !== undefined && !logprobs) {
    throw new ApiError("top_logprobs needs logprobs: true", "top_logprobs");
  }
  const rendered = model.applyChatTemplate(messages);
  return {
    prompts: [await model.tokenizer.encode(rendered, { addSpecialTokens: false })],
    options: {
      maxTokens: DEFAULT_MAX_TOKENS,
      ...generationOptions(body),
      ...(max_completion_tokens !== undefined && { maxTokens: max_completion_tokens }),
      ...(logprobs && { topLogprobs: topLogprobs ?? 0 }),
    },
    model: body.model,
    idPrefix: "chatcmpl",
    object: "chat.completion",
    choice: ({ text, tokens, finishReason }, index) => ({
      index,
      message: { role: "assistant", content: text, refusal: null },
      logprobs: logprobs ? chatLogprobs(model, tokens) : null,
      finish_reason: finishReason,
    }),
  };
}
