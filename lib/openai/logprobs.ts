import type { HymbaModel } from "../model";
import type { TokenLogprob } from "../requests";
import type { DrawnToken } from "./texts";

/** `logprobs` of a choice of /v1/completions. Each list has an entry for every token. */
export interface CompletionLogprobs {
  readonly tokens: readonly string[];
  readonly token_logprobs: readonly number[];
  /** The most probable tokens and the one that was drawn. */
  readonly top_logprobs: readonly Readonly<Record<string, number>>[];
  /** Where each token begins, in Unicode characters of the text. */
  readonly text_offset: readonly number[];
}

interface ChatToken {
  readonly token: string;
  readonly logprob: number;
  /** UTF-8; null for tokens that are no text. */
  readonly bytes: readonly number[] | null;
}

/** `logprobs` of a choice of /v1/chat/completions. */
export interface ChatLogprobs {
  readonly content: readonly (ChatToken & { readonly top_logprobs: readonly ChatToken[] })[];
  readonly refusal: null;
}

/**
 * In the shape of /v1/completions.
 * @param begin characters of the text before the first token.
 */
export function completionLogprobs(
  model: HymbaModel,
  tokens: readonly DrawnToken[],
  begin = 0,
): CompletionLogprobs {
  let offset = begin;
  return {
    tokens: tokens.map(({ token }) => tokenText(model, token)),
    token_logprobs: tokens.map(({ logprob }) => finite(logprob)),
    top_logprobs: tokens.map(({ topLogprobs = [], ...drawn }) =>
      Object.fromEntries(
        [...topLogprobs, drawn].map(({ token, logprob }) => [
          tokenText(model, token),
          finite(logprob),
        ]),
      ),
    ),
    text_offset: tokens.map(({ token }) => {
      const at = offset;
      offset += tokenLength(model, token);
      return at;
    }),
  };
}

/** In the shape of /v1/chat/completions. */
export function chatLogprobs(model: HymbaModel, tokens: readonly DrawnToken[]): ChatLogprobs {
  const entry = ({ token, logprob }: TokenLogprob): ChatToken => {
    const bytes = bytesOf(model, token);
    return {
      token: tokenText(model, token),
      logprob: finite(logprob),
      bytes: bytes === undefined ? null : [...bytes],
    };
  };
  return {
    content: tokens.map(({ topLogprobs = [], ...drawn }) => ({
      ...entry(drawn),
      top_logprobs: topLogprobs.map(entry),
    })),
    refusal: null,
  };
}

/** OpenAI's number for what cannot be drawn: JSON has no -∞. */
const LEAST_LOGPROB = -9999;

const finite = (logprob: number): number => Math.max(logprob, LEAST_LOGPROB);

function bytesOf(model: HymbaModel, token: number): Uint8Array | undefined {
  return model.constraintVocabulary.bytes[token];
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Its text; OpenAI's `bytes:\xe2\x82` for a part of a character, the name of a special token. */
function tokenText(model: HymbaModel, token: number): string {
  const bytes = bytesOf(model, token);
  if (bytes === undefined) return model.tokenizer.idToToken(token) ?? "";
  try {
    return utf8.decode(bytes);
  } catch {
    const escapes = Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`);
    return `bytes:${escapes.join("")}`;
  }
}

/** Characters that begin in a token. */
export function tokenLength(model: HymbaModel, token: number): number {
  const bytes = bytesOf(model, token);
  return bytes?.reduce((count, byte) => count + ((byte & 0xc0) === 0x80 ? 0 : 1), 0) ?? 0;
}
