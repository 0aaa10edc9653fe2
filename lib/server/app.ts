import { randomUUID } from "node:crypto";
import type { AddressInfo } from "node:net";
import fastify, { type FastifyReply, type FastifyRequest, LogController } from "fastify";
import type { Logger } from "pino";
import { ApiKeys } from "./api_keys";
import { HttpError, toHttpError } from "./http_error";
import type { HttpMetrics } from "./http_metrics";
import { ClientGone } from "./open_requests";
import type { ServerAddress, ServerOptions } from "./options";
import { watchRequests } from "./request_log";

/** The HTTP framework. */
export type App = ReturnType<typeof newApp>;

/** Longer than the idle time of usual balancers, so that none uses a connection that is about to end. */
const KEEP_ALIVE_MS = 75_000;

/** Within which a request must have arrived whole. */
const ARRIVAL_MS = 60_000;

function newApp(logger: Logger, bodyLimit: number, keys: ApiKeys) {
  return fastify({
    loggerInstance: logger,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit,
    genReqId: () => randomUUID(),
    keepAliveTimeout: KEEP_ALIVE_MS,
    requestTimeout: ARRIVAL_MS,
    forceCloseConnections: "idle",
    // While the server stops, routes say so themselves.
    return503OnClosing: false,
    // Such as a path that is not UTF-8, to which no hook applies.
    frameworkErrors: (error, request, reply) =>
      void sendError(keys.accepts(request.headers.authorization) ? error : noKeyError(), reply),
  });
}

/** The framework, with what applies to all routes. */
export function createApp(
  options: Required<ServerOptions>,
  metrics: HttpMetrics,
  logger: Logger,
): App {
  const keys = new ApiKeys(options.apiKeys);
  const app = newApp(logger, options.maxBodyBytes, keys);
  // JSON alone: a page of another site cannot send that without being allowed to.
  app.removeContentTypeParser("text/plain");
  watchRequests(app, metrics, options);
  app.addHook("onRequest", requireKey(keys));
  app.addHook("onSend", (_request, reply, _payload, done) => {
    // A whole answer that nobody reads must not stay for ever.
    reply.raw.setTimeout(options.stallMs, () => reply.raw.destroy());
    done();
  });
  app.setErrorHandler((error, _request, reply) => sendError(error, reply));
  app.setNotFoundHandler(() => {
    throw new HttpError(404, "there is nothing at this path, or not for this method", {
      code: "not_found",
    });
  });
  return app;
}

/**
 * Begins to answer.
 * @returns the URL; of a Unix socket its path.
 */
export async function listen(app: App, address: ServerAddress): Promise<string> {
  // It writes into what it is given.
  await app.listen({ ...address });
  const bound = app.server.address() as AddressInfo | string;
  if (typeof bound === "string") return bound;
  const host = bound.family === "IPv6" ? `[${bound.address}]` : bound.address;
  return `http://${host}:${bound.port}`;
}

/** For the end of an answer on its way to the client. */
const LAST_WORDS_MS = 1000;

/** Ends all connections, when all requests are answered or given up. */
export async function closeApp(app: App): Promise<void> {
  const closed = app.close();
  // What is left has been told why; whoever does not read it is cut off.
  setTimeout(() => app.server.closeAllConnections(), LAST_WORDS_MS).unref();
  await closed;
}

function requireKey(keys: ApiKeys) {
  return (request: FastifyRequest, reply: FastifyReply, done: () => void): void => {
    if (request.routeOptions.url !== "/health" && !keys.accepts(request.headers.authorization)) {
      // Browsers ask for it, as the password.
      reply.header("www-authenticate", 'Basic realm="hymba", charset="UTF-8"');
      throw noKeyError();
    }
    done();
  };
}

function noKeyError(): HttpError {
  return new HttpError(401, "a valid API key is needed: Authorization: Bearer <key>", {
    code: "invalid_api_key",
  });
}

function sendError(error: unknown, reply: FastifyReply): FastifyReply {
  const told = toHttpError(error);
  if (told.status >= 500 && !(error instanceof ClientGone)) {
    reply.log.error({ err: error }, "a request failed");
  }
  if (told.retryAfter !== undefined) reply.header("retry-after", told.retryAfter);
  return reply.code(told.status).send(told.body);
}
