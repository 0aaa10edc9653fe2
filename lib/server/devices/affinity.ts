import { createHash } from "node:crypto";

/** Lengths, in characters, at which beginnings of prompts are remembered. */
const LENGTHS = [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384];

/** Beginnings that are remembered; the one that was of use least recently goes first. */
const MOST = 50_000;

/**
 * Remembers who worked on which beginnings of prompts: there the prefix cache has them. A beginning is
 * known by a hash, at a few lengths.
 */
export class Affinity<Worker> {
  /** Oldest first. */
  readonly #workers = new Map<string, Worker>();

  /** Who worked on the longest known beginning of a prompt. */
  find(prompt: string): Worker | undefined {
    for (const key of keysOf(prompt).reverse()) {
      const worker = this.#workers.get(key);
      if (worker !== undefined) return worker;
    }
    return undefined;
  }

  /** A worker works on a prompt. */
  note(prompt: string, worker: Worker): void {
    for (const key of keysOf(prompt)) {
      this.#workers.delete(key);
      this.#workers.set(key, worker);
    }
    for (const key of this.#workers.keys()) {
      if (this.#workers.size <= MOST) break;
      this.#workers.delete(key);
    }
  }

  /** A worker has lost what it knew. */
  forget(worker: Worker): void {
    for (const [key, known] of this.#workers) if (known === worker) this.#workers.delete(key);
  }
}

function keysOf(prompt: string): string[] {
  const hash = createHash("sha256");
  const keys: string[] = [];
  let begin = 0;
  for (const length of LENGTHS) {
    if (prompt.length < length) break;
    hash.update(prompt.slice(begin, length));
    keys.push(hash.copy().digest("base64"));
    begin = length;
  }
  return keys;
}
