import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";

const INTERVAL_MS = 100;

/** Watches through nvidia-smi in which share of the time a GPU runs anything. */
export class GpuUsage implements Disposable {
  readonly #process: ChildProcess;
  readonly #closed: Promise<unknown>;
  #output = "";

  /** Begins to watch GPU 0. */
  constructor(program = "nvidia-smi") {
    this.#process = spawn(
      program,
      [
        "--query-gpu=utilization.gpu",
        "--format=csv,noheader,nounits",
        "--id=0",
        `--loop-ms=${INTERVAL_MS}`,
      ],
      { stdio: ["ignore", "pipe", "ignore"] },
    );
    this.#process.stdout!.on("data", (data) => (this.#output += String(data)));
    // Of a program that is not there, "error" is all that comes.
    this.#closed = once(this.#process, "close").catch(() => undefined);
  }

  /** Stops, and returns the share of the time that the GPU idled; null when nvidia-smi does not say. */
  async idleShare(): Promise<number | null> {
    this[Symbol.dispose]();
    await this.#closed;
    const lines = this.#output.split("\n").slice(0, -1);
    const percents = lines.map((line) => (line.trim() === "" ? NaN : Number(line)));
    const sum = percents.reduce((total, percent) => total + percent, 0);
    // Without a line, or with one that is no number, this is no number.
    const idle = 1 - sum / percents.length / 100;
    return Number.isNaN(idle) ? null : idle;
  }

  /** Stops, when nobody wants to know any more. */
  [Symbol.dispose](): void {
    this.#process.kill();
  }
}
