import { z } from "zod";
import { HymbaError } from "../../../errors";
import { readLines } from "../../batch/line_reader";
import type { RandomData } from "../random";

/** What a request of the bench asks. */
export interface BenchPrompt {
  /** Text, or token ids. */
  readonly prompt: string | readonly number[];
  readonly maxTokens: number;
}

/** Words of one token each in most vocabularies, for endpoints that take no token ids. */
const WORDS =
  "the of and to in a is that for it as was with be by on not he his but at are this".split(" ");

/** Prompts of random tokens, or of as many random words, which have nothing in common. */
export function randomPrompts(
  random: RandomData,
  options: {
    readonly count: number;
    readonly inputTokens: number;
    readonly outputTokens: number;
    /** Undefined: words. */
    readonly vocabSize: number | undefined;
  },
): BenchPrompt[] {
  const { count, inputTokens, outputTokens, vocabSize } = options;
  return Array.from({ length: count }, () => ({
    prompt:
      vocabSize === undefined
        ? Array.from({ length: inputTokens }, () => WORDS[random.integer(WORDS.length)]).join(" ")
        : [...random.tokens(inputTokens, vocabSize)],
    maxTokens: outputTokens,
  }));
}

const line = z.looseObject({
  prompt: z.union([z.string(), z.array(z.int())]),
  max_tokens: z.int().positive().optional(),
});

/**
 * The prompts of a file, a JSON object a line with `prompt` and perhaps `max_tokens`, from the first on
 * and again.
 * @throws HymbaError ERR_INVALID_ARGUMENT.
 */
export async function filePrompts(
  path: string,
  options: { readonly count: number; readonly outputTokens: number },
): Promise<BenchPrompt[]> {
  const prompts: BenchPrompt[] = [];
  const wrong = (reason: string): HymbaError =>
    new HymbaError("ERR_INVALID_ARGUMENT", `cannot read prompts from ${path}: ${reason}`);
  try {
    for await (const { number, text } of readLines(path)) {
      if (text.trim() === "" || prompts.length === options.count) continue;
      const { prompt, max_tokens: maxTokens = options.outputTokens } = parseLine(text, (reason) =>
        wrong(`line ${number} ${reason}`),
      );
      prompts.push({ prompt, maxTokens });
    }
  } catch (error) {
    throw error instanceof HymbaError ? error : wrong((error as Error).message);
  }
  if (prompts.length === 0) throw wrong("it has none");
  return Array.from({ length: options.count }, (_, i) => prompts[i % prompts.length]!);
}

function parseLine(text: string, wrong: (reason: string) => HymbaError): z.infer<typeof line> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw wrong("is not JSON");
  }
  const parsed = line.safeParse(json);
  if (!parsed.success) throw wrong('must be like {"prompt": "Once", "max_tokens": 64}');
  return parsed.data;
}
