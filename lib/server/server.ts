import type { AddressInfo } from "node:net";
import type { Logger } from "pino";
import type { Engine, EngineOptions } from "../engine/engine";
import type { HymbaModel } from "../model";
import { packageVersion } from "../package_version";
import { Admission } from "./admission";
import { type App, createApp } from "./app";
import { drainingError } from "./http_error";
import { Metrics } from "./metrics";
import { OpenRequests } from "./open_requests";
import { readServerOptions, type ServerOptions } from "./options";

/** Where a server listens: on a port of an address, or at the path of a Unix socket. */
export type ServerAddress =
  { readonly host: string; readonly port: number } | { readonly path: string };

/** Serves a model over HTTP, in OpenAI's way. */
export class HymbaServer {
  /** Resolves when the model is lost, with the reason: the server is of no use any more. */
  readonly failed: Promise<unknown>;
  readonly #app: App;
  readonly #engine: Engine;
  readonly #admission: Admission;
  readonly #open = new OpenRequests();
  #closed: Promise<void> | undefined;

  /**
   * @param model has a tokenizer, and outlives the server.
   * @param logger gets a line for every request.
   */
  constructor(
    model: HymbaModel,
    options: ServerOptions,
    logger: Logger,
    engineOptions: Omit<EngineOptions, "observer"> = {},
  ) {
    const name = options.names[0]!;
    const metrics = new Metrics(name);
    const whole = readServerOptions(options);
    this.#engine = model.createEngine({ ...engineOptions, observer: metrics });
    this.#admission = new Admission(model.limits.maxSequences + whole.maxWaiting);
    metrics.watch(this.#engine, model);
    let fail: (error: unknown) => void;
    this.failed = new Promise((resolve) => (fail = resolve));
    this.#app = createApp(
      {
        served: { model, engine: this.#engine, name },
        options: whole,
        admission: this.#admission,
        open: this.#open,
        metrics,
        version: packageVersion(),
        fail: (error) => fail(error),
      },
      logger,
    );
  }

  /**
   * Begins to answer.
   * @returns the URL; of a Unix socket its path.
   */
  async listen(address: ServerAddress): Promise<string> {
    await this.#app.listen(address);
    const bound = this.#app.server.address() as AddressInfo | string;
    if (typeof bound === "string") return bound;
    const host = bound.family === "IPv6" ? `[${bound.address}]` : bound.address;
    return `http://${host}:${bound.port}`;
  }

  /** Requests that are worked on. */
  get openRequests(): number {
    return this.#open.size;
  }

  /**
   * Takes no further requests, answers those that it has, within so many milliseconds, and gives up the
   * rest. Closing twice does nothing more.
   */
  close(graceMs: number): Promise<void> {
    this.#closed ??= this.#close(graceMs);
    return this.#closed;
  }

  async #close(graceMs: number): Promise<void> {
    this.#admission.close();
    await this.#open.drain(graceMs, drainingError());
    await this.#engine.close();
    const closed = this.#app.close();
    // What is left has been told why; whoever does not read it is cut off.
    setTimeout(() => this.#app.server.closeAllConnections(), LAST_WORDS_MS).unref();
    await closed;
  }
}

/** For the end of an answer on its way to the client. */
const LAST_WORDS_MS = 1000;
