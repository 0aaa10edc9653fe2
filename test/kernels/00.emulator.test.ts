import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";

// Kernels are tested without a GPU by test/cuda_emulator (`npm run build:emulated`). What the emulator says is worth as
// much as the emulator is, so it comes first.

const buildFolder =
  process.env["HYMBA_PREBUILD"] ?? path.join(__dirname, "..", "..", "build", "emulated");
const selftest = path.join(buildFolder, "emulator_selftest");

(existsSync(selftest) ? describe : describe.skip)("the CUDA emulator", () => {
  test.each([1, 2, 3])("finds what it should, whatever the order of threads (seed %i)", (seed) => {
    const { status, stdout } = spawnSync(selftest, {
      encoding: "utf8",
      env: { ...process.env, HYMBA_EMULATOR_SEED: String(seed) },
    });
    expect({ status, stdout }).toEqual({ status: 0, stdout: "" });
  });
});
