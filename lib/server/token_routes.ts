import { z } from "zod";
import { ApiError } from "../openai/api_error";
import { optionalBoolean, optionalText, parseBody, tokens } from "../openai/body";
import { encodeMessages, messages } from "../openai/messages";
import type { App } from "./app";
import { checkModelName } from "./model_name";
import type { ServerState } from "./state";

/** Of /tokenize. */
export const tokenizeBody = z.strictObject(
  {
    model: optionalText,
    /** Either this or messages. */
    prompt: optionalText,
    messages: messages.nullish(),
    /** Of a prompt: whether BOS and the like are added. Default true. */
    add_special_tokens: optionalBoolean,
    /** Of messages: whether they end where the answer begins. Default true. */
    add_generation_prompt: optionalBoolean,
    /** Whether the tokens are written out, too. Default false. */
    return_token_strs: optionalBoolean,
  },
  { error: "expected an object" },
);

/** Of /detokenize. */
export const detokenizeBody = z.strictObject(
  {
    model: optionalText,
    tokens,
  },
  { error: "expected an object" },
);

/** Text to tokens and back, as vLLM has it, for clients that count or give tokens. */
export function addTokenRoutes(app: App, state: ServerState): void {
  const { model, name } = state.served;
  app.post("/tokenize", async (request) => {
    const body = parseBody(tokenizeBody, request.body);
    checkModelName(state, body.model);
    const ids = await encode(state, body);
    return {
      count: ids.length,
      max_model_len: model.limits.maxContextTokens,
      tokens: [...ids],
      token_strs: body.return_token_strs
        ? Array.from(ids, (id) => model.tokenizer.idToToken(id) ?? "")
        : null,
    };
  });
  app.post("/detokenize", (request) => {
    const body = parseBody(detokenizeBody, request.body);
    checkModelName(state, body.model);
    const { vocabSize } = model.config;
    const wrong = body.tokens.find((id) => id < 0 || id >= vocabSize);
    if (wrong !== undefined) {
      throw new ApiError(`tokens must be from 0 to ${vocabSize - 1}, got ${wrong}`, "tokens");
    }
    return { prompt: model.tokenizer.decode(body.tokens, { skipSpecialTokens: false }) };
  });
  app.get("/tokenizer_info", () => {
    const { bosToken, eosToken, padTokenId, chatTemplate, vocabSize } = model.tokenizer;
    return {
      model: name,
      tokenizer_class: "PreTrainedTokenizerFast",
      bos_token: bosToken ?? null,
      eos_token: eosToken ?? null,
      pad_token: padTokenId === undefined ? null : model.tokenizer.idToToken(padTokenId),
      chat_template: chatTemplate ?? null,
      vocab_size: vocabSize,
      model_max_length: model.limits.maxContextTokens,
    };
  });
}

async function encode(
  { served: { model } }: ServerState,
  body: z.infer<typeof tokenizeBody>,
): Promise<Int32Array> {
  const { prompt, add_special_tokens: addSpecialTokens = true } = body;
  if ((prompt === undefined) === ((body.messages ?? undefined) === undefined)) {
    throw new ApiError("expected either a prompt or messages", "prompt");
  }
  if (prompt !== undefined) return model.tokenizer.encode(prompt, { addSpecialTokens });
  return encodeMessages(model, body.messages!, body.add_generation_prompt);
}
