import type { ServerResponse } from "node:http";

/** A request that is worked on. */
export interface OpenRequest extends Disposable {
  /** Fires when its client is gone, and when the server gives it up. */
  readonly signal: AbortSignal;
}

/** Why a request ended that nobody waits for any more. */
export class ClientGone extends Error {}

/** All requests that are worked on. */
export class OpenRequests {
  readonly #controllers = new Set<AbortController>();
  #whenEmpty: (() => void) | undefined;

  /** One more, until it is disposed of. */
  open(response: ServerResponse): OpenRequest {
    const controller = new AbortController();
    const gone = (): void => {
      if (!response.writableFinished) controller.abort(new ClientGone("the client is gone"));
    };
    response.once("close", gone);
    if (response.destroyed) gone();
    this.#controllers.add(controller);
    return {
      signal: controller.signal,
      [Symbol.dispose]: () => {
        response.off("close", gone);
        this.#controllers.delete(controller);
        if (this.#controllers.size === 0) this.#whenEmpty?.();
      },
    };
  }

  /** How many there are. */
  get size(): number {
    return this.#controllers.size;
  }

  /** Waits until there is none, for so long at most; then gives up those that are left. */
  async drain(milliseconds: number, reason: Error): Promise<void> {
    if (this.size === 0) return;
    const empty = new Promise<void>((resolve) => (this.#whenEmpty = resolve));
    const timer = setTimeout(() => {
      for (const controller of this.#controllers) controller.abort(reason);
    }, milliseconds);
    await empty;
    clearTimeout(timer);
  }
}
