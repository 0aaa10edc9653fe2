import type { EngineGenerateOptions } from "../engine/engine";
import type { EngineChunk } from "../engine/request";
import type { HymbaModel } from "../model";
import { chatCompletions } from "./chat_completions";
import { completions } from "./completions";
import type { StreamOptions } from "./generation_fields";
import type { GeneratedText } from "./texts";

/** A request, understood. */
export interface ApiRequest {
  /** At least one. */
  readonly prompts: readonly EngineGenerateOptions["prompt"][];
  /** What all prompts are continued with. */
  readonly options: Omit<EngineGenerateOptions, "prompt">;
  /** Whether nothing but the prompts is asked for. */
  readonly promptsOnly?: boolean;
  /** As the request names it. */
  readonly model: string | undefined;
  /** Undefined: the answer comes whole. */
  readonly stream: StreamOptions | undefined;
  /** Of the answer's id. */
  readonly idPrefix: string;
  readonly object: string;
  /** The object of a part of a streamed answer. */
  readonly partObject: string;
  /** A choice of the answer. There are those of the first prompt, then those of the next, and so on. */
  choice(text: GeneratedText, index: number): object;
  /**
   * What makes choices of the chunks of a streamed answer, as they come; it gives undefined for one
   * that a client has nothing from.
   */
  newParts(): (chunk: EngineChunk) => object | undefined;
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
