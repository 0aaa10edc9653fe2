import { type FileHandle, open } from "node:fs/promises";
import { z } from "zod";
import { HymbaError } from "../../errors";
import type { ErrorBody } from "../../openai/api_error";
import type { ApiResponse } from "../../openai/answer";
import type { BatchLine } from "./input";
import { readLines } from "./line_reader";

/** A line of the output, as OpenAI writes it. */
export interface OutputLine {
  readonly id: `${typeof ID_PREFIX}${string}`;
  /** null when the line of the input has none. */
  readonly custom_id: string | null;
  readonly response: {
    readonly status_code: number;
    readonly request_id: string;
    readonly body: ApiResponse | ErrorBody;
  } | null;
  /** What is wrong with the line itself. */
  readonly error: {
    readonly code: string;
    readonly message: string;
    readonly param: string | null;
    /** Of the input, from 1. */
    readonly line: number;
  } | null;
}

/** What every id begins with. */
export const ID_PREFIX = "batch_req_";

/** What every line begins with: the id is its first field. */
const LINE_PREFIX = `{"id":"${ID_PREFIX}`;

const schema = z
  .object({
    id: z.string().startsWith(ID_PREFIX),
    custom_id: z.string().nullable(),
    response: z.object({ status_code: z.int() }).nullable(),
    error: z.object({ line: z.int() }).nullable(),
  })
  .refine(({ custom_id, error }) => custom_id !== null || error !== null);

type Done = z.infer<typeof schema>;

/**
 * The output of a batch: a file that whole lines are added to. What has been added is on the disk, and
 * who is killed while adding leaves a last line without its end, which is cut off when the file is
 * opened the next time.
 */
export class BatchOutput {
  readonly #file: FileHandle;
  readonly #customIds = new Set<string>();
  /** Lines of the input that have no custom_id. */
  readonly #numbers = new Set<number>();
  #failed = 0;
  #lines: string[] = [];
  #writing: Promise<void> = Promise.resolve();
  /** The write that takes the lines. */
  #next: Promise<void> | undefined;

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  /**
   * Opens a file to go on with, or makes it.
   * @throws HymbaError ERR_INVALID_ARGUMENT when it cannot be opened, or holds something else.
   */
  static async open(path: string): Promise<BatchOutput> {
    let file: FileHandle;
    try {
      file = await open(path, "a");
    } catch (cause) {
      const reason = (cause as Error).message;
      throw new HymbaError("ERR_INVALID_ARGUMENT", `cannot write the output: ${reason}`, { cause });
    }
    const output = new BatchOutput(file);
    try {
      await output.#resume(path);
    } catch (error) {
      await file.close();
      throw error;
    }
    return output;
  }

  /** How many lines there are. */
  get done(): number {
    return this.#customIds.size + this.#numbers.size;
  }

  /** How many of them tell of a failure. */
  get failed(): number {
    return this.#failed;
  }

  /** Whether the file has the answer to a line. */
  has({ customId, number }: BatchLine): boolean {
    return customId === undefined ? this.#numbers.has(number) : this.#customIds.has(customId);
  }

  /** Adds a line, and returns when it is on the disk. */
  async add(line: OutputLine): Promise<void> {
    this.#lines.push(`${JSON.stringify(line)}\n`);
    // Those that come while others are written share the next write.
    this.#next ??= this.#writing = this.#writing.then(() => this.#write());
    await this.#next;
    this.#note(line);
  }

  /** Closes the file. */
  async close(): Promise<void> {
    await this.#file.close();
  }

  async #write(): Promise<void> {
    const lines = this.#lines.join("");
    this.#lines = [];
    this.#next = undefined;
    await this.#file.appendFile(lines);
    await this.#file.datasync();
  }

  /** Reads what is done, and cuts off what is not. */
  async #resume(path: string): Promise<void> {
    let end = 0;
    for await (const line of readLines(path)) {
      const isOurs = LINE_PREFIX.startsWith(line.text.slice(0, LINE_PREFIX.length));
      const done = line.isWhole ? parseDone(line.text) : undefined;
      if (!isOurs || (line.isWhole && done === undefined)) {
        throw new HymbaError(
          "ERR_INVALID_ARGUMENT",
          `${path}:${line.number} is not the output of a batch: name another file, or remove it`,
        );
      }
      if (done === undefined) break;
      this.#note(done);
      end = line.end;
    }
    await this.#file.truncate(end);
  }

  #note({ custom_id, response, error }: Done): void {
    if (custom_id !== null) this.#customIds.add(custom_id);
    else this.#numbers.add(error!.line);
    if (response?.status_code !== 200) this.#failed += 1;
  }
}

function parseDone(text: string): Done | undefined {
  try {
    return schema.parse(JSON.parse(text));
  } catch {
    return undefined;
  }
}
