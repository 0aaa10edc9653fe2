import crypto = require("node:crypto");
import { once } from "node:events";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import fc from "fast-check";
import { HymbaError } from "../lib";
import { Runner } from "../lib/runner";
import { ApiKeys } from "../lib/server/api_keys";
import { NAME, rawConnection, rawPost, TestServer } from "./helpers/server";

const COMPLETIONS = "/v1/completions";
const CHAT = "/v1/chat/completions";
/** A text that takes some time. */
const LONG = { prompt: "The old house", max_tokens: 200, ignore_eos: true, seed: 1 };

/** Answers of a server, as status and error. */
async function fault(response: Response) {
  const { error } = (await response.json()) as { error: Record<string, unknown> };
  expect(Object.keys(error).sort()).toEqual(["code", "message", "param", "type"]);
  return { status: response.status, ...error };
}

/** What the events of a stream say. */
async function readEvents(response: Response): Promise<string[]> {
  const text = await response.text();
  return text.split("\n\n").flatMap((event) => (event === "" ? [] : event.replace("data: ", "")));
}

describe("a server", () => {
  let server: TestServer;
  beforeAll(async () => {
    server = await TestServer.start({ maxBodyBytes: 20_000 });
  });
  afterAll(() => server.stop());
  afterEach(() => server.settled());

  const stillWorks = async (): Promise<void> => {
    const response = await server.post(COMPLETIONS, { prompt: "a", max_tokens: 1 });
    expect(response.status).toBe(200);
  };

  test("gives everything back when clients leave, at whatever moment", async () => {
    const before = await server.metrics();
    const leave = async (i: number): Promise<void> => {
      const socket = await rawConnection(server.url);
      const path = i % 2 === 0 ? COMPLETIONS : CHAT;
      const asked =
        path === CHAT ? { messages: [{ role: "user", content: "Who?" }] } : { prompt: "The" };
      const { prompt: _, ...long } = LONG;
      const body = JSON.stringify({ ...long, ...asked, stream: i % 3 > 0, n: 1 + (i % 2) });
      const text = rawPost(path, body);
      // Some leave while they are still asking.
      socket.write(i % 7 === 6 ? text.slice(0, -10) : text);
      await sleep(i * 5);
      if (i % 4 === 0) socket.resetAndDestroy();
      else socket.destroy();
    };
    await Promise.all(Array.from({ length: 28 }, (_, i) => leave(i)));
    await server.settled();
    const after = await server.metrics();
    const aborted = 'request_success_total finished_reason="abort"';
    expect(after.get(aborted)! - before.get(aborted)!).toBeGreaterThan(4);
    expect(after.get("num_requests_running")).toBe(0);
    expect(after.get("num_requests_waiting")).toBe(0);
    await stillWorks();
  });

  test.each<[string, string, Record<string, string>, number]>([
    ["too large", JSON.stringify({ prompt: "a".repeat(30_000) }), {}, 413],
    ["empty", "", {}, 400],
    ["not JSON", "{prompt: 1}", {}, 400],
    ["cut off", '{"prompt": "a', {}, 400],
    ["a number", "5", {}, 400],
    ["null", "null", {}, 400],
    ["an array", "[]", {}, 400],
    ["text", '{"prompt":"a"}', { "content-type": "text/plain" }, 415],
    ["a form", "prompt=a", { "content-type": "application/x-www-form-urlencoded" }, 415],
    ["in no type", '{"prompt":"a"}', { "content-type": "nonsense" }, 415],
    ["nested deeply", `{"prompt": ${"[".repeat(9000)}${"]".repeat(9000)}}`, {}, 400],
    ["a prototype", '{"prompt": "a", "__proto__": {"polluted": 1}}', {}, 400],
    ["a constructor", '{"prompt": "a", "constructor": {"prototype": {"polluted": 1}}}', {}, 400],
    ["full of fields", `{${Array.from({ length: 900 }, (_, i) => `"f${i}":1`).join()}}`, {}, 400],
  ])("refuses a body that is %s", async (_, body, headers, status) => {
    expect(await fault(await server.post(COMPLETIONS, body, headers))).toMatchObject({
      status,
      type: "invalid_request_error",
    });
    expect(({} as Record<string, unknown>)["polluted"]).toBeUndefined();
  });

  test("refuses a body that turns out to be too large on the way", async () => {
    const socket = await rawConnection(server.url);
    let answer = "";
    socket.on("data", (data) => (answer += data.toString()));
    const head = `POST ${COMPLETIONS} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n`;
    socket.write(`${head}Transfer-Encoding: chunked\r\n\r\n`);
    for (let i = 0; i < 30 && answer === ""; i++) {
      socket.write(`3e8\r\n${" ".repeat(1000)}\r\n`);
      await sleep(2);
    }
    while (answer === "") await sleep(5);
    expect(answer).toMatch(/^HTTP\/1.1 413 /);
    socket.destroy();
  });

  const nested = (depth: number): object =>
    depth === 0 ? { type: "string" } : { type: "array", items: nested(depth - 1) };
  test.each<[string, unknown]>([
    ["no schema", 5],
    ["an unknown type", { type: "quantum" }],
    ["a missing reference", { $ref: "#/$defs/nothing" }],
    ["a reference elsewhere", { $ref: "http://localhost/x" }],
    ["a circle", { $ref: "#" }],
    ["one that nothing fits", { enum: [] }],
    ["a pattern that is none", { type: "string", pattern: "(" }],
    ["a pattern that explodes", { type: "string", pattern: "(a{1,999}){1,999}" }],
    ["deep", nested(400)],
    ["negative lengths", { type: "string", minLength: -1 }],
    ["long lengths", { type: "string", minLength: 1e9 }],
    ["a dangerous name", { type: "object", properties: { __proto__x: {}, constructor: {} } }],
  ])("answers or refuses a schema that is %s", async (_, schema) => {
    const body = {
      ...{ prompt: "a", max_tokens: 4 },
      response_format: { type: "json_schema", json_schema: { schema } },
    };
    const begin = performance.now();
    const response = await server.post(COMPLETIONS, body);
    expect([200, 400]).toContain(response.status);
    await response.text();
    expect(performance.now() - begin).toBeLessThan(5000);
  });

  test("answers any path and any header with a status of its own", async () => {
    const byte = fc.integer({ min: 1, max: 255 }).map((code) => String.fromCharCode(code));
    const noise = fc.string({ unit: byte, minLength: 1, maxLength: 40 });
    const path = fc.oneof(
      noise.map((text) => `/${encodeURIComponent(text)}`),
      noise.map((text) => `/${text.replace(/[\r\n ]/g, "")}`),
      fc.constantFrom(
        ...["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//", "/.", "/%00", "/%c0%ae/"],
        ...[
          "/v1/models/..%2f..%2fetc",
          "/v1//completions",
          "/v1/completions/",
          "*",
          "/?__proto__=1",
        ],
        ...[
          "/constructor",
          "/__proto__",
          `/${"a/".repeat(2000)}`,
          `/v1/models/${"%41".repeat(500)}`,
        ],
      ),
    );
    const method = fc.constantFrom("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "BREW");
    const header = fc.oneof(
      noise.map((text) => `X-Noise: ${text.replace(/[\r\n]/g, "")}`),
      noise.map((text) => text.replace(/[\r\n]/g, "")),
      fc.constantFrom(
        ...["Content-Length: -1", "Content-Length: 1e3", "Transfer-Encoding: nonsense"],
        ...["Authorization: ", "Host: \x00", "Expect: 200-magic", `X-Long: ${"a".repeat(20_000)}`],
        ...["Content-Length: 5\r\nTransfer-Encoding: chunked", "Connection: upgrade\r\nUpgrade: x"],
      ),
    );
    const request = fc.record({ method, path, headers: fc.array(header, { maxLength: 3 }) });
    for (const { method, path, headers } of fc.sample(request, { seed: 1, numRuns: 250 })) {
      const socket = await rawConnection(server.url);
      let answer = "";
      socket.on("data", (data) => (answer += data.toString("latin1")));
      socket.end(
        [`${method} ${path} HTTP/1.1`, "Connection: close", ...headers, "", ""].join("\r\n"),
        "latin1",
      );
      if (!socket.closed) await once(socket, "close");
      // What is no HTTP at all is told so, or nothing.
      expect(answer).toMatch(/^($|HTTP\/1.1 (200|400|404|413|415|417|431|501) )/);
      expect(answer).not.toMatch(/root:|node_modules|at .*\.ts/);
    }
    await stillWorks();
    const labels = [...(await server.metrics()).keys()].filter((name) => name.includes("route"));
    expect(labels.length).toBeLessThan(40);
  });
});

describe("a reader who is slow", () => {
  /** Bytes of a socket's buffers; those of TCP grow to several megabytes. */
  const path = join(tmpdir(), `hymba-test-${process.pid}.sock`);
  let server: TestServer;
  beforeAll(async () => {
    server = await TestServer.start({ path, stallMs: 700 });
  });
  afterAll(async () => {
    await server.stop();
    await rm(path, { force: true });
  });

  const messages = [{ role: "user", content: "Who comes?" }];
  /** More than a megabyte. */
  const much = {
    ...{ messages, stream: true, n: 4, max_tokens: 180, ignore_eos: true },
    ...{ logprobs: true, top_logprobs: 20 },
  };

  async function ask(body: object, read: boolean) {
    const socket = await rawConnection(path);
    let answer = "";
    socket.on("data", (data) => (answer += data.toString()));
    if (!read) socket.pause();
    socket.write(rawPost(CHAT, JSON.stringify(body), ["Connection: close"]));
    return { socket, answer: () => answer };
  }

  test("holds up nobody, and gets all when he goes on", async () => {
    const slow = await ask(much, false);
    const quick = await ask({ messages, stream: true, max_tokens: 8 }, true);
    await once(quick.socket, "close");
    expect(quick.answer()).toContain("[DONE]");
    // The engine is done with the slow one long before he is.
    while (server.model.info().cache.sequences.used > 0) await sleep(10);
    expect(server.server.openRequests).toBe(1);
    slow.socket.resume();
    await once(slow.socket, "close");
    expect(slow.answer().length).toBeGreaterThan(1_000_000);
    expect(slow.answer()).toContain("[DONE]");
    expect(slow.answer().match(/"finish_reason":"length"/g)).toHaveLength(4);
    await server.settled();
  });

  test("is cut off after a while", async () => {
    const { socket } = await ask(much, false);
    while (server.server.openRequests === 0) await sleep(5);
    while (server.model.info().cache.sequences.used > 0) await sleep(10);
    while (server.server.openRequests > 0) await sleep(10);
    socket.destroy();
    await server.settled();
  });
});

describe("a server with keys", () => {
  let server: TestServer;
  beforeAll(async () => {
    server = await TestServer.start({ apiKeys: ["first-key", "second-key"] });
  });
  afterAll(() => server.stop());

  const PATHS = [
    ...["/", "/v1/models", "/v1/models/tiny", "/version", "/metrics", "/openapi.json"],
    ...["/tokenizer_info", "/nothing", "/%zz", "/v1/completions", "/healthy", "/health/x"],
  ];
  const WRONG = [
    ...["", "Bearer", "Bearer ", "Bearer first-ke", "Bearer first-keyx", "Bearer first-key,x"],
    ...["first-key", "Basic first-key", `Basic ${btoa(":second")}`, "Bearer first-key second-key"],
  ];

  test("answers nothing but /health without one", async () => {
    for (const path of PATHS) {
      for (const authorization of [undefined, ...WRONG]) {
        const headers = authorization === undefined ? {} : { authorization };
        expect(await fault(await server.get(path, headers))).toMatchObject({
          status: 401,
          code: "invalid_api_key",
        });
      }
    }
    for (const path of [COMPLETIONS, CHAT, "/tokenize", "/detokenize"]) {
      // The body is not even read.
      expect((await fault(await server.post(path, "{}{"))).status).toBe(401);
    }
    expect((await server.get("/health")).status).toBe(200);
    expect((await server.get("/health?x=1")).status).toBe(200);
  });

  test.each(["Bearer first-key", "bearer second-key", `Basic ${btoa("me:first-key")}`])(
    "answers %s",
    async (authorization) => {
      expect((await server.get("/v1/models", { authorization })).status).toBe(200);
    },
  );

  test("compares digests of one length, all of them, whatever key it is given", () => {
    const compare = jest.spyOn(crypto, "timingSafeEqual");
    const keys = new ApiKeys(["a".repeat(20), "b".repeat(1000), "c"]);
    for (const key of ["", "a", "a".repeat(19), "a".repeat(20), "b".repeat(2000), "c"]) {
      compare.mockClear();
      keys.accepts(`Bearer ${key}`);
      expect(compare.mock.calls.map(([a, b]) => [a.byteLength, b.byteLength])).toEqual(
        Array(3).fill([32, 32]),
      );
    }
    compare.mockRestore();
  });
});

describe("under pressure", () => {
  test("requests beyond the limit are told when to ask again, and OpenAI's client does", async () => {
    const server = await TestServer.start({ maxWaiting: 1, load: { maxSequences: 1 } });
    const running = [server.post(COMPLETIONS, LONG), server.post(COMPLETIONS, LONG)];
    while ((await server.metrics()).get("num_requests_waiting") !== 1) await sleep(5);
    const refused = await server.post(COMPLETIONS, LONG);
    expect(refused.headers.get("retry-after")).toBe("1");
    expect(await fault(refused)).toMatchObject({
      status: 429,
      type: "rate_limit_error",
      code: "rate_limit_exceeded",
    });
    const client = server.client().withOptions({ maxRetries: 10 });
    const body = { model: NAME, prompt: "a", max_tokens: 2 };
    expect(await client.completions.create(body)).toMatchObject({ model: NAME });
    for (const response of await Promise.all(running)) expect(response.status).toBe(200);
    // Never, not just now.
    expect(await fault(await server.post(COMPLETIONS, { ...LONG, n: 3 }))).toMatchObject({
      status: 400,
      message: expect.stringMatching(/asks for 3 texts, of which the server has 2/),
    });
    await server.settled();
    await server.stop();
  });

  test("texts take turns when pages run out", async () => {
    const load = { maxSequences: 8, cacheTokens: 6 * 64 };
    const server = await TestServer.start({ load });
    const prompts = Array.from({ length: 14 }, (_, i) => `${i} ships`);
    const responses = await Promise.all(
      prompts.map((prompt) => server.post(COMPLETIONS, { ...LONG, prompt, max_tokens: 90 })),
    );
    for (const response of responses) {
      const { usage } = (await response.json()) as { usage: { completion_tokens: number } };
      expect(usage.completion_tokens).toBe(90);
    }
    await server.settled();
    const metrics = await server.metrics();
    expect(metrics.get("generation_tokens_total")).toBe(14 * 90);
    expect(metrics.get('request_success_total finished_reason="length"')).toBe(14);
    await server.stop();
  });
});

describe("a server that stops", () => {
  test("answers what it has, and nothing new", async () => {
    const server = await TestServer.start({ load: { maxSequences: 8 } });
    const streams = await Promise.all(
      Array.from({ length: 6 }, () => server.post(COMPLETIONS, { ...LONG, stream: true })),
    );
    const whole = server.post(COMPLETIONS, LONG);
    while (server.server.openRequests < 7) await sleep(2);
    const stopped = server.server.close(30_000);
    const refused = await server.post(COMPLETIONS, LONG);
    expect(refused.headers.get("retry-after")).toBe("10");
    expect(await fault(refused)).toMatchObject({ status: 503, type: "server_error" });
    expect((await fault(await server.get("/health"))).status).toBe(503);
    for (const stream of streams) expect((await readEvents(stream)).at(-1)).toBe("[DONE]");
    expect((await whole).status).toBe(200);
    await stopped;
    await expect(server.get("/health")).rejects.toThrow();
    await server.settled();
    await server.stop();
  });

  test("gives up what takes too long, and says so", async () => {
    const server = await TestServer.start();
    const stream = await server.post(COMPLETIONS, { ...LONG, n: 8, stream: true });
    const whole = server.post(COMPLETIONS, { ...LONG, n: 8 });
    while (server.server.openRequests < 2) await sleep(2);
    const begin = performance.now();
    const stopped = server.server.close(50);
    const last = JSON.parse((await readEvents(stream)).at(-1)!) as object;
    expect(last).toMatchObject({ error: { code: "stopping", type: "server_error" } });
    expect((await fault(await whole)).status).toBe(503);
    await stopped;
    expect(performance.now() - begin).toBeLessThan(3000);
    await server.settled();
    await server.stop();
  });

  test("does not wait for connections that nobody uses", async () => {
    const server = await TestServer.start();
    const idle = await rawConnection(server.url);
    const half = await rawConnection(server.url);
    half.write("POST /v1/completions HTTP/1.1\r\nContent-Le");
    const begin = performance.now();
    await server.stop();
    expect(performance.now() - begin).toBeLessThan(3000);
    idle.destroy();
    half.destroy();
  });
});

test("a lost device is told to all, and to whoever started the server", async () => {
  const server = await TestServer.start();
  const lost = new HymbaError("ERR_DEVICE_LOST", "the device is gone");
  const submit = jest.spyOn(Runner.prototype, "submit");
  const stream = await server.post(COMPLETIONS, { ...LONG, stream: true });
  submit.mockRejectedValue(lost);
  const last = JSON.parse((await readEvents(stream)).at(-1)!) as object;
  expect(last).toMatchObject({ error: { code: "model_gone" } });
  expect(await fault(await server.post(COMPLETIONS, LONG))).toMatchObject({
    status: 503,
    code: "model_gone",
  });
  expect(await server.server.failed).toBe(lost);
  submit.mockRestore();
  await server.stop();
});
