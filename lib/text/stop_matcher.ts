/** What {@link StopMatcher.push} found. */
export interface StopMatch {
  /** Text that is certain not to belong to a stop string, to be handed out. */
  readonly text: string;
  /** The stop string that ended the text; undefined while there is none. */
  readonly stop: string | undefined;
}

/**
 * Finds stop strings in a text that arrives in pieces.
 *
 * The text ends at the stop string that is *completed* first; of several completed by the same
 * character the longest counts, so that no part of a stop string is left in the text. How the text
 * is cut into pieces changes nothing, and only the longest end of the text that may still become a
 * stop string is held back.
 */
export class StopMatcher {
  readonly #stops: readonly string[];
  readonly #includeStop: boolean;
  #held = "";
  #found: string | undefined;

  /**
   * @param stops stop strings; none means that all text passes at once.
   * @param options.includeStop whether the text handed out ends with the stop string. Default
   * false.
   * @throws TypeError when a stop is not a string; RangeError when one is empty.
   */
  constructor(stops: readonly string[], options: { readonly includeStop?: boolean } = {}) {
    for (const stop of stops) {
      if (typeof stop !== "string") {
        throw new TypeError(`a stop must be a string, got ${typeof stop}`);
      }
      if (stop === "") throw new RangeError("a stop must not be an empty string");
    }
    this.#stops = [...stops];
    this.#includeStop = options.includeStop ?? false;
  }

  /** The stop string that was found, if any. */
  get stop(): string | undefined {
    return this.#found;
  }

  /**
   * Adds a piece of text. After a stop string was found, further text is dropped.
   * @param mayEnd whether a stop string that this piece completes ends the text; else it is text.
   */
  push(piece: string, mayEnd = true): StopMatch {
    if (this.#found !== undefined) return { text: "", stop: this.#found };
    const text = this.#held + piece;
    const match = mayEnd ? this.#firstCompleted(text) : undefined;
    if (match !== undefined) {
      this.#held = "";
      this.#found = match.stop;
      const end = this.#includeStop ? match.end : match.start;
      return { text: text.slice(0, end), stop: match.stop };
    }
    const certain = text.length - this.#possibleStopLength(text);
    this.#held = text.slice(certain);
    return { text: text.slice(0, certain), stop: undefined };
  }

  /** Returns the text held back, at the end of the text: it did not become a stop string. */
  flush(): string {
    const rest = this.#held;
    this.#held = "";
    return rest;
  }

  #firstCompleted(text: string): { start: number; end: number; stop: string } | undefined {
    let first: { start: number; end: number; stop: string } | undefined;
    for (const stop of this.#stops) {
      const start = text.indexOf(stop);
      if (start < 0) continue;
      const end = start + stop.length;
      if (!first || end < first.end || (end === first.end && start < first.start)) {
        first = { start, end, stop };
      }
    }
    return first;
  }

  /** Length of the longest end of the text that is the beginning of a stop string. */
  #possibleStopLength(text: string): number {
    let longest = 0;
    for (const stop of this.#stops) {
      for (let n = Math.min(stop.length - 1, text.length); n > longest; n--) {
        if (stop.startsWith(text.slice(text.length - n))) longest = n;
      }
    }
    return longest;
  }
}
