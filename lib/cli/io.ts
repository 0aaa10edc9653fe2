import type { Readable, Writable } from "node:stream";

/** A stream that may be a terminal. */
type Terminal<Stream> = Stream & { readonly isTTY?: boolean };

/** What a command talks to: the process, or a test's stand-in for it. */
export interface CliIo {
  readonly stdin: Terminal<Readable>;
  readonly stdout: Terminal<Writable>;
  readonly stderr: Terminal<Writable>;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Calls the listener at the first interrupt (Ctrl-C); returns what takes the listener away. */
  onInterrupt(listener: () => void): () => void;
  /** The same for the first request to end in order (SIGTERM), which ends the process if nobody listens. */
  onTerminate(listener: () => void): () => void;
}

/** The streams and signals of this process. */
export function processIo(): CliIo {
  // A reader that goes away (`hymba … | head`) fails the write that finds out; see `write`.
  process.stdout.on("error", () => undefined);
  return {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    env: process.env,
    onInterrupt: (listener) => onSignal("SIGINT", listener),
    onTerminate(listener) {
      const release = onSignal("SIGTERM", listener);
      // A process that serves another one ends with it, however that ends.
      process.once("disconnect", listener);
      return () => {
        release();
        process.removeListener("disconnect", listener);
      };
    },
  };
}

function onSignal(name: NodeJS.Signals, listener: () => void): () => void {
  // Once: if stopping in order takes too long, the second Ctrl-C kills as it always does.
  process.once(name, listener);
  return () => process.removeListener(name, listener);
}

/** Writes and waits until the stream has taken it, so that a slow reader slows the writer. */
export function write(stream: Writable, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(text, (error) => (error ? reject(error) : resolve()));
  });
}

/** Writes one JSON line. */
export function writeJson(stream: Writable, value: unknown): Promise<void> {
  return write(stream, `${JSON.stringify(value)}\n`);
}
