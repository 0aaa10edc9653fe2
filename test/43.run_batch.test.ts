import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, statSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { HymbaError, HymbaModel } from "../lib";
import { readLines } from "../lib/cli/batch/line_reader";
import { BatchOutput, type OutputLine } from "../lib/cli/batch/output";
import { RandomData } from "../lib/cli/bench/random";
import { hymbaLibrary } from "../lib/cli/library";
import { run } from "../lib/cli/main";
import { Runner } from "../lib/runner";
import { FakeTerminal } from "./helpers/fake_cli";
import { ensureBuilt, ROOT } from "./helpers/package";

const OPTIONS = ["--device", "cpu", "--context", "256", "--threads", "2"];

let folder: string;
let files = 0;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "hymba-batch-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** A path that nobody has used. */
const newPath = (): string => join(folder, `${files++}.jsonl`);

async function newInput(lines: readonly (object | string)[]): Promise<string> {
  const path = newPath();
  const texts = lines.map((line) => (typeof line === "string" ? line : JSON.stringify(line)));
  await writeFile(path, texts.map((text) => `${text}\n`).join(""));
  return path;
}

const request = (custom_id: string, body: object, url = "/v1/completions") => ({
  ...{ custom_id, method: "POST", url, body },
});

/** The i-th of many short requests. */
const short = (i: number, max_tokens = 4 + (i % 9)) =>
  request(`r${i}`, {
    prompt: `${i} old men and ${(i * 7) % 11} ships`,
    ...{ max_tokens, seed: i, ignore_eos: true },
  });

async function runBatch(input: string, output: string, argv: readonly string[] = []) {
  const terminal = new FakeTerminal("");
  const code = await run(["run-batch", input, output, ...OPTIONS, ...argv], terminal);
  return { code, out: terminal.out, err: terminal.err };
}

/** The lines of an output, which must all be whole. */
async function readOutput(path: string): Promise<OutputLine[]> {
  const text = await readFile(path, "utf8");
  expect(text.endsWith("\n") || text === "").toBe(true);
  return text
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line) as OutputLine);
}

/** What does not differ from run to run, in an order of its own. */
function essence(lines: readonly OutputLine[]) {
  return lines
    .map(({ custom_id, response, error }) => {
      const body = response?.body as { choices?: unknown; error?: unknown } | undefined;
      const { choices, error: fault } = body ?? {};
      return { custom_id, status: response?.status_code, choices, fault, error };
    })
    .sort((a, b) => JSON.stringify(a).localeCompare(JSON.stringify(b)));
}

describe("hymba run-batch", () => {
  test("answers every line, good or bad, as it would be answered alone", async () => {
    const good = [
      request("plain", { prompt: "Once upon a time", max_tokens: 12, seed: 1 }),
      request(
        "chat",
        { messages: [{ role: "user", content: "Why?" }], max_tokens: 9, seed: 2 },
        "/v1/chat/completions",
      ),
      request('two texts \u2028 "quoted"', { prompt: [40, 41], max_tokens: 5, seed: 3, n: 2 }),
    ];
    const input = await newInput([
      good[0]!,
      "",
      request("field", { prompt: "a", max_tokns: 5 }),
      "{not json}",
      request("range", { prompt: "a", temperature: -1 }),
      request("url", {}, "/v1/embeddings"),
      good[1]!,
      { custom_id: 7, method: "POST", url: "/v1/completions", body: {} },
      { ...request("method", {}), method: "GET" },
      { custom_id: "no body", method: "POST", url: "/v1/completions" },
      good[2]!,
    ]);
    const output = newPath();
    const { code, out, err } = await runBatch(input, output);
    expect({ code, out }).toEqual({ code: 1, out: "" });
    expect(err).toMatch(/^10 of 10 requests done; 31 tokens generated in .* s, .* tokens\/s\n/);
    expect(err).toMatch(/\nerror: 7 of them failed: see .*jsonl\n$/);

    const lines = await readOutput(output);
    expect(new Set(lines.map(({ id }) => id)).size).toBe(10);
    for (const { id } of lines) expect(id).toMatch(/^batch_req_[-0-9a-f]{36}$/);
    const by = (id: string) => lines.find(({ custom_id }) => custom_id === id)!;
    const bad = (id: string) => ({ response: by(id).response, error: by(id).error });
    const fault = (param: string | null, message: RegExp) => ({
      response: {
        status_code: 400,
        request_id: expect.any(String),
        body: {
          error: expect.objectContaining({ param, message: expect.stringMatching(message) }),
        },
      },
      error: null,
    });
    const unreadable = (line: number, param: string | null, message: RegExp) => ({
      response: null,
      error: { code: expect.any(String), param, line, message: expect.stringMatching(message) },
    });
    expect(bad("field")).toEqual(fault("max_tokns", /unknown field/));
    expect(bad("range")).toEqual(fault("temperature", /^temperature must be/));
    expect(bad("no body")).toEqual(unreadable(10, "body", /expected an object, got nothing/));
    expect(bad("url")).toEqual(unreadable(6, "url", /expected \/v1\/completions or .*embeddings/));
    expect(bad("method")).toEqual(unreadable(9, "method", /expected POST, got "GET"/));
    const nameless = lines.filter(({ custom_id }) => custom_id === null);
    expect(nameless.map(({ response, error }) => ({ response, error }))).toEqual([
      unreadable(4, null, /^the line is not JSON/),
      unreadable(8, "custom_id", /expected a string, got 7/),
    ]);

    await using model = await HymbaModel.load(join(ROOT, "models", "hymba-tiny"), {
      device: "cpu",
      maxContextTokens: 256,
    });
    const write = async (options: Parameters<HymbaModel["generate"]>[0]) => {
      let whole = "";
      for await (const { text } of model.generate(options)) whole += text;
      return whole;
    };
    expect(by("plain")).toMatchObject({
      error: null,
      response: {
        status_code: 200,
        body: {
          model: "hymba-tiny",
          choices: [{ text: await write({ prompt: "Once upon a time", maxTokens: 12, seed: 1 }) }],
        },
      },
    });
    const rendered = model.applyChatTemplate([{ role: "user", content: "Why?" }]);
    const prompt = await model.tokenizer.encode(rendered, { addSpecialTokens: false });
    const content = await write({ prompt, maxTokens: 9, seed: 2 });
    expect(by("chat").response).toMatchObject({ body: { choices: [{ message: { content } }] } });
    const texts = [3, 4].map((seed) => write({ prompt: [40, 41], maxTokens: 5, seed }));
    expect(by(good[2]!.custom_id).response).toMatchObject({
      body: { choices: (await Promise.all(texts)).map((text, index) => ({ index, text })) },
    });
  });

  test("refuses custom_ids that are there twice, by line number, before anything is made", async () => {
    const input = await newInput([short(1), short(2), "", short(1), short(2)]);
    const output = newPath();
    const { code, err } = await runBatch(input, output);
    expect(code).toBe(1);
    expect(err).toMatch(
      /a custom_id of its own: line 4 has that of line 1; line 5 has that of line 2/,
    );
    expect(existsSync(output)).toBe(false);
  });

  test.each([
    ["a text", "no json\n"],
    ["one line without an end", '{"some": "settings"}'],
    ["other JSON lines", '{"id":"x","custom_id":"1","response":null,"error":null}\n'],
    ["a line of the right beginning", '{"id":"batch_req_1","custom_id":null}\n'],
  ])("does not touch an output that is %s", async (_, text) => {
    const input = await newInput([short(1)]);
    const output = newPath();
    await writeFile(output, text);
    const { code, err } = await runBatch(input, output);
    expect(code).toBe(1);
    expect(err).toMatch(/jsonl:1 is not the output of a batch: name another file, or remove it/);
    expect(await readFile(output, "utf8")).toBe(text);
    // Nor its own input.
    expect((await runBatch(input, input)).code).toBe(1);
  });

  test("says when a file cannot be read or made", async () => {
    const input = await newInput([short(1)]);
    expect((await runBatch(newPath(), newPath())).err).toMatch(/cannot read the input: ENOENT/);
    const output = join(folder, "missing", "out.jsonl");
    expect((await runBatch(input, output)).err).toMatch(/cannot write the output: ENOENT/);
  });

  test("explains itself with examples", async () => {
    const terminal = new FakeTerminal("");
    expect(await run(["run-batch", "--help"], terminal)).toBe(0);
    expect(terminal.out).toContain("Examples:\n  $ hymba run-batch");
    expect((await runBatch("only one", "", ["--sequences", "0"])).code).toBe(2);
  });

  test("keeps a bounded number of requests in the engine, and all of its slots busy", async () => {
    const input = await newInput(Array.from({ length: 40 }, (_, i) => short(i)));
    let most = 0;
    let now = 0;
    const library = { ...hymbaLibrary };
    library.loadModel = async (path, options) => {
      const model = await HymbaModel.load(path, options);
      const createEngine = model.createEngine.bind(model);
      jest.spyOn(model, "createEngine").mockImplementation((engineOptions) => {
        const engine = createEngine(engineOptions);
        const generate = engine.generate.bind(engine);
        jest.spyOn(engine, "generate").mockImplementation(async function* (asked) {
          most = Math.max(most, ++now);
          yield* generate(asked);
          now--;
        });
        return engine;
      });
      return model;
    };
    const argv = ["run-batch", input, newPath(), ...OPTIONS, "--sequences", "3"];
    expect(await run(argv, new FakeTerminal(""), library)).toBe(0);
    expect({ most, now }).toEqual({ most: 6, now: 0 });
  });
});

describe("a batch that was cut short", () => {
  const requests = Array.from({ length: 30 }, (_, i) => short(i));
  let input: string;
  let whole: ReturnType<typeof essence>;
  let text: string;
  beforeAll(async () => {
    input = await newInput([...requests, "no json", request("bad", {})]);
    const output = newPath();
    await runBatch(input, output);
    text = await readFile(output, "utf8");
    whole = essence(await readOutput(output));
    expect(whole).toHaveLength(32);
  });

  test("after any byte of its output goes on from there", async () => {
    const full = Buffer.from(text);
    const lineEnd = full.indexOf("\n") + 1;
    const middle = Math.floor(full.length / 2);
    for (const size of [0, 1, lineEnd - 1, lineEnd, lineEnd + 5, middle, full.length - 1]) {
      const output = newPath();
      await writeFile(output, full.subarray(0, size));
      const { code, err } = await runBatch(input, output);
      const kept = full.subarray(0, full.subarray(0, size).lastIndexOf("\n") + 1).toString();
      const count = kept.split("\n").length - 1;
      expect(err).toMatch(/^32 of 32 requests done/);
      expect(/done, (\d+) of them before/.exec(err)?.[1] ?? "0").toBe(`${count}`);
      expect(code).toBe(1);
      expect((await readFile(output, "utf8")).startsWith(kept)).toBe(true);
      expect(essence(await readOutput(output))).toEqual(whole);
    }
  });

  test("loads no model when nothing is left, and still tells of what failed", async () => {
    const output = newPath();
    await writeFile(output, text);
    const load = jest.fn();
    const terminal = new FakeTerminal("");
    const library = { ...hymbaLibrary, loadModel: load };
    expect(await run(["run-batch", input, output], terminal, library)).toBe(1);
    expect(load).not.toHaveBeenCalled();
    expect(terminal.err).toMatch(
      /^32 of 32 requests done, 32 of them before\nerror: 2 of them failed/,
    );
    expect(await readFile(output, "utf8")).toBe(text);
  });

  test("by Ctrl-C has whole lines, exits with 130, and goes on", async () => {
    const output = newPath();
    const terminal = new FakeTerminal("");
    const argv = ["run-batch", input, output, ...OPTIONS, "--sequences", "2"];
    const running = run(argv, terminal);
    while (!existsSync(output) || statSync(output).size === 0) await sleep(1);
    terminal.interrupt();
    expect(await running).toBe(130);
    expect(terminal.err).toMatch(
      /^\d+ of 32 requests done; .*the same command goes on with the others\n$/,
    );
    const done = (await readOutput(output)).length;
    expect(done).toBeLessThan(32);
    await runBatch(input, output);
    expect(essence(await readOutput(output))).toEqual(whole);
  });

  test("by a lost device or a full disk fails, and those that ran are asked again", async () => {
    const output = newPath();
    const lost = jest.spyOn(Runner.prototype, "submit").mockImplementation(() => {
      return Promise.reject(new HymbaError("ERR_DEVICE_LOST", "gone"));
    });
    const first = await runBatch(input, output);
    lost.mockRestore();
    expect(first).toMatchObject({
      code: 1,
      err: expect.stringContaining("gone (ERR_DEVICE_LOST)"),
    });
    const add = jest.spyOn(BatchOutput.prototype, "add");
    add.mockRejectedValueOnce(
      Object.assign(new Error("ENOSPC: the disk is full"), { code: "ENOSPC" }),
    );
    const second = await runBatch(input, output);
    add.mockRestore();
    expect(second).toMatchObject({ code: 1, err: expect.stringContaining("ENOSPC") });
    expect((await readOutput(output)).length).toBeLessThan(32);
    await runBatch(input, output);
    expect(essence(await readOutput(output))).toEqual(whole);
  });
});

test("killed ten times at random points, a batch ends complete, and each line once", async () => {
  ensureBuilt();
  const input = await newInput(Array.from({ length: 60 }, (_, i) => short(i, 8)));
  const output = newPath();
  const undisturbed = newPath();
  expect((await runBatch(input, undisturbed)).code).toBe(0);
  const sizeOf = (): number => statSync(output, { throwIfNoEntry: false })?.size ?? 0;
  const command = [join(ROOT, "dist", "cli", "main.js"), "run-batch", input, output, ...OPTIONS];
  const start = () =>
    spawn(process.execPath, [...command, "--sequences", "4"], { stdio: "ignore" });
  const random = new RandomData(1);
  for (let kill = 0; kill < 10; kill++) {
    const child = start();
    const exit = once(child, "exit");
    const until = sizeOf() + random.integer(2000);
    while (child.exitCode === null && sizeOf() <= until) await sleep(1);
    await sleep(random.integer(20));
    child.kill("SIGKILL");
    expect(await exit).toEqual([null, "SIGKILL"]);
  }
  const before = await readFile(output, "utf8");
  expect((await once(start(), "exit"))[0]).toBe(0);
  // The kills left something to do, and what was there stayed.
  const kept = before.slice(0, before.lastIndexOf("\n") + 1);
  const after = await readFile(output, "utf8");
  expect(kept.length).toBeGreaterThan(0);
  expect(kept.length).toBeLessThan(after.length);
  expect(after.startsWith(kept)).toBe(true);
  expect(essence(await readOutput(output))).toEqual(essence(await readOutput(undisturbed)));
}, 180_000);

test("lines end with a line feed and nothing else", async () => {
  const long = "x".repeat(200_000);
  const path = newPath();
  await writeFile(path, `\ufeffa\u2028b\r\n\n${long}\nö`);
  const lines = [];
  for await (const line of readLines(path)) lines.push(line);
  const ends = [10, 11, 200_012, 200_014];
  expect(lines).toEqual(
    ["a\u2028b\r", "", long, "ö"].map((text, i) => ({
      ...{ number: i + 1, text, end: ends[i], isWhole: i < 3 },
    })),
  );
});
