// Decodes with random weights of full size and prints memory, speed, and the machine's reading speed as JSON. Needs a build (npm run build).
import { createRequire } from "node:module";
import os from "node:os";
import { Worker, isMainThread, parentPort, workerData } from "node:worker_threads";

const BYTES = 512 * 2 ** 20;
const MEGABYTE = 2 ** 20;

/** Bytes a second at which all cores together read memory: copies into a piece that stays in the cache. */
async function readSpeed() {
  const workers = os.cpus().map(() => new Worker(new URL(import.meta.url), { workerData: BYTES }));
  const speeds = await Promise.all(
    workers.map((worker) => new Promise((resolve) => worker.once("message", resolve))),
  );
  return speeds.reduce((sum, speed) => sum + speed, 0);
}

if (isMainThread) {
  const { HymbaModel } = createRequire(import.meta.url)("../../dist/index.js");
  const readBytesPerSecond = await readSpeed();
  const model = await HymbaModel.load("synthetic:hymba-1.5b", {
    device: "cpu",
    maxSequences: 1,
    maxContextTokens: 256,
  });
  const sequence = model.createSequence();
  const sample = { temperature: 0 };
  let [result] = await model.prefill([{ sequence, tokens: [1, 2, 3, 4], sample }]);
  const times = [];
  for (let i = 0; i < 16; i++) {
    const start = performance.now();
    [result] = await model.decode([{ sequence, token: result.token, sample }]);
    times.push(performance.now() - start);
  }
  const { weightsBytes, cacheBytes } = model.info().memory;
  console.log(
    JSON.stringify({
      weightsBytes,
      cacheBytes,
      peakBytes: process.resourceUsage().maxRSS * 1024,
      msPerToken: times.sort((a, b) => a - b)[times.length / 2],
      readBytesPerSecond,
    }),
  );
  await model.dispose();
} else {
  const from = Buffer.alloc(workerData, 1);
  const to = Buffer.alloc(MEGABYTE);
  let best = Infinity;
  for (let round = 0; round < 5; round++) {
    const start = performance.now();
    for (let offset = 0; offset < workerData; offset += MEGABYTE)
      from.copy(to, 0, offset, offset + MEGABYTE);
    best = Math.min(best, performance.now() - start);
  }
  parentPort.postMessage(workerData / (best / 1000));
}
