import { ensureBuilt, runScript } from "../helpers/package";

// What is counted is the memory that the process has to itself (RssAnon): what it maps of files, half
// of its resident set, comes and goes with what else the machine does. Two allocators are kept from
// growing by megabytes when they see fit: the young generation of the JavaScript heap, and malloc,
// which opens arenas when threads compete. Readings still differ by up to 2 MiB, always upwards from
// a floor that does not move, so the lowest of several stands for a stage of the run; a leak lifts
// all of them.
const NODE_OPTIONS = ["--expose-gc", "--max-semi-space-size=1"];
const ENVIRONMENT = { MALLOC_ARENA_MAX: "1" };

/** More than the floor moves, over all cycles: 105 bytes for each of 10,000, 5 KiB for each of 200. */
const MAX_GROWTH_BYTES = 2 ** 20;

/** The resident set must stay within this as well. */
const MAX_GROWTH = 0.05;

interface Memory {
  readonly ownBytes: number;
  readonly residentBytes: number;
}

interface Report {
  readonly before: Memory;
  readonly after: Memory;
  /** After as many cycles again, each of which kept `leakedBytes`. */
  readonly leaking: Memory;
  readonly sequences: number;
}

async function measure(
  cycle: string,
  warmUp: number,
  cycles: number,
  leakedBytes: number,
): Promise<Report> {
  const script = `
    const { readFileSync } = require("node:fs");
    const { HymbaModel } = require("hymba");
    const load = () => HymbaModel.load("test/golden/micro", {
      device: "cpu", dtype: "float32", maxSequences: 4, maxContextTokens: 256,
    });
    const tokens = Array.from({ length: 40 }, (_, i) => i);
    async function memory() {
      // Finalizers run after the collection, in a task of their own; what they free goes next time.
      for (let i = 0; i < 5; i++) {
        gc();
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      const [, kibibytes] = /^RssAnon:\\s+(\\d+) kB$/m.exec(readFileSync("/proc/self/status"));
      return { ownBytes: kibibytes * 1024, residentBytes: process.memoryUsage().rss };
    }
    const kept = [];
    (async () => {
      const model = await load();
      const run = async (count, work) => { for (let i = 0; i < count; i++) await work(); };
      // Does the cycles, and takes the lowest reading of ten on the way.
      const lowest = async (count, work) => {
        const readings = [];
        for (let i = 0; i < 10; i++) {
          await run(count / 10, work);
          readings.push(await memory());
        }
        return readings.reduce((a, b) => (b.ownBytes < a.ownBytes ? b : a));
      };
      const cycle = async () => { ${cycle} };
      const leak = async () => {
        await cycle();
        kept.push(new Array(Math.floor(${leakedBytes} / 8)).fill(0));
      };
      await run(${warmUp}, cycle);
      const before = await lowest(${cycles} / 4, cycle);
      await run(${cycles} * 3 / 4, cycle);
      const after = await lowest(${cycles} / 4, cycle);
      await run(${cycles} * 3 / 4, leak);
      const leaking = await lowest(${cycles} / 4, leak);
      const { cache } = model.info();
      await model.dispose();
      const sequences = cache.sequences.used;
      console.log(JSON.stringify({ before, after, leaking, sequences }));
    })();`;
  const { code, signal, out, err } = await runScript(script, NODE_OPTIONS, ENVIRONMENT);
  expect({ code, signal, err }).toEqual({ code: 0, signal: null, err: "" });
  return JSON.parse(out) as Report;
}

const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(2);

beforeAll(ensureBuilt);

test.each([
  {
    name: "10,000 times create, prefill, dispose",
    warmUp: 5000,
    cycles: 10_000,
    cycle: `
      const sequence = model.createSequence();
      await model.prefill([{ sequence, tokens }]);
      sequence.dispose();`,
  },
  {
    name: "200 times load, prefill, dispose",
    warmUp: 300,
    cycles: 200,
    cycle: `
      const loaded = await load();
      await loaded.prefill([{ sequence: loaded.createSequence(), tokens }]);
      await loaded.dispose();`,
  },
])("$name: memory does not grow", async ({ name, warmUp, cycles, cycle }) => {
  // Three times what is allowed.
  const leakedBytes = (3 * MAX_GROWTH_BYTES) / cycles;
  const { before, after, leaking, sequences } = await measure(cycle, warmUp, cycles, leakedBytes);
  const growth = after.ownBytes - before.ownBytes;
  const leaked = leaking.ownBytes - after.ownBytes;
  process.stderr.write(
    `${name}: ${mib(before.residentBytes)} MiB resident before, ${mib(after.residentBytes)} after; ` +
      `${mib(growth)} MiB more of its own, ${mib(leaked)} with a leak of ` +
      `${leakedBytes.toFixed(0)} bytes a cycle\n`,
  );
  expect(sequences).toBe(0);
  expect(growth).toBeLessThanOrEqual(MAX_GROWTH_BYTES);
  expect(after.residentBytes / before.residentBytes - 1).toBeLessThanOrEqual(MAX_GROWTH);
  // The measurement would notice.
  expect(leaked).toBeGreaterThan(MAX_GROWTH_BYTES);
});
