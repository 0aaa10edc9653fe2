/** What is known of a request before a worker has read it. */
export interface AskedTexts {
  /** How its prompt begins; undefined when the body makes no sense, which a worker will say. */
  readonly prompt: string | undefined;
  /** Texts that it asks for. */
  readonly count: number;
}

/** Looks into the body of a request for text. */
export function textsOf(body: Buffer | undefined): AskedTexts {
  let json: { prompt?: unknown; messages?: unknown; n?: unknown } | null;
  try {
    json = JSON.parse(body?.toString() ?? "") as typeof json;
  } catch {
    return { prompt: undefined, count: 1 };
  }
  const { prompt, messages, n } = json ?? {};
  const isList = Array.isArray(prompt) && prompt.length > 0 && typeof prompt[0] !== "number";
  const count = typeof n === "number" && n > 0 && n <= 128 ? n : 1;
  const first: unknown = isList ? prompt[0] : prompt;
  // Of a conversation its text in JSON, which the next turn's begins with, but for the end of the list.
  const text = typeof first === "string" ? first : JSON.stringify(first ?? messages)?.slice(0, -1);
  return { prompt: text, count: isList ? count * prompt.length : count };
}
