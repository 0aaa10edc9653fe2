// Packs Node, the addon, the compiled JS and tests into one archive for GPU machines with a driver and nothing else.
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { compileForJest } from "./gpu_bundle/compile_for_jest.mjs";
import { copyPackages } from "./gpu_bundle/packages.mjs";
import { readJson } from "./gpu_bundle/read_json.mjs";

const HELP = `Usage: npm run bundle:gpu [-- --output <file>] [--without-data]

Needs a build (npm run build:native). The archive unpacks to the folder hymba-gpu-bundle; "./run" in
it says what it can do. It needs Linux with a glibc as new as this machine's, and NVIDIA's driver.

  --output <file>  default build/hymba-gpu-bundle.tar.xz
  --without-data   leave out models/ and test/golden/, for machines that have a checkout: copy or
                   link the two into the unpacked folder`;

const root = path.join(import.meta.dirname, "..");
const NAME = "hymba-gpu-bundle";
const MAX_MEBIBYTES = 60;

/** The large files. */
const DATA = ["models/hymba-tiny", "test/golden"];

/** Copied as they are; tests compare names in the two headers with ours. */
const AS_IT_IS = [
  "LICENSE",
  "build/Release/hymba.node",
  "native/core/error.h",
  "native/ops/ops.h",
  "scripts/sanitize.mjs",
  "web",
];

const pathOf = (/** @type {string} */ name) => path.join(root, name);

function main() {
  const { values } = parseArgs({
    options: {
      help: { type: "boolean" },
      output: { type: "string" },
      "without-data": { type: "boolean" },
    },
  });
  if (values.help) {
    console.log(HELP);
    return;
  }
  const output = path.resolve(values.output ?? pathOf(`build/${NAME}.tar.xz`));
  const stage = pathOf(`build/gpu-bundle/${NAME}`);
  if (!existsSync(pathOf("build/Release/hymba.node"))) {
    throw new Error("build/Release/hymba.node is missing: run `npm run build:native` first");
  }
  rmSync(stage, { recursive: true, force: true });
  mkdirSync(stage, { recursive: true });
  for (const name of AS_IT_IS) copy(name, path.join(stage, name));
  for (const name of ["run", "jest.config.mjs"]) {
    copy(`scripts/gpu_bundle/${name}`, path.join(stage, name));
  }
  copyNode(stage);
  copyPackages(root, stage);
  compilePackage(stage);
  for (const folder of ["lib", "test"]) compileForJest(root, stage, folder);
  for (const name of DATA) {
    if (values["without-data"]) rmSync(path.join(stage, name), { recursive: true, force: true });
    else copy(name, path.join(stage, name));
  }
  checkThatItRuns(stage);
  const seconds = pack(stage, output);
  const mebibytes = statSync(output).size / 2 ** 20;
  console.log(`${output}: ${mebibytes.toFixed(1)} MiB, packed in ${seconds.toFixed(0)} s`);
  if (mebibytes > MAX_MEBIBYTES) throw new Error(`that is more than ${MAX_MEBIBYTES} MiB`);
}

/** @param {string} name @param {string} target */
function copy(name, target) {
  cpSync(pathOf(name), target, { recursive: true });
}

/** This Node, and those of its libraries that are not glibc's. @param {string} stage */
function copyNode(stage) {
  const libraries = path.join(stage, "node", "lib");
  mkdirSync(libraries, { recursive: true });
  cpSync(process.execPath, path.join(stage, "node", "node"), { dereference: true });
  const needed = execFileSync("ldd", [process.execPath], { encoding: "utf8" });
  for (const [, name, file] of needed.matchAll(/(\S+) => (\/\S+)/g)) {
    if (/^(libc|libm|libdl|libpthread|librt)\.so/.test(name ?? "")) continue;
    cpSync(file ?? "", path.join(libraries, name ?? ""), { dereference: true });
  }
}

/** lib/ to dist/, which the command line runs. @param {string} stage */
function compilePackage(stage) {
  const tsc = pathOf("node_modules/typescript/bin/tsc");
  const flags = ["--declaration", "false", "--sourceMap", "false", "--inlineSources", "false"];
  const where = ["-p", "tsconfig.build.json", "--outDir", path.join(stage, "dist")];
  execFileSync(process.execPath, [tsc, ...where, ...flags], { cwd: root, stdio: "inherit" });
  const describe = ["describe", "--always", "--dirty", "--abbrev=12"];
  const gitHead = execFileSync("git", describe, { cwd: root, encoding: "utf8" }).trim();
  const manifest = /** @type {object} */ (readJson(pathOf("package.json")));
  const text = JSON.stringify({ ...manifest, gitHead }, undefined, 2);
  writeFileSync(path.join(stage, "package.json"), text);
}

/** @param {string} stage */
function checkThatItRuns(stage) {
  const script =
    "console.log(require(`${process.argv[1]}/dist/binding.js`).loadBinding().buildInfo().cuda)";
  const command = ["node", "-e", script, stage];
  const cuda = execFileSync(path.join(stage, "run"), command, { encoding: "utf8", env: {} });
  if (cuda.startsWith("none")) console.warn(`warning: the addon has no CUDA backend: ${cuda}`);
}

/** Returns the seconds it took. @param {string} stage @param {string} output */
function pack(stage, output) {
  const start = performance.now();
  mkdirSync(path.dirname(output), { recursive: true });
  const owner = ["--owner=0", "--group=0", "--numeric-owner", "--sort=name"];
  const what = ["-C", path.dirname(stage), path.basename(stage)];
  execFileSync("tar", ["-cJf", output, ...owner, ...what], {
    env: { ...process.env, XZ_OPT: "-6 -T2" },
    stdio: "inherit",
  });
  return (performance.now() - start) / 1000;
}

try {
  main();
} catch (error) {
  console.error(`error: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
