import { Template } from "@huggingface/jinja";
import { HymbaError } from "../errors";

/** One message of a conversation. Further fields are passed on to the template. */
export interface ChatMessage {
  /** Who speaks; templates know `system`, `user` and `assistant`. */
  readonly role: string;
  readonly content: string;
  readonly [field: string]: unknown;
}

/** Options of `model.applyChatTemplate`. */
export interface ChatTemplateOptions {
  /** Whether the text ends where the assistant's answer begins. Default true. */
  readonly addGenerationPrompt?: boolean | undefined;
  /** What the template's `bos_token` stands for. */
  readonly bosToken?: string | undefined;
  /** What the template's `eos_token` stands for. */
  readonly eosToken?: string | undefined;
  /** Descriptions of the tools that the model may call, as the template expects them. */
  readonly tools?: readonly unknown[] | undefined;
  /** Further variables of the template. */
  readonly extra?: Readonly<Record<string, unknown>> | undefined;
}

/** What a template refused through `raise_exception`, as against what it failed at. */
class TemplateRefusal extends Error {}

/**
 * Runs before every template. The library's own `raise_exception` throws what any failure throws,
 * and does not let itself be replaced from outside.
 */
const PRELUDE = "{% set raise_exception = hymba_refuse %}";

/**
 * Renders a conversation as the text that the model was trained on.
 *
 * The result usually contains its BOS token: encode it with `addSpecialTokens: false`.
 * @param template the Jinja source from the model folder (`Tokenizer.chatTemplate`), or your own.
 * @throws HymbaError ERR_MODEL_UNSUPPORTED when there is no template or it cannot be rendered;
 * ERR_INVALID_ARGUMENT when a message is malformed or the template refuses the conversation.
 */
export function applyChatTemplate(
  template: string | undefined,
  messages: readonly ChatMessage[],
  options: ChatTemplateOptions = {},
): string {
  if (template === undefined) {
    throw new HymbaError(
      "ERR_MODEL_UNSUPPORTED",
      "the model has no chat template: pass one, or add chat_template.jinja to the model's folder",
    );
  }
  checkMessages(messages);
  const { addGenerationPrompt = true, bosToken, eosToken, tools, extra } = options;
  const variables = {
    ...extra,
    messages,
    add_generation_prompt: addGenerationPrompt,
    ...(bosToken !== undefined && { bos_token: bosToken }),
    ...(eosToken !== undefined && { eos_token: eosToken }),
    ...(tools !== undefined && { tools }),
    hymba_refuse: (message: unknown) => {
      throw new TemplateRefusal(String(message));
    },
  };
  try {
    const prelude = new Template(PRELUDE);
    const program = new Template(template);
    program.parsed.body.unshift(...prelude.parsed.body);
    return program.render(variables);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    if (error instanceof TemplateRefusal) {
      throw new HymbaError(
        "ERR_INVALID_ARGUMENT",
        `the chat template refuses this conversation: ${reason}`,
        { cause: error },
      );
    }
    throw new HymbaError(
      "ERR_MODEL_UNSUPPORTED",
      `the chat template cannot be rendered: ${reason}. Pass another template`,
      { cause: error },
    );
  }
}

function checkMessages(messages: readonly ChatMessage[]): void {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw new HymbaError(
      "ERR_INVALID_ARGUMENT",
      "messages must be a non-empty array, got " +
        (Array.isArray(messages) ? "an empty one" : typeof messages),
    );
  }
  messages.forEach((message: Partial<ChatMessage> | null | undefined, index) => {
    for (const field of ["role", "content"] as const) {
      const value = message?.[field];
      if (typeof value !== "string") {
        throw new HymbaError(
          "ERR_INVALID_ARGUMENT",
          `messages[${index}].${field} must be a string, got ` +
            (value === null ? "null" : typeof value),
        );
      }
    }
  });
}
