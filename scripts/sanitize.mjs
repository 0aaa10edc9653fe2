// Runs the kernel tests at small shapes under compute-sanitizer, each file and tool in a process of its own.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";

const TOOLS = ["memcheck", "racecheck", "initcheck", "synccheck"];

const HELP = `Usage: npm run sanitize [-- options], or ./run sanitize [options] in a GPU bundle

  --tool <names>  of ${TOOLS.join(", ")}; commas between them (default: all)
  --only <texts>  test files whose name contains one of these; commas between them

compute-sanitizer comes with the CUDA toolkit. It is looked for in COMPUTE_SANITIZER, the PATH,
CUDA_HOME, CUDA_PATH and /usr/local/cuda. Logs go to build/sanitize/. Exits with 1 when a tool finds
something or a test fails, 2 when nothing could be run.`;

const root = path.join(import.meta.dirname, "..");

/** In a GPU bundle everything is compiled. */
const isBundle = existsSync(path.join(root, "jest.config.mjs"));

const TESTS = path.join(root, "test", "kernels");

/** What says how a run went: the number of errors, or of hazards. */
const SUMMARY = /ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard/g;

/** The exit code that stands for findings; Jest has 1. */
const FOUND = 86;

/** @returns {string} */
function findSanitizer() {
  const { COMPUTE_SANITIZER, CUDA_HOME, CUDA_PATH, PATH = "" } = process.env;
  const folders = [
    ...PATH.split(":"),
    ...[CUDA_HOME, CUDA_PATH, "/usr/local/cuda"].map((home) => path.join(home ?? "", "bin")),
  ];
  const inFolders = folders.map((folder) => path.join(folder, "compute-sanitizer"));
  const candidates = COMPUTE_SANITIZER ? [COMPUTE_SANITIZER] : inFolders;
  const found = candidates.find((file) => path.isAbsolute(file) && existsSync(file));
  if (found !== undefined) return found;
  throw new Error(
    COMPUTE_SANITIZER
      ? `COMPUTE_SANITIZER names no file: ${COMPUTE_SANITIZER} (the whole path is needed)`
      : "compute-sanitizer is not there: install the CUDA toolkit, or name it in COMPUTE_SANITIZER",
  );
}

/** @param {string | undefined} names @returns {string[]} */
function chooseTools(names) {
  const chosen = names?.split(",") ?? TOOLS;
  const unknown = chosen.find((name) => !TOOLS.includes(name));
  if (unknown !== undefined) {
    throw new Error(`--tool: there is no ${unknown}, only ${TOOLS.join(", ")}`);
  }
  return chosen;
}

/** @param {string | undefined} only @returns {string[]} */
function chooseTests(only) {
  const parts = only?.split(",") ?? [""];
  const all = existsSync(TESTS) ? readdirSync(TESTS) : [];
  const tests = all
    .filter((name) => /\.test\.[jt]s$/.test(name) && parts.some((part) => name.includes(part)))
    .sort();
  if (tests.length === 0) throw new Error(`no test in test/kernels is called so: ${only}`);
  return tests;
}

/**
 * Runs one test file under one tool.
 * @param {string} sanitizer @param {string} tool @param {string} test
 * @returns {{ ok: boolean, text: string }}
 */
function runOne(sanitizer, tool, test) {
  const log = path.join(root, "build", "sanitize", `${test}.${tool}.log`);
  const jest = path.join(root, "node_modules", "jest", "bin", "jest.js");
  const config = path.join(root, isBundle ? "jest.config.mjs" : "jest.config.js");
  rmSync(log, { force: true });
  const start = performance.now();
  const { status, error, stdout } = spawnSync(
    sanitizer,
    [
      ...["--tool", tool, "--error-exitcode", String(FOUND), "--print-limit", "50"],
      ...["--log-file", log, process.execPath, jest, "--config", config, "--rootDir", root],
      ...["--selectProjects", "unit", "--runInBand", "--testTimeout", "600000"],
      path.join(TESTS, test),
    ],
    {
      env: { ...process.env, HYMBA_SMALL_TESTS: "1", HYMBA_REQUIRE_CUDA: "1" },
      encoding: "utf8",
      stdio: ["ignore", "pipe", "inherit"],
      maxBuffer: 2 ** 28,
    },
  );
  if (error !== undefined) throw new Error(`${sanitizer} does not run: ${error.message}`);
  const report = existsSync(log) ? readFileSync(log, "utf8") : "";
  const summaries = [...report.matchAll(SUMMARY)];
  const findings = summaries.reduce(
    (sum, [, errors, hazards]) => sum + Number(errors ?? hazards),
    0,
  );
  const seconds = `${((performance.now() - start) / 1000).toFixed(0)} s`;
  if (status === 0 && summaries.length > 0 && findings === 0) {
    return { ok: true, text: `clean, ${seconds}` };
  }
  // The tool's own words, or else those of the tests.
  console.error(findings > 0 ? report : `${stdout}\n${report}`);
  if (findings > 0) return { ok: false, text: `${findings} found, ${seconds}` };
  const reason = status === 0 ? "no summary" : `exit code ${status}`;
  return { ok: false, text: `${reason}, ${seconds}` };
}

function main() {
  const { values } = parseArgs({
    options: { help: { type: "boolean" }, tool: { type: "string" }, only: { type: "string" } },
  });
  if (values.help) {
    console.log(HELP);
    return;
  }
  const tools = chooseTools(values.tool);
  const tests = chooseTests(values.only);
  const sanitizer = findSanitizer();
  mkdirSync(path.join(root, "build", "sanitize"), { recursive: true });
  const table = [["", ...tools]];
  for (const test of tests) {
    const row = [test.replace(/\.test\.[jt]s$/, "")];
    for (const tool of tools) {
      console.error(`${tool}: ${test}`);
      const { ok, text } = runOne(sanitizer, tool, test);
      if (!ok) process.exitCode = 1;
      row.push(text);
    }
    table.push(row);
  }
  const widths = ["", ...tools].map((_, i) => Math.max(...table.map((row) => row[i]?.length ?? 0)));
  for (const row of table) {
    console.log(
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join("  ")
        .trimEnd(),
    );
  }
}

try {
  main();
} catch (error) {
  console.error(`error: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 2;
}
