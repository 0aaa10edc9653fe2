import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Logger } from "pino";
import { HttpError } from "../http_error";
import { Affinity } from "./affinity";
import { Worker, type WorkerOptions } from "./worker";

/** How much more than the one with the least a worker may have to do to be chosen for what it knows. */
const SLACK_SHARE = 0.5;
const SLACK_TEXTS = 4;

/** The workers of all devices. */
export class WorkerPool {
  readonly workers: readonly Worker[];
  readonly #folder: string;
  readonly #affinity = new Affinity<Worker>();

  private constructor(
    folder: string,
    devices: readonly string[],
    options: Pick<WorkerOptions, "spawn" | "logger">,
  ) {
    this.#folder = folder;
    this.workers = devices.map((device, index) => {
      const path = join(folder, `${index}.sock`);
      const onExit = (worker: Worker): void => this.#affinity.forget(worker);
      return new Worker({ ...options, device, path, onExit });
    });
  }

  /**
   * Starts a worker for each device.
   * @throws Error when one of them does not come up.
   */
  static async start(
    devices: readonly string[],
    options: { readonly spawn: WorkerOptions["spawn"]; readonly logger: Logger },
  ): Promise<WorkerPool> {
    const folder = await mkdtemp(join(tmpdir(), "hymba-"));
    const pool = new WorkerPool(folder, devices, options);
    const started = await Promise.allSettled(pool.workers.map((worker) => worker.start()));
    const failure = started.find((result) => result.status === "rejected");
    if (failure === undefined) return pool;
    await pool.stop(0);
    throw failure.reason;
  }

  /** Those that answer. */
  get ready(): readonly Worker[] {
    return this.workers.filter(({ ready }) => ready);
  }

  /**
   * Who is to work on a prompt: who knows how it begins, unless he has much more to do than the others;
   * else the one with the least.
   * @param prompt undefined: anybody.
   * @throws HttpError 503 when no worker is there.
   */
  choose(prompt: string | undefined): Worker {
    const [first, ...others] = this.ready;
    if (first === undefined) {
      throw new HttpError(503, "no device is ready", { code: "no_worker", retryAfter: 5 });
    }
    const least = others.reduce(
      (a, b) => ((b.load - a.load || b.given - a.given) < 0 ? b : a),
      first,
    );
    if (prompt === undefined) return least;
    const known = this.#affinity.find(prompt);
    const most = least.load * (1 + SLACK_SHARE) + SLACK_TEXTS;
    const chosen = known?.ready && known.load <= most ? known : least;
    this.#affinity.note(prompt, chosen);
    return chosen;
  }

  /** Ends all workers, in order if they do so within so many milliseconds. */
  async stop(graceMs: number): Promise<void> {
    await Promise.all(this.workers.map((worker) => worker.stop(graceMs)));
    await rm(this.#folder, { recursive: true, force: true });
  }
}
