import { HymbaError } from "./errors";

/** The model's side of its sequences. */
export interface SequenceOwner {
  /** Gives back what the sequence holds. */
  releaseSequence(id: number): void;
  /**
   * A snapshot of the sequence, `proven` when more than one text begins with it; undefined when there
   * is no room.
   */
  snapshotSequence(id: number, proven: boolean): number | undefined;
  /** Makes the sequence a snapshot, under the same number. */
  retireSequence(id: number): void;
  /** Writes a sequence to a file. */
  saveSequence(sequence: Sequence, path: string): Promise<void>;
}

/** Gives back what a sequence held that was forgotten rather than disposed of. */
const forgotten = new FinalizationRegistry<{ owner: WeakRef<SequenceOwner>; id: number }>(
  ({ owner, id }) => owner.deref()?.releaseSequence(id),
);

/**
 * A text in a model's cache, from `model.createSequence()`. It begins after the model's meta tokens
 * and grows with every `prefill` and `decode`; there is no way back.
 */
export class Sequence {
  readonly #owner: SequenceOwner;
  readonly #id: number;
  #length: number;
  #busy = false;
  #disposed = false;

  /** @internal Sequences come from `model.createSequence()`. */
  constructor(owner: SequenceOwner, id: number, length: number) {
    this.#owner = owner;
    this.#id = id;
    this.#length = length;
    forgotten.register(this, { owner: new WeakRef(owner), id }, this);
  }

  /** Tokens so far, those of a step that runs included, and the model's meta tokens not. */
  get length(): number {
    return this.#length;
  }

  /** Whether it was disposed of, by itself or with its model. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * Gives back its part of the cache, at once or when the call that uses it has finished. Disposing
   * twice does nothing.
   */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    if (!this.#busy) this.#release();
  }

  /**
   * Saves the text so far to a file, for `model.restoreSequence`. The file has the keys, values and states
   * of the text, not its tokens: keep those, if you need them. It is written as a whole or not at all. In
   * the part of its last page that the text does not fill there may be some of what other texts had there
   * before.
   * @throws TypeError when the path is no string.
   * @throws HymbaError ERR_INVALID_ARGUMENT when there are no tokens yet, or the file cannot be written;
   * ERR_BUSY, ERR_DISPOSED.
   */
  async save(path: string): Promise<void> {
    await this.#owner.saveSequence(this, path);
  }

  /** The same as {@link Sequence.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal Whether it belongs to a model. */
  belongsTo(owner: SequenceOwner): boolean {
    return this.#owner === owner;
  }

  /**
   * @internal Reserves it for a call, until `leave`.
   * @throws HymbaError ERR_DISPOSED, ERR_BUSY.
   */
  enter(): void {
    if (this.#disposed) throw new HymbaError("ERR_DISPOSED", "the sequence was disposed");
    if (this.#busy) {
      throw new HymbaError(
        "ERR_BUSY",
        "the sequence is in use by a call that has not finished: await it first",
      );
    }
    this.#busy = true;
  }

  /** @internal Its native id. */
  get id(): number {
    return this.#id;
  }

  /**
   * @internal A snapshot of what it is now, `proven` when more than one text begins with it;
   * undefined when there is no room for one.
   */
  snapshot(proven: boolean): number | undefined {
    return this.#owner.snapshotSequence(this.#id, proven);
  }

  /**
   * @internal Disposes of it, but for a snapshot that takes its place; undefined when there is
   * nothing to go on from, or a call uses it.
   */
  retire(): number | undefined {
    if (this.#disposed || this.#busy || this.#length === 0) {
      this.dispose();
      return undefined;
    }
    this.#disposed = true;
    forgotten.unregister(this);
    this.#owner.retireSequence(this.#id);
    return this.#id;
  }

  /** @internal Notes tokens that a step takes. */
  advance(tokens: number): void {
    this.#length += tokens;
  }

  /** @internal Ends a call's use. */
  leave(): void {
    this.#busy = false;
    if (this.#disposed) this.#release();
  }

  #release(): void {
    forgotten.unregister(this);
    this.#owner.releaseSequence(this.#id);
  }
}
