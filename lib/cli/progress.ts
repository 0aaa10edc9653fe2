import { SingleBar } from "cli-progress";
import type { CliIo } from "./io";

/** Work shorter than this needs no bar. */
const DELAY_MS = 2000;

/** A progress bar on stderr: only on a terminal, and only once the work has taken two seconds. */
export class Progress {
  readonly #io: CliIo;
  readonly #startedAt = performance.now();
  #bar: SingleBar | undefined;

  constructor(io: CliIo) {
    this.#io = io;
  }

  /** @param fraction how much is done, 0 to 1. */
  update(stage: string, fraction: number): void {
    if (!this.#io.stderr.isTTY) return;
    if (!this.#bar) {
      if (performance.now() - this.#startedAt < DELAY_MS) return;
      this.#bar = new SingleBar({
        format: "{stage} [{bar}] {percentage}%",
        stream: this.#io.stderr,
        clearOnComplete: true,
        hideCursor: true,
      });
      this.#bar.start(1, fraction, { stage });
    }
    this.#bar.update(fraction, { stage });
  }

  /** Takes the bar away. */
  stop(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }
}
