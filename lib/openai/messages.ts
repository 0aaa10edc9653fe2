import { z } from "zod";
import type { HymbaModel } from "../model";
import { ApiError } from "./api_error";
import { text } from "./body";

/** A text, or parts of one, which become lines. */
const content = z
  .union([text, z.array(z.strictObject({ type: z.literal("text"), text }))], {
    error: "expected a string or an array of parts of type text",
  })
  .transform((given) =>
    typeof given === "string" ? given : given.map((part) => part.text).join("\n"),
  );

/** A conversation. Further fields of a message are for the template. */
export const messages = z.array(
  z.looseObject({ role: text, content }, { error: "expected an object" }),
  { error: "expected an array of messages" },
);

/**
 * Tokens of a conversation, as the model's template writes it.
 * @param addGenerationPrompt whether they end where the answer begins. Default true.
 */
export function encodeMessages(
  model: HymbaModel,
  given: z.infer<typeof messages>,
  addGenerationPrompt = true,
): Promise<Int32Array> {
  const { maxContextTokens } = model.limits;
  // Each is a token at least: those that cannot fit need not be written out.
  if (given.length > maxContextTokens) {
    throw new ApiError(
      `${given.length} messages are more than the ${maxContextTokens} tokens of the context`,
      "messages",
      "context_length_exceeded",
    );
  }
  const rendered = model.applyChatTemplate(given, { addGenerationPrompt });
  return model.tokenizer.encode(rendered, { addSpecialTokens: false });
}
