import { execFile, execFileSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";

/** Folder of the package. Scripts that run in it find the package under its own name. */
export const ROOT = join(__dirname, "..", "..");

/**
 * Compiles lib/ unless dist/ is newer than all of it: other processes and threads run dist/. A GPU
 * bundle has no sources, and is compiled.
 */
export function ensureBuilt(): void {
  if (!existsSync(join(ROOT, "lib", "index.ts"))) return;
  const built = statSync(join(ROOT, "dist", "index.js"), { throwIfNoEntry: false });
  const sources = readdirSync(join(ROOT, "lib"), { recursive: true, encoding: "utf8" });
  const newest = Math.max(...sources.map((name) => statSync(join(ROOT, "lib", name)).mtimeMs));
  if (built !== undefined && built.mtimeMs > newest) return;
  const tsc = require.resolve("typescript/bin/tsc");
  execFileSync(process.execPath, [tsc, "-p", "tsconfig.build.json"], { cwd: ROOT });
}

/** How a process ended. */
export interface ScriptResult {
  /** Exit code; null when a signal, such as that of a crash, ended it. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly out: string;
  readonly err: string;
}

/** Runs a script in a Node process of its own, in the package's folder; `env` is added to ours. */
export function runScript(
  script: string,
  nodeOptions: readonly string[] = [],
  env: Readonly<Record<string, string>> = {},
) {
  return new Promise<ScriptResult>((resolve) => {
    const child = execFile(
      process.execPath,
      [...nodeOptions, "--eval", script],
      { cwd: ROOT, env: { ...process.env, ...env } },
      (_error, out, err) => {
        resolve({ code: child.exitCode, signal: child.signalCode, out, err });
      },
    );
  });
}
