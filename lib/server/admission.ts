import { drainingError, HttpError } from "./http_error";

/** Seconds after which some of the texts will have ended. */
const RETRY_SECONDS = 1;

/** Counts the texts that the server works on, and turns away those that it has no place for. */
export class Admission {
  readonly #places: number;
  #taken = 0;
  #closed = false;

  /** @param places texts that run or wait, at most. */
  constructor(places: number) {
    this.#places = places;
  }

  /** Places taken. */
  get taken(): number {
    return this.#taken;
  }

  /** From now on nobody comes in. */
  close(): void {
    this.#closed = true;
  }

  /** Whether `close` was called. */
  get closed(): boolean {
    return this.#closed;
  }

  /**
   * Before anything of a request has been read.
   * @throws HttpError 429 when no place is free, 503 when the server is stopping.
   */
  check(): void {
    if (this.#closed) throw drainingError();
    if (this.#taken >= this.#places) throw this.#fullError();
  }

  /**
   * Takes places for so many texts, until what is returned is disposed of.
   * @throws HttpError as {@link check}; 400 when there are not as many places at all.
   */
  take(texts: number): Disposable {
    this.check();
    if (texts > this.#places) {
      throw new HttpError(
        400,
        `the request asks for ${texts} texts, of which the server has ${this.#places} at most`,
      );
    }
    if (this.#taken + texts > this.#places) throw this.#fullError();
    this.#taken += texts;
    return { [Symbol.dispose]: () => void (this.#taken -= texts) };
  }

  #fullError(): HttpError {
    return new HttpError(429, "the server has as much to do as it takes: ask again", {
      code: "rate_limit_exceeded",
      retryAfter: RETRY_SECONDS,
    });
  }
}
