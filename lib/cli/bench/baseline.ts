import { readTextFile } from "../input";
import { UsageError } from "../failure";
import type { Row } from "./report";

/** What makes two rows measurements of the same, and which number is compared. */
export interface RowKind {
  readonly bench: string;
  readonly key: readonly string[];
  /** A time: less is better. */
  readonly time: string;
}

/** Rows of an earlier run. */
export class Baseline {
  readonly #kind: RowKind;
  readonly #times = new Map<string, number>();

  private constructor(kind: RowKind) {
    this.#kind = kind;
  }

  /**
   * Reads the JSON lines of an earlier run; the last of several rows of the same counts.
   * @throws HymbaError ERR_INVALID_ARGUMENT when the file cannot be read; UsageError when it holds
   * something else.
   */
  static async read(path: string, kind: RowKind): Promise<Baseline> {
    const baseline = new Baseline(kind);
    for (const [index, line] of (await readTextFile(path)).split("\n").entries()) {
      if (line.trim() === "") continue;
      const row = parseRow(line, `${path}:${index + 1}`);
      const time = row[kind.time];
      if (row["bench"] === kind.bench && typeof time === "number") {
        baseline.#times.set(baseline.#keyOf(row), time);
      }
    }
    return baseline;
  }

  /** How many times as long as before a row took; undefined when it was not measured before. */
  ratio(row: Row): number | undefined {
    const before = this.#times.get(this.#keyOf(row));
    const now = row[this.#kind.time];
    return before === undefined || typeof now !== "number" ? undefined : now / before;
  }

  #keyOf(row: Row): string {
    return JSON.stringify(this.#kind.key.map((name) => row[name] ?? null));
  }
}

function parseRow(line: string, where: string): Row {
  try {
    const row: unknown = JSON.parse(line);
    if (typeof row === "object" && row !== null) return row as Row;
  } catch {
    // The same complaint as for other JSON.
  }
  throw new UsageError(`${where} is no row of a bench: expected a JSON object a line`);
}
