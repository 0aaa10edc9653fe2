import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { processIo, write } from "../lib/cli/io";
import { formatBytes, formatTable, tokensPerSecond } from "../lib/cli/format";
import { run } from "../lib/cli/main";
import { BUNDLED_MODEL } from "../lib/cli/options";
import { Progress } from "../lib/cli/progress";
import { Transcript } from "../lib/cli/transcript";
import { HymbaError } from "../lib/errors";
import { Tokenizer } from "../lib/text/tokenizer";
import { FakeModel, FakeTerminal, fakePlan } from "./helpers/fake_cli";
import { tokenizerFolders } from "./helpers/tokenizers";

let tokenizer: Tokenizer;
let byteFallback: Tokenizer;
let folder: string;

beforeAll(async () => {
  tokenizer = await Tokenizer.load(tokenizerFolders.byteLevel);
  byteFallback = await Tokenizer.load(tokenizerFolders.byteFallback);
  folder = await mkdtemp(join(tmpdir(), "hymba-cli-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** Runs a command line against a scripted model. */
async function hymba(
  argv: readonly string[],
  { input, model = new FakeModel(tokenizer) }: { input?: string; model?: FakeModel } = {},
) {
  const terminal = new FakeTerminal(input ?? "");
  const code = await run(argv, terminal, model.library);
  return { code, out: terminal.out, err: terminal.err, json: () => terminal.json, model };
}

describe("command line", () => {
  test.each(["", "generate", "chat", "score", "info", "doctor"])(
    "hymba %s --help explains itself with examples",
    async (command) => {
      const { code, out, err } = await hymba([...command.split(" ").filter(Boolean), "--help"]);
      expect({ code, err }).toEqual({ code: 0, err: "" });
      expect(out).toContain(`Usage: hymba ${command}`);
      expect(out).toContain("Examples:\n  $ hymba");
    },
  );

  test("--version prints the package's version", async () => {
    expect(await hymba(["--version"])).toMatchObject({
      code: 0,
      out: expect.stringMatching(/^\d+\.\d+\.\d+\n$/),
    });
  });

  test.each([
    [["no-such-command"], /unknown command/],
    [["generate", "--no-such-option"], /unknown option/],
    [["generate", "-n", "0"], /integer >= 1/],
    [["generate", "-n", "1.5"], /integer >= 1/],
    [["generate", "--temperature", "-1"], /number >= 0/],
    [["generate", "--temperature", ""], /number >= 0/],
    [["generate", "--top-p", "1.1"], /number > 0 and <= 1/],
    [["generate", "--top-p", "0"], /number > 0 and <= 1/],
    [["generate", "--min-p", "1"], /number >= 0 and < 1/],
    [["generate", "--repetition-penalty", "0"], /number > 0/],
    [["generate", "--presence-penalty", "much"], /must be a number/],
    [["generate", "--threads", "5000"], /integer from 1 to 1024/],
    [["generate", "--stop", ""], /must not be empty/],
    [["generate", "--stop-token-ids", "1,x"], /integer >= 0/],
    [["generate", "--logit-bias", "5"], /must look like/],
    [["generate", "--logit-bias", "5=1=2"], /must look like/],
    [["generate", "--device", "tpu"], /Allowed choices are auto, cpu, cuda/],
    [["generate", "--prompt", "a", "--file", "b"], /cannot be used with/],
    [["score", "--text", "some text", "--window", "1001"], /exceeds the context: at most 1000/],
  ])("%j is a wrong command line", async (argv, message) => {
    const { code, out, err } = await hymba(argv);
    expect({ code, out }).toEqual({ code: 2, out: "" });
    expect(err).toMatch(message);
    expect(err).toMatch(/--help/);
  });

  test("the library's errors are one line and a hint", async () => {
    const model = new FakeModel(tokenizer);
    const failing = {
      ...model.library,
      loadModel: () => Promise.reject(new HymbaError("ERR_NO_DEVICE", "no CUDA device: no driver")),
    };
    const terminal = new FakeTerminal("");
    expect(await run(["generate", "--prompt", "x"], terminal, failing)).toBe(1);
    expect(terminal.err).toMatch(
      /^error: no CUDA device: no driver \(ERR_NO_DEVICE\)\n`hymba doctor` .*\n$/,
    );
  });

  test("errors without a hint are one line", async () => {
    const { code, err } = await hymba(["generate", "--file", join(folder, "missing")]);
    expect(code).toBe(1);
    expect(err).toMatch(/^error: cannot read the file: .*missing' \(ERR_INVALID_ARGUMENT\)\n$/);
  });

  test("an unexpected failure asks for a report", async () => {
    const model = new FakeModel(tokenizer);
    model.onToken = () => {
      throw new Error("boom");
    };
    const { code, err } = await hymba(["generate", "--prompt", "x"], { model });
    expect(code).toBe(1);
    expect(err).toMatch(/boom[\s\S]*Please report/);
    expect(model.disposed).toBe(true);
  });

  test("a value that the library refuses is a wrong command line", async () => {
    const model = new FakeModel(tokenizer);
    model.onToken = () => {
      throw new RangeError("logitBias: token 99999 is not one of the 4,096 tokens");
    };
    const { code, err } = await hymba(["generate", "--prompt", "x"], { model });
    expect(code).toBe(2);
    expect(err).toMatch(/^error: logitBias: token 99999.*\nRun the command with --help/);
  });

  test("a reader that goes away ends the command quietly", async () => {
    const model = new FakeModel(tokenizer, ["Much text"]);
    const terminal = new FakeTerminal("");
    jest.spyOn(terminal.stdout, "_write").mockImplementation((_chunk, _encoding, done) => {
      done(Object.assign(new Error("write EPIPE"), { code: "EPIPE" }));
    });
    terminal.stdout.on("error", () => undefined);
    expect(await run(["generate", "--prompt", "x"], terminal, model.library)).toBe(0);
    expect(terminal.err).toBe("");
    expect(model.disposed).toBe(true);
  });

  test("errors are coloured on a terminal only, and not under NO_COLOR", async () => {
    const onTerminal = new FakeTerminal("", true);
    await run(["generate"], onTerminal, new FakeModel(tokenizer).library);
    expect(onTerminal.err).toContain("\u001b[31merror:\u001b[39m no text: give --prompt or --file");
    const withoutColour = new FakeTerminal("", true);
    withoutColour.env["NO_COLOR"] = "1";
    await run(["generate"], withoutColour, new FakeModel(tokenizer).library);
    expect(withoutColour.err).not.toContain("\u001b");
  });

  test("Ctrl-C while text is awaited ends with 130", async () => {
    const terminal = new FakeTerminal();
    const running = run(["generate"], terminal, new FakeModel(tokenizer).library);
    setImmediate(() => terminal.interrupt());
    expect(await running).toBe(130);
    expect(terminal.err).toBe("");
  });
});

describe("hymba generate", () => {
  const answer = " a café 😀 and\nmore";

  test("writes the continuation and ends the line", async () => {
    const model = new FakeModel(tokenizer, [answer]);
    const { code, out, err } = await hymba(["generate", "--prompt", "There was"], { model });
    expect({ code, out, err }).toEqual({ code: 0, out: `${answer}\n`, err: "" });
    expect(model.prompts).toEqual([{ text: "<|begin|>There was", heldTokens: 0 }]);
    expect(model.loadedPath).toBe(BUNDLED_MODEL);
    expect(model.loadOptions).toMatchObject({ maxSequences: 1, requireTokenizer: true });
    expect(model.disposed).toBe(true);
  });

  test("does not add a line break to one, or to nothing", async () => {
    const model = new FakeModel(tokenizer, ["end\n"]);
    expect((await hymba(["generate", "--prompt", "x"], { model })).out).toBe("end\n");
    expect((await hymba(["generate", "--prompt", "x"])).out).toBe("");
  });

  test("reads the prompt from a file or from what is piped in", async () => {
    await writeFile(join(folder, "prompt.txt"), "From a file.\r\n");
    const model = new FakeModel(tokenizer);
    await hymba(["generate", "some-model", "--file", join(folder, "prompt.txt")], { model });
    await hymba(["generate", "--file", "-"], { model, input: "From a pipe.\n\n" });
    await hymba(["generate"], { model, input: "From a pipe." });
    await hymba(["generate", "--prompt", "As it is.\n"], { model });
    expect(model.prompts.map(({ text }) => text)).toEqual([
      "<|begin|>From a file.",
      "<|begin|>From a pipe.\n",
      "<|begin|>From a pipe.",
      "<|begin|>As it is.\n",
    ]);
  });

  test("hands every flag to the library, and only those given", async () => {
    const model = new FakeModel(tokenizer);
    const flags =
      "--device cpu --dtype float32 --context 512 --threads 3 -n 5 -t 0.5 --top-k 40 --top-p 0.9 --min-p 0.05 " +
      "--repetition-penalty 1.1 --presence-penalty -0.5 --frequency-penalty 0.25 --logit-bias 5=-1.5 " +
      "--logit-bias 6=2 --seed 7 --stop \\n\\n --stop a\\tb\\\\ --stop-token-ids 1,2 --ignore-eos";
    await hymba(["generate", "--prompt", "x", ...flags.split(" ")], { model });
    expect(model.loadOptions).toMatchObject({
      device: "cpu",
      dtype: "float32",
      maxContextTokens: 512,
      threads: 3,
    });
    const { prompt: _prompt, signal: _signal, ...sampling } = model.generateOptions[0]!;
    expect(sampling).toEqual({
      maxTokens: 5,
      temperature: 0.5,
      topK: 40,
      topP: 0.9,
      minP: 0.05,
      repetitionPenalty: 1.1,
      presencePenalty: -0.5,
      frequencyPenalty: 0.25,
      logitBias: { 5: -1.5, 6: 2 },
      seed: 7,
      stop: ["\n\n", "a\tb\\"],
      stopTokenIds: [1, 2],
      ignoreEos: true,
    });
    await hymba(["generate", "--prompt", "x"], { model });
    expect(Object.keys(model.generateOptions[1]!).sort()).toEqual(["prompt", "signal"]);
  });

  test("--json prints tokens and then a summary", async () => {
    const model = new FakeModel(tokenizer, [answer]);
    const { json } = await hymba(["generate", "--prompt", "x", "--json", "-n", "3"], { model });
    const lines = json();
    expect(lines).toHaveLength(4);
    expect(lines[0]).toEqual({
      type: "token",
      text: " a",
      token: expect.any(Number),
      logprob: -0.5,
    });
    expect(lines[3]).toMatchObject({
      type: "end",
      finishReason: "length",
      promptTokens: 2,
      generatedTokens: 3,
      sequenceCacheBytes: fakePlan.perSequence.totalBytes,
      cacheBytes: fakePlan.cacheBytes,
    });
  });

  test("--stats prints speed and cache on stderr", async () => {
    const model = new FakeModel(tokenizer, [answer]);
    const { out, err } = await hymba(["generate", "--prompt", "x", "--stats"], { model });
    expect(out).toBe(`${answer}\n`);
    expect(err).toMatch(
      /^device +cpu: Fake CPU, bfloat16 \(it is the only one\)\nprefill +2 tokens in [\d.]+ s, [\d,]+ tokens\/s\ndecode +\d+ tokens .*\ncache +82\.0 MB for this sequence, 86\.1 MB reserved\n$/,
    );
  });

  test("Ctrl-C stops in order with 130", async () => {
    const model = new FakeModel(tokenizer, [answer]);
    const terminal = new FakeTerminal("");
    model.onToken = (index) => {
      if (index === 2) terminal.interrupt();
    };
    expect(await run(["generate", "--prompt", "x"], terminal, model.library)).toBe(130);
    expect(terminal.err).toBe("");
    expect(terminal.out).not.toBe("");
    expect(model.disposed).toBe(true);
  });
});

describe("hymba score", () => {
  test("prints every token and the summary", async () => {
    const { code, out, model } = await hymba(["score", "--text", "don't"]);
    const tokens = await tokenizer.encode("don't");
    expect(code).toBe(0);
    expect(model.scored).toEqual([[...tokens]]);
    expect(out).toMatch(/^ +-\d\.\d{4} {2}"[^\n]*"\n/);
    expect(out).toMatch(
      /tokens +\d+\nbytes +5\nnats\/token +[\d.]+\nperplexity +[\d.]+\nbits\/byte +[\d.]+\n$/,
    );
  });

  test("windows begin with BOS, and together score every token once", async () => {
    const text = "The lighthouse keeper counted the ships, and there were 27 of them 😀.";
    const { json, model } = await hymba(["score", "--window", "4", "--json"], { input: text });
    const [bos, ...tokens] = await tokenizer.encode(text);
    expect(model.scored.map(([first]) => first)).toEqual(model.scored.map(() => bos));
    expect(model.scored.flatMap((window) => window.slice(1))).toEqual(tokens);
    expect(Math.max(...model.scored.map((window) => window.length))).toBe(5);
    const lines = json();
    const nats = tokens.reduce((sum, token) => sum + token / 64, 0);
    expect(lines.slice(0, -1).map(({ token }) => token)).toEqual(tokens);
    expect(lines.at(-1)).toEqual({
      type: "summary",
      window: 4,
      texts: 1,
      tokens: tokens.length,
      bytes: Buffer.byteLength(text),
      nats: expect.closeTo(nats),
      natsPerToken: expect.closeTo(nats / tokens.length),
      perplexity: expect.closeTo(Math.exp(nats / tokens.length)),
      bitsPerByte: expect.closeTo(nats / Math.LN2 / Buffer.byteLength(text)),
    });
  });

  test("without a BOS token the first token has no score, and windows overlap by one", async () => {
    const definition = join(tokenizerFolders.byteLevel, "tokenizer.json");
    const bare = join(folder, "bare");
    const { cp } = jest.requireActual<typeof import("node:fs/promises")>("node:fs/promises");
    await cp(definition, join(bare, "tokenizer.json"), { recursive: true });
    const model = new FakeModel(await Tokenizer.load(bare));
    const text = "abcdefg";
    const tokens = [...(await model.tokenizer.encode(text))];
    const { json } = await hymba(["score", "--text", text, "--window", "2", "--json"], { model });
    expect(model.scored.flatMap((window) => window.slice(1))).toEqual(tokens.slice(1));
    expect(model.scored.map(([first]) => first)).toEqual(
      tokens.filter((_, i) => i % 2 === 0 && i < tokens.length - 1),
    );
    const first = Buffer.byteLength(model.tokenizer.decode([tokens[0]!]));
    expect(json()[0]).toMatchObject({ logprob: null });
    expect(json().at(-1)).toMatchObject({ tokens: tokens.length - 1, bytes: text.length - first });
    const { out } = await hymba(["score", "--text", text], { model });
    expect(out).toMatch(/^ +- {2}"/);
  });

  test("several files are summed up, --summary leaves the tokens out", async () => {
    const files = ["one", "two"].map((name) => join(folder, `${name}.txt`));
    await Promise.all(files.map((file) => writeFile(file, file)));
    const { out, model } = await hymba(["score", "--summary", "--file", ...files]);
    expect(out.split("\n")).toHaveLength(6);
    expect(out).toContain(`bytes       ${Buffer.byteLength(files.join(""))}\n`);
    expect(model.scored).toHaveLength(2);
    const single = await hymba(["score", "--summary", "--json", "--file", files[0]!]);
    expect(single.json()).toHaveLength(1);
  });

  test("refuses a text without tokens", async () => {
    const { code, err } = await hymba(["score", "--text", ""]);
    expect(code).toBe(1);
    expect(err).toMatch(/too short/);
  });
});

describe("hymba chat", () => {
  const template = `{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}`;
  let templatePath: string;
  beforeAll(async () => {
    templatePath = join(folder, "chat.jinja");
    await writeFile(templatePath, template);
  });

  async function chat(input: string, answers: readonly string[], ...argv: string[]) {
    const model = new FakeModel(tokenizer, answers);
    const result = await hymba(["chat", "--chat-template", templatePath, ...argv], {
      input,
      model,
    });
    return { ...result, prompts: model.prompts };
  }

  /** What the sequence has been told when a prompt arrives, up to its end. */
  const toldTokens = (prompts: FakeModel["prompts"]): number => prompts.at(-1)!.heldTokens;

  test("every turn prefills only what is new", async () => {
    const { code, out, prompts } = await chat("Hello\n\nWho?\nWhy?\n", [
      "Hi there.",
      "Me, naïvely 😀",
      "So.",
    ]);
    expect({ code, out }).toEqual({ code: 0, out: "Hi there.\nMe, naïvely 😀\nSo.\n" });
    expect(prompts.map(({ text }) => text)).toEqual([
      "<|begin|><|user|>Hello<|end|><|assistant|>",
      expect.stringMatching(/<\|end\|><\|user\|>Who\?<\|end\|><\|assistant\|>$/),
      expect.stringMatching(/<\|end\|><\|user\|>Why\?<\|end\|><\|assistant\|>$/),
    ]);
    // The last generated word was not run yet; nothing before it comes again.
    expect(prompts[1]!.text).not.toContain("Hello");
    expect(prompts[2]!.text).not.toContain("Who");
    const whole =
      "<|begin|><|user|>Hello<|end|><|assistant|>Hi there.<|end|><|user|>Who?<|end|><|assistant|>Me, naïvely 😀<|end|><|user|>Why?<|end|><|assistant|>";
    const told = await tokenizer.encode(prompts[2]!.text, { addSpecialTokens: false });
    expect(toldTokens(prompts) + told.length).toBe(
      (await tokenizer.encode(whole, { addSpecialTokens: false })).length,
    );
  });

  test("--system stands before the conversation, /reset begins again, /exit ends", async () => {
    const { out, err, prompts } = await chat(
      "One\n/reset\nTwo\n/exit\nThree\n",
      ["1", "2"],
      "--system",
      "Be brief.",
    );
    expect(out).toBe("1\n2\n");
    expect(err).toContain("New conversation.");
    expect(prompts).toEqual([
      { text: "<|begin|><|system|>Be brief.<|end|><|user|>One<|end|><|assistant|>", heldTokens: 0 },
      { text: "<|begin|><|system|>Be brief.<|end|><|user|>Two<|end|><|assistant|>", heldTokens: 0 },
    ]);
  });

  test("goes on after an answer that was cut off", async () => {
    const { prompts, json } = await chat(
      "Hello\nAnd?\n",
      ["One two three four", "x"],
      "-n",
      "2",
      "--json",
    );
    expect(json()[0]).toMatchObject({
      role: "assistant",
      finishReason: "length",
      generatedTokens: 2,
    });
    expect(prompts[1]!.heldTokens).toBeGreaterThan(0);
    expect(prompts[1]!.text).not.toContain("Hello");
  });

  test.each([
    ["byte-level", () => tokenizer],
    ["byte-fallback", () => byteFallback],
  ])("a %s model without a template plays User and Assistant", async (_, tokenizerOf) => {
    const model = new FakeModel(tokenizerOf(), [" Hello.\nUser: no", " Bye.", " Done"]);
    const { out, err } = await hymba(["chat"], { input: "Hi\nBye\nAgain\n", model });
    expect(out).toBe("Hello.\nBye.\nDone\n");
    expect(err).toBe(
      "This model has no chat template; turns are written as User: and Assistant:.\n",
    );
    expect(model.generateOptions[0]!.stop).toContain("\nUser:");
    expect(model.prompts[0]!.text.replace("> ", ">")).toMatch(/^<[^>]+>User: Hi\nAssistant:$/);
    // The model wrote "User:" itself before it was stopped.
    expect(model.prompts[1]!.text.trimStart()).toMatch(/^:? ?Bye\nAssistant:$/);
    expect(model.prompts.slice(1).every(({ heldTokens }) => heldTokens > 0)).toBe(true);
  });

  test("starts over when the template rewrites what was said", async () => {
    const trimming = join(folder, "rewriting.jinja");
    await writeFile(
      trimming,
      "{{ messages | length }} turns: {% for m in messages %}{{ m.content }}\n{% endfor %}",
    );
    const { err, prompts } = await chat("One\nTwo\n", ["1", "2"], "--chat-template", trimming);
    expect(err).toContain("read again");
    expect(prompts.map(({ heldTokens }) => heldTokens)).toEqual([0, 0]);
    expect(prompts[1]!.text).toContain("3 turns: One");
  });

  test("--stats follows every answer", async () => {
    const { err } = await chat("One\n", ["1"], "--stats");
    expect(err).toMatch(/prefill .*\ndecode .*\ncache /);
  });

  test("a full context ends a piped conversation", async () => {
    const model = new FakeModel(tokenizer, ["1"]);
    model.maxContextTokens = 3;
    const { code, err } = await hymba(["chat", "--chat-template", templatePath], {
      input: "One\nTwo\n",
      model,
    });
    expect(code).toBe(1);
    expect(err).toMatch(/ERR_CONTEXT_FULL/);
  });

  test("Ctrl-C in a piped conversation ends it with 130", async () => {
    const model = new FakeModel(tokenizer, ["One two three"]);
    const terminal = new FakeTerminal("Hello\nMore\n");
    model.onToken = () => terminal.interrupt();
    expect(await run(["chat", "--chat-template", templatePath], terminal, model.library)).toBe(130);
    expect(model.prompts).toHaveLength(1);
    expect(model.disposed).toBe(true);
  });

  describe("at a terminal", () => {
    const ctrlC = "\u0003";

    test("prompts, and Ctrl-C stops an answer without losing the conversation", async () => {
      const model = new FakeModel(tokenizer, ["One two three four five", "More"]);
      const terminal = new FakeTerminal(undefined, true);
      model.onToken = async (index) => {
        if (model.prompts.length === 1 && index === 3) {
          terminal.stdin.write(ctrlC);
          await new Promise(setImmediate);
        }
        if (model.prompts.length === 2 && index === 1) terminal.stdin.write("/exit\r");
      };
      terminal.stdin.write("Hello\r");
      const running = run(
        ["chat", "--chat-template", templatePath, "--json"],
        terminal,
        model.library,
      );
      await until(() => terminal.out.includes("interrupted"));
      terminal.stdin.write("Go on\r");
      expect(await running).toBe(0);
      expect(terminal.err).toContain("> ");
      expect(terminal.json.map(({ finishReason }) => finishReason)).toEqual([
        "interrupted",
        "stop",
      ]);
      expect(model.prompts[1]!.heldTokens).toBeGreaterThan(0);
      expect(model.prompts[1]!.text).not.toContain("Hello");
    });

    test("Ctrl-C at the prompt ends the program", async () => {
      const terminal = new FakeTerminal(undefined, true);
      const running = run(
        ["chat", "--chat-template", templatePath],
        terminal,
        new FakeModel(tokenizer).library,
      );
      await until(() => terminal.err.includes("> "));
      terminal.stdin.write(ctrlC);
      expect(await running).toBe(130);
    });

    test("a full context asks for a reset", async () => {
      const model = new FakeModel(tokenizer, ["Short."]);
      model.maxContextTokens = 60;
      const terminal = new FakeTerminal(undefined, true);
      const running = run(["chat", "--chat-template", templatePath], terminal, model.library);
      terminal.stdin.write(`${"long ".repeat(100)}\r`);
      await until(() => terminal.err.includes("/reset begins"));
      terminal.stdin.write("Hi\r");
      await until(() => terminal.out.includes("Short."));
      terminal.stdin.write("/exit\r");
      expect(await running).toBe(0);
      expect(model.prompts[0]!.text).not.toContain("long");
    });
  });
});

describe("hymba info", () => {
  const spec = "synthetic:hymba-1.5b";

  test("shows configuration and memory without loading", async () => {
    const { code, out, model } = await hymba(["info", spec, "--context", "8192"]);
    expect(code).toBe(0);
    expect(model.loadedPath).toBe(spec);
    expect(model.loadOptions).toEqual({ maxContextTokens: 8192, maxSequences: 1 });
    for (const line of [
      /^parameters +1,522,\d{3},\d{3}$/m,
      /^tensors +\d+, 3\.05 GB$/m,
      /^ {2}hiddenSize +1600$/m,
      /^ {2}global layers +0 15 31$/m,
      /^ {2}layers with K\/V +0 1 3 5 7 9 11 13 15 16 19 21 23 25 27 29 31$/m,
      /^Memory of a sequence of 8,192 tokens$/m,
      /^ {2}K\/V together +74\.8 MB$/m,
      /^ {2}SSM state +6\.55 MB$/m,
      /^ {2}K\/V of the meta tokens, once +4\.18 MB$/m,
      /^ {2}cache of 1 sequence +86\.1 MB$/m,
    ]) {
      expect(out).toMatch(line);
    }
    expect(out).not.toContain("memory_tokens");
  });

  test("--tensors lists them, --sequences counts", async () => {
    const { out, model } = await hymba(["info", spec, "--tensors", "--sequences", "64"]);
    expect(out).toMatch(/model\.memory_tokens +BF16 +\[128, 1600\] +409\.6 kB/);
    expect(out).toMatch(/cache of 64 sequences/);
    expect(model.loadOptions).toEqual({ maxSequences: 64 });
  });

  test("--json prints everything as one object", async () => {
    const [object, ...rest] = (await hymba(["info", spec, "--json"])).json();
    expect(rest).toEqual([]);
    expect(object).toMatchObject({ path: spec, config: { hiddenSize: 1600 }, memory: fakePlan });
    expect(object).not.toHaveProperty("tensorList");
    const [withList] = (await hymba(["info", spec, "--json", "--tensors"])).json();
    expect(withList).toHaveProperty("tensorList.0", {
      name: "model.embed_tokens.weight",
      dtype: "BF16",
      shape: [32001, 1600],
    });
  });

  test("says whether the model fits on the GPU, unless it is to run on the CPU", async () => {
    const info = async (available: number, ...flags: string[]) => {
      const gpu = {
        name: "GPU",
        computeCapability: "9.0",
        multiprocessors: 132,
        memoryBytes: 80e9,
        availableBytes: available,
        problem: null,
      };
      const library: FakeModel["library"] = {
        ...new FakeModel(tokenizer).library,
        diagnose: () => ({
          addon: { path: "/x/hymba.node", build: {} },
          cuda: { driverVersion: "13.1", runtimeVersion: "13.0", problem: null, devices: [gpu] },
          chosen: undefined,
        }),
      };
      const terminal = new FakeTerminal("");
      expect(await run(["info", spec, ...flags], terminal, library)).toBe(0);
      return terminal;
    };
    const { totalBytes } = fakePlan;
    expect((await info(79e9)).out).toMatch(/^ {2}available on the GPU +79\.0 GB: it fits$/m);
    expect((await info(totalBytes - 1)).out).toMatch(/available on the GPU .*: it does not fit$/m);
    expect((await info(79e9, "--device", "cpu")).out).not.toMatch(/available/);
    expect((await info(totalBytes, "--json")).json[0]).toMatchObject({
      gpu: { name: "GPU", availableBytes: totalBytes, fits: true },
    });
  });

  test("a folder that is no model is a clear failure", async () => {
    const { code, err } = await hymba(["info", folder]);
    expect(code).toBe(1);
    expect(err).toMatch(/^error: .*\(ERR_MODEL_FORMAT\)\n/);
  });
});

describe("hymba doctor", () => {
  const gpu = {
    name: "GPU",
    computeCapability: "9.0",
    multiprocessors: 132,
    memoryBytes: 80e9,
    availableBytes: 79e9,
    problem: null,
  };
  const diagnosis = {
    addon: { path: "/x/hymba.node", build: { compiler: "GNU 12.2", cuda: "13.0" } },
    cuda: {
      driverVersion: "13.1",
      runtimeVersion: "13.0",
      problem: null,
      devices: [gpu, { ...gpu, name: "Old GPU", problem: "its kernels do not run" }],
    },
    chosen: { kind: "cpu", name: "Fake CPU", reason: "asked for" },
  } as const;

  async function doctor(report: ReturnType<FakeModel["library"]["diagnose"]>, ...argv: string[]) {
    const terminal = new FakeTerminal("");
    const library = { ...new FakeModel(tokenizer).library, diagnose: () => report };
    return { code: await run(["doctor", ...argv], terminal, library), terminal };
  }

  test("says what is there and what was chosen", async () => {
    const { code, terminal } = await doctor(diagnosis);
    expect(code).toBe(0);
    expect(terminal.out).toMatch(/^node +v\d+/m);
    expect(terminal.out).toMatch(/^addon +\/x\/hymba\.node\n {2}compiler +GNU 12\.2$/m);
    expect(terminal.out).toMatch(/^driver +CUDA 13\.1$/m);
    expect(terminal.out).toMatch(
      /^gpu +GPU, compute 9\.0, 132 .*, 80\.0 GB: usable, 79\.0 GB available/m,
    );
    expect(terminal.out).toMatch(/^gpu +Old GPU, .*: not usable, its kernels do not run$/m);
    expect(terminal.out).toMatch(/^device +cpu: Fake CPU \(asked for\)$/m);
    expect(terminal.out).toMatch(/^tokenizer +native encoder: works$/m);
  });

  test("--json prints one object", async () => {
    const { terminal } = await doctor(diagnosis, "--json");
    expect(terminal.json).toHaveLength(1);
    expect(terminal.json[0]).toMatchObject({ ...diagnosis, node: process.version });
  });

  test("says why there is no GPU", async () => {
    const { terminal } = await doctor({
      ...diagnosis,
      cuda: { driverVersion: null, runtimeVersion: null, problem: "no driver", devices: [] },
    });
    expect(terminal.out).toMatch(/^driver +none\n {2}problem +no driver$/m);
  });

  test("an addon that does not load is a failure", async () => {
    const addon = { error: "cannot open shared object" };
    const broken = { addon, cuda: undefined, chosen: undefined };
    const { code, terminal } = await doctor(broken);
    expect(code).toBe(1);
    expect(terminal.out).toMatch(/^addon +cannot open shared object$/m);
    expect(terminal.err).toMatch(/npm rebuild hymba/);
  });
});

describe("processIo", () => {
  test("hears one Ctrl-C, and none after its release", () => {
    const before = process.listenerCount("SIGINT");
    const heard = jest.fn();
    const io = processIo();
    io.onInterrupt(heard)();
    expect(process.listenerCount("SIGINT")).toBe(before);
    io.onInterrupt(heard);
    process.emit("SIGINT");
    expect(heard).toHaveBeenCalledTimes(1);
    // The next Ctrl-C finds no listener of ours, so that it ends the process.
    expect(process.listenerCount("SIGINT")).toBe(before);
  });

  test("a write that fails says so", async () => {
    const terminal = new FakeTerminal("");
    terminal.stdout.on("error", () => undefined).destroy(new Error("gone"));
    await expect(write(terminal.stdout, "x")).rejects.toThrow();
  });
});

describe("Transcript", () => {
  test("does not guess about a sequence that holds more than it was told", async () => {
    expect(await new Transcript(tokenizer).tokensUpTo("Hi", 1)).toBeUndefined();
  });

  test("recognises text whose tokens another encoding would not choose", async () => {
    const transcript = new Transcript(tokenizer);
    const question = "<|user|>Hi<|assistant|>";
    const prompt = [...(await tokenizer.encode(question, { addSpecialTokens: false }))];
    transcript.addPrompt(question, prompt, 0);
    const letters = [..." there"].map((letter) =>
      tokenizer.tokenToId(letter === " " ? "Ġ" : letter)!,
    );
    expect([...(await tokenizer.encode(" there"))].length).toBeLessThan(letters.length);
    letters.forEach((token) => transcript.addAnswer(token));
    expect(transcript.answer).toBe(" there");
    const held = prompt.length + letters.length - 1;
    const next = await transcript.tokensUpTo(`${question} there<|user|>`, held);
    expect(tokenizer.decode(next!)).toBe("e<|user|>");
    // An answer that was cut in the middle of what the sequence has not run yet.
    const shorter = await transcript.tokensUpTo(`${question} ther<|user|>`, held);
    expect(tokenizer.decode(shorter!)).toBe("<|user|>");
    expect(await transcript.tokensUpTo(`${question} the<|user|>`, held)).toBeUndefined();
  });
});

describe("formatting", () => {
  test.each([
    [0, "0 B"],
    [999, "999 B"],
    [1000, "1.00 kB"],
    [9_994, "9.99 kB"],
    [74_800_000, "74.8 MB"],
    [999_949, "999.9 kB"],
    [999_960, "1.00 MB"],
    [3.05e9, "3.05 GB"],
    [5e15, "5000.0 TB"],
  ])("%d bytes are %s", (bytes, text) => {
    expect(formatBytes(bytes)).toBe(text);
  });

  test("rates survive a clock that did not move", () => {
    expect(tokensPerSecond(5, 0)).toBe(0);
    expect(tokensPerSecond(5, 10)).toBe(500);
  });

  test("columns line up, also in ragged tables", () => {
    expect(formatTable([["a", "bb"], ["ccc"], ["d", "e", "f"]])).toBe("a    bb\nccc\nd    e   f\n");
  });
});

describe("Progress", () => {
  let now = 0;
  beforeEach(() => {
    now = 0;
    jest.spyOn(performance, "now").mockImplementation(() => now);
  });
  afterEach(() => jest.restoreAllMocks());

  test("appears on a terminal after two seconds, and goes away", () => {
    const terminal = new FakeTerminal("", true);
    const progress = new Progress(terminal);
    progress.update("Loading", 0.1);
    expect(terminal.err).toBe("");
    now = 2000;
    progress.update("Loading", 0.5);
    progress.update("Loading", 0.75);
    expect(terminal.err).toMatch(/Loading \[.*\] \d+%/);
    progress.stop();
  });

  test("never appears elsewhere, and short work can stop it unseen", () => {
    const terminal = new FakeTerminal("");
    const progress = new Progress(terminal);
    now = 5000;
    progress.update("Loading", 0.5);
    progress.stop();
    expect(terminal.err).toBe("");
  });
});

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}
