import { randomUUID } from "node:crypto";
import fastify, { type FastifyReply, type FastifyRequest } from "fastify";
import type { Logger } from "pino";
import { ApiKeys } from "./api_keys";
import { addGenerationRoutes } from "./generation_routes";
import { HttpError, toHttpError } from "./http_error";
import { addInfoRoutes } from "./info_routes";
import { ClientGone } from "./open_requests";
import { watchRequests } from "./request_log";
import type { ServerState } from "./state";
import { addTokenRoutes } from "./token_routes";

/** The HTTP framework with all routes. */
export type App = ReturnType<typeof newApp>;

/** Longer than the idle time of usual balancers, so that none uses a connection that is about to end. */
const KEEP_ALIVE_MS = 75_000;

/** Within which a request must have arrived whole. */
const ARRIVAL_MS = 60_000;

function newApp(logger: Logger, bodyLimit: number) {
  return fastify({
    loggerInstance: logger,
    disableRequestLogging: true,
    bodyLimit,
    genReqId: () => randomUUID(),
    keepAliveTimeout: KEEP_ALIVE_MS,
    requestTimeout: ARRIVAL_MS,
    forceCloseConnections: "idle",
    // While the server stops, routes say so themselves.
    return503OnClosing: false,
    frameworkErrors: (error, _request, reply) => void sendError(error, reply),
  });
}

/** The server's routes, and what applies to all of them. */
export function createApp(state: ServerState, logger: Logger): App {
  const app = newApp(logger, state.options.maxBodyBytes);
  // JSON alone: a page of another site cannot send that without being allowed to.
  app.removeContentTypeParser("text/plain");
  watchRequests(app, state);
  app.addHook("onRequest", requireKey(new ApiKeys(state.options.apiKeys)));
  app.addHook("onSend", (_request, reply, _payload, done) => {
    // A whole answer that nobody reads must not stay for ever.
    reply.raw.setTimeout(state.options.stallMs, () => reply.raw.destroy());
    done();
  });
  app.setErrorHandler((error, _request, reply) => sendError(error, reply));
  app.setNotFoundHandler(() => {
    throw new HttpError(404, "there is nothing at this path, or not for this method", {
      code: "not_found",
    });
  });
  addGenerationRoutes(app, state);
  addTokenRoutes(app, state);
  addInfoRoutes(app, state);
  return app;
}

function requireKey(keys: ApiKeys) {
  return (request: FastifyRequest, reply: FastifyReply, done: () => void): void => {
    const isOpen = !keys.required || request.routeOptions.url === "/health";
    if (!isOpen && !keys.accepts(request.headers.authorization)) {
      reply.header("www-authenticate", 'Basic realm="hymba", charset="UTF-8"');
      throw new HttpError(401, "a valid API key is needed: Authorization: Bearer <key>", {
        code: "invalid_api_key",
      });
    }
    done();
  };
}

function sendError(error: unknown, reply: FastifyReply): FastifyReply {
  const told = toHttpError(error);
  if (told.status >= 500 && !(error instanceof ClientGone)) {
    reply.log.error({ err: error }, "a request failed");
  }
  if (told.retryAfter !== undefined) reply.header("retry-after", told.retryAfter);
  return reply.code(told.status).send(told.body);
}
