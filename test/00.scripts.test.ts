import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT } from "./helpers/package";

const folder = mkdtempSync(join(tmpdir(), "hymba-scripts-"));
afterAll(() => rmSync(folder, { recursive: true }));

function start(program: string, argv: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const { status, stdout, stderr } = spawnSync(program, argv, {
    cwd: ROOT,
    encoding: "utf8",
    env: { PATH: process.env["PATH"], ...env },
  });
  return { status, stdout, stderr };
}

describe("every script", () => {
  const ofFolder = readdirSync(join(ROOT, "scripts")).filter((name) => name.endsWith(".mjs"));
  const names = [...ofFolder, "bench/publish.mjs"];

  test.each(names)("%s explains itself", (name) => {
    const { status, stdout } = start(process.execPath, [join("scripts", name), "--help"]);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^Usage: /);
  });

  test("so does the one of a GPU bundle, where there is nothing but bash", () => {
    const { status, stdout } = start("/bin/bash", ["scripts/gpu_bundle/run", "--help"], {
      PATH: "",
    });
    expect(status).toBe(0);
    expect(stdout).toMatch(/^Usage: \.\/run/);
  });
});

describe("npm run sanitize", () => {
  /** A stand-in for compute-sanitizer: notes what it is called with, finds what it is told to. */
  function sanitizer(findings: Readonly<Record<string, number>>, exitCode = 0): string {
    const cases = Object.entries(findings).map(([tool, count]) => {
      const summary =
        tool === "racecheck"
          ? `RACECHECK SUMMARY: ${count} hazards displayed (${count} errors, 0 warnings)`
          : `ERROR SUMMARY: ${count} errors`;
      return `${tool}) echo "========= ${summary}" >"$log"; ((${count})) && exit "$found" ;;`;
    });
    const file = join(folder, "compute-sanitizer");
    writeFileSync(
      file,
      `#!/bin/bash
while [[ $1 == --* ]]; do
  case $1 in --tool) tool=$2 ;; --log-file) log=$2 ;; --error-exitcode) found=$2 ;; esac
  shift 2
done
echo "$tool $HYMBA_SMALL_TESTS $HYMBA_REQUIRE_CUDA \${@: -1}" >>"${folder}/calls"
case $tool in ${cases.join(" ")} esac
exit ${exitCode}
`,
    );
    chmodSync(file, 0o755);
    return file;
  }

  const sanitize = (argv: readonly string[], env: NodeJS.ProcessEnv) =>
    start(process.execPath, ["scripts/sanitize.mjs", ...argv], env);

  test("runs every chosen file under every chosen tool and sums up", () => {
    const COMPUTE_SANITIZER = sanitizer({ memcheck: 0, racecheck: 0 });
    const argv = ["--tool", "memcheck,racecheck", "--only", "rms_norm,fuse_heads"];
    const { status, stdout } = sanitize(argv, { COMPUTE_SANITIZER });
    expect(status).toBe(0);
    expect(stdout).toMatch(
      /^ +memcheck +racecheck\nfuse_heads +clean, \d+ s +clean, \d+ s\nrms_norm +clean, .*\n$/,
    );
    const calls = start("cat", [join(folder, "calls")])
      .stdout.trim()
      .split("\n");
    expect(calls.map((call) => call.replace(ROOT, ""))).toEqual([
      "memcheck 1 1 /test/kernels/fuse_heads.test.ts",
      "racecheck 1 1 /test/kernels/fuse_heads.test.ts",
      "memcheck 1 1 /test/kernels/rms_norm.test.ts",
      "racecheck 1 1 /test/kernels/rms_norm.test.ts",
    ]);
  });

  test("fails on findings, and shows them", () => {
    const COMPUTE_SANITIZER = sanitizer({ initcheck: 0, racecheck: 3 });
    const argv = ["--tool", "initcheck,racecheck", "--only", "rms_norm"];
    const { status, stdout, stderr } = sanitize(argv, { COMPUTE_SANITIZER });
    expect(status).toBe(1);
    expect(stdout).toMatch(/rms_norm +clean, \d+ s +3 found, \d+ s/);
    expect(stderr).toContain("RACECHECK SUMMARY: 3 hazards");
  });

  test("fails on tests that fail, and on a log that says nothing", () => {
    const argv = ["--tool", "memcheck", "--only", "rms_norm"];
    const failing = sanitize(argv, { COMPUTE_SANITIZER: sanitizer({ memcheck: 0 }, 1) });
    expect(failing).toMatchObject({ status: 1, stdout: expect.stringMatching(/exit code 1/) });
    const silent = sanitize(argv, { COMPUTE_SANITIZER: sanitizer({}) });
    expect(silent).toMatchObject({ status: 1, stdout: expect.stringMatching(/no summary/) });
  });

  test.each([
    [["--tool", "leakcheck"], /no leakcheck, only memcheck/],
    [["--only", "nothing"], /no test in test\/kernels is called so: nothing/],
    [["--no-such-option"], /no-such-option/],
    [["--tool", "memcheck"], /COMPUTE_SANITIZER names no file: \/nowhere/],
  ])("%j cannot run", (argv, message) => {
    const { status, stdout, stderr } = sanitize(argv, { COMPUTE_SANITIZER: "/nowhere" });
    expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
    expect(stderr).toMatch(message);
  });
});
