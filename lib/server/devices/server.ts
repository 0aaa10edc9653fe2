import type { ChildProcess } from "node:child_process";
import type { FastifyReply, FastifyRequest } from "fastify";
import type { Logger } from "pino";
import { Admission } from "../admission";
import { type App, closeApp, createApp, listen } from "../app";
import { drainingError } from "../http_error";
import { HttpMetrics } from "../http_metrics";
import { OpenRequests } from "../open_requests";
import { readServerOptions, type ServerAddress, type ServerOptions } from "../options";
import { ENDPOINTS } from "../../openai/endpoint";
import { forward, getText } from "./forward";
import { mergeMetrics } from "./merge_metrics";
import { WorkerPool } from "./pool";
import { textsOf } from "./prompt";
import type { Worker } from "./worker";

/** What workers answer besides text, each as well as the others. */
const POSTS = ["/tokenize", "/detokenize"];
const GETS = ["/", "/openapi.json", "/tokenizer_info", "/v1/models", "/v1/models/*", "/version"];

/** Milliseconds that a worker has to end, when it has nothing to do any more. */
const WORKER_GRACE_MS = 10_000;

/**
 * Serves a model on several devices behind one address: each has a server in a process of its own, and
 * a request goes to the one that knows its beginning, or has the least to do.
 */
export class DevicesServer {
  readonly #app: App;
  readonly #pool: WorkerPool;
  readonly #options: Required<ServerOptions>;
  readonly #metrics: HttpMetrics;
  /** Of what is open; how much may wait is for the workers to say. */
  readonly #admission = new Admission(Infinity);
  readonly #open = new OpenRequests();
  #closed: Promise<void> | undefined;

  private constructor(pool: WorkerPool, options: ServerOptions, logger: Logger) {
    this.#pool = pool;
    this.#options = readServerOptions(options);
    this.#metrics = new HttpMetrics(options.names[0]!);
    this.#app = createApp(this.#options, this.#metrics, logger);
    this.#addRoutes();
  }

  /**
   * Starts the workers.
   * @param spawn starts the server of a device, which listens at a Unix socket and prints a line then.
   * @throws Error when one of them does not start.
   */
  static async start(
    devices: readonly string[],
    spawn: (device: string, path: string) => ChildProcess,
    options: ServerOptions,
    logger: Logger,
  ): Promise<DevicesServer> {
    const pool = await WorkerPool.start(devices, { spawn, logger });
    return new DevicesServer(pool, options, logger);
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

  /** The servers of the devices. */
  get workers(): readonly Worker[] {
    return this.#pool.workers;
  }

  /** As that of a server of one device. */
  close(graceMs: number): Promise<void> {
    this.#closed ??= this.#close(graceMs);
    return this.#closed;
  }

  async #close(graceMs: number): Promise<void> {
    this.#admission.close();
    await this.#open.drain(graceMs, drainingError());
    await closeApp(this.#app);
    await this.#pool.stop(WORKER_GRACE_MS);
  }

  #addRoutes(): void {
    const app = this.#app;
    // Bodies go on as they are.
    app.removeAllContentTypeParsers();
    app.addContentTypeParser("application/json", { parseAs: "buffer" }, (_request, body, done) =>
      done(null, body),
    );
    const onRequest = (_request: FastifyRequest, _reply: FastifyReply, done: () => void): void => {
      this.#admission.check();
      done();
    };
    for (const path of ENDPOINTS.keys()) {
      app.post(path, { onRequest }, (request, reply) => this.#generate(request, reply));
    }
    const anybody = (request: FastifyRequest, reply: FastifyReply): Promise<unknown> =>
      this.#forward(this.#pool.choose(undefined), request, reply);
    for (const path of POSTS) app.post(path, anybody);
    for (const path of GETS) app.get(path, anybody);
    app.get("/health", (_request, reply) => {
      if (this.#admission.closed) throw drainingError();
      const workers = this.#pool.workers.map(({ device, ready }) => ({ device, ready }));
      const isReady = workers.some(({ ready }) => ready);
      return reply
        .code(isReady ? 200 : 503)
        .send({ status: isReady ? "ok" : "no device is ready", workers });
    });
    app.get("/metrics", async (_request, reply) => {
      const { registry } = this.#metrics;
      const texts = [await this.#workerMetrics(), await registry.metrics()];
      return reply.type(registry.contentType).send(texts.join("\n"));
    });
  }

  async #generate(request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
    const { prompt, count } = textsOf(request.body as Buffer);
    const worker = this.#pool.choose(prompt);
    worker.load += count;
    worker.given += count;
    try {
      return await this.#forward(worker, request, reply);
    } finally {
      worker.load -= count;
    }
  }

  async #forward(worker: Worker, request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
    using open = this.#open.open(reply.raw);
    const { signal } = open;
    try {
      return await forward(worker, request, reply, { signal, stallMs: this.#options.stallMs });
    } catch (error) {
      throw signal.aborted ? signal.reason : error;
    }
  }

  /** Of those that answer; requests over HTTP are counted here. */
  async #workerMetrics(): Promise<string> {
    const texts = new Map<string, string>();
    await Promise.all(
      this.#pool.ready.map(async (worker) => {
        const text = await getText(worker, "/metrics").catch(() => "");
        texts.set(worker.device, text.replace(/^# HELP hymba_http_requests_total[^]*/m, ""));
      }),
    );
    return mergeMetrics(texts);
  }
}
