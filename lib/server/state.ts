import type { Served } from "../openai/answer";
import type { Admission } from "./admission";
import type { Metrics } from "./metrics";
import type { OpenRequests } from "./open_requests";
import type { ServerOptions } from "./options";

/** What all routes share. */
export interface ServerState {
  readonly served: Served;
  readonly options: Required<ServerOptions>;
  readonly admission: Admission;
  readonly open: OpenRequests;
  readonly metrics: Metrics;
  /** Of the package. */
  readonly version: string;
  /** The model is lost: nothing can be answered any more. */
  fail(error: unknown): void;
}
