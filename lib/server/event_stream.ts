import { once } from "node:events";
import type { OutgoingHttpHeaders, ServerResponse } from "node:http";

/** An answer that is sent as it comes, by server-sent events. */
export class EventStream {
  readonly #response: ServerResponse;
  readonly #stallMs: number;

  /** @param stallMs how long a client may read nothing of what is sent before it is cut off. */
  constructor(
    response: ServerResponse,
    { headers, stallMs }: { readonly headers: OutgoingHttpHeaders; readonly stallMs: number },
  ) {
    this.#response = response;
    this.#stallMs = stallMs;
    response.writeHead(200, {
      ...headers,
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache",
      // nginx would hold the events back.
      "x-accel-buffering": "no",
    });
  }

  /** Sends an event of one line of data. Returns whether more may be sent before {@link drained}. */
  send(data: string): boolean {
    return this.write(`data: ${data}\n\n`);
  }

  /** The same for whole events. */
  write(events: string): boolean {
    return this.#response.write(events);
  }

  /**
   * Waits until the client has read what was sent.
   * @param signal fires when it is gone.
   */
  async drained(signal: AbortSignal): Promise<void> {
    const timer = setTimeout(() => this.#response.destroy(), this.#stallMs);
    try {
      await once(this.#response, "drain", { signal });
    } finally {
      clearTimeout(timer);
    }
  }

  /** After the last event. */
  end(): void {
    this.#response.end();
  }
}
