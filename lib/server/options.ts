/** Where a server listens: on a port of an address, or at the path of a Unix socket. */
export type ServerAddress =
  { readonly host: string; readonly port: number } | { readonly path: string };

/** How a server treats its clients. */
export interface ServerOptions {
  /** What the model is called; the first is what answers call it when requests do not. */
  readonly names: readonly string[];
  /** Keys, one of which requests must have; none: everybody may ask. Default none. */
  readonly apiKeys?: readonly string[];
  /** Bytes of a request's body, at most. Default 4 MiB. */
  readonly maxBodyBytes?: number;
  /** Texts that may wait beside those that run; further requests are turned away. Default 2,048. */
  readonly maxWaiting?: number;
  /** How long a client may read nothing of what it is sent, in milliseconds. Default 60,000. */
  readonly stallMs?: number;
  /** Whether bodies of requests are logged. Default false. */
  readonly logBodies?: boolean;
}

/** The options with defaults filled in. */
export function readServerOptions(options: ServerOptions): Required<ServerOptions> {
  return {
    apiKeys: [],
    maxBodyBytes: 4 * 2 ** 20,
    maxWaiting: 2048,
    stallMs: 60_000,
    logBodies: false,
    ...options,
  };
}
