import { execFileSync } from "node:child_process";
import { join } from "node:path";

/** What test/stress/decode_child.mjs prints. */
interface Report {
  readonly weightsBytes: number;
  readonly cacheBytes: number;
  readonly peakBytes: number;
  readonly msPerToken: number;
  readonly readBytesPerSecond: number;
}

// In a process of its own, whose peak memory is the model's.
const run = (): Report =>
  JSON.parse(
    execFileSync(process.execPath, [join(__dirname, "decode_child.mjs")], { encoding: "utf8" }),
  ) as Report;

test("Hymba-1.5B on the CPU: memory of the plan, weights at 30 % of the memory's speed", () => {
  const { weightsBytes, cacheBytes, peakBytes, msPerToken, readBytesPerSecond } = run();
  expect(peakBytes).toBeLessThanOrEqual(1.2 * (weightsBytes + cacheBytes));
  const weightsPerSecond = weightsBytes / (msPerToken / 1000);
  expect(weightsPerSecond / readBytesPerSecond).toBeGreaterThanOrEqual(0.3);
});
