import type { Served } from "../openai/answer";
import type { Admission } from "./admission";
import type { EngineMetrics } from "./engine_metrics";
import type { HttpMetrics } from "./http_metrics";
import type { OpenRequests } from "./open_requests";
import type { ServerOptions } from "./options";

/** What all routes share. */
export interface ServerState {
  readonly served: Served;
  readonly options: Required<ServerOptions>;
  readonly admission: Admission;
  readonly open: OpenRequests;
  readonly engineMetrics: EngineMetrics;
  readonly httpMetrics: HttpMetrics;
  /** Of the package. */
  readonly version: string;
  /** The model is lost: nothing can be answered any more. */
  fail(error: unknown): void;
}
