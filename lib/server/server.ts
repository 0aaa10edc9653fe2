import type { Logger } from "pino";
import type { Engine, EngineOptions } from "../engine/engine";
import type { HymbaModel } from "../model";
import { packageVersion } from "../package_version";
import { Admission } from "./admission";
import { type App, closeApp, createApp, listen } from "./app";
import { EngineMetrics } from "./engine_metrics";
import { addGenerationRoutes } from "./generation_routes";
import { drainingError } from "./http_error";
import { HttpMetrics } from "./http_metrics";
import { addInfoRoutes } from "./info_routes";
import { OpenRequests } from "./open_requests";
import { readServerOptions, type ServerAddress, type ServerOptions } from "./options";
import { addPageRoutes } from "./page_routes";
import type { ServerState } from "./state";
import { addTokenRoutes } from "./token_routes";

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
    const engineMetrics = new EngineMetrics(name);
    const httpMetrics = new HttpMetrics(name);
    const whole = readServerOptions(options);
    this.#engine = model.createEngine({ ...engineOptions, observer: engineMetrics });
    this.#admission = new Admission(model.limits.maxSequences + whole.maxWaiting);
    engineMetrics.watch(this.#engine, model);
    let fail: (error: unknown) => void;
    this.failed = new Promise((resolve) => (fail = resolve));
    const state: ServerState = {
      served: { model, engine: this.#engine, name },
      options: whole,
      admission: this.#admission,
      open: this.#open,
      ...{ engineMetrics, httpMetrics },
      version: packageVersion(),
      fail: (error) => fail(error),
    };
    this.#app = createApp(whole, httpMetrics, logger);
    for (const addRoutes of [addGenerationRoutes, addTokenRoutes, addInfoRoutes, addPageRoutes]) {
      addRoutes(this.#app, state);
    }
  }

  /**
   * Begins to answer.
   * @returns the URL; of a Unix socket its path.
   */
  listen(address: ServerAddress): Promise<string> {
    return listen(this.#app, address);
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
    await closeApp(this.#app);
  }
}
