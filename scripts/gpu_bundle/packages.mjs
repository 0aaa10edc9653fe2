// Copies the packages that the bundle runs, with everything that they need in turn.
import { cpSync, existsSync } from "node:fs";
import path from "node:path";
import { readJson } from "./read_json.mjs";

/**
 * @typedef {Record<string, {
 *   dependencies?: Record<string, string>,
 *   optionalDependencies?: Record<string, string>,
 * }>} LockedPackages the "packages" of package-lock.json.
 */

/** What runs there besides the package's own dependencies. */
const TEST_PACKAGES = ["jest", "fast-check", "ajv"];

/** Packages that only build, compile, or watch files. */
const LEFT_OUT = /^(cmake-js|node-addon-api|typescript|@types\/|@swc\/|@parcel\/)/;

/** Nothing that runs reads these. */
const NOT_RUN = /\.([cm]?ts|map|md|markdown|flow)$|\/zod\/src\//;

/** Copies packages from `root` to `stage`. @param {string} root @param {string} stage */
export function copyPackages(root, stage) {
  const { packages } = /** @type {{ packages: LockedPackages }} */ (
    readJson(path.join(root, "package-lock.json"))
  );
  const roots = [...Object.keys(packages[""]?.dependencies ?? {}), ...TEST_PACKAGES];
  for (const folder of dependencyClosure(packages, roots)) {
    const source = path.join(root, folder);
    // Optional ones of other platforms are locked, but not installed.
    if (!existsSync(source)) continue;
    const nested = path.join(source, "node_modules");
    cpSync(source, path.join(stage, folder), {
      recursive: true,
      filter: (file) => file !== nested && !NOT_RUN.test(file),
    });
  }
}

/**
 * Folders such as `node_modules/a/node_modules/b`.
 * @param {LockedPackages} packages @param {readonly string[]} roots names of packages.
 * @returns {string[]}
 */
function dependencyClosure(packages, roots) {
  /** @type {Set<string>} */
  const found = new Set();
  const open = roots.map((name) => ({ from: "", name }));
  for (const { from, name } of open) {
    const folder = LEFT_OUT.test(name) ? undefined : resolve(packages, from, name);
    if (folder === undefined || found.has(folder)) continue;
    found.add(folder);
    const { dependencies, optionalDependencies } = packages[folder] ?? {};
    const needed = { ...dependencies, ...optionalDependencies };
    for (const dependency of Object.keys(needed)) open.push({ from: folder, name: dependency });
  }
  return [...found].sort();
}

/**
 * Where `require(name)` in the folder `from` finds a package.
 * @param {LockedPackages} packages @param {string} from @param {string} name
 * @returns {string | undefined}
 */
function resolve(packages, from, name) {
  for (let parent = from; ; parent = parent.slice(0, parent.lastIndexOf("node_modules/"))) {
    const folder = path.posix.join(parent, "node_modules", name);
    if (folder in packages) return folder;
    if (parent === "") return undefined;
  }
}
