import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { run } from "../lib/cli/main";
import { HymbaModel } from "../lib/model";
import { FakeTerminal } from "./helpers/fake_cli";
import { MICRO } from "./helpers/golden";
import { tokenizerFolders } from "./helpers/tokenizers";

/** Random weights in the shape of the golden model, with a tokenizer: the commands end to end. */
let folder: string;
let model: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "hymba-cli-model-"));
  model = `synthetic:${folder}`;
  await cp(tokenizerFolders.byteLevel, folder, { recursive: true });
  const config = JSON.parse(await readFile(join(MICRO, "config.json"), "utf8")) as object;
  const sized = { ...config, vocab_size: 342, bos_token_id: 0, eos_token_id: 1, pad_token_id: 2 };
  await writeFile(join(folder, "config.json"), JSON.stringify(sized));
});
afterAll(() => rm(folder, { recursive: true }));

async function hymba(argv: readonly string[], input = "") {
  const terminal = new FakeTerminal(input);
  const code = await run(argv, terminal);
  return { code, out: terminal.out, err: terminal.err, json: () => terminal.json };
}

const prompt = "The lighthouse keeper";

test("generate: a seed gives the same text twice, and the text that the API gives", async () => {
  const argv = ["generate", model, "--prompt", prompt, "-n", "24", "--seed", "5", "--ignore-eos"];
  const first = await hymba([...argv, "--json"]);
  expect(first).toMatchObject({ code: 0, err: "" });
  const lines = first.json();
  const text = lines.map((line) => (line["text"] as string | undefined) ?? "").join("");
  expect((await hymba(argv)).out.replace(/\n$/, "")).toBe(text.replace(/\n$/, ""));
  expect(lines.at(-1)).toMatchObject({ finishReason: "length", generatedTokens: 24 });

  await using loaded = await HymbaModel.load(model, { maxSequences: 1 });
  const tokens: number[] = [];
  const options = { prompt, maxTokens: 24, seed: 5, ignoreEos: true };
  for await (const { token } of loaded.generate(options)) tokens.push(token);
  expect(lines.slice(0, -1).map((line) => line["token"])).toEqual(tokens);
});

test("generate: stops at a full context", async () => {
  const argv = ["generate", model, "--prompt", prompt, "--context", "32", "--ignore-eos", "--json"];
  const { code, json } = await hymba(argv);
  expect(code).toBe(0);
  expect(json().at(-1)).toMatchObject({ finishReason: "context" });
});

test("generate: writes what a schema or a pattern allows", async () => {
  const schema = join(folder, "ship.schema.json");
  const ship = { type: "object", properties: { masts: { enum: [2, 3] } }, required: ["masts"] };
  await writeFile(schema, JSON.stringify(ship));
  const argv = ["generate", model, "--prompt", prompt, "--seed", "5"];
  expect((await hymba([...argv, "--json-schema", schema])).out).toMatch(/^\{"masts": ?[23]\}\n$/);
  expect((await hymba([...argv, "--regex", "1[89]\\d\\d"])).out).toMatch(/^1[89]\d\d\n$/);

  await writeFile(schema, '{"not": {}}');
  const refused = await hymba([...argv, "--json-schema", schema]);
  expect(refused).toMatchObject({ code: 1, out: "" });
  expect(refused.err).toMatch(/^error: the schema at #: "not" cannot be enforced/);
  await writeFile(schema, "{masts: 2}");
  expect((await hymba([...argv, "--json-schema", schema])).err).toMatch(/ is not JSON: /);
  expect((await hymba([...argv, "--json-schema", schema, "--regex", "a"])).code).toBe(2);
});

test("chat: every answer is what the pattern allows", async () => {
  const argv = ["chat", model, "--regex", " (?:Yes|No)\\.", "--json"];
  const { code, json } = await hymba(argv, "Is the sea green?\nReally?\n");
  expect(code).toBe(0);
  expect(json().map(({ content }) => content)).toEqual(
    Array(2).fill(expect.stringMatching(/^ (Yes|No)\.$/)),
  );
});

test("generate: a prompt beyond the context is a clear failure", async () => {
  const argv = ["generate", model, "--prompt", prompt, "--context", "4"];
  const { code, err } = await hymba(argv);
  expect(code).toBe(1);
  expect(err).toMatch(/^error: .*\(ERR_CONTEXT_FULL\)\nRaise --context/);
});

test("score: windows give what the API gives for each of them", async () => {
  const text = `${prompt} counted the ships, and there were three of them.`;
  const { json } = await hymba(["score", model, "--text", text, "--window", "10", "--json"]);
  await using loaded = await HymbaModel.load(model, { maxSequences: 1 });
  const [bos, ...tokens] = await loaded.tokenizer.encode(text);
  const expected: number[] = [];
  for (let start = 0; start < tokens.length; start += 10) {
    expected.push(...(await loaded.score([bos!, ...tokens.slice(start, start + 10)])));
  }
  const lines = json();
  expect(lines.slice(0, -1).map((line) => line["logprob"])).toEqual(expected);
  expect(lines.at(-1)!["nats"]).toBeCloseTo(-expected.reduce((sum, value) => sum + value, 0), 3);
});

test("score: a window may be as long as the context", async () => {
  const text = "x ".repeat(64);
  const argv = ["score", model, "--text", text, "--context", "16", "--summary", "--json"];
  expect((await hymba(argv)).json()).toMatchObject([{ window: 16, texts: 1 }]);
});

test("chat: a turn costs its own tokens, however long the conversation is", async () => {
  const turns = 8;
  const argv = ["chat", model, "-n", "12", "--seed", "3", "--ignore-eos", "--json"];
  const { code, err, json } = await hymba(argv, "How are you?\n".repeat(turns));
  expect(code).toBe(0);
  expect(err).not.toContain("read again");
  const answers = json();
  expect(answers).toHaveLength(turns);
  const prefilled = answers.map((answer) => answer["promptTokens"] as number);
  // BOS and the opening "User:" come once; a last token of the answer comes with the next turn.
  for (const count of prefilled.slice(1)) expect(count).toBeLessThanOrEqual(prefilled[0]! + 3);
});

test("info: plans the memory that loading then takes", async () => {
  const argv = ["info", model, "--context", "100", "--sequences", "3", "--json"];
  const [plan] = (await hymba(argv)).json();
  const limits = { maxContextTokens: 100, maxSequences: 3 };
  await using loaded = await HymbaModel.load(model, limits);
  expect(plan).toMatchObject({
    parameters: loaded.info().parameters,
    memory: loaded.info().memory,
  });
});

test("doctor: finds the addon and says what it would run on", async () => {
  const { code, json } = await hymba(["doctor", "--json"]);
  expect(code).toBe(0);
  expect(json()[0]).toMatchObject({
    addon: { path: expect.stringMatching(/\.node$/), build: { compiler: expect.any(String) } },
    chosen: { kind: expect.any(String), reason: expect.any(String) },
  });
});

test("a model without a tokenizer says what it lacks", async () => {
  const { code, err } = await hymba(["generate", MICRO, "--prompt", prompt]);
  expect(code).toBe(1);
  expect(err).toMatch(/^error: .*no tokenizer.*\(ERR_MODEL_UNSUPPORTED\)\n$/);
});
