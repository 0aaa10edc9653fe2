import { randomUUID } from "node:crypto";
import type { Engine, EngineGenerateOptions } from "../engine/engine";
import type { HymbaModel } from "../model";
import { chatCompletions } from "./chat_completions";
import { completions } from "./completions";
import { generateAll, type GeneratedText, type Usage, usageOf, withoutTokens } from "./texts";

/** A model and what generates its texts. */
export interface Served {
  readonly model: HymbaModel;
  readonly engine: Engine;
  /** What answers call the model when the request does not name it. */
  readonly name: string;
}

/** A request, understood. */
export interface ApiRequest {
  /** At least one. */
  readonly prompts: readonly EngineGenerateOptions["prompt"][];
  readonly options: Omit<EngineGenerateOptions, "prompt">;
  /** Whether nothing but the prompts is asked for. */
  readonly promptsOnly?: boolean;
  /** As the request names it. */
  readonly model: string | undefined;
  /** Of the answer's id. */
  readonly idPrefix: string;
  readonly object: string;
  /** A choice of the answer. There are those of the first prompt, then those of the next, and so on. */
  choice(text: GeneratedText, index: number): object;
}

/**
 * Understands the body of a request.
 * @throws ApiError, or what {@link requestError} makes one of.
 */
export type Endpoint = (model: HymbaModel, body: unknown) => ApiRequest | Promise<ApiRequest>;

/** By the path of the URL. */
export const ENDPOINTS: ReadonlyMap<string, Endpoint> = new Map<string, Endpoint>([
  ["/v1/completions", completions],
  ["/v1/chat/completions", chatCompletions],
]);

/** An answer, whole. */
export interface ApiResponse {
  readonly id: string;
  readonly object: string;
  /** Seconds since 1970. */
  readonly created: number;
  readonly model: string;
  readonly choices: readonly object[];
  readonly usage: Usage;
}

/**
 * Answers a request.
 * @throws what {@link requestError} calls the request's own fault, or what ended the engine.
 */
export async function answer(
  { model, engine, name }: Served,
  endpoint: Endpoint,
  body: unknown,
  signal: AbortSignal,
): Promise<ApiResponse> {
  const created = Math.floor(Date.now() / 1000);
  const request = await endpoint(model, body);
  const generated = await generateAll(engine, request.prompts, request.options, signal);
  const texts = request.promptsOnly
    ? generated.map((ofPrompt) => ofPrompt.map(withoutTokens))
    : generated;
  return {
    id: `${request.idPrefix}-${randomUUID()}`,
    object: request.object,
    created,
    model: request.model ?? name,
    choices: texts.flat().map((text, index) => request.choice(text, index)),
    usage: usageOf(texts),
  };
}
