import { ensureBuilt, runScript } from "./helpers/package";

// Each test is a process of its own: what is looked at is how it ends.
const CLEAN = { code: 0, signal: null, err: "" } as const;

/** Models to load; the large one takes seconds, the small one no time. */
const MICRO = `"test/golden/micro", { device: "cpu", dtype: "float32", maxContextTokens: 256 }`;
const TINY = `"models/hymba-tiny", { device: "cpu", maxSequences: 2 }`;
const LARGE = `"synthetic:hymba-1.5b", { device: "cpu", maxSequences: 1, maxContextTokens: 64 }`;

const library = `const { HymbaModel } = require("hymba");`;

/** Starts a prefill that takes a good part of a second, and lets it come under way. */
const longPrefill = `
  const tokens = Array.from({ length: 2000 }, (_, i) => i % 4000);
  const running = model.prefill([{ sequence: model.createSequence(), tokens }]);
  running.then(() => console.log("too fast: nothing was in flight"), () => {});
  await new Promise((resolve) => setTimeout(resolve, 30));`;

const main = (body: string): string => `${library} (async () => { ${body} })();`;

beforeAll(ensureBuilt, 120_000);

describe("modules", () => {
  const body = `
    const model = await HymbaModel.load(${TINY});
    const prompt = "It was a";
    let text = "";
    for await (const chunk of model.generate({ prompt, seed: 1, maxTokens: 12 })) text += chunk.text;
    console.log(JSON.stringify(text));`;

  test("import and require give the same text", async () => {
    const imported = await runScript(`import { HymbaModel } from "hymba"; ${body}`, [
      "--input-type=module",
    ]);
    expect(imported).toMatchObject(CLEAN);
    expect((JSON.parse(imported.out) as string).length).toBeGreaterThan(12);
    expect(await runScript(main(body))).toEqual(imported);
  });
});

describe("worker threads", () => {
  /** What a worker does, and the main thread too: logits of a sequence. */
  const compute = `
    async function compute() {
      const model = await HymbaModel.load(${MICRO});
      const tokens = Array.from({ length: 40 }, (_, i) => i);
      const logits = [];
      for (let i = 0; i < 20; i++) {
        const sequence = model.createSequence();
        logits.push(...(await model.prefill([{ sequence, tokens }]))[0].logits);
        sequence.dispose();
      }
      await model.dispose();
      return logits;
    }`;

  test("two at once and the main thread compute the same", async () => {
    const worker = `${library} ${compute}
      compute().then((logits) => require("node:worker_threads").parentPort.postMessage(logits));`;
    const script = `${compute}
      const { Worker } = require("node:worker_threads");
      const work = () => new Promise((resolve, reject) => {
        new Worker(${JSON.stringify(worker)}, { eval: true }).on("message", resolve).on("error", reject);
      });
      const [own, ...others] = await Promise.all([compute(), work(), work()]);
      for (const other of others) require("node:assert").deepStrictEqual(other, own);
      console.log(others.length, own.length);`;
    const result = await runScript(main(script));
    expect(result).toEqual({ ...CLEAN, out: `2 ${20 * 320}\n` });
  });

  /** Terminates workers in the middle of what they do; the main thread's model lives on. */
  const terminate = (worker: string, rounds: number): string =>
    main(`
      const { Worker } = require("node:worker_threads");
      const model = await HymbaModel.load(${MICRO});
      for (let round = 0; round < ${rounds}; round++) {
        const worker = new Worker(${JSON.stringify(worker)}, { eval: true });
        await new Promise((resolve, reject) => worker.on("message", resolve).on("error", reject));
        await worker.terminate();
      }
      const [{ logits }] = await model.prefill([{ sequence: model.createSequence(), tokens: [1] }]);
      await model.dispose();
      console.log(logits.length);`);
  const ready = `require("node:worker_threads").parentPort.postMessage("ready");`;

  test("one is terminated with a step in flight", async () => {
    const worker = main(`const model = await HymbaModel.load(${TINY}); ${longPrefill} ${ready}`);
    expect(await runScript(terminate(worker, 3))).toEqual({ ...CLEAN, out: "320\n" });
  });

  test("one is terminated while it loads a model", async () => {
    const worker = `${library} HymbaModel.load(${LARGE}); setTimeout(() => { ${ready} }, 200);`;
    expect(await runScript(terminate(worker, 2))).toEqual({ ...CLEAN, out: "320\n" });
  });

  test("one ends by itself with a model that nobody disposed of", async () => {
    const worker = main(`await HymbaModel.load(${MICRO}); ${ready}`);
    expect(await runScript(terminate(worker, 2))).toEqual({ ...CLEAN, out: "320\n" });
  });
});

describe("the end of the process", () => {
  test.each([
    ["by itself, with a model that nobody disposed of", ""],
    ["by itself, with a prefill that nobody awaits", `model.prefill([{ sequence, tokens }]);`],
    ["by process.exit, with nothing in flight", `process.exit();`],
    [
      "by process.exit, right behind a call",
      `model.prefill([{ sequence, tokens }]); process.exit();`,
    ],
    ["by process.exit, right behind dispose", `model.dispose(); process.exit();`],
    [
      "by process.exit, with many calls queued",
      `for (let i = 0; i < 100; i++) {
         model.prefill([{ sequence: model.createSequence(), tokens }]);
       }
       process.exit();`,
    ],
  ])("%s", async (_name, body) => {
    const script = main(`
      const model = await HymbaModel.load(
        "test/golden/micro", { device: "cpu", maxSequences: 200, maxContextTokens: 64 });
      const sequence = model.createSequence();
      const tokens = Array.from({ length: 64 }, (_, i) => i);
      ${body}`);
    expect(await runScript(script)).toEqual({ ...CLEAN, out: "" });
  });

  test("by process.exit, with a step in flight", async () => {
    const script = `const model = await HymbaModel.load(${TINY}); ${longPrefill} process.exit();`;
    expect(await runScript(main(script))).toEqual({ ...CLEAN, out: "" });
  });

  test("by process.exit, in the middle of a generation", async () => {
    const script = `
      const model = await HymbaModel.load(${TINY});
      for await (const { token } of model.generate({ prompt: "It was", ignoreEos: true })) {
        setTimeout(() => process.exit(), 20);
      }`;
    expect(await runScript(main(script))).toEqual({ ...CLEAN, out: "" });
  });

  test("by process.exit, while a model is loading", async () => {
    const script = `
      HymbaModel.load(${LARGE}).then(() => console.log("too fast: nothing was in flight"));
      setTimeout(() => {
        process.on("exit", () => console.log("exit"));
        process.exit();
      }, 300);`;
    expect(await runScript(main(script))).toEqual({ ...CLEAN, out: "exit\n" });
  });

  test("by an uncaught error, with a step in flight", async () => {
    const script = `
      const model = await HymbaModel.load(${TINY}); ${longPrefill}
      throw new Error("mine");`;
    const { code, signal, err } = await runScript(main(script));
    expect({ code, signal }).toEqual({ code: 1, signal: null });
    expect(err).toContain("Error: mine");
  });
});
