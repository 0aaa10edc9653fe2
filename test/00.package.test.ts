import { execFileSync } from "node:child_process";
import path from "node:path";
import { version } from "../package.json";
import { compileExample, exampleIn } from "./helpers/example";
import { ensureBuilt, ROOT } from "./helpers/package";

/** Runs node in the package's folder, whose own name then resolves through its `exports`. */
function node(args: readonly string[]): string {
  return execFileSync(process.execPath, args, { cwd: ROOT, encoding: "utf8", stdio: "pipe" });
}

describe("the package", () => {
  beforeAll(ensureBuilt, 120_000);

  it("can be required", () => {
    const script = `const { HymbaModel, HymbaError } = require("hymba");
      console.log(typeof HymbaModel.load, new HymbaError("ERR_BUSY", "m").code);`;
    expect(node(["-e", script])).toBe("function ERR_BUSY\n");
  });

  it("can be imported, with the same exports by name", () => {
    const script = `import * as imported from "hymba";
      import { HymbaModel } from "hymba";
      import { createRequire } from "node:module";
      const required = createRequire(import.meta.url)("hymba");
      const missing = Object.keys(required).filter((name) => imported[name] !== required[name]);
      console.log(typeof HymbaModel.load, missing);`;
    expect(node(["--input-type=module", "-e", script])).toBe("function []\n");
  });

  it("has a door to the kernels, whose example compiles and runs", () => {
    const script = compileExample(exampleIn("lib/kernels.ts"));
    expect(node(["-e", script])).toMatch(/^8\n\d[\d.e-]*\n$/);
  });

  it("shows its version and nothing of its inside", () => {
    expect(node(["-p", `require("hymba/package.json").version`])).toBe(`${version}\n`);
    expect(() => node(["-e", `require("hymba/dist/binding.js")`])).toThrow(
      "ERR_PACKAGE_PATH_NOT_EXPORTED",
    );
  });

  it("has a command that runs", () => {
    expect(node([path.join("dist", "cli", "main.js"), "--version"])).toContain(version);
  });
});
