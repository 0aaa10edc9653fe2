import type { EngineGenerateOptions } from "../engine/engine";
import type { RequestMetrics } from "../engine/metrics";
import type { PromptToken } from "../engine/prompt_scores";
import type { EngineChunk } from "../engine/request";
import type { FinishReason } from "../generation";
import type { ApiRequest } from "./endpoint";

/** A drawn token, for log-probabilities. */
export type DrawnToken = Pick<EngineChunk, "token" | "logprob" | "topLogprobs">;

/** One of the texts of a request, as a whole. */
export interface GeneratedText {
  readonly prompt: EngineGenerateOptions["prompt"];
  /** The tokens of the prompt, when they were asked for. */
  readonly promptLogprobs: readonly PromptToken[];
  readonly text: string;
  /** All of its tokens, the one that ended it among them, when `topLogprobs` was asked for. */
  readonly tokens: readonly DrawnToken[];
  readonly finishReason: "stop" | "length";
  readonly metrics: RequestMetrics;
}

/** What decides which texts a request has. */
export type AskedTexts = Pick<ApiRequest, "prompts" | "options" | "promptsOnly">;

/** Puts the texts of a request together, in the order of their indices. */
export async function collectTexts(
  chunks: AsyncIterable<EngineChunk>,
  { prompts, promptsOnly = false, options: { n = 1, topLogprobs } }: AskedTexts,
): Promise<GeneratedText[]> {
  const parts: { text: string; tokens: DrawnToken[] }[] = [];
  const promptLogprobs: (readonly PromptToken[])[] = [];
  const ends: Pick<GeneratedText, "finishReason" | "metrics">[] = [];
  for await (const {
    index,
    text,
    finishReason,
    metrics,
    promptLogprobs: given,
    ...token
  } of chunks) {
    if (given !== undefined) promptLogprobs[Math.floor(index / n)] = given;
    const part = (parts[index] ??= { text: "", tokens: [] });
    part.text += text;
    if (topLogprobs !== undefined && !promptsOnly) part.tokens.push(token);
    if (finishReason === undefined) continue;
    ends[index] = { finishReason: apiFinishReason(finishReason), metrics: metrics! };
  }
  return parts.map((part, index) => {
    const place = Math.floor(index / n);
    const ofPrompt = { prompt: prompts[place]!, promptLogprobs: promptLogprobs[place] ?? [] };
    return { ...ofPrompt, ...part, ...ends[index]! };
  });
}

/** Why a text ended, in OpenAI's words: a full context is a matter of length, too. */
export function apiFinishReason(reason: FinishReason): "stop" | "length" {
  return reason === "stop" ? "stop" : "length";
}
