import type { HymbaModel } from "../model";
import type { TokenLogprob } from "../requests";
import type { PromptToken } from "../engine/prompt_scores";
import type { DrawnToken } from "./texts";

/** `logprobs` of a choice of /v1/completions. Each list has an entry for every token. */
export interface CompletionLogprobs {
  readonly tokens: readonly string[];
  /** null for the first one of a prompt. */
  readonly token_logprobs: readonly (number | null)[];
  /** The most probable tokens and the one that is there; of several with one text the most probable. */
  readonly top_logprobs: readonly (Readonly<Record<string, number>> | null)[];
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

/** What vLLM says of a token that stands in a prompt, or might have. */
interface PromptCandidate {
  readonly logprob: number;
  /** 1: the most probable one. null: it is not among those that were asked for. */
  readonly rank: number | null;
  readonly decoded_token: string;
}

/**
 * `prompt_logprobs` in vLLM's shape: for each token of a prompt it and the `count` most probable ones, by
 * their ids; null for the first one.
 */
export function promptLogprobs(
  model: HymbaModel,
  tokens: readonly PromptToken[],
  count: number,
): (Record<string, PromptCandidate> | null)[] {
  return tokens.map(({ token, logprob, topLogprobs = [] }) => {
    if (logprob === undefined) return null;
    const candidate = (each: TokenLogprob, rank: number | null) => ({
      logprob: finite(each.logprob),
      rank,
      decoded_token: tokenText(model, each.token),
    });
    return {
      [token]: candidate({ token, logprob }, null),
      ...Object.fromEntries(
        topLogprobs.slice(0, count).map((top, i) => [top.token, candidate(top, i + 1)]),
      ),
    };
  });
}

/**
 * Where the first token of a prompt begins, counted back from where the generated text does: a space
 * that a tokenizer puts before a text is in the first token of a prompt, but not in its text.
 * @param text of the prompt, which the generated one is appended to.
 */
export function promptOffset(
  model: HymbaModel,
  text: string,
  tokens: readonly PromptToken[],
): number {
  return [...text].length - countCharacters(model, tokens);
}

/**
 * In the shape of /v1/completions: each token beside the `count` most probable ones.
 * @param options.begin characters before the first token.
 */
export function completionLogprobs(
  model: HymbaModel,
  tokens: readonly (PromptToken | DrawnToken)[],
  { begin, count }: { readonly begin: number; readonly count: number },
): CompletionLogprobs {
  let end = begin;
  return {
    tokens: tokens.map(({ token }) => tokenText(model, token)),
    token_logprobs: tokens.map(({ logprob }) => (logprob === undefined ? null : finite(logprob))),
    top_logprobs: tokens.map((token) => topLogprobs(model, token, count)),
    text_offset: tokens.map((token) => {
      const offset = end;
      end += countCharacters(model, [token]);
      return Math.max(0, offset);
    }),
  };
}

function topLogprobs(
  model: HymbaModel,
  { token, logprob, topLogprobs = [] }: PromptToken | DrawnToken,
  count: number,
): Record<string, number> | null {
  if (logprob === undefined) return null;
  const largest = new Map<string, number>();
  for (const each of [...topLogprobs.slice(0, count), { token, logprob }]) {
    const text = tokenText(model, each.token);
    largest.set(text, Math.max(finite(each.logprob), largest.get(text) ?? -Infinity));
  }
  return Object.fromEntries(largest);
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

/** Characters that begin in these tokens. */
export function countCharacters(
  model: HymbaModel,
  tokens: readonly { readonly token: number }[],
): number {
  let count = 0;
  for (const { token } of tokens) {
    for (const byte of bytesOf(model, token) ?? []) if ((byte & 0xc0) !== 0x80) count++;
  }
  return count;
}
