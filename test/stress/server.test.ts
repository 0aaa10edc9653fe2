import { spawn } from "node:child_process";
import { once } from "node:events";
import { Agent, type IncomingMessage, request } from "node:http";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { RandomData } from "../../lib/cli/bench/random";
import { DEVICE } from "../helpers/device";
import { ensureBuilt, ROOT } from "../helpers/package";

// Crowds at a server in a process of its own: nothing is lost, and nothing stays.

/** Seconds of the soak; a real one is 1,800. */
const SOAK_SECONDS = Number(process.env["HYMBA_SOAK_SECONDS"] ?? 60);
const CLIENTS = 1000;

interface Running {
  readonly url: string;
  metrics(): Promise<Map<string, number>>;
  stop(): Promise<number | null>;
}

async function startServer(argv: readonly string[] = []): Promise<Running> {
  ensureBuilt();
  const main = join(ROOT, "dist", "cli", "main.js");
  const child = spawn(
    process.execPath,
    [main, "serve", "--device", DEVICE, "--port", "0", "--log-level", "warn", ...argv],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  const exit = once(child, "exit") as Promise<[number | null]>;
  const [line] = (await once(child.stdout, "data")) as [Buffer];
  const [, url] = / at (http:\S+),/.exec(line.toString())!;
  return {
    url: url!,
    async metrics() {
      const text = await (await fetch(`${url}/metrics`)).text();
      const values = text.matchAll(/^hymba_(\w+)\{(?:(.*),)?model_name="[^"]*"\} (\S+)$/gm);
      return new Map(
        Array.from(values, ([, name, labels, value]) => [
          labels === undefined ? name! : `${name} ${labels}`,
          Number(value),
        ]),
      );
    },
    async stop() {
      child.kill("SIGTERM");
      const [code] = await exit;
      return code;
    },
  };
}

/** How a client behaves. */
type Manner = "streams" | "waits" | "leaves" | "reads slowly";

interface Outcome {
  readonly manner: Manner;
  readonly ended: "done" | "left" | "refused";
  /** As the answer says. */
  readonly tokens: number;
}

const agent = new Agent({ keepAlive: true, maxSockets: Infinity });

async function visit(url: string, manner: Manner, body: object): Promise<Outcome> {
  const stream = manner !== "waits";
  const options = stream ? { stream, stream_options: { include_usage: true } } : {};
  const headers = { "content-type": "application/json" };
  const asked = request(`${url}/v1/completions`, { method: "POST", headers, agent });
  const answered = once(asked, "response") as Promise<[IncomingMessage]>;
  asked.end(JSON.stringify({ ...body, ...options }));
  const [response] = await answered;
  let text = "";
  let chunks = 0;
  try {
    for await (const chunk of response) {
      text += String(chunk);
      if (manner === "leaves" && ++chunks === 2) {
        response.destroy();
        return { manner, ended: "left", tokens: 0 };
      }
      if (manner === "reads slowly") await sleep(20);
    }
  } catch (error) {
    throw new Error(`${manner}: ${(error as Error).message}; so far: ${text.slice(-200)}`, {
      cause: error,
    });
  }
  if (response.statusCode === 429) {
    expect(response.headers["retry-after"]).toBeDefined();
    return { manner, ended: "refused", tokens: 0 };
  }
  expect([manner, response.statusCode]).toEqual([manner, 200]);
  if (stream) expect(text).toMatch(/data: \[DONE\]\n\n$/);
  return { manner, ended: "done", tokens: Number(/"completion_tokens":(\d+)/.exec(text)![1]) };
}

const mannerOf = (i: number): Manner =>
  i % 10 === 3 ? "leaves" : i % 20 === 7 ? "reads slowly" : i % 3 === 0 ? "waits" : "streams";

const bodyOf = (random: RandomData, max_tokens: number): object => ({
  prompt: [...random.tokens(2 + random.integer(30), 4000)],
  ...{ max_tokens, ignore_eos: true, seed: random.integer(1000) },
});

/** Waits until the server has nothing left to do, and checks that it holds nothing. */
async function settled(server: Running, fresh: Map<string, number>): Promise<Map<string, number>> {
  const HELD = [
    ...["num_requests_running", "num_requests_waiting"],
    ...["state_slots_in_use", "kv_cache_usage_perc"],
  ];
  const held = (metrics: Map<string, number>) => HELD.map((name) => [name, metrics.get(name)]);
  for (let i = 0; i < 500; i++) {
    const metrics = await server.metrics();
    if (JSON.stringify(held(metrics)) === JSON.stringify(held(fresh))) return metrics;
    await sleep(20);
  }
  expect(held(await server.metrics())).toEqual(held(fresh));
  throw new Error("unreachable");
}

const sumOf = (metrics: Map<string, number>, name: string): number =>
  [...metrics]
    .filter(([key]) => key.startsWith(`${name} `))
    .reduce((sum, [, value]) => sum + value, 0);

test(`${CLIENTS} clients at once, a tenth of which leave, are all served`, async () => {
  const server = await startServer(["--max-model-len", "512"]);
  const fresh = await server.metrics();
  const random = new RandomData(1);
  const outcomes = await Promise.all(
    Array.from({ length: CLIENTS }, (_, i) =>
      visit(server.url, mannerOf(i), bodyOf(random, 4 + random.integer(12))),
    ),
  );
  const metrics = await settled(server, fresh);
  const count = (ended: Outcome["ended"]) => outcomes.filter((each) => each.ended === ended).length;
  expect([count("done"), count("left"), count("refused")]).toEqual([900, 100, 0]);

  expect(sumOf(metrics, "request_success_total")).toBe(CLIENTS);
  expect(metrics.get('request_success_total finished_reason="length"')).toBeGreaterThanOrEqual(900);
  expect(metrics.get("e2e_request_latency_seconds_count")).toBe(CLIENTS);
  const seen = outcomes.reduce((sum, { tokens }) => sum + tokens, 0);
  const drawn = metrics.get("generation_tokens_total")!;
  expect(drawn).toBeGreaterThanOrEqual(seen);
  expect(drawn - seen).toBeLessThanOrEqual(100 * 16);
  expect(await server.stop()).toBe(0);
});

test("a crowd that is too large is told so, and the rest is served", async () => {
  const server = await startServer([
    "--max-model-len",
    "512",
    "--max-num-seqs",
    "8",
    "--max-waiting",
    "50",
  ]);
  const fresh = await server.metrics();
  const random = new RandomData(2);
  const outcomes = await Promise.all(
    Array.from({ length: 400 }, () => visit(server.url, "streams", bodyOf(random, 8))),
  );
  const done = outcomes.filter(({ ended }) => ended === "done").length;
  expect(done).toBeGreaterThanOrEqual(58);
  const metrics = await settled(server, fresh);
  expect(sumOf(metrics, "request_success_total")).toBe(done);
  expect(metrics.get('http_requests_total route="/v1/completions",status="429"')).toBe(400 - done);
  expect(await server.stop()).toBe(0);
});

test(
  `memory stays flat for ${SOAK_SECONDS} s`,
  async () => {
    const server = await startServer(["--max-model-len", "512", "--max-num-seqs", "32"]);
    const fresh = await server.metrics();
    const random = new RandomData(3);
    const begin = performance.now();
    const elapsed = () => (performance.now() - begin) / 1000 / SOAK_SECONDS;
    let visits = 0;
    const client = async (): Promise<void> => {
      while (elapsed() < 1) {
        const i = visits++;
        await visit(server.url, mannerOf(i), bodyOf(random, 4 + random.integer(28)));
      }
    };
    const samples: { readonly at: number; readonly bytes: number }[] = [];
    const watch = async (): Promise<void> => {
      while (elapsed() < 1) {
        const bytes = (await server.metrics()).get("resident_memory_bytes")!;
        samples.push({ at: elapsed(), bytes });
        await sleep(Math.min(1000, SOAK_SECONDS * 10));
      }
    };
    await Promise.all([watch(), ...Array.from({ length: 40 }, client)]);
    const metrics = await settled(server, fresh);
    expect(sumOf(metrics, "request_success_total")).toBe(visits);
    // Caches and the heap have found their size after a third.
    const median = (from: number, to: number): number => {
      const within = samples.filter(({ at }) => at >= from && at < to).map(({ bytes }) => bytes);
      return within.sort((a, b) => a - b)[within.length >> 1]!;
    };
    const [before, after] = [median(0.3, 0.5), median(0.8, 1)];
    console.log(`${visits} visits; ${before / 1e6} MB in the middle, ${after / 1e6} MB at the end`);
    expect(after).toBeLessThan(1.05 * before);
    expect(await server.stop()).toBe(0);
  },
  (SOAK_SECONDS + 120) * 1000,
);
