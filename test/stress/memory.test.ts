import { ensureBuilt, runScript } from "../helpers/package";

// A process of its own with --expose-gc for each count, so that nothing but the cycles moves its
// resident set: warm up, collect garbage, note it; do the cycles, collect garbage, compare.
const MAX_GROWTH = 0.05;

async function residentBytes(cycle: string, warmUp: number, cycles: number) {
  const script = `
    const { HymbaModel } = require("hymba");
    const load = () => HymbaModel.load("test/golden/micro", {
      device: "cpu", dtype: "float32", maxSequences: 4, maxContextTokens: 256,
    });
    const tokens = Array.from({ length: 40 }, (_, i) => i);
    async function resident() {
      // Finalizers run after the collection, in a task of their own; what they free goes next time.
      for (let i = 0; i < 5; i++) {
        gc();
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      return process.memoryUsage().rss;
    }
    (async () => {
      const model = await load();
      const cycle = async () => { ${cycle} };
      for (let i = 0; i < ${warmUp}; i++) await cycle();
      const before = await resident();
      for (let i = 0; i < ${cycles}; i++) await cycle();
      const after = await resident();
      const { cache } = model.info();
      await model.dispose();
      console.log(JSON.stringify({ before, after, sequences: cache.sequences.used }));
    })();`;
  const { code, signal, out, err } = await runScript(script, ["--expose-gc"]);
  expect({ code, signal, err }).toEqual({ code: 0, signal: null, err: "" });
  return JSON.parse(out) as { before: number; after: number; sequences: number };
}

const MIB = 2 ** 20;

beforeAll(ensureBuilt);

test.each([
  {
    name: "10,000 times create, prefill, dispose",
    // The resident set levels off after some 5,000 cycles: 80 to 82 MiB from there to 40,000.
    warmUp: 5000,
    cycles: 10_000,
    cycle: `
      const sequence = model.createSequence();
      await model.prefill([{ sequence, tokens }]);
      sequence.dispose();`,
  },
  {
    name: "200 times load, prefill, dispose",
    // The same after some 300 loads: 95 to 96 MiB from there to 600, with a JavaScript heap of 8.
    warmUp: 400,
    cycles: 200,
    cycle: `
      const loaded = await load();
      await loaded.prefill([{ sequence: loaded.createSequence(), tokens }]);
      await loaded.dispose();`,
  },
])("$name: memory does not grow", async ({ name, warmUp, cycles, cycle }) => {
  const { before, after, sequences } = await residentBytes(cycle, warmUp, cycles);
  const growth = after / before - 1;
  process.stderr.write(
    `${name}: ${(before / MIB).toFixed(1)} MiB resident before, ${(after / MIB).toFixed(1)} MiB ` +
      `after (${(100 * growth).toFixed(2)} %)\n`,
  );
  expect(sequences).toBe(0);
  expect(growth).toBeLessThanOrEqual(MAX_GROWTH);
});
