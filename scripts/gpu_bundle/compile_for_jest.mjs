// Compiles lib/ and test/ the way Jest would, so that the compiler need not travel.
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

/** Not read by a test, or tests of a build that is not there. */
const LEFT_OUT = /^test\/cuda_emulator\b|\.(supp|md|d\.ts)$/;

/**
 * Copies a folder from `root` to `stage`; .ts becomes .js.
 * @param {string} root @param {string} stage @param {string} folder
 */
export function compileForJest(root, stage, folder) {
  const compile = jestCompiler(root);
  const files = readdirSync(path.join(root, folder), { recursive: true, withFileTypes: true });
  for (const file of files.filter((entry) => entry.isFile())) {
    const source = path.join(file.parentPath, file.name);
    const name = path.relative(root, source);
    if (LEFT_OUT.test(name)) continue;
    const target = path.join(stage, name);
    mkdirSync(path.dirname(target), { recursive: true });
    if (name.endsWith(".ts")) {
      writeFileSync(target.replace(/\.ts$/, ".js"), compile(readFileSync(source, "utf8"), name));
    } else {
      cpSync(source, target);
    }
  }
}

/**
 * @typedef {{ projects: { transform: Record<string, [string, object]> }[] }} JestConfig
 * @typedef {{
 *   createTransformer: (options: object) => {
 *     process(text: string, file: string, request: object): { code: string },
 *   },
 * }} TransformerModule
 */

/**
 * The transformer of jest.config.js. Its maps are inline: failures name lines of the sources.
 * @param {string} root
 * @returns {(text: string, name: string) => string}
 */
function jestCompiler(root) {
  const file = path.join(root, "jest.config.js");
  /** @type {(name: string) => unknown} */
  const require = createRequire(file);
  const { projects } = /** @type {JestConfig} */ (require(file));
  const [name, options] = projects[0]?.transform["\\.ts$"] ?? ["", {}];
  const { createTransformer } = /** @type {TransformerModule} */ (require(name));
  const transformer = createTransformer(options);
  const request = { config: { rootDir: root }, supportsStaticESM: false, instrument: false };
  return (text, file) => transformer.process(text, path.basename(file), request).code;
}
