import { randomUUID } from "node:crypto";
import type { Engine } from "../engine/engine";
import type { HymbaModel } from "../model";
import type { ApiRequest } from "./endpoint";
import { continuePrompts } from "./prompts";
import { collectTexts } from "./texts";
import { type Usage, UsageCounter } from "./usage";

/** A model and what generates its texts. */
export interface Served {
  readonly model: HymbaModel;
  readonly engine: Engine;
  /** What answers call the model when the request does not name it. */
  readonly name: string;
}

/** What an answer and each of its parts begin with. */
interface Heading {
  readonly id: string;
  readonly object: string;
  /** Seconds since 1970. */
  readonly created: number;
  readonly model: string;
}

/** An answer, whole. */
export interface ApiResponse extends Heading {
  readonly choices: readonly object[];
  readonly usage: Usage;
}

/**
 * Answers a request as a whole.
 * @throws what {@link requestError} calls the request's own fault, or what ended the engine.
 */
export async function answer(
  served: Served,
  request: ApiRequest,
  signal: AbortSignal,
): Promise<ApiResponse> {
  const heading = headingOf(served, request, request.object);
  const texts = await collectTexts(continuePrompts(served.engine, request, signal), request);
  const usage = new UsageCounter(request.options.n);
  for (const [index, { metrics }] of texts.entries()) usage.add(index, metrics);
  return {
    ...heading,
    choices: texts.map((text, index) => request.choice(text, index)),
    usage: usage.total,
  };
}

/**
 * Answers a request part by part, as JSON.
 * @throws as {@link answer}; a fault of the request itself before the first part.
 */
export async function* answerInParts(
  served: Served,
  request: ApiRequest,
  signal: AbortSignal,
): AsyncGenerator<string, void, undefined> {
  const heading = JSON.stringify(headingOf(served, request, request.partObject)).slice(0, -1);
  const includeUsage = request.stream?.includeUsage === true;
  const end = includeUsage ? `],"usage":null}` : "]}";
  const toChoice = request.newParts();
  const usage = new UsageCounter(request.options.n);
  for await (const chunk of continuePrompts(served.engine, request, signal)) {
    if (chunk.metrics !== undefined) usage.add(chunk.index, chunk.metrics);
    const choice = toChoice(chunk);
    if (choice !== undefined) yield `${heading},"choices":[${JSON.stringify(choice)}${end}`;
  }
  if (includeUsage) yield `${heading},"choices":[],"usage":${JSON.stringify(usage.total)}}`;
}

function headingOf({ name }: Served, { idPrefix, model }: ApiRequest, object: string): Heading {
  return {
    id: `${idPrefix}-${randomUUID()}`,
    object,
    created: Math.floor(Date.now() / 1000),
    model: model ?? name,
  };
}
