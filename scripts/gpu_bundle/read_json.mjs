// Reads JSON as `unknown`, so that whoever reads says what is expected.
import { readFileSync } from "node:fs";

/** @param {string} file @returns {unknown} */
export function readJson(file) {
  return JSON.parse(readFileSync(file, "utf8"));
}
