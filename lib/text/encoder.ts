import type { Tokenizer as JsTokenizer } from "@huggingface/tokenizers";

/** Turns text into token ids. Two implementations that give the same ids. */
export interface TokenEncoder {
  readonly kind: "native" | "javascript";
  /** @param addSpecialTokens whether the post-processor of `tokenizer.json` runs. */
  encode(text: string, addSpecialTokens: boolean): Promise<Int32Array>;
}

/**
 * The Rust tokenizer: runs on the thread pool, about 10,000 tokens in 15 ms.
 * @throws whatever the binding throws: it is missing on this platform, or it does not know a part
 * of this `tokenizer.json`.
 */
export async function createNativeEncoder(definitionText: string): Promise<TokenEncoder> {
  const { Tokenizer } = await import("@anush008/tokenizers");
  const tokenizer = Tokenizer.fromString(definitionText);
  // tokenizer.json may carry the truncation and padding of the training run; a prompt is never
  // silently cut or filled up.
  tokenizer.disableTruncation();
  tokenizer.disablePadding();
  return {
    kind: "native",
    async encode(text, addSpecialTokens) {
      const encoding = await tokenizer.encode(text, null, { addSpecialTokens });
      return Int32Array.from(encoding.getIds());
    },
  };
}

/**
 * The pure JavaScript tokenizer, for platforms without the native one. It works on the event loop:
 * about 1 ms for 100 tokens, but half a second for 16,000, because cutting a text in pieces could
 * change its tokens at the cuts.
 */
export function createJsEncoder(tokenizer: JsTokenizer): TokenEncoder {
  return {
    kind: "javascript",
    encode(text, addSpecialTokens) {
      const { ids } = tokenizer.encode(text, { add_special_tokens: addSpecialTokens });
      return Promise.resolve(Int32Array.from(ids));
    },
  };
}

/** Why the native tokenizer cannot be used on this machine; undefined when it can. */
export async function nativeEncoderProblem(): Promise<string | undefined> {
  try {
    await import("@anush008/tokenizers");
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
