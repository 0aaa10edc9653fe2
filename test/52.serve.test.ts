import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import { hymbaLibrary } from "../lib/cli/library";
import { run } from "../lib/cli/main";
import { FakeTerminal } from "./helpers/fake_cli";
import { ensureBuilt, ROOT } from "./helpers/package";

const execute = promisify(execFile);
const OPTIONS = ["--device", "cpu", "--threads", "2", "--port", "0"];

/** A server that a command line has started. */
async function serve(argv: readonly string[], env: Readonly<Record<string, string>> = {}) {
  const terminal = new FakeTerminal();
  Object.assign(terminal.env, env);
  const ended = run(["serve", ...OPTIONS, ...argv], terminal);
  const early = ended.then((code) => {
    throw new Error(`it ended with ${code}: ${terminal.err}`);
  });
  early.catch(() => undefined);
  const started = async (): Promise<string> => {
    for (;;) {
      const [, url] = / at (http:\S+),/.exec(terminal.out) ?? [];
      if (url !== undefined) return url;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  };
  return { terminal, ended, url: await Promise.race([started(), early]) };
}

const post = (url: string, body: object, headers: Readonly<Record<string, string>> = {}) =>
  fetch(url, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
  });

describe("hymba serve", () => {
  test("loads the model and the server as its flags say", async () => {
    const load = jest.spyOn(hymbaLibrary, "loadModel");
    const { terminal, ended, url } = await serve([
      ...["--max-model-len", "1k", "--max-num-seqs", "3", "--max-num-batched-tokens", "0.5K"],
      ...["--served-model-name", "one", "--served-model-name", "two"],
      ...["--max-body", "2K", "--no-enable-prefix-caching", "--log-prompts"],
    ]);
    expect(load.mock.lastCall![1]).toMatchObject({
      ...{ device: "cpu", threads: 2, requireTokenizer: true },
      ...{ maxContextTokens: 1000, maxSequences: 3, maxBatchTokens: 512 },
    });
    load.mockRestore();
    expect(terminal.out).toMatch(/^one at http:\/\/127\.0\.0\.1:\d+, until Ctrl-C\n$/);
    const models = (await (await fetch(`${url}/v1/models`)).json()) as { data: { id: string }[] };
    expect(models.data.map(({ id }) => id)).toEqual(["one", "two"]);
    const large = await post(`${url}/v1/completions`, { prompt: "a".repeat(3000) });
    expect(large.status).toBe(413);
    const prompt = "The sea, the sea";
    for (let i = 0; i < 2; i++) {
      const answer = await post(`${url}/v1/completions`, { prompt, max_tokens: 2 });
      expect(await answer.json()).toMatchObject({
        usage: { prompt_tokens_details: { cached_tokens: 0 } },
      });
    }
    terminal.terminate();
    expect(await ended).toBe(0);
    expect(terminal.err).toContain(prompt);
    await expect(fetch(url)).rejects.toThrow();
  });

  test("takes keys from the environment, and stops at Ctrl-C", async () => {
    const { terminal, ended, url } = await serve([], { HYMBA_API_KEY: "a1,b2" });
    expect((await fetch(`${url}/v1/models`)).status).toBe(401);
    const headers = { authorization: "Bearer b2" };
    expect((await fetch(`${url}/v1/models`, { headers })).status).toBe(200);
    expect(terminal.err).not.toContain("b2");
    terminal.interrupt();
    expect(await ended).toBe(130);
  });

  test.each<[readonly string[], number, RegExp]>([
    [["--api-key", ""], 2, /an API key must not be empty/],
    [["--api-key", "a b"], 2, /an API key must not be empty, nor have spaces/],
    [["--port", "70000"], 2, /It must be an integer from 0 to 65535/],
    [["--max-num-seqs", "x"], 2, /It must be an integer/],
    [["--max-body", "-1k"], 2, /It must be a number > 0/],
    [["--served-model-name", "a", "./nowhere"], 1, /nowhere/],
  ])("%j is told what is wrong", async (argv, code, message) => {
    const terminal = new FakeTerminal();
    expect(await run(["serve", ...OPTIONS, ...argv], terminal)).toBe(code);
    expect(terminal.err).toMatch(message);
  });

  test("says when the port is taken, and warns of addresses without a key", async () => {
    const other = createServer().listen(0, "127.0.0.1");
    await once(other, "listening");
    const { port } = other.address() as { port: number };
    const terminal = new FakeTerminal();
    expect(await run(["serve", ...OPTIONS, "--port", `${port}`], terminal)).toBe(1);
    expect(terminal.err).toMatch(/cannot listen: .*EADDRINUSE/);
    other.close();
    const open = await serve(["--host", "0.0.0.0"]);
    expect(open.terminal.err).toContain("there is no --api-key");
    open.terminal.terminate();
    expect(await open.ended).toBe(0);
  });

  test("in a process of its own ends in order by SIGTERM, with requests under way", async () => {
    ensureBuilt();
    const main = join(ROOT, "dist", "cli", "main.js");
    const child = spawn(process.execPath, [main, "serve", ...OPTIONS]);
    const ended = once(child, "exit");
    const [line] = (await once(child.stdout, "data")) as [Buffer];
    const [, url] = / at (http:\S+),/.exec(line.toString())!;
    const asked = Array.from({ length: 8 }, (_, i) =>
      post(`${url}/v1/completions`, {
        ...{ prompt: "The sea", max_tokens: 60, ignore_eos: true, seed: i, stream: i % 2 === 0 },
      }).then((response) => response.text()),
    );
    const metric = /num_requests_running\{.*\} 8/;
    for (;;) if (metric.test(await (await fetch(`${url}/metrics`)).text())) break;
    child.kill("SIGTERM");
    for (const [i, text] of (await Promise.all(asked)).entries()) {
      if (i % 2 === 0) expect(text).toMatch(/\[DONE\]\n\n$/);
      else expect(JSON.parse(text)).toMatchObject({ usage: { completion_tokens: 60 } });
    }
    expect(await ended).toEqual([0, null]);
  });
});

describe("the examples of", () => {
  /** Code blocks of a language. */
  const blocks = async (file: string, language: string): Promise<string[]> => {
    const text = await readFile(join(ROOT, file), "utf8");
    const found = text.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, "gms"));
    return Array.from(found, ([, code]) => code!);
  };

  let server: Awaited<ReturnType<typeof serve>>;
  beforeAll(async () => {
    server = await serve([]);
  });
  afterAll(async () => {
    server.terminal.terminate();
    await server.ended;
  });

  const atServer = (code: string): string => code.replace(/http:\/\/localhost:8000/g, server.url);

  test.each(["README.md", "docs/server.md"])("%s for curl work", async (file) => {
    const examples = (await blocks(file, "sh")).filter((code) => code.startsWith("curl "));
    expect(examples.length).toBeGreaterThan(0);
    for (const code of examples) {
      const { stdout } = await execute("bash", ["-c", atServer(code)]);
      if (code.includes('"stream": true')) expect(stdout).toMatch(/^data: \{.*\[DONE\]\n\n$/s);
      else expect(JSON.parse(stdout)).toHaveProperty("choices");
    }
  });

  test("docs/server.md for OpenAI's client work", async () => {
    const [streamed, guest, ...rest] = await blocks("docs/server.md", "js");
    expect(rest).toEqual([]);
    const runModule = (code: string) =>
      execute(process.execPath, ["--input-type=module", "--eval", atServer(code)], { cwd: ROOT });
    expect((await runModule(streamed!)).stdout.length).toBeGreaterThan(20);
    expect((await runModule(guest!)).stdout).toMatch(
      /^\{ name: '(Ann|Bob)', late: (true|false) \}/,
    );
  });
});
