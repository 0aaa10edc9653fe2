import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { rm } from "node:fs/promises";
import { Agent } from "node:http";
import type { Logger } from "pino";

/** Milliseconds before a worker that has died is started again; twice as many each time in a row. */
const FIRST_DELAY_MS = 500;
const LAST_DELAY_MS = 30_000;

/** Lived so long, it does not count as having died in a row. */
const STABLE_MS = 60_000;

/** What workers are made of. */
export interface WorkerOptions {
  readonly device: string;
  /** Of the Unix socket at which it is to listen. */
  readonly path: string;
  /** Starts a server there, which prints a line when it listens. */
  readonly spawn: (device: string, path: string) => ChildProcess;
  readonly logger: Logger;
  /** It died. */
  readonly onExit: (worker: Worker) => void;
}

/** A server of one device in a process of its own, which is started again when it dies. */
export class Worker {
  readonly device: string;
  readonly path: string;
  readonly agent = new Agent({ keepAlive: true, maxSockets: Infinity });
  /** Texts that it works on. */
  load = 0;
  /** Texts that it was ever given. */
  given = 0;
  readonly #options: WorkerOptions;
  #child: ChildProcess | undefined;
  #ready = false;
  #stopped = false;
  #restart: NodeJS.Timeout | undefined;
  #deaths = 0;

  constructor(options: WorkerOptions) {
    this.#options = options;
    this.device = options.device;
    this.path = options.path;
  }

  /** Whether it answers requests. */
  get ready(): boolean {
    return this.#ready;
  }

  /** Of its process, while there is one. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /**
   * Starts it for the first time, and waits until it answers.
   * @throws Error when it ends before that.
   */
  async start(): Promise<void> {
    await this.#run();
  }

  /** Ends it, in order if it does so within so many milliseconds. */
  async stop(graceMs: number): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#restart);
    const child = this.#child;
    if (child === undefined) return;
    const exit = once(child, "exit");
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), graceMs);
    await exit;
    clearTimeout(timer);
  }

  async #run(): Promise<void> {
    const { device, path, spawn, logger } = this.#options;
    const startedAt = performance.now();
    // One that was killed has left its socket.
    await rm(path, { force: true });
    if (this.#stopped) return;
    const child = spawn(device, path);
    this.#child = child;
    const exited = once(child, "exit") as Promise<[number | null, NodeJS.Signals | null]>;
    const listens = once(child.stdout!, "data").then(() => undefined);
    // Fails when there is no process at all.
    const early = await Promise.race([listens, exited]).catch((error: Error) => error);
    if (early !== undefined) {
      this.#child = undefined;
      const reason = Array.isArray(early) ? `it ended with ${early[0] ?? early[1]}` : early.message;
      throw new Error(`the worker of device ${device} did not start: ${reason}`);
    }
    child.stdout!.resume();
    this.#ready = true;
    logger.info({ device, pid: child.pid }, "a worker is ready");
    void exited.then(([code, signal]) => {
      this.#ready = false;
      this.#child = undefined;
      if (this.#stopped) return;
      logger.error({ device, code, signal }, "a worker died");
      this.#options.onExit(this);
      this.#deaths = performance.now() - startedAt > STABLE_MS ? 1 : this.#deaths + 1;
      this.#startAgain();
    });
  }

  #startAgain(): void {
    const delay = Math.min(FIRST_DELAY_MS * 2 ** (this.#deaths - 1), LAST_DELAY_MS);
    this.#restart = setTimeout(() => {
      this.#run().catch((error: Error) => {
        if (this.#stopped) return;
        this.#options.logger.error({ device: this.device }, error.message);
        this.#deaths += 1;
        this.#startAgain();
      });
    }, delay);
  }
}
