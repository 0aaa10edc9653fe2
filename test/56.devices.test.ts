import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pino } from "pino";
import { Affinity } from "../lib/server/devices/affinity";
import { mergeMetrics } from "../lib/server/devices/merge_metrics";
import { textsOf } from "../lib/server/devices/prompt";
import { DevicesServer } from "../lib/server/devices/server";
import { ensureBuilt, ROOT } from "./helpers/package";

const MAIN = join(ROOT, "dist", "cli", "main.js");

describe("where a request goes", () => {
  test("is known by the longest beginning that somebody worked on", () => {
    const affinity = new Affinity<string>();
    const system = "You are brief, and speak of nothing but ships. ".repeat(4);
    affinity.note(`${system}Who comes, and why does he come so late? ${"a".repeat(200)}`, "a");
    affinity.note(`${system}Where does the wind blow from this night? ${"b".repeat(200)}`, "b");
    const first = `${system}Who comes, and why does he come so late? ${"a".repeat(200)}`;
    expect(affinity.find(`${first} And then?`)).toBe("a");
    // What they have in common was last worked on by b.
    expect(affinity.find(`${system}Something else`)).toBe("b");
    expect(affinity.find("x".repeat(300))).toBeUndefined();
    expect(affinity.find("short")).toBeUndefined();
    affinity.forget("b");
    expect(affinity.find(`${system}Something else`)).toBeUndefined();
    expect(affinity.find(first)).toBe("a");
  });

  test.each<[unknown, string | undefined, number]>([
    [{ prompt: "Once" }, "Once", 1],
    [{ prompt: ["Once", "The"], n: 3 }, "Once", 6],
    [{ prompt: [40, 41] }, "[40,41", 1],
    [{ prompt: [[40, 41], [5]] }, "[40,41", 2],
    [{ messages: [{ role: "user" }] }, '[{"role":"user"}', 1],
    [{ n: 1e9 }, undefined, 1],
    [{ prompt: [] }, "[", 1],
    [null, undefined, 1],
    [5, undefined, 1],
  ])("%j begins with %j and has %d texts", (body, prompt, count) => {
    expect(textsOf(Buffer.from(JSON.stringify(body)))).toEqual({ prompt, count });
  });

  test("is anywhere when the body makes no sense", () => {
    expect(textsOf(Buffer.from("{"))).toEqual({ prompt: undefined, count: 1 });
    expect(textsOf(undefined)).toEqual({ prompt: undefined, count: 1 });
  });
});

test("metrics of workers are one text, with the device as a label", () => {
  const text = (value: number) =>
    `# HELP a_total About a.\n# TYPE a_total counter\na_total{m="x"} ${value}\n\n` +
    `# HELP b About b.\n# TYPE b gauge\nb{m="x",le="1"} ${value}\nb{m="x",le="2"} 9\n`;
  expect(
    mergeMetrics(
      new Map([
        ["0", text(1)],
        ["1", text(2)],
      ]),
    ),
  ).toBe(
    [
      ...["# HELP a_total About a.", "# TYPE a_total counter"],
      ...['a_total{device="0",m="x"} 1', 'a_total{device="1",m="x"} 2', ""],
      ...["# HELP b About b.", "# TYPE b gauge", 'b{device="0",m="x",le="1"} 1'],
      ...['b{device="0",m="x",le="2"} 9', 'b{device="1",m="x",le="1"} 2'],
      ...['b{device="1",m="x",le="2"} 9', ""],
    ].join("\n"),
  );
});

describe("a server of two devices", () => {
  let server: DevicesServer;
  let url: string;
  const log: string[] = [];
  beforeAll(async () => {
    ensureBuilt();
    const argv = ["--device", "cpu", "--threads", "1", "--max-model-len", "512"];
    const start = (_device: string, path: string): ChildProcess =>
      spawn(process.execPath, [MAIN, "serve", ...argv, "--uds", path, "--log-level", "warn"], {
        stdio: ["ignore", "pipe", "inherit", "ipc"],
      });
    const logger = pino({ base: null }, { write: (line: string) => void log.push(line) });
    const options = { names: ["hymba-tiny"], apiKeys: ["key"] };
    server = await DevicesServer.start(["0", "1"], start, options, logger);
    url = await server.listen({ host: "127.0.0.1", port: 0 });
  });
  afterAll(() => server.close(0));

  const headers = { "content-type": "application/json", authorization: "Bearer key" };
  const post = (body: object | string, path = "/v1/completions") =>
    fetch(url + path, {
      ...{ method: "POST", headers },
      body: typeof body === "string" ? body : JSON.stringify(body),
    });
  const get = (path: string) => fetch(url + path, { headers });
  const perDevice = async (name: string): Promise<number[]> => {
    const text = await (await get("/metrics")).text();
    const values = text.matchAll(new RegExp(`^hymba_${name}\\{device="\\d".*\\} (\\S+)$`, "gm"));
    return Array.from(values, ([, value]) => Number(value));
  };

  test("shares requests out, and answers like one", async () => {
    const body = { max_tokens: 20, ignore_eos: true, seed: 1 };
    const answers = await Promise.all(
      Array.from({ length: 8 }, (_, i) => post({ ...body, prompt: `${i} ships`, stream: i > 3 })),
    );
    for (const [i, answer] of answers.entries()) {
      expect(answer.status).toBe(200);
      const text = await answer.text();
      if (i > 3) expect(text).toMatch(/data: \[DONE\]\n\n$/);
      else expect(JSON.parse(text)).toMatchObject({ usage: { completion_tokens: 20 } });
    }
    expect(await perDevice("generation_tokens_total")).toEqual([80, 80]);
    expect((await fetch(`${url}/v1/models`)).status).toBe(401);
    expect((await fetch(`${url}/health`)).status).toBe(200);
    for (const path of ["/", "/v1/models", "/tokenizer_info", "/version", "/openapi.json"]) {
      expect((await get(path)).status).toBe(200);
    }
    expect((await post("{}{")).status).toBe(400);
    expect((await post({ tokens: [40] }, "/detokenize")).status).toBe(200);
    expect((await get("/nothing")).status).toBe(404);
  });

  test("has the next turn of a conversation where the one before was", async () => {
    const turns: { role: string; content: string }[] = [];
    for (let turn = 0; turn < 4; turn++) {
      turns.push({ role: "user", content: `Tell me more of the ship of number ${turn}, please.` });
      const body = { messages: turns, max_tokens: 8, ignore_eos: true };
      const answer = (await (await post(body, "/v1/chat/completions")).json()) as {
        choices: { message: { role: string; content: string } }[];
        usage: { prompt_tokens_details: { cached_tokens: number } };
      };
      const cached = answer.usage.prompt_tokens_details.cached_tokens;
      if (turn > 0) expect(cached).toBeGreaterThan(10 * turn);
      turns.push(answer.choices[0]!.message);
    }
  });

  test("goes on when a worker is killed: its requests fail, the others do not, and it comes back", async () => {
    const body = { max_tokens: 300, ignore_eos: true, seed: 1 };
    const asked = Array.from({ length: 8 }, (_, i) =>
      post({ ...body, prompt: `${i} old ships`, stream: i % 4 < 2 }),
    );
    while (server.workers.some(({ load }) => load < 4)) await sleep(5);
    // Streams have begun.
    await Promise.all(asked.filter((_, i) => i % 4 < 2));
    const killed = server.workers[0]!.pid!;
    process.kill(killed, "SIGKILL");
    const texts = await Promise.all(asked.map(async (answer) => (await answer).text()));
    const failed = texts.filter((text) => text.includes('"code":"worker_died"'));
    const done = texts.filter((text) => /\[DONE\]\n\n$|"completion_tokens":300/.test(text));
    expect([failed.length, done.length]).toEqual([4, 4]);
    for (const text of failed) {
      for (const event of text.split("\n\n").filter(Boolean)) {
        expect(() => JSON.parse(event.replace(/^data: /, "")) as object).not.toThrow();
      }
    }
    expect(server.openRequests).toBe(0);
    // Meanwhile the other one answers.
    expect((await post({ prompt: "a", max_tokens: 1 })).status).toBe(200);
    while (server.workers[0]!.pid === undefined || !server.workers[0]!.ready) await sleep(20);
    expect(server.workers[0]!.pid).not.toBe(killed);
    expect(log.join("")).toContain('"signal":"SIGKILL","msg":"a worker died"');
    expect((await post({ prompt: "a", max_tokens: 1 })).status).toBe(200);
  });

  test("stops in order, and leaves no process behind", async () => {
    const pids = server.workers.map(({ pid }) => pid!);
    const answer = post({ prompt: "a", max_tokens: 100, ignore_eos: true });
    const endless = post({ prompt: "a", max_tokens: 400, n: 32, ignore_eos: true, stream: true });
    while (server.openRequests < 2) await sleep(2);
    const closed = server.close(1000);
    expect((await post({ prompt: "a" })).status).toBe(503);
    expect((await get("/health")).status).toBe(503);
    expect((await answer).status).toBe(200);
    expect((await (await endless).text()).trim().split("\n").at(-1)).toContain('"code":"stopping"');
    await closed;
    for (const pid of pids) expect(() => process.kill(pid, 0)).toThrow();
  });
});

test("hymba serve --devices starts workers, which end with it even when it is killed", async () => {
  ensureBuilt();
  const argv = ["serve", "--port", "0", "--devices", "0", "--device", "cpu", "--threads", "1"];
  const child = spawn(process.execPath, [MAIN, ...argv], { stdio: ["ignore", "pipe", "pipe"] });
  let log = "";
  child.stderr.on("data", (data: Buffer) => (log += data.toString()));
  const [line] = (await once(child.stdout, "data")) as [Buffer];
  expect(line.toString()).toMatch(/^hymba-tiny at http/);
  const worker = Number(/"pid":(\d+),"msg":"a worker is ready"/.exec(log)![1]);
  child.kill("SIGKILL");
  for (;;) {
    try {
      process.kill(worker, 0);
    } catch {
      break;
    }
    await sleep(20);
  }
});

test("a worker that does not start is told", async () => {
  const logger = pino({ level: "silent" });
  const argv = ["-e", "process.exit(3)"];
  const start = (): ChildProcess => spawn(process.execPath, argv, { stdio: "pipe" });
  await expect(DevicesServer.start(["7"], start, { names: ["x"] }, logger)).rejects.toThrow(
    "the worker of device 7 did not start: it ended with 3",
  );
  const nothing = (): ChildProcess => spawn("/nowhere/node", { stdio: "pipe" });
  await expect(DevicesServer.start(["7"], nothing, { names: ["x"] }, logger)).rejects.toThrow(
    /ENOENT/,
  );
});
