import type { Writable } from "node:stream";
import type { CliIo } from "./io";

const BYTE_UNITS = ["B", "kB", "MB", "GB", "TB"] as const;

/** Bytes in decimal units with three or four digits: `74.8 MB`. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 999.95 && unit < BYTE_UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  const digits = unit === 0 ? 0 : value < 9.995 ? 2 : 1;
  return `${value.toFixed(digits)} ${BYTE_UNITS[unit]}`;
}

/** An integer with thousands marked: `8,192`. */
export function formatCount(count: number): string {
  return Math.round(count).toLocaleString("en-US");
}

/** Tokens a second; 0 when no time has passed that could be measured. */
export function tokensPerSecond(tokens: number, milliseconds: number): number {
  return milliseconds > 0 ? (tokens * 1000) / milliseconds : 0;
}

/** Rows of text as columns; numbers are the caller's to format. Ends with a newline. */
export function formatTable(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, column) => {
      widths[column] = Math.max(widths[column] ?? 0, cell.length);
    });
  }
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd();
  return rows.map((row) => `${line(row)}\n`).join("");
}

/** Codes that switch a style on and off. `util.styleText` asks the process's own stdout. */
const STYLES = { red: [31, 39], dim: [2, 22] } as const;

/** Colours text for a terminal, and only for one; NO_COLOR switches colours off. */
export function colour(
  io: CliIo,
  stream: Writable & { readonly isTTY?: boolean },
  name: keyof typeof STYLES,
  text: string,
): string {
  if (!stream.isTTY || io.env["NO_COLOR"]) return text;
  const [on, off] = STYLES[name];
  return `\u001b[${on}m${text}\u001b[${off}m`;
}
