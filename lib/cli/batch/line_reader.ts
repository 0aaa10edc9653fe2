import { createReadStream } from "node:fs";

/** A line of a file. */
export interface FileLine {
  /** From 1. */
  readonly number: number;
  /** Without its line break. A byte order mark is left out. */
  readonly text: string;
  /** Bytes of the file up to the end of its line break. */
  readonly end: number;
  /** Whether it has a line break; only the last line may have none. */
  readonly isWhole: boolean;
}

const LINE_FEED = 0x0a;

/**
 * Reads a file line by line, with no more than one of them in memory. Only a line feed ends a line:
 * to node:readline U+2028 does too, which JSON may have in a string.
 */
export async function* readLines(path: string): AsyncGenerator<FileLine, void, undefined> {
  const decoder = new TextDecoder();
  let parts: Buffer[] = [];
  let number = 0;
  let end = 0;
  const take = (isWhole: boolean): FileLine => {
    const bytes = Buffer.concat(parts);
    parts = [];
    end += bytes.length;
    const text = decoder.decode(isWhole ? bytes.subarray(0, -1) : bytes);
    return { number: ++number, text, end, isWhole };
  };
  for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
    let begin = 0;
    for (;;) {
      const next = chunk.indexOf(LINE_FEED, begin) + 1;
      if (next === 0) break;
      parts.push(chunk.subarray(begin, next));
      yield take(true);
      begin = next;
    }
    if (begin < chunk.length) parts.push(chunk.subarray(begin));
  }
  if (parts.length > 0) yield take(false);
}
