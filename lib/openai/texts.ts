import type { Engine, EngineGenerateOptions } from "../engine/engine";
import type { RequestMetrics } from "../engine/metrics";
import type { PromptToken } from "../engine/prompt_scores";
import type { EngineChunk } from "../engine/request";

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

/** Puts the texts of a prompt together, in the order of their indices. */
export async function generateTexts(
  engine: Engine,
  options: EngineGenerateOptions,
): Promise<GeneratedText[]> {
  const { prompt } = options;
  const parts: { text: string; tokens: DrawnToken[] }[] = [];
  const texts: Omit<GeneratedText, "prompt" | "promptLogprobs">[] = [];
  let promptLogprobs: readonly PromptToken[] = [];
  for await (const chunk of engine.generate(options)) {
    const { index, text, finishReason, metrics, promptLogprobs: given, ...token } = chunk;
    promptLogprobs = given ?? promptLogprobs;
    const part = (parts[index] ??= { text: "", tokens: [] });
    part.text += text;
    if (options.topLogprobs !== undefined) part.tokens.push(token);
    if (finishReason === undefined) continue;
    texts[index] = {
      ...part,
      // A full context is a matter of length, too.
      finishReason: finishReason === "stop" ? "stop" : "length",
      metrics: metrics!,
    };
  }
  return texts.map((text) => ({ ...text, prompt, promptLogprobs }));
}

/** The texts of all prompts, in their order. When one fails, the others are given up. */
export async function generateAll(
  engine: Engine,
  prompts: readonly EngineGenerateOptions["prompt"][],
  options: Omit<EngineGenerateOptions, "prompt">,
  signal: AbortSignal,
): Promise<GeneratedText[][]> {
  const failed = new AbortController();
  const either = AbortSignal.any([signal, failed.signal]);
  try {
    return await Promise.all(
      prompts.map((prompt) => generateTexts(engine, { ...options, prompt, signal: either })),
    );
  } catch (error) {
    failed.abort();
    throw error;
  }
}

/** The prompt, and nothing generated: who asks for no tokens gets none, although one was drawn. */
export function withoutTokens(text: GeneratedText): GeneratedText {
  const metrics = { ...text.metrics, generatedTokens: 0 };
  return { ...text, text: "", tokens: [], finishReason: "length", metrics };
}

/** What a request took, in OpenAI's shape. */
export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
  readonly prompt_tokens_details: { readonly cached_tokens: number };
}

/** What the texts of all prompts took together; a prompt of several texts counts once. */
export function usageOf(texts: readonly (readonly GeneratedText[])[]): Usage {
  const sum = (
    metrics: readonly RequestMetrics[],
    name: keyof RequestMetrics & `${string}Tokens`,
  ) => metrics.reduce((total, each) => total + each[name], 0);
  const first = texts.map((ofPrompt) => ofPrompt[0]!.metrics);
  const promptTokens = sum(first, "promptTokens");
  const generated = sum(
    texts.flat().map(({ metrics }) => metrics),
    "generatedTokens",
  );
  return {
    prompt_tokens: promptTokens,
    completion_tokens: generated,
    total_tokens: promptTokens + generated,
    prompt_tokens_details: { cached_tokens: sum(first, "cachedTokens") },
  };
}
