import { Counter, Registry } from "prom-client";

/** Metrics of the requests over HTTP. */
export class HttpMetrics {
  readonly registry = new Registry();
  readonly #requests = new Counter({
    name: "hymba_http_requests_total",
    help: "Requests, by route, and by status or aborted where the client left.",
    labelNames: ["route", "status"],
    registers: [this.registry],
  });

  /** @param modelName label of all metrics. */
  constructor(modelName: string) {
    this.registry.setDefaultLabels({ model_name: modelName });
  }

  /** A request has ended. */
  answered(route: string, status: number | "aborted"): void {
    this.#requests.inc({ route, status });
  }
}
