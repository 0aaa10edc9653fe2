import { readFile } from "node:fs/promises";
import { join } from "node:path";
import OpenAI from "openai";
import { z } from "zod";
import { ENDPOINTS } from "../lib/openai/endpoint";
import { ROOT } from "./helpers/package";
import { NAME, TestServer } from "./helpers/server";

const MESSAGES = [{ role: "user" as const, content: "Who comes?" }];
const PROMPT = "Once upon a time";

let server: TestServer;
let client: OpenAI;
beforeAll(async () => {
  server = await TestServer.start();
  client = server.client();
});
afterAll(() => server.stop());

/** What `model.generate` writes. */
async function alone(options: Parameters<TestServer["model"]["generate"]>[0]): Promise<string> {
  let whole = "";
  for await (const { text } of server.model.generate(options)) whole += text;
  return whole;
}

/** The prompt that the chat template makes. */
const chatPrompt = () =>
  server.model.tokenizer.encode(server.model.applyChatTemplate(MESSAGES), {
    addSpecialTokens: false,
  });

describe("OpenAI's client", () => {
  test("has prompts continued, whole and streamed, as model.generate does", async () => {
    const expected = await alone({ prompt: PROMPT, maxTokens: 20, seed: 3, temperature: 0.9 });
    const body = { model: NAME, prompt: PROMPT, max_tokens: 20, seed: 3, temperature: 0.9 };
    const whole = await client.completions.create(body);
    expect(whole.choices).toEqual([
      { index: 0, text: expected, logprobs: null, finish_reason: "length" },
    ]);
    expect(whole).toMatchObject({ object: "text_completion", model: NAME });
    expect(whole.usage).toMatchObject({ completion_tokens: 20 });
    expect(whole._request_id).toMatch(/^[-0-9a-f]{36}$/);

    let text = "";
    let chunks = 0;
    for await (const { choices } of await client.completions.create({ ...body, stream: true })) {
      text += choices[0]!.text;
      chunks++;
    }
    expect(text).toBe(expected);
    expect(chunks).toBeGreaterThan(10);
  });

  test("chats, whole and streamed", async () => {
    const prompt = await chatPrompt();
    const expected = await alone({ prompt, maxTokens: 16, seed: 5 });
    const body = { model: NAME, messages: MESSAGES, max_tokens: 16, seed: 5 };
    const whole = await client.chat.completions.create(body);
    expect(whole.choices[0]!.message).toEqual({
      role: "assistant",
      content: expected,
      refusal: null,
    });
    const stream = client.chat.completions.stream({
      ...body,
      stream_options: { include_usage: true },
    });
    const final = await stream.finalChatCompletion();
    expect(final.choices[0]!.message.content).toBe(expected);
    expect(final.usage).toMatchObject({ prompt_tokens: prompt.length });
  });

  test("gets several texts, log-probabilities and an echo of the prompt", async () => {
    const two = await client.chat.completions.create({
      ...{ model: NAME, messages: MESSAGES, n: 2, max_tokens: 8, seed: 1, temperature: 1 },
      ...{ logprobs: true, top_logprobs: 2 },
    });
    expect(two.choices.map(({ index }) => index)).toEqual([0, 1]);
    const [first] = two.choices[0]!.logprobs!.content!;
    expect(first!.top_logprobs).toHaveLength(2);
    expect(first!.logprob).toBeLessThanOrEqual(0);

    const text = "The old man went to the sea.";
    const tokens = await server.model.tokenizer.encode(text);
    const scores = await server.model.score(tokens);
    const echoed = await client.completions.create({
      ...{ model: NAME, prompt: [...tokens], max_tokens: 1, temperature: 0, seed: 1234 },
      ...{ logprobs: 1, echo: true },
    });
    const { token_logprobs: given, top_logprobs: tops } = echoed.choices[0]!.logprobs!;
    expect(given).toHaveLength(tokens.length + 1);
    expect(given!.slice(1, -1)).toEqual([...scores]);
    for (const [i, top] of tops!.slice(1).entries()) {
      expect(Math.max(...Object.values(top))).toBeGreaterThanOrEqual(given![i + 1]!);
    }
  });

  test("gets JSON that a schema allows", async () => {
    const schema = {
      type: "object",
      properties: { name: { enum: ["Ann", "Bob"] }, age: { type: "integer", enum: [7, 8] } },
      required: ["name", "age"],
      additionalProperties: false,
    };
    const body = {
      model: NAME,
      messages: MESSAGES,
      response_format: { type: "json_schema" as const, json_schema: { name: "person", schema } },
    };
    const shape = z.strictObject({ name: z.enum(["Ann", "Bob"]), age: z.literal([7, 8]) });
    const { choices } = await client.chat.completions.create(body);
    expect(shape.parse(JSON.parse(choices[0]!.message.content!))).toBeDefined();
    const final = await client.chat.completions.stream(body).finalContent();
    expect(shape.parse(JSON.parse(final!))).toBeDefined();
  });

  test("lists the model under its names, and finds it by each", async () => {
    const { data } = await client.models.list();
    expect(data.map(({ id }) => id)).toEqual([NAME, "alias/of it"]);
    expect(data[0]).toMatchObject({ object: "model", owned_by: "hymba", max_model_len: 256 });
    expect(await client.models.retrieve("alias/of it")).toMatchObject({ id: "alias/of it" });
    await expect(client.models.retrieve("gpt-5")).rejects.toBeInstanceOf(OpenAI.NotFoundError);
    const asked = { model: "gpt-5", prompt: PROMPT };
    await expect(client.completions.create(asked)).rejects.toMatchObject({
      status: 404,
      code: "model_not_found",
      param: "model",
    });
    const alias = { model: "alias/of it", prompt: PROMPT, max_tokens: 1 };
    expect(await client.completions.create(alias)).toMatchObject({ model: "alias/of it" });
  });

  test("is told what is wrong with a request, streamed or not", async () => {
    for (const stream of [false, true]) {
      const wrong = { model: NAME, messages: MESSAGES, temperature: -1, stream };
      const error: unknown = await client.chat.completions.create(wrong).then(
        () => undefined,
        (reason: unknown) => reason,
      );
      expect(error).toBeInstanceOf(OpenAI.BadRequestError);
      expect(error).toMatchObject({ param: "temperature", type: "invalid_request_error" });
      const long = { model: NAME, prompt: Array<number>(300).fill(40), stream };
      await expect(client.completions.create(long)).rejects.toMatchObject({
        status: 400,
        code: "context_length_exceeded",
      });
    }
  });

  test("that leaves has its text withdrawn", async () => {
    const before = await server.metrics();
    const stream = await client.chat.completions.create({
      ...{ model: NAME, messages: MESSAGES, stream: true, max_tokens: 240 },
      ...({ ignore_eos: true } as object),
    });
    for await (const _ of stream) break;
    const controller = new AbortController();
    const body = { model: NAME, messages: MESSAGES, max_tokens: 240, ignore_eos: true };
    const whole = client.chat.completions.create(body, { signal: controller.signal });
    setTimeout(() => controller.abort(), 30);
    await expect(whole).rejects.toBeInstanceOf(OpenAI.APIUserAbortError);
    await server.settled();
    const after = await server.metrics();
    const aborted = 'request_success_total finished_reason="abort"';
    expect(after.get(aborted)! - before.get(aborted)!).toBe(2);
    const left = 'http_requests_total route="/v1/chat/completions",status="aborted"';
    expect(after.get(left)).toBe(2);
  });
});

describe("tokens", () => {
  const json = async (response: Response) => [response.status, await response.json()] as const;

  test("of a text, with or without special tokens, and back", async () => {
    const { tokenizer } = server.model;
    const plain = [...(await tokenizer.encode("Ünïcode", { addSpecialTokens: false }))];
    const body = { prompt: "Ünïcode", add_special_tokens: false };
    expect(await json(await server.post("/tokenize", body))).toEqual([
      200,
      { count: plain.length, max_model_len: 256, tokens: plain, token_strs: null },
    ]);
    const whole = await json(await server.post("/tokenize", { prompt: "Ünïcode" }));
    expect(whole[1]).toMatchObject({ tokens: [tokenizer.bosTokenId, ...plain] });
    const named = await server.post("/tokenize", { ...body, return_token_strs: true });
    expect((await json(named))[1]).toMatchObject({
      token_strs: plain.map((id) => tokenizer.idToToken(id)),
    });
    const back = await server.post("/detokenize", { tokens: plain });
    expect(await json(back)).toEqual([200, { prompt: "Ünïcode" }]);
  });

  test("of a conversation are those that a chat begins with", async () => {
    const tokens = [...(await chatPrompt())];
    const [, whole] = await json(await server.post("/tokenize", { messages: MESSAGES }));
    expect(whole).toMatchObject({ tokens, count: tokens.length });
    const body = { messages: MESSAGES, add_generation_prompt: false };
    const [, shorter] = await json(await server.post("/tokenize", body));
    expect((shorter as { count: number }).count).toBeLessThan(tokens.length);
  });

  test("have a tokenizer that says how it is", async () => {
    expect((await json(await server.get("/tokenizer_info")))[1]).toMatchObject({
      bos_token: "<|endoftext|>",
      eos_token: "<|endoftext|>",
      pad_token: "<|pad|>",
      chat_template: expect.stringContaining("messages"),
    });
  });

  test.each<[string, object, RegExp]>([
    ["/tokenize", {}, /either a prompt or messages/],
    ["/tokenize", { prompt: "a", messages: MESSAGES }, /either a prompt or messages/],
    ["/tokenize", { prompt: 5 }, /^prompt: expected a string, got 5/],
    ["/tokenize", { prompt: "a", model: "b" }, /there is no such model here/],
    ["/detokenize", { tokens: ["a"] }, /^tokens: expected an array of token ids/],
    ["/detokenize", { tokens: [-1] }, /^tokens must be from 0 to \d+, got -1/],
    ["/detokenize", { tokens: [1e9] }, /^tokens must be from 0 to \d+, got 1000000000/],
  ])("%s %j is wrong", async (path, body, message) => {
    const [status, answer] = await json(await server.post(path, body));
    expect([400, 404]).toContain(status);
    expect((answer as { error: { message: string } }).error.message).toMatch(message);
  });
});

describe("the server", () => {
  test("is healthy and has the package's version", async () => {
    const { version } = JSON.parse(await readFile(join(ROOT, "package.json"), "utf8")) as {
      version: string;
    };
    expect(await (await server.get("/version")).json()).toEqual({ version });
    const health = await server.get("/health");
    expect(health.status).toBe(200);
    expect(await health.json()).toEqual({ status: "ok", device: "cpu", dtype: "bfloat16" });
  });

  test("counts what it does", async () => {
    const before = await server.metrics();
    let prompt = 0;
    let generated = 0;
    for (const max_tokens of [1, 7, 12]) {
      const body = { model: NAME, prompt: PROMPT, max_tokens, ignore_eos: true };
      const { usage } = await client.completions.create(body);
      prompt += usage!.prompt_tokens;
      generated += usage!.completion_tokens;
    }
    const after = await server.metrics();
    const gained = (name: string) => after.get(name)! - (before.get(name) ?? 0);
    expect(gained("prompt_tokens_total")).toBe(prompt);
    expect(gained("prefix_cache_queries_total")).toBe(prompt);
    expect(gained("prefix_cache_hits_total")).toBeGreaterThan(0);
    expect(gained("generation_tokens_total")).toBe(generated);
    expect(gained('request_success_total finished_reason="length"')).toBe(3);
    for (const name of ["time_to_first_token", "e2e_request_latency", "request_queue_time"]) {
      expect(gained(`${name}_seconds_count`)).toBe(3);
    }
    expect(gained("inter_token_latency_seconds_count")).toBe(generated - 3);
    const parts = ["queue", "prefill", "decode"].map((part) =>
      gained(`request_${part}_time_seconds_sum`),
    );
    const sum = parts.reduce((a, b) => a + b);
    expect(Math.abs(gained("e2e_request_latency_seconds_sum") - sum)).toBeLessThan(0.05);
    expect(gained('http_requests_total route="/v1/completions",status="200"')).toBe(3);
    expect(after.get("num_requests_running")).toBe(0);
    expect(after.get("num_requests_waiting")).toBe(0);
    expect(after.get("state_slots")).toBeGreaterThanOrEqual(4);
  });

  test("has every metric in its documentation, and the dashboard has no other", async () => {
    const text = await (await server.get("/metrics")).text();
    const names = Array.from(text.matchAll(/^# TYPE (\S+)/gm), ([, name]) => name!);
    expect(names.length).toBeGreaterThan(15);
    const docs = await readFile(join(ROOT, "docs", "server.md"), "utf8");
    const rows = docs.split("\n").filter((line) => line.startsWith("| `hymba_"));
    // Rows of several names have their ends alone.
    const said = rows.join("\n");
    for (const name of names) {
      const [, end] = /_((?:waiting|hits_total|prefill|decode)(?=_|$))/.exec(name) ?? [];
      expect(said).toContain(end === undefined ? name : `_${end}`);
    }
    const dashboard = await readFile(join(ROOT, "docs", "grafana.json"), "utf8");
    const used = new Set(Array.from(dashboard.matchAll(/hymba_\w+/g), ([name]) => name));
    expect(used.size).toBeGreaterThan(15);
    for (const name of used) {
      expect(names).toContain(name.replace(/_(bucket|sum|count)$/, ""));
    }
  });

  test("describes its endpoints and their fields", async () => {
    type Body = { content: { "application/json": { schema: { properties: object } } } };
    const { openapi, paths } = (await (await server.get("/openapi.json")).json()) as {
      openapi: string;
      paths: Record<string, { post?: { requestBody: Body }; get?: object }>;
    };
    expect(openapi).toBe("3.1.0");
    for (const [path, { get }] of Object.entries(paths)) {
      const response = get ? await server.get(path) : await server.post(path, {});
      expect([path, response.status]).toEqual([path, get ? 200 : 400]);
    }
    for (const path of ENDPOINTS.keys()) {
      const { properties } = paths[path]!.post!.requestBody.content["application/json"].schema;
      expect(properties).toHaveProperty("response_format");
      expect(properties).toMatchObject({
        temperature: { anyOf: [{ type: "number" }, { type: "null" }] },
      });
    }
  });

  test("logs requests, and nothing of what is in them", async () => {
    const secret = "xyzzy-secret-prompt";
    await client.completions.create({ model: NAME, prompt: secret, max_tokens: 2 });
    await server.post(`/v1/completions?${secret}`, { prompt: secret, [secret]: 1 });
    await server.get(`/${secret}`);
    await server.settled();
    const log = server.log.join("");
    expect(log).toContain('"route":"/v1/completions","status":200');
    expect(log).toContain('"route":"unknown","status":404');
    expect(log).not.toContain(secret);
  });
});
