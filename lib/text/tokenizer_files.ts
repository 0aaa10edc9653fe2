import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { HymbaError } from "../errors";

/** A special token as Hugging Face writes it: its text, or an object that holds its text. */
const specialToken = z
  .union([z.string(), z.looseObject({ content: z.string() }).transform((token) => token.content)])
  .nullish()
  .transform((token) => token ?? undefined);

/** The part of `tokenizer.json` that we read ourselves; the rest is for the tokenizer libraries. */
const definitionSchema = z.looseObject({
  model: z.looseObject({
    vocab: z.union([z.record(z.string(), z.int().nonnegative()), z.array(z.unknown())]),
  }),
  added_tokens: z
    .array(
      z.looseObject({
        id: z.int().nonnegative(),
        content: z.string(),
        special: z.boolean().default(false),
      }),
    )
    .default([]),
});

/** Steps that `tokenizer.json` may leave out; the JavaScript library wants them named. */
const NO_STEPS = { decoder: null, post_processor: null, pre_tokenizer: null, normalizer: null };

/** The special tokens may sit in either file; the first file that names one decides. */
const specialTokensSchema = z.looseObject({
  bos_token: specialToken,
  eos_token: specialToken,
  pad_token: specialToken,
});

const configSchema = specialTokensSchema.extend({
  add_bos_token: z.boolean().nullish(),
  add_eos_token: z.boolean().nullish(),
  chat_template: z
    .union([z.string(), z.array(z.looseObject({ name: z.string(), template: z.string() }))])
    .nullish(),
});

/** What a model folder says about its tokenizer, checked. */
export interface TokenizerFiles {
  /** The text of `tokenizer.json`. */
  readonly definitionText: string;
  /** `tokenizer.json`, parsed. */
  readonly definition: object;
  /** One more than the largest token id. */
  readonly vocabSize: number;
  /** Ids of the added tokens that are marked special. */
  readonly specialTokenIds: ReadonlySet<number>;
  /** Text of the added tokens by id, special or not. */
  readonly addedTokens: ReadonlyMap<number, string>;
  readonly bosToken: string | undefined;
  readonly eosToken: string | undefined;
  readonly padToken: string | undefined;
  /** `add_bos_token`; undefined leaves the choice to the post-processor of `tokenizer.json`. */
  readonly addBosToken: boolean | undefined;
  readonly addEosToken: boolean;
  /** The Jinja source of the default chat template. */
  readonly chatTemplate: string | undefined;
}

/**
 * Reads `tokenizer.json` and, where present, `tokenizer_config.json`, `special_tokens_map.json` and
 * `chat_template.jinja` of a Hugging Face model folder.
 * @throws HymbaError ERR_MODEL_FORMAT when `tokenizer.json` is missing or a file is malformed.
 */
export async function readTokenizerFiles(folder: string): Promise<TokenizerFiles> {
  const [definitionText, configText, specialTokensText, templateText] = await Promise.all([
    readIfPresent(join(folder, "tokenizer.json")),
    readIfPresent(join(folder, "tokenizer_config.json")),
    readIfPresent(join(folder, "special_tokens_map.json")),
    readIfPresent(join(folder, "chat_template.jinja")),
  ]);
  if (definitionText === undefined) {
    throw new HymbaError(
      "ERR_MODEL_FORMAT",
      `no tokenizer.json in "${folder}". Copy it from the model's repository (a tokenizer.model ` +
        `file is not enough), or work with token ids, which need no tokenizer`,
    );
  }
  const definitionPath = join(folder, "tokenizer.json");
  const json = parseJson(definitionText, definitionPath);
  const definition = check(definitionSchema, json, definitionPath);
  const config = checkText(configSchema, configText, join(folder, "tokenizer_config.json"));
  const specialTokens = checkText(
    specialTokensSchema,
    specialTokensText,
    join(folder, "special_tokens_map.json"),
  );
  const special = definition.added_tokens.filter((token) => token.special);
  return {
    definitionText,
    definition: { ...NO_STEPS, added_tokens: [], ...(json as object) },
    vocabSize: countIds(definition),
    addedTokens: new Map(definition.added_tokens.map(({ id, content }) => [id, content])),
    specialTokenIds: new Set(special.map((token) => token.id)),
    bosToken: config.bos_token ?? specialTokens.bos_token,
    eosToken: config.eos_token ?? specialTokens.eos_token,
    padToken: config.pad_token ?? specialTokens.pad_token,
    addBosToken: config.add_bos_token ?? undefined,
    addEosToken: config.add_eos_token ?? false,
    chatTemplate: templateText ?? defaultTemplate(config.chat_template),
  };
}

function countIds({ model, added_tokens }: z.infer<typeof definitionSchema>): number {
  let largest = Array.isArray(model.vocab) ? model.vocab.length - 1 : -1;
  for (const id of Object.values(model.vocab)) {
    if (typeof id === "number") largest = Math.max(largest, id);
  }
  for (const { id } of added_tokens) largest = Math.max(largest, id);
  return largest + 1;
}

/** One template, or a list of named ones of which "default" is meant. */
function defaultTemplate(value: z.infer<typeof configSchema>["chat_template"]): string | undefined {
  if (value === undefined || value === null || typeof value === "string") return value ?? undefined;
  return value.find((entry) => entry.name === "default")?.template;
}

async function readIfPresent(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw new HymbaError("ERR_MODEL_FORMAT", `cannot read "${path}": ${describe(error)}`, {
      cause: error,
    });
  }
}

/** ENOTDIR: the "folder" is a file, so nothing can be inside it. */
function isMissing(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === "ENOENT" || code === "ENOTDIR";
}

function checkText<T>(schema: z.ZodType<T>, text: string | undefined, path: string): T {
  return check(schema, text === undefined ? {} : parseJson(text, path), path);
}

function parseJson(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new HymbaError(
      "ERR_MODEL_FORMAT",
      `"${path}" is not JSON: ${describe(error)}. Download the file again`,
      { cause: error },
    );
  }
}

function check<T>(schema: z.ZodType<T>, value: unknown, path: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issues = result.error.issues.map(
    (issue) => `${issue.path.map(String).join(".") || "top level"}: ${issue.message}`,
  );
  throw new HymbaError(
    "ERR_MODEL_FORMAT",
    `"${path}" does not have the Hugging Face format: ${issues.join("; ")}`,
    { cause: result.error },
  );
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
