import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { RandomData } from "../lib/cli/bench/random";
import { sendAll } from "../lib/cli/bench/serve/load";
import { filePrompts, randomPrompts } from "../lib/cli/bench/serve/prompts";
import type { Timing } from "../lib/cli/bench/serve/stream";
import { summarize } from "../lib/cli/bench/serve/summary";
import { run } from "../lib/cli/main";
import { FakeTerminal } from "./helpers/fake_cli";
import { NAME, TestServer } from "./helpers/server";

async function bench(url: string, argv: readonly string[]) {
  const terminal = new FakeTerminal("");
  const code = await run(["bench", "serve", "--base-url", url, ...argv], terminal);
  return { code, terminal };
}

const { signal } = new AbortController();

describe("definitions", () => {
  const timing = (sentAt: number, partsAt: number[], outputTokens: number): Timing => ({
    ...{ sentAt, partsAt, outputTokens, inputTokens: 10 },
  });

  test("are vLLM's", () => {
    const row = summarize(
      // The second has a part of two tokens; the third has one token, so that it has no TPOT.
      [timing(0, [100, 110, 140], 3), timing(50, [250, 270], 3), timing(60, [90], 1)],
      500,
    );
    expect(row).toMatchObject({
      input_tokens: 30,
      output_tokens: 7,
      requests_per_s: 6,
      output_tokens_per_s: 14,
      total_tokens_per_s: 74,
      ttft_ms_mean: 110,
      ttft_ms_p50: 100,
      tpot_ms_mean: (40 / 2 + 20 / 2) / 2,
      itl_ms_p50: 20,
      itl_ms_mean: 20,
      e2el_ms_p50: 140,
    });
    expect(row["ttft_ms_p99"]).toBeCloseTo(100 + 0.98 * 100);
  });

  test("leave out what there is nothing of", () => {
    expect(summarize([timing(0, [5], 1)], 10)).toMatchObject({
      tpot_ms_p50: null,
      itl_ms_mean: null,
    });
  });
});

describe("requests", () => {
  test("are no more at a time than they may be, and all are sent", async () => {
    let open = 0;
    let most = 0;
    let done = 0;
    const send = async (): Promise<void> => {
      most = Math.max(most, ++open);
      await sleep(1);
      open--;
      done++;
    };
    const random = new RandomData(1);
    const options = { requestRate: Infinity, maxConcurrency: 3, random, signal };
    await sendAll(Array(20).fill(0), send, options);
    expect({ most, done, open }).toEqual({ most: 3, done: 20, open: 0 });
  });

  test("come at random times with the rate that was asked for", async () => {
    const times: number[] = [];
    const send = (): Promise<void> => {
      times.push(performance.now());
      return Promise.resolve();
    };
    const random = new RandomData(3);
    const options = { requestRate: 400, maxConcurrency: Infinity, random, signal };
    const begin = performance.now();
    await sendAll(Array(200).fill(0), send, options);
    const seconds = (performance.now() - begin) / 1000;
    expect(200 / seconds).toBeGreaterThan(280);
    expect(200 / seconds).toBeLessThan(520);
    const gaps = times.slice(1).map((time, i) => time - times[i]!);
    expect(Math.max(...gaps)).toBeGreaterThan(6);
  });

  test("of one seed are the same", () => {
    const options = { count: 2, inputTokens: 5, outputTokens: 3, vocabSize: 100 };
    const first = randomPrompts(new RandomData(1), options);
    expect(first[0]!.prompt).toHaveLength(5);
    expect(randomPrompts(new RandomData(1), options)).toEqual(first);
    expect(randomPrompts(new RandomData(2), options)).not.toEqual(first);
    const [words] = randomPrompts(new RandomData(1), { ...options, vocabSize: undefined });
    expect((words!.prompt as string).split(" ")).toHaveLength(5);
  });

  test("of a file begin again when there are too few", async () => {
    const folder = await mkdtemp(join(tmpdir(), "hymba-bench-"));
    const path = join(folder, "prompts.jsonl");
    await writeFile(path, '{"prompt": "a", "max_tokens": 2}\n\n{"prompt": [1, 2], "x": 1}\n');
    expect(await filePrompts(path, { count: 3, outputTokens: 9 })).toEqual([
      { prompt: "a", maxTokens: 2 },
      { prompt: [1, 2], maxTokens: 9 },
      { prompt: "a", maxTokens: 2 },
    ]);
    await writeFile(path, '{"prompt": "a"}\n{"prompt": 1}\n');
    await expect(filePrompts(path, { count: 3, outputTokens: 9 })).rejects.toThrow(
      /line 2 must be/,
    );
    await writeFile(path, "\n");
    await expect(filePrompts(path, { count: 1, outputTokens: 9 })).rejects.toThrow(/it has none/);
    await rm(folder, { recursive: true });
  });
});

describe("hymba bench serve", () => {
  let server: TestServer;
  beforeAll(async () => {
    server = await TestServer.start();
  });
  afterAll(() => server.stop());

  test("measures a server, and prints JSON or a table", async () => {
    const argv = ["--num-prompts", "6", "--random-input-len", "12", "--random-output-len", "5"];
    const { code, terminal } = await bench(server.url, [...argv, "--max-concurrency", "4"]);
    expect({ code, err: terminal.err }).toEqual({ code: 0, err: "" });
    const [row] = terminal.json;
    expect(row).toMatchObject({
      ...{ bench: "serve", model: NAME, requests: 6, failed: 0, request_rate: "inf" },
      ...{ input_tokens: 72, output_tokens: 30, max_concurrency: 4 },
    });
    for (const [name, value] of Object.entries(row!)) {
      if (/_ms_|_per_s/.test(name)) expect([name, value]).toEqual([name, expect.any(Number)]);
    }
    expect(row!["ttft_ms_p50"]).toBeLessThan(row!["e2el_ms_p50"] as number);

    const chat = ["--endpoint", "/v1/chat/completions", "--request-rate", "100"];
    const asTable = new FakeTerminal("", true);
    expect(await run(["bench", "serve", "--base-url", server.url, ...argv, ...chat], asTable)).toBe(
      0,
    );
    expect(asTable.out).toMatch(/TTFT ms .* TPOT ms .* ITL ms/);
  });

  test("counts requests that fail, and fails when all do", async () => {
    const argv = ["--num-prompts", "3", "--random-input-len", "300"];
    const { code, terminal } = await bench(server.url, argv);
    expect(code).toBe(1);
    expect(terminal.err).toMatch(/^3 requests failed: status 400: .*context_length_exceeded/);
    expect(terminal.err).toMatch(/error: no request was answered/);
    const gone = createServer();
    await new Promise<void>((resolve) => gone.listen(0, "127.0.0.1", resolve));
    const { port } = gone.address() as AddressInfo;
    gone.close();
    const nobody = await bench(`http://127.0.0.1:${port}`, ["--num-prompts", "1"]);
    expect(nobody.code).toBe(1);
    expect(nobody.terminal.err).toMatch(
      /cannot ask http:\/\/127.0.0.1:\d+ for \/v1\/models: .*REFUSED/,
    );
  });

  test("reads other servers' streams: comments, CRLF, parts cut anywhere, no token ids", async () => {
    const events = [
      ": hello",
      'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}',
      'data: {"choices":[{"delta":{"content":"é"}}]}',
      'event: x\r\ndata:{"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}]}',
      'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":2}}',
      "data: [DONE]",
    ];
    const asked: string[] = [];
    const other: Server = createServer((request, response) => {
      request.setEncoding("utf8").on("data", (data: string) => asked.push(data));
      const write = async (): Promise<void> => {
        for (const byte of Buffer.from(events.map((event) => `${event}\r\n\r\n`).join(""))) {
          response.write(Buffer.of(byte));
          await Promise.resolve();
        }
        response.end();
      };
      void write();
    });
    await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
    const url = `http://127.0.0.1:${(other.address() as AddressInfo).port}`;
    const argv = ["--endpoint", "/v1/chat/completions", "--model", "theirs", "--num-prompts", "2"];
    const { code, terminal } = await bench(url, [...argv, "--warmups", "0"]);
    expect({ code, err: terminal.err }).toEqual({ code: 0, err: "" });
    expect(terminal.json[0]).toMatchObject({ input_tokens: 8, output_tokens: 4, requests: 2 });
    expect(JSON.parse(asked[0]!)).toMatchObject({
      ...{ model: "theirs", stream: true, ignore_eos: true, max_tokens: 128 },
      messages: [{ role: "user", content: expect.any(String) }],
    });
    other.close();
  });
});
