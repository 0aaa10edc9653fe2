// Checks who may include whom: the layers of native/, and lib/ apart from lib/cli, test and scripts.
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

/** A directory of native/ → the directories whose headers it may include. @type {Record<string, string[]>} */
const NATIVE_LAYERS = {
  core: ["core"],
  ops: ["core", "ops"],
  cache: ["core", "cache"],
  model: ["core", "ops", "cache", "model"],
  cpu: ["core", "ops", "cpu"],
  cuda: ["core", "ops", "cuda"],
  addon: ["core", "ops", "cache", "model", "cpu", "cuda", "addon"],
};

/** Headers from outside that one layer alone may see. */
const OWNED_HEADERS = [
  { layer: "addon", headers: /^(napi|node_api|js_native_api|uv|node|v8)\b/ },
  {
    layer: "cuda",
    headers: /^(cuda|cub\/|cute\/|cutlass\/|cooperative_groups|mma\.h|nv[a-z]*\.h|thrust\/)/,
  },
];

const INCLUDE = /^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]/gm;
const IMPORT = /\b(?:from|import|require)\b\s*\(?\s*(["'])([^"'\n]+)\1/g;

/**
 * The violations among some files, one sentence each.
 * @param {readonly { path: string, text: string }[]} files paths relative to the repository's root.
 * @returns {string[]}
 */
export function findViolations(files) {
  return files.flatMap((file) => {
    const [top] = file.path.split("/");
    const check = top === "native" ? checkInclude : top === "lib" ? checkImport : undefined;
    if (check === undefined) return [];
    return [...file.text.matchAll(top === "native" ? INCLUDE : IMPORT)].flatMap((match) => {
      const problem = check(file.path, match[2] ?? "", match[1] === "<");
      const line = file.text.slice(0, match.index).split("\n").length;
      return problem === undefined ? [] : [`${file.path}:${line}: ${problem}`];
    });
  });
}

/**
 * @param {string} from @param {string} header @param {boolean} isSystem
 * @returns {string | undefined}
 */
function checkInclude(from, header, isSystem) {
  const layer = from.split("/")[1] ?? "";
  const allowed = NATIVE_LAYERS[layer];
  if (allowed === undefined) return `native/${layer} is no known layer`;
  const owner = OWNED_HEADERS.find(({ headers }) => isSystem && headers.test(header));
  if (owner !== undefined) {
    return owner.layer === layer ? undefined : `only ${owner.layer} may include <${header}>`;
  }
  if (isSystem) return undefined;
  const target = header.split("/")[0] ?? "";
  if (NATIVE_LAYERS[target] === undefined) {
    return `"${header}" does not start with a layer: include paths are relative to native/`;
  }
  return allowed.includes(target) ? undefined : `${layer} may not include "${header}"`;
}

/**
 * @param {string} from @param {string} specifier
 * @returns {string | undefined}
 */
function checkImport(from, specifier) {
  if (!specifier.startsWith(".")) return undefined;
  const target = path.posix.join(path.posix.dirname(from), specifier);
  if (!target.startsWith("lib/") && target !== "package.json") {
    return `lib may not import "${specifier}", which is outside of it`;
  }
  if (target.startsWith("lib/cli/") && !from.startsWith("lib/cli/")) {
    return `only lib/cli may import "${specifier}"`;
  }
  return undefined;
}

/** @param {string} root @returns {{ path: string, text: string }[]} */
function readSources(root) {
  return ["native", "lib"].flatMap((top) =>
    readdirSync(path.join(root, top), { recursive: true, encoding: "utf8" })
      .filter((name) => /\.(ts|h|hpp|cpp|cu|cuh|in)$/.test(name))
      .map((name) => path.posix.join(top, name))
      .map((name) => ({ path: name, text: readFileSync(path.join(root, name), "utf8") })),
  );
}

function main() {
  if (process.argv.includes("--help")) {
    console.log("Usage: node scripts/check_includes.mjs\n\nExits with 1 and one line a violation.");
    return;
  }
  const violations = findViolations(readSources(path.join(import.meta.dirname, "..")));
  for (const violation of violations) console.error(violation);
  process.exitCode = violations.length > 0 ? 1 : 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main();
