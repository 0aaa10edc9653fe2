import type { OutgoingHttpHeaders } from "node:http";
import type { FastifyReply, FastifyRequest } from "fastify";
import { answer, answerInParts } from "../openai/answer";
import { type ApiRequest, type Endpoint, ENDPOINTS } from "../openai/endpoint";
import type { App } from "./app";
import { EventStream } from "./event_stream";
import { isFatal, toHttpError } from "./http_error";
import { checkModelName } from "./model_name";
import { ClientGone } from "./open_requests";
import type { ServerState } from "./state";

/** The most texts of a prompt that the engine takes; of more it says what is wrong. */
const MAX_TEXTS = 128;

/** What generates text: OpenAI's endpoints. */
export function addGenerationRoutes(app: App, state: ServerState): void {
  const onRequest = (_request: FastifyRequest, _reply: FastifyReply, done: () => void): void => {
    state.admission.check();
    done();
  };
  for (const [path, endpoint] of ENDPOINTS) {
    app.post(path, { onRequest }, (request, reply) => generate(state, endpoint, request, reply));
  }
}

async function generate(
  state: ServerState,
  endpoint: Endpoint,
  { body }: FastifyRequest,
  reply: FastifyReply,
): Promise<unknown> {
  using open = state.open.open(reply.raw);
  const { signal } = open;
  try {
    const request = await endpoint(state.served.model, body);
    checkModelName(state, request.model);
    using _places = state.admission.take(countTexts(request));
    if (request.stream === undefined) return await answer(state.served, request, signal);
    await sendParts(reply, answerInParts(state.served, request, signal), signal, state);
    return undefined;
  } catch (error) {
    throw reasonOf(error, signal, state);
  }
}

function countTexts({ prompts, options: { n = 1 } }: ApiRequest): number {
  return prompts.length * Math.min(Math.max(n, 1), MAX_TEXTS);
}

/** What a request that was given up is told is why. */
function reasonOf(error: unknown, signal: AbortSignal, state: ServerState): unknown {
  if (signal.aborted) return signal.reason;
  if (isFatal(error)) state.fail(error);
  return error;
}

async function sendParts(
  reply: FastifyReply,
  parts: AsyncGenerator<string, void, undefined>,
  signal: AbortSignal,
  state: ServerState,
): Promise<void> {
  // What is wrong with the request shows here, where a status can say so.
  let part = await parts.next();
  reply.hijack();
  const headers = reply.getHeaders() as OutgoingHttpHeaders;
  const { stallMs } = state.options;
  const stream = new EventStream(reply.raw, { headers, stallMs });
  try {
    for (; part.done !== true; part = await parts.next()) {
      // The engine goes on meanwhile: what it hands out waits as tokens, no more than were asked for.
      if (!stream.send(part.value)) await stream.drained(signal);
    }
    stream.send("[DONE]");
  } catch (error) {
    const reason = reasonOf(error, signal, state);
    if (reason instanceof ClientGone) return;
    const told = toHttpError(reason);
    reply.log.error({ err: reason }, "an answer was cut short");
    stream.send(JSON.stringify(told.body));
  } finally {
    await parts.return();
    stream.end();
  }
}
