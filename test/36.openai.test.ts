import { join } from "node:path";
import { type Engine, HymbaError, HymbaModel } from "../lib";
import type { ApiError } from "../lib/openai/api_error";
import { requestError } from "../lib/openai/api_error";
import { answer, answerInParts, type ApiResponse, type Served } from "../lib/openai/answer";
import { ENDPOINTS } from "../lib/openai/endpoint";
import type { GeneratedText } from "../lib/openai/texts";

const FOLDER = join(__dirname, "..", "models", "hymba-tiny");
const COMPLETIONS = "/v1/completions";
const CHAT = "/v1/chat/completions";
const MESSAGES = [{ role: "user", content: "Who comes?" }];

let model: HymbaModel;
let engine: Engine;
let served: Served;

beforeAll(async () => {
  model = await HymbaModel.load(FOLDER, { device: "cpu", maxSequences: 4, maxContextTokens: 256 });
  engine = model.createEngine();
  served = { model, engine, name: "tiny" };
});
afterAll(() => model.dispose());

const understand = (path: string, body: unknown) =>
  Promise.resolve().then(() => ENDPOINTS.get(path)!(model, body));

async function ask(path: string, body: unknown) {
  const signal = new AbortController().signal;
  const response = await answer(served, await understand(path, body), signal);
  return { ...response, choices: response.choices as Readonly<Record<string, unknown>>[] };
}

/** The same in parts. */
async function askForParts(path: string, body: object) {
  const { signal } = new AbortController();
  const request = await understand(path, { ...body, stream: true });
  const parts: (Omit<ApiResponse, "choices" | "usage"> & {
    choices: Record<string, unknown>[];
    usage?: object | null;
  })[] = [];
  for await (const part of answerInParts(served, request, signal)) parts.push(JSON.parse(part));
  return parts;
}

/** What `model.generate` writes. */
async function alone(options: Parameters<HymbaModel["generate"]>[0]) {
  const chunks = [];
  for await (const chunk of model.generate(options)) chunks.push(chunk);
  return { text: chunks.map(({ text }) => text).join(""), chunks };
}

describe("a request", () => {
  test("becomes options of the engine, field by field", async () => {
    const schema = { type: "object" };
    const body = {
      model: "mine",
      user: "somebody",
      stream: false,
      prompt: [3, 4],
      n: 2,
      max_tokens: 7,
      temperature: 0.5,
      top_p: 0.9,
      seed: 11,
      stop: "end",
      logprobs: 0,
      echo: true,
      logit_bias: { 5: -1 },
      presence_penalty: 0.1,
      frequency_penalty: 0.2,
      response_format: { type: "json_schema", json_schema: { name: "x", strict: true, schema } },
      top_k: 40,
      min_p: 0.05,
      repetition_penalty: 1.1,
      stop_token_ids: [9],
      ignore_eos: true,
      min_tokens: 2,
      include_stop_str_in_output: true,
      skip_special_tokens: false,
    };
    const understood = await understand(COMPLETIONS, body);
    expect(understood).toMatchObject({ model: "mine", prompts: [[3, 4]], promptsOnly: false });
    expect(understood.options).toEqual({
      n: 2,
      maxTokens: 7,
      temperature: 0.5,
      topP: 0.9,
      seed: 11n,
      stop: ["end"],
      topLogprobs: 0,
      promptLogprobs: 0,
      logitBias: { 5: -1 },
      presencePenalty: 0.1,
      frequencyPenalty: 0.2,
      responseFormat: { type: "json_schema", schema },
      topK: 40,
      minP: 0.05,
      repetitionPenalty: 1.1,
      stopTokenIds: [9],
      ignoreEos: true,
      minTokens: 2,
      includeStop: true,
      skipSpecialTokens: false,
    });
  });

  test("has OpenAI's defaults for what the model's folder does not decide; null is as good as nothing", async () => {
    const nulls = { max_tokens: null, temperature: null, stop: null, response_format: null };
    const { prompts, options } = await understand(COMPLETIONS, { prompt: "Once", ...nulls });
    expect(prompts).toEqual(["Once"]);
    expect(options).toEqual({ maxTokens: 16 });
    const chat = await understand(CHAT, { messages: MESSAGES });
    expect(chat.prompts).toEqual([expect.any(Int32Array)]);
    expect(chat.options).toEqual({ maxTokens: 2 ** 31 - 1 });
  });

  test("of a chat is written by the model's template", async () => {
    const content = [
      { type: "text", text: "Who" },
      { type: "text", text: "comes?" },
    ];
    const messages = [
      { role: "system", content: "Be brief." },
      { role: "user", content },
    ];
    const { prompts } = await understand(CHAT, { messages });
    expect(model.tokenizer.decode(prompts[0] as Int32Array, { skipSpecialTokens: false })).toBe(
      "<|endoftext|><|system|>\nBe brief.<|end|>\n<|user|>\nWho\ncomes?<|end|>\n<|assistant|>\n",
    );
  });

  test.each<[unknown, readonly unknown[]]>([
    ["a", ["a"]],
    [
      ["a", "b"],
      ["a", "b"],
    ],
    [[3, 4], [[3, 4]]],
    [
      [[3], [4, 5]],
      [[3], [4, 5]],
    ],
  ])("has the prompts of %j", async (prompt, prompts) => {
    expect((await understand(COMPLETIONS, { prompt })).prompts).toEqual(prompts);
  });

  test.each<[object, string, unknown]>([
    [{ max_completion_tokens: 5, max_tokens: 6 }, "maxTokens", 5],
    [{ logprobs: true }, "topLogprobs", 0],
    [{ logprobs: true, top_logprobs: 3 }, "topLogprobs", 3],
    [{ logprobs: false }, "topLogprobs", undefined],
    [{ top_k: -1 }, "topK", 0],
    [{ seed: -1 }, "seed", 2n ** 64n - 1n],
    [{ stop: ["a", "b"] }, "stop", ["a", "b"]],
    [{ response_format: { type: "text" } }, "responseFormat", undefined],
    [{ response_format: { type: "json_object" } }, "responseFormat", { type: "json_object" }],
  ])("%j is %s %j", async (fields, option, value) => {
    const { options } = await understand(CHAT, { messages: MESSAGES, ...fields });
    expect(options[option as keyof typeof options]).toEqual(value);
  });
});

describe("a wrong request", () => {
  test.each<[string, unknown, string | null, RegExp]>([
    [COMPLETIONS, "text", null, /^the body: expected an object, got "text"$/],
    [COMPLETIONS, undefined, null, /^the body: expected an object, got nothing$/],
    [
      COMPLETIONS,
      {},
      "prompt",
      /^prompt: expected a string, an array of token ids, .* got nothing/,
    ],
    [COMPLETIONS, { prompt: ["a", 3] }, "prompt", /^prompt: expected a string, an array/],
    [COMPLETIONS, { prompt: ["a", []] }, "prompt", /^prompt must hold at least one token/],
    [COMPLETIONS, { prompt: [] }, "prompt", /^prompt must hold at least one token/],
    [COMPLETIONS, { prompt: [1e6] }, "prompt", /^prompt\[0\] must be from 0 to \d+, got 1000000/],
    [COMPLETIONS, { prompt: "a", echo: 1 }, "echo", /^echo: expected true or false/],
    [COMPLETIONS, { prompt: "a", best_of: 2 }, "best_of", /^unknown field best_of/],
    [COMPLETIONS, { prompt: "a", messages: [] }, "messages", /^unknown field messages/],
    [COMPLETIONS, { prompt: "a", stream: 1 }, "stream", /^stream: expected true or false/],
    [COMPLETIONS, { prompt: "a", stream_options: {} }, "stream_options", /needs stream: true/],
    [
      COMPLETIONS,
      { prompt: "a", stream: true, echo: true, logprobs: 1, n: 2 },
      "stream",
      /cannot be streamed/,
    ],
    [
      COMPLETIONS,
      { prompt: "a", stream: true, stream_options: { usage: true } },
      "stream_options.usage",
      /^unknown field/,
    ],
    [COMPLETIONS, { prompt: "a", top_p: 2 }, "top_p", /^top_p must be above 0 and at most 1/],
    [COMPLETIONS, { prompt: "a", max_tokens: -1 }, "max_tokens", /^max_tokens must be from 1/],
    [CHAT, { messages: MESSAGES, max_tokens: 0 }, "max_tokens", /^max_tokens must be from 1/],
    [
      COMPLETIONS,
      { prompt: "a", max_tokens: 1.5 },
      "max_tokens",
      /^max_tokens: expected an integer/,
    ],
    [COMPLETIONS, { prompt: "a", n: 0 }, "n", /^n must be from 1 to 128/],
    [COMPLETIONS, { prompt: "a", stop: [""] }, "stop", /^stop: expected a text or an array/],
    [COMPLETIONS, { prompt: "a", logprobs: 21 }, "logprobs", /^logprobs: .* from 0 to 20, got 21/],
    [COMPLETIONS, { prompt: "a", logit_bias: { x: 1 } }, "logit_bias", /logit_bias must be an int/],
    [COMPLETIONS, { prompt: "a", stop_token_ids: [-1] }, "stop_token_ids", /^stop_token_ids must/],
    [CHAT, { messages: [] }, null, /^messages must be a non-empty array/],
    [CHAT, { messages: [{ role: "user" }] }, "messages[0].content", /^messages\[0\].content: exp/],
    [CHAT, { messages: MESSAGES, top_logprobs: 1 }, "top_logprobs", /needs logprobs: true/],
    [CHAT, { messages: MESSAGES, tools: [] }, "tools", /^unknown field tools/],
    [
      CHAT,
      { messages: MESSAGES, response_format: { type: "xml" } },
      "response_format.type",
      /json/,
    ],
    [
      CHAT,
      { messages: MESSAGES, response_format: { type: "json_schema", json_schema: {} } },
      "response_format.json_schema.schema",
      /expected a JSON schema, got nothing/,
    ],
  ])("%s %j", async (path, body, param, message) => {
    const error = requestError(await ask(path, body).catch((error: unknown) => error))!;
    expect(error.body.error).toMatchObject({ type: "invalid_request_error", param });
    expect(error.message).toMatch(message);
    expect(error.status).toBe(400);
  });

  test("has OpenAI's code when its prompt is too long, and says what the schema has", async () => {
    const long = await ask(COMPLETIONS, { prompt: Array(257).fill(40) }).catch(requestError);
    expect(long).toMatchObject({ code: "context_length_exceeded" });
    expect((long as ApiError).message).toMatch(/^the prompt is too long: .* 257 more/);
    const many = await ask(CHAT, { messages: Array(257).fill(MESSAGES[0]) }).catch(requestError);
    expect(many).toMatchObject({ code: "context_length_exceeded", param: "messages" });
    const json_schema = { schema: { not: {} } };
    const body = { prompt: "a", response_format: { type: "json_schema", json_schema } };
    const refused = await ask(COMPLETIONS, body).catch(requestError);
    expect((refused as ApiError).message).toMatch(/"not" cannot be enforced/);
  });

  test("is none when the model, a caller or a bug is to blame", () => {
    expect(requestError(new HymbaError("ERR_DEVICE_LOST", "gone"))).toBeUndefined();
    expect(requestError(new HymbaError("ERR_ABORTED", "by its signal"))).toBeUndefined();
    expect(requestError(new TypeError("x is not a function"))).toBeUndefined();
    expect(requestError("text")).toBeUndefined();
  });
});

describe("an answer", () => {
  test("of completions is the text that model.generate writes", async () => {
    const options = { prompt: "The old house", maxTokens: 20, seed: 5, temperature: 0.9 };
    const expected = await alone(options);
    const body = { prompt: options.prompt, max_tokens: 20, seed: 5, temperature: 0.9 };
    const response = await ask(COMPLETIONS, body);
    const prompt = await model.tokenizer.encode(options.prompt);
    expect(response).toEqual({
      id: expect.stringMatching(/^cmpl-[-0-9a-f]{36}$/),
      object: "text_completion",
      created: expect.any(Number),
      model: "tiny",
      choices: [{ index: 0, text: expected.text, logprobs: null, finish_reason: "length" }],
      usage: {
        prompt_tokens: prompt.length,
        completion_tokens: 20,
        total_tokens: prompt.length + 20,
        prompt_tokens_details: { cached_tokens: 0 },
      },
    });
    expect(Math.abs(response.created - Date.now() / 1000)).toBeLessThan(60);
    const again = await ask(COMPLETIONS, { ...body, model: "mine" });
    expect(again).toMatchObject({ model: "mine", choices: [{ text: expected.text }] });
    const cached = again.usage.prompt_tokens_details.cached_tokens;
    expect(cached).toBe(prompt.length - 1);
  });

  test("of a chat is a message; n counts the seed up; a full context is a matter of length", async () => {
    const prompt = (await understand(CHAT, { messages: MESSAGES })).prompts[0]!;
    const fields = { ignore_eos: true, n: 2, seed: 7 };
    const { choices, object, usage } = await ask(CHAT, { messages: MESSAGES, ...fields });
    const expected = [];
    for (const seed of [7, 8]) {
      expected.push(await alone({ prompt, maxTokens: 1000, seed, ignoreEos: true }));
    }
    expect(object).toBe("chat.completion");
    expect(choices).toEqual(
      expected.map(({ text }, index) => ({
        index,
        message: { role: "assistant", content: text, refusal: null },
        logprobs: null,
        finish_reason: "length",
      })),
    );
    const generated = expected[0]!.chunks.length + expected[1]!.chunks.length;
    expect(usage.completion_tokens).toBe(generated);
  });

  test("of several prompts has the texts of each, in order; each prompt counts once", async () => {
    const prompts = ["The sea", "The old house", "A king"];
    const fields = { n: 2, seed: 3, max_tokens: 6, temperature: 1, ignore_eos: true };
    const several = await ask(COMPLETIONS, { prompt: prompts, ...fields });
    const expected = [];
    let promptTokens = 0;
    for (const prompt of prompts) {
      const { choices, usage } = await ask(COMPLETIONS, { prompt, ...fields });
      expected.push(...choices.map(({ text }) => text));
      promptTokens += usage.prompt_tokens;
    }
    expect(several.choices.map(({ text }) => text)).toEqual(expected);
    expect(several.choices.map(({ index }) => index)).toEqual([0, 1, 2, 3, 4, 5]);
    expect(several.usage).toMatchObject({ prompt_tokens: promptTokens, completion_tokens: 36 });

    const tokens = [[40, 41], [42]];
    const [first] = (await ask(COMPLETIONS, { prompt: tokens, seed: 1 })).choices;
    expect(first).toEqual((await ask(COMPLETIONS, { prompt: tokens[0], seed: 1 })).choices[0]);
  });

  test("of several prompts fails as a whole, and leaves nothing behind", async () => {
    const { cache: before } = model.info();
    const prompt = ["The sea", Array(257).fill(40)];
    const failed = await ask(COMPLETIONS, { prompt, max_tokens: 200 }).catch(requestError);
    expect(failed).toMatchObject({ code: "context_length_exceeded" });
    expect(model.info().cache.sequences.used).toBe(before.sequences.used);
  });

  test.each([
    [COMPLETIONS, { prompt: ["The sea", "A king"], n: 2, logprobs: 1 }],
    [COMPLETIONS, { prompt: "The sea", stop: "the" }],
    [COMPLETIONS, { prompt: ["The sea", [40, 41, 42]], logprobs: 1, echo: true }],
    [COMPLETIONS, { prompt: ["The sea", "A king"], n: 2, echo: true }],
    [COMPLETIONS, { prompt: "The sea", logprobs: 1, echo: true, max_tokens: 0 }],
    [CHAT, { messages: MESSAGES, logprobs: true, top_logprobs: 1, n: 2 }],
    [CHAT, { messages: MESSAGES }],
  ])("in parts is the same as whole: %s %j", async (path, fields) => {
    const body = { max_tokens: 12, seed: 4, temperature: 1, ignore_eos: true, ...fields };
    const whole = await ask(path, body);
    const parts = await askForParts(path, { ...body, stream_options: { include_usage: true } });
    const joined = whole.choices.map(({ index }) => {
      const own = parts.flatMap(({ choices }) => choices).filter((part) => part["index"] === index);
      const textOf = ({ text, delta }: Record<string, unknown>) =>
        (text ?? (delta as { content: string }).content) as string;
      const text = own.map(textOf).join("");
      const lists = own.map((part) => part["logprobs"] as Record<string, unknown[]> | null);
      const logprobs =
        lists[0] &&
        Object.fromEntries(
          Object.keys(lists[0]).map((key) => [key, lists.flatMap((list) => list![key] ?? [])]),
        );
      expect(own.slice(0, -1).every((part) => part["finish_reason"] === null)).toBe(true);
      if (path === CHAT) {
        const roles = own.map((part) => (part["delta"] as { role?: string }).role);
        expect(roles).toEqual(["assistant", ...Array(own.length - 1).fill(undefined)]);
      }
      return { index, text, logprobs, finish_reason: own.at(-1)!["finish_reason"] };
    });
    expect(joined).toEqual(
      whole.choices.map(({ message, text, logprobs, ...choice }) => {
        const { refusal: _, ...lists } = (logprobs ?? {}) as Record<string, unknown>;
        return {
          ...choice,
          text: text ?? (message as { content: string }).content,
          logprobs: logprobs && (path === CHAT ? { ...lists, refusal: [] } : lists),
        };
      }),
    );
    const { completion_tokens, prompt_tokens } = whole.usage;
    expect(parts.at(-1)).toMatchObject({
      choices: [],
      usage: { completion_tokens, prompt_tokens },
    });
    for (const part of parts.slice(0, -1)) expect(part.usage).toBeNull();
    const headings = new Set(
      parts.map(({ choices: _, usage: __, ...heading }) => JSON.stringify(heading)),
    );
    expect(headings.size).toBe(1);
    expect(parts[0]!.object).toBe(path === CHAT ? "chat.completion.chunk" : "text_completion");
    const [plain] = await askForParts(path, body);
    expect(plain).not.toHaveProperty("usage");
  });

  test("with a response format is what it allows", async () => {
    const schema = { type: "object", properties: { a: { enum: [1, 2] } }, required: ["a"] };
    const response_format = { type: "json_schema", json_schema: { schema } };
    const { choices } = await ask(CHAT, { messages: MESSAGES, response_format, max_tokens: 40 });
    const { content } = choices[0]!["message"] as { content: string };
    expect([1, 2]).toContain((JSON.parse(content) as { a: number }).a);
    expect(choices[0]).toMatchObject({ finish_reason: "stop" });
  });

  test("has log-probabilities of every token, in either shape", async () => {
    const fields = { seed: 3, max_tokens: 12, temperature: 1 };
    const prompt = (await understand(CHAT, { messages: MESSAGES })).prompts[0] as Int32Array;
    const options = { prompt, seed: 3, maxTokens: 12, temperature: 1, topLogprobs: 2 };
    const { chunks, text } = await alone(options);
    const name = (token: number) => model.tokenizer.decode([token], { skipSpecialTokens: false });
    const tokens = chunks.map(({ token }) => name(token));
    const logprobs = chunks.map(({ logprob }) => logprob);

    const body = { prompt: [...prompt], logprobs: 2, ...fields };
    const plain = (await ask(COMPLETIONS, body)).choices[0]!;
    expect(plain["text"]).toBe(text);
    expect(plain["logprobs"]).toEqual({
      tokens,
      token_logprobs: logprobs,
      top_logprobs: chunks.map(({ token, logprob, topLogprobs }) =>
        Object.fromEntries(
          [...topLogprobs!, { token, logprob }].map((t) => [name(t.token), t.logprob]),
        ),
      ),
      text_offset: tokens.map((_, i) => tokens.slice(0, i).join("").length),
    });

    const chat = { messages: MESSAGES, logprobs: true, top_logprobs: 2, ...fields };
    const entry = ({ token, logprob }: { token: number; logprob: number }) => ({
      token: name(token),
      logprob,
      bytes: [...Buffer.from(name(token))],
    });
    expect((await ask(CHAT, chat)).choices[0]!["logprobs"]).toEqual({
      content: chunks.map(({ topLogprobs, ...token }) => ({
        ...entry(token),
        top_logprobs: topLogprobs!.map(entry),
      })),
      refusal: null,
    });
  });

  test("has the texts of all prompts, in their order; one that is wrong ends them all", async () => {
    const prompts = ["The sea", "The old house", "A king"];
    const fields = { n: 2, seed: 4, max_tokens: 10, temperature: 0.8 };
    const { choices, usage } = await ask(COMPLETIONS, { prompt: prompts, ...fields });
    const expected = [];
    for (const prompt of prompts)
      for (const seed of [4, 5])
        expected.push(await alone({ prompt, seed, maxTokens: 10, temperature: 0.8 }));
    expect(choices.map(({ index, text }) => ({ index, text }))).toEqual(
      expected.map(({ text }, index) => ({ index, text })),
    );
    const lengths = await Promise.all(prompts.map((prompt) => model.tokenizer.encode(prompt)));
    expect(usage).toMatchObject({
      prompt_tokens: lengths.reduce((sum, { length }) => sum + length, 0),
      completion_tokens: expected.reduce((sum, { chunks }) => sum + chunks.length, 0),
    });

    const wrong = ask(COMPLETIONS, { prompt: [[3, 4], Array(257).fill(40)], max_tokens: 200 });
    await expect(wrong).rejects.toMatchObject({ code: "ERR_CONTEXT_FULL" });
    // The other one has left.
    expect(model.info().cache.sequences.used).toBe(0);
  });

  describe("that echoes", () => {
    const contexts = ["The old man went down to", "The sea", "A king with a golden"];
    const continuations = [" the sea", " and the ship", " ring"];
    /** As lm-evaluation-harness asks for log-likelihoods. */
    const fields = { temperature: 0, max_tokens: 1, logprobs: 1, seed: 1234, echo: true };

    interface Logprobs {
      readonly tokens: string[];
      readonly token_logprobs: (number | null)[];
      readonly top_logprobs: (Record<string, number> | null)[];
      readonly text_offset: number[];
    }

    test("scores prompts as lm-evaluation-harness reads them", async () => {
      const encode = (text: string) => model.tokenizer.encode(text, { addSpecialTokens: false });
      const prompts: number[][] = [];
      const contextLengths: number[] = [];
      for (const [i, context] of contexts.entries()) {
        const ids = await encode(context);
        contextLengths.push(ids.length);
        prompts.push([...ids, ...(await encode(continuations[i]!))]);
      }
      const { choices, usage } = await ask(COMPLETIONS, { prompt: prompts, ...fields });
      expect(choices).toHaveLength(prompts.length);
      expect(usage.completion_tokens).toBe(prompts.length);
      for (const [i, choice] of choices.entries()) {
        const { tokens, token_logprobs, top_logprobs, text_offset } = choice[
          "logprobs"
        ] as Logprobs;
        const prompt = prompts[i]!;
        // One token was generated, and is left out.
        expect(token_logprobs).toHaveLength(prompt.length + 1);
        const [first, ...scored] = token_logprobs.slice(0, -1);
        expect(first).toBeNull();
        expect(top_logprobs[0]).toBeNull();
        expect(scored).toEqual([...(await model.score(prompt))]);
        for (let t = contextLengths[i]!; t < prompt.length; t++) {
          const { logits } = (await prefilled(prompt.slice(0, t)))[0]!;
          const best = logits!.indexOf(Math.max(...logits!));
          const isGreedy = token_logprobs[t] === Math.max(...Object.values(top_logprobs[t]!));
          expect(isGreedy).toBe(best === prompt[t]);
        }
        const text = choice["text"] as string;
        expect(text.startsWith(contexts[i]! + continuations[i]!)).toBe(true);
        expect(tokens.join("")).toBe(text);
        expect(text_offset).toEqual(tokens.map((_, t) => tokens.slice(0, t).join("").length));
      }
    });

    test("a text of no tokens is its prompt", async () => {
      const body = { prompt: contexts[0], ...fields, max_tokens: 0 };
      const { choices, usage } = await ask(COMPLETIONS, body);
      const prompt = await model.tokenizer.encode(contexts[0]!);
      expect(choices[0]).toMatchObject({ text: contexts[0], finish_reason: "length" });
      const { token_logprobs } = choices[0]!["logprobs"] as Logprobs;
      expect(token_logprobs).toEqual([null, ...(await model.score(prompt))]);
      expect(usage).toMatchObject({ completion_tokens: 0, total_tokens: prompt.length });
      const plain = await ask(COMPLETIONS, { prompt: contexts[0], max_tokens: 0 });
      expect(plain.choices[0]).toMatchObject({ text: "", logprobs: null });
    });

    test("prompt_logprobs are in vLLM's shape, whatever else is asked for", async () => {
      const prompt = [...(await model.tokenizer.encode(contexts[0]!))];
      const expected = [...(await model.score(prompt))];
      const body = { prompt, max_tokens: 1, seed: 1, prompt_logprobs: 2 };
      const { choices } = await ask(COMPLETIONS, { ...body, logprobs: 0 });
      const [first, ...others] = choices[0]!["prompt_logprobs"] as Record<
        string,
        { logprob: number; rank: number | null; decoded_token: string }
      >[];
      expect(first).toBeNull();
      others.forEach((candidates, i) => {
        const token = prompt[i + 1]!;
        const { logprob, rank, decoded_token } = candidates[token]!;
        expect([logprob, decoded_token]).toEqual([
          expected[i],
          model.tokenizer.decode([token], { skipSpecialTokens: false }),
        ]);
        const ranks = Object.values(candidates).map((candidate) => candidate.rank);
        expect(new Set(ranks)).toEqual(new Set(rank === null ? [1, 2, null] : [1, 2]));
      });
      expect((choices[0]!["logprobs"] as Logprobs).tokens).toHaveLength(1);

      const both = await ask(COMPLETIONS, { ...body, logprobs: 1, echo: true });
      expect(both.choices[0]!["prompt_logprobs"]).toEqual([first, ...others]);
      const { top_logprobs } = both.choices[0]!["logprobs"] as Logprobs;
      expect(Math.max(...top_logprobs.slice(1).map((tops) => Object.keys(tops!).length))).toBe(2);
    });

    test("without logprobs, a prompt stands before each of its texts", async () => {
      const options = { prompt: contexts[1]!, seed: 2, maxTokens: 8 };
      const body = { prompt: contexts[1], seed: 2, max_tokens: 8, n: 2, echo: true };
      const { choices } = await ask(COMPLETIONS, body);
      for (const [i, { text }] of choices.entries())
        expect(text).toBe(contexts[1]! + (await alone({ ...options, seed: 2 + i })).text);
    });

    async function prefilled(tokens: readonly number[]) {
      const sequence = model.createSequence();
      try {
        return await model.prefill([{ sequence, tokens }]);
      } finally {
        sequence.dispose();
      }
    }
  });

  test("counts offsets in the text of a prompt that has no space before it, and keeps the larger of two numbers of one text", async () => {
    const { choice } = await understand(COMPLETIONS, { prompt: "a", logprobs: 1, echo: true });
    const [first, second] = await model.tokenizer.encode(" a b", { addSpecialTokens: false });
    const generated = {
      // As a tokenizer that puts a space before every text would read it.
      prompt: "a",
      promptLogprobs: [
        { token: 0 },
        { token: first!, logprob: -3, topLogprobs: [{ token: first!, logprob: -1 }] },
      ],
      text: "",
      tokens: [{ token: second!, logprob: -1, topLogprobs: [{ token: second!, logprob: -3 }] }],
      finishReason: "length" as const,
      metrics: {} as never,
    };
    const { logprobs } = choice(generated, 0) as { logprobs: unknown };
    expect(logprobs).toEqual({
      tokens: ["<|endoftext|>", " a", " b"],
      token_logprobs: [null, -3, -1],
      top_logprobs: [null, { " a": -1 }, { " b": -1 }],
      text_offset: [0, 0, 1],
    });
  });

  test("names parts of characters and special tokens, and has no infinities", async () => {
    const { choice } = await understand(COMPLETIONS, { prompt: "a", logprobs: 0 });
    const parts = await model.tokenizer.encode("a☃b", { addSpecialTokens: false });
    const drawn = [...parts, 0].map((token) => ({ token, logprob: -Infinity }));
    const text: GeneratedText = {
      prompt: "a",
      promptLogprobs: [],
      text: "a☃b",
      tokens: drawn,
      finishReason: "stop",
      metrics: {} as never,
    };
    const { logprobs } = choice(text, 0) as { logprobs: Record<string, unknown[]> };
    const tokens = logprobs["tokens"] as string[];
    // The model's vocabulary has no token for a snowman.
    expect(tokens.at(0)).toBe("a");
    expect(tokens.slice(1, -2).join("").replaceAll("bytes:", "")).toBe("\\xe2\\x98\\x83");
    expect(tokens.slice(-2)).toEqual(["b", "<|endoftext|>"]);
    expect(logprobs["token_logprobs"]).toEqual(drawn.map(() => -9999));
    const offsets = logprobs["text_offset"] as number[];
    expect([offsets[0], offsets[1], ...offsets.slice(-2)]).toEqual([0, 1, 2, 3]);
  });
});
