import type { App } from "./app";
import { checkModelName } from "./model_name";
import { drainingError } from "./http_error";
import type { ServerState } from "./state";

/** What the server and its model are, and how they are. */
export function addInfoRoutes(app: App, state: ServerState): void {
  const { model } = state.served;
  const created = Math.floor(Date.now() / 1000);
  const describe = (id: string): object => ({
    ...{ id, object: "model", created, owned_by: "hymba" },
    ...{ root: state.served.name, parent: null, max_model_len: model.limits.maxContextTokens },
  });

  app.get("/health", () => {
    if (state.admission.closed) throw drainingError();
    // Fails when the device is lost.
    const { device, dtype } = model.info();
    return { status: "ok", device: device.kind, dtype };
  });
  app.get("/version", () => ({ version: state.version }));
  app.get("/v1/models", () => ({ object: "list", data: state.options.names.map(describe) }));
  // Names may have slashes.
  app.get<{ Params: { "*": string } }>("/v1/models/*", ({ params }) => {
    const name = params["*"];
    checkModelName(state, name);
    return describe(name);
  });
  app.get("/metrics", async (_request, reply) => {
    const registries = [state.engineMetrics.registry, state.httpMetrics.registry];
    const texts = await Promise.all(registries.map((registry) => registry.metrics()));
    return reply.type(registries[0]!.contentType).send(texts.join("\n"));
  });
}
