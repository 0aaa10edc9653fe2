import type { App } from "./app";
import type { HttpMetrics } from "./http_metrics";
import type { ServerOptions } from "./options";

/** Logs and counts every request when it has ended, and numbers the answers. */
export function watchRequests(app: App, metrics: HttpMetrics, options: ServerOptions): void {
  app.addHook("onRequest", (request, reply, done) => {
    const begin = performance.now();
    reply.header("x-request-id", request.id);
    // Unlike Fastify's hook for the end, this one is also called when the client left.
    reply.raw.once("close", () => {
      // The path itself is the client's to choose, and may be anything.
      const route = request.routeOptions.url ?? "unknown";
      const status = reply.raw.writableFinished ? reply.raw.statusCode : "aborted";
      metrics.answered(route, status);
      reply.log.info(
        {
          ...{ method: request.method, route, status, ip: request.ip },
          ms: Math.round(performance.now() - begin),
          ...(options.logBodies && { body: request.body }),
        },
        "request",
      );
    });
    done();
  });
}
