import { type IncomingMessage, type OutgoingHttpHeaders, request } from "node:http";
import { buffer } from "node:stream/consumers";
import type { FastifyReply, FastifyRequest } from "fastify";
import { EventStream } from "../event_stream";
import { HttpError, toHttpError } from "../http_error";
import { ClientGone } from "../open_requests";
import type { Worker } from "./worker";

/** Headers of a worker's answer that are the client's, too. */
const HEADERS = [
  "content-type",
  "retry-after",
  "content-security-policy",
  "x-content-type-options",
];

function diedError(cause: unknown): HttpError {
  return new HttpError(503, "the device that worked on the request is gone: ask again", {
    ...{ code: "worker_died", retryAfter: 1, cause },
  });
}

/** Has a worker answer a request. */
export async function forward(
  worker: Worker,
  { method, url, body }: Pick<FastifyRequest, "method" | "url" | "body">,
  reply: FastifyReply,
  { signal, stallMs }: { readonly signal: AbortSignal; readonly stallMs: number },
): Promise<unknown> {
  const answer = await ask(worker, { method, url, body: body as Buffer | undefined }, signal);
  for (const name of HEADERS) {
    const value = answer.headers[name];
    if (value !== undefined) reply.header(name, value);
  }
  if (!answer.headers["content-type"]?.startsWith("text/event-stream")) {
    const whole = await buffer(answer).catch((error: unknown) => {
      throw diedError(error);
    });
    return reply.code(answer.statusCode!).send(whole);
  }
  reply.hijack();
  const headers = reply.getHeaders() as OutgoingHttpHeaders;
  const stream = new EventStream(reply.raw, { headers, stallMs });
  try {
    for await (const events of wholeEvents(answer)) {
      if (!stream.write(events)) await stream.drained(signal);
    }
  } catch (error) {
    const reason: unknown = signal.aborted ? signal.reason : diedError(error);
    if (!(reason instanceof ClientGone)) stream.send(JSON.stringify(toHttpError(reason).body));
  } finally {
    answer.destroy();
    stream.end();
  }
  return undefined;
}

/** The text of a worker's answer to a GET. */
export async function getText(worker: Worker, url: string): Promise<string> {
  const signal = AbortSignal.timeout(5000);
  const answer = await ask(worker, { method: "GET", url, body: undefined }, signal);
  return (await buffer(answer)).toString();
}

function ask(
  { path: socketPath, agent }: Worker,
  { method, url, body }: { method: string; url: string; body: Buffer | undefined },
  signal: AbortSignal,
): Promise<IncomingMessage> {
  const headers =
    body === undefined
      ? {}
      : { "content-type": "application/json", "content-length": body.byteLength };
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath, agent, method, path: url, headers, signal }, resolve);
    asked.on("error", (error) => reject(diedError(error)));
    asked.end(body);
  });
}

/** What arrives, up to the end of an event: one that is cut off is of no use to anybody. */
async function* wholeEvents(answer: IncomingMessage): AsyncGenerator<string, void, undefined> {
  answer.setEncoding("utf8");
  let rest = "";
  for await (const chunk of answer as AsyncIterable<string>) {
    const text = rest + chunk;
    const end = text.lastIndexOf("\n\n") + 1;
    rest = end === 0 ? text : text.slice(end + 1);
    if (end > 0) yield text.slice(0, end + 1);
  }
}
