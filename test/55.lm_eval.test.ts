import { NAME, TestServer } from "./helpers/server";

// What lm-evaluation-harness 0.4 (`local-completions`) sends, and what it reads of the answers.

const TEXTS = [
  "The old man went down to the sea. He had a boat there, and two sons.",
  "Question: who comes? Answer: a friend.",
  "Once upon a time there was a king",
];

let server: TestServer;
beforeAll(async () => {
  server = await TestServer.start();
});
afterAll(() => server.stop());

interface Choice {
  readonly index: number;
  readonly text: string;
  readonly logprobs: {
    readonly token_logprobs: readonly (number | null)[];
    readonly top_logprobs: readonly (Readonly<Record<string, number>> | null)[];
    readonly tokens: readonly string[];
    readonly text_offset: readonly number[];
  };
}

async function ask(body: object): Promise<readonly Choice[]> {
  const headers = { authorization: "Bearer " };
  const response = await server.post("/v1/completions", { model: NAME, ...body }, headers);
  expect(response.status).toBe(200);
  const { choices } = (await response.json()) as { choices: Choice[] };
  return choices.sort((a, b) => a.index - b.index);
}

/** As `parse_logprobs` of lm_eval/models/openai_completions.py does. */
function parseLogprobs({ logprobs }: Choice, contextLength: number): [number, boolean] {
  const tokens = logprobs.token_logprobs.slice(contextLength, -1) as number[];
  const tops = logprobs.top_logprobs.slice(contextLength, -1);
  const isGreedy = tokens.every((logprob, i) => logprob === Math.max(...Object.values(tops[i]!)));
  return [tokens.reduce((sum, logprob) => sum + logprob, 0), isGreedy];
}

/** The body of a log-likelihood, of a batch of token ids. */
const likelihood = (prompt: readonly (readonly number[])[]) => ({
  ...{ prompt, temperature: 0, max_tokens: 1, logprobs: 1, seed: 1234, echo: true },
});

const encodeAll = async () => {
  const encoded = TEXTS.map((text) => server.model.tokenizer.encode(text));
  return (await Promise.all(encoded)).map((ids) => [...ids]);
};

test("log-likelihoods of a batch are those of model.score, one entry more than the prompt", async () => {
  const prompts = await encodeAll();
  const choices = await ask(likelihood(prompts));
  expect(choices.map(({ index }) => index)).toEqual([0, 1, 2]);
  for (const [i, { logprobs, text }] of choices.entries()) {
    const prompt = prompts[i]!;
    const { token_logprobs, top_logprobs, tokens, text_offset } = logprobs;
    for (const list of [token_logprobs, top_logprobs, tokens, text_offset]) {
      expect(list).toHaveLength(prompt.length + 1);
    }
    expect(token_logprobs[0]).toBeNull();
    expect(token_logprobs.slice(1, -1)).toEqual([...(await server.model.score(prompt))]);
    for (const top of top_logprobs.slice(1)) expect(Object.keys(top!).length).toBeGreaterThan(0);
    expect(text.startsWith(TEXTS[i]!)).toBe(true);
  }
});

test("what the model itself writes is greedy, by equality of floats; other text is not", async () => {
  const prompt = [...(await server.model.tokenizer.encode(TEXTS[2]!))];
  const written: number[] = [];
  const options = { prompt, maxTokens: 6, temperature: 0, ignoreEos: true };
  for await (const { token } of server.model.generate(options)) written.push(token);
  const [own] = await ask(likelihood([[...prompt, ...written]]));
  const [sum, isGreedy] = parseLogprobs(own!, prompt.length);
  expect(isGreedy).toBe(true);
  const scores = await server.model.score([...prompt, ...written]);
  expect(sum).toBe([...scores.slice(prompt.length - 1)].reduce((a, b) => a + b, 0));
  const other = [...written.slice(0, -1), (written.at(-1)! + 1) % 4000];
  const [not] = await ask(likelihood([[...prompt, ...other]]));
  expect(parseLogprobs(not!, prompt.length)[1]).toBe(false);
});

test("text that ends where the model would end it has all entries", async () => {
  const eos = server.model.tokenizer.eosTokenId!;
  const prompt = [...(await server.model.tokenizer.encode("The end.")), eos];
  const [choice] = await ask(likelihood([prompt]));
  expect(choice!.logprobs.token_logprobs).toHaveLength(prompt.length + 1);
});

test("generation stops at the texts that are asked for, with further arguments passed on", async () => {
  const prompts = await encodeAll();
  const body = { prompt: [prompts[0]!], max_tokens: 20, temperature: 0, seed: 1234 };
  const [whole] = await ask({ ...body, stop: ["<|endoftext|>"] });
  const stop = whole!.text.slice(8, 11);
  const [cut] = await ask({ ...body, stop: [stop, "<|endoftext|>"], top_p: 1, min_p: 0 });
  expect(cut!.text).toBe(whole!.text.slice(0, whole!.text.indexOf(stop)));
});

test("older clients ask for no tokens at all", async () => {
  const [prompt] = await encodeAll();
  const [choice] = await ask({ ...likelihood([prompt!]), max_tokens: 0 });
  expect(choice!.logprobs.token_logprobs).toHaveLength(prompt!.length);
  expect(choice!.logprobs.token_logprobs.slice(1)).toEqual([
    ...(await server.model.score(prompt!)),
  ]);
});

test("the tokenizer is found beside the endpoint", async () => {
  const info = (await (await server.get("/tokenizer_info")).json()) as Record<string, unknown>;
  expect(info["eos_token"]).toBe("<|endoftext|>");
  const body = { prompt: TEXTS[1], add_special_tokens: false };
  const { tokens } = (await (await server.post("/tokenize", body)).json()) as { tokens: number[] };
  const plain = await server.model.tokenizer.encode(TEXTS[1]!, { addSpecialTokens: false });
  expect(tokens).toEqual([...plain]);
  const back = await server.post("/detokenize", { tokens });
  expect(await back.json()).toEqual({ prompt: TEXTS[1] });
});
