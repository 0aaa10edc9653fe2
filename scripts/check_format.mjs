// Checks, or with --write makes, the formatting of the C++ and CUDA sources.
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const root = path.join(import.meta.dirname, "..");

/** The clang-format of the npm package, so that everybody formats alike. */
const clangFormat = path.join(
  path.dirname(createRequire(import.meta.url).resolve("clang-format/package.json")),
  "bin",
  `${process.platform}_${process.arch}`,
  "clang-format",
);

if (process.argv.includes("--help")) {
  console.log(
    "Usage: node scripts/check_format.mjs [--write]\n\n" +
      "Without --write, exits with 1 and names what .clang-format would change.",
  );
} else {
  const files = ["native", "test/cuda_emulator"].flatMap((folder) =>
    readdirSync(path.join(root, folder), { recursive: true, encoding: "utf8" })
      .filter((name) => /\.(h|cpp|cu|cuh)$/.test(name))
      .map((name) => path.join(folder, name))
      .sort(),
  );
  const mode = process.argv.includes("--write") ? ["-i"] : ["--dry-run", "--Werror"];
  const { status, error } = spawnSync(clangFormat, [...mode, ...files], {
    cwd: root,
    stdio: "inherit",
  });
  if (error !== undefined) console.error(`${clangFormat} does not run: ${error.message}`);
  process.exitCode = status ?? 1;
}
