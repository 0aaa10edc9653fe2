import type { CliIo } from "../io";
import { colour, formatTable } from "../format";
import { write, writeJson } from "../io";
import type { Baseline } from "./baseline";

/** One measurement. Names are those of the JSON lines. */
export type Row = Readonly<Record<string, string | number | null>>;

/** A column of the table on a terminal. */
export interface Column {
  readonly title: string;
  readonly cell: (row: Row) => string;
}

/** A number from this ratio on counts as worse than before. */
const WORSE = 1.03;

/**
 * Rows of one bench: a table at the end, on a terminal; else JSON, a line as soon as it is there, so
 * that a run that is cut short has said something.
 */
export class Report {
  readonly #io: CliIo;
  readonly #asJson: boolean;
  readonly #columns: readonly Column[];
  readonly #baseline: Baseline | undefined;
  readonly #lines: string[][] = [];

  constructor(
    io: CliIo,
    options: {
      readonly json: boolean;
      readonly columns: readonly Column[];
      readonly baseline: Baseline | undefined;
    },
  ) {
    this.#io = io;
    this.#asJson = options.json || io.stdout.isTTY !== true;
    this.#columns = options.columns;
    this.#baseline = options.baseline;
  }

  /** Adds a measurement. */
  async add(row: Row): Promise<void> {
    const ratio = this.#baseline?.ratio(row);
    if (this.#asJson) {
      await writeJson(this.#io.stdout, {
        ...row,
        ...(ratio !== undefined && { ratio, worse: ratio > WORSE }),
      });
      return;
    }
    const cells = this.#columns.map(({ cell }) => cell(row));
    if (this.#baseline) cells.push(this.#formatRatio(ratio));
    this.#lines.push(cells);
  }

  /** Writes the table. */
  async finish(heading: string): Promise<void> {
    if (this.#asJson) return;
    const titles = this.#columns.map(({ title }) => title);
    if (this.#baseline) titles.push("time / before");
    await write(this.#io.stdout, `${heading}\n\n${formatTable([titles, ...this.#lines])}`);
  }

  #formatRatio(ratio: number | undefined): string {
    if (ratio === undefined) return "new";
    const text = ratio.toFixed(3);
    return ratio > WORSE ? colour(this.#io, this.#io.stdout, "red", `${text} worse`) : text;
  }
}

/** A number in a cell; what is not known is a dash. */
export function formatNumber(value: Row[string] | undefined, digits: number): string {
  if (typeof value !== "number") return value ?? "-";
  return value.toLocaleString("en-US", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

/** A share as a percentage. */
export function formatPercent(value: Row[string] | undefined): string {
  return typeof value === "number" ? `${(100 * value).toFixed(1)} %` : "-";
}

/** A column that shows a number of the row. */
export function numberColumn(title: string, name: string, digits = 0): Column {
  return { title, cell: (row) => formatNumber(row[name], digits) };
}

/** A column that shows a share of the row. */
export function percentColumn(title: string, name: string): Column {
  return { title, cell: (row) => formatPercent(row[name]) };
}

/** A column that shows a text of the row. */
export function textColumn(title: string, name: string): Column {
  return { title, cell: (row) => String(row[name] ?? "-") };
}
