// Turns rows of `hymba bench` into docs/benchmarks: the rows as an array, and a chart of them.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { decodeChart } from "./decode_chart.mjs";
import { prefillChart } from "./prefill_chart.mjs";
import { DECODE, PREFILL, readRows, shortName } from "./rows.mjs";

const HELP = `Usage: npm run bench:publish -- <decode|prefill> <rows.jsonl...> [--output <folder>]

Reads JSON lines of "hymba bench decode" or "hymba bench prefill", measured on one device with
synthetic:hymba-1.5b in bfloat16. Rows of other benches are passed over; of several rows of the same
case the last counts. Writes <device>-<bench>.json and .svg.

  --output <folder>  default docs/benchmarks

Examples:
  $ hymba bench decode --model synthetic:hymba-1.5b --batch 1,8,32,128,256 --json > rows.jsonl
  $ npm run bench:publish -- decode rows.jsonl
  $ npm run bench:publish -- prefill monday.jsonl tuesday.jsonl`;

const root = path.join(import.meta.dirname, "..", "..");

function main() {
  const { values, positionals } = parseArgs({
    options: { help: { type: "boolean" }, output: { type: "string" } },
    allowPositionals: true,
  });
  if (values.help) {
    console.log(HELP);
    return;
  }
  const [bench = "nothing", ...names] = positionals;
  if (names.length === 0) throw new Error("expected a bench and files with its rows; see --help");
  const files = names.map((name) => ({ name, text: readFileSync(name, "utf8") }));
  const { device, rows, svg } = draw(bench, files);
  const folder = path.resolve(values.output ?? path.join(root, "docs", "benchmarks"));
  mkdirSync(folder, { recursive: true });
  const base = path.join(folder, `${shortName(device)}-${bench}`);
  writeFileSync(`${base}.json`, `${JSON.stringify(rows, undefined, 2)}\n`);
  writeFileSync(`${base}.svg`, svg);
  console.log(`${base}.json and .svg: ${rows.length} rows, ${device}`);
}

/** @param {string} bench @param {readonly import("./rows.mjs").File[]} files */
function draw(bench, files) {
  switch (bench) {
    case DECODE.name: {
      const { device, rows } = readRows(DECODE, files);
      return { device, rows, svg: decodeChart(rows, device) };
    }
    case PREFILL.name: {
      const { device, rows } = readRows(PREFILL, files);
      return { device, rows, svg: prefillChart(rows, device) };
    }
    default:
      throw new Error(`expected decode or prefill, found ${bench}`);
  }
}

try {
  main();
} catch (error) {
  console.error(`error: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
