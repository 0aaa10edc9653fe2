/** Values on their way from the engine, which never waits, to the one reader who asks for them. */
export class ChunkQueue<T> {
  readonly #values: T[] = [];
  #failure: { readonly error: unknown } | undefined;
  #reader:
    { readonly resolve: (value: T) => void; readonly reject: (error: unknown) => void } | undefined;

  /** Hands a value over. */
  push(value: T): void {
    if (this.#reader === undefined) this.#values.push(value);
    else this.#reader.resolve(value);
    this.#reader = undefined;
  }

  /** Lets this and every later call of `next` fail; values that nobody took are dropped. */
  fail(error: unknown): void {
    this.#failure ??= { error };
    this.#reader?.reject(this.#failure.error);
    this.#reader = undefined;
  }

  /** The next value, once there is one. To be awaited before it is called again. */
  async next(): Promise<T> {
    if (this.#failure !== undefined) throw this.#failure.error;
    if (this.#values.length > 0) return this.#values.shift()!;
    return new Promise((resolve, reject) => {
      this.#reader = { resolve, reject };
    });
  }
}
