import { join } from "node:path";
import { z } from "zod";
import { HymbaError } from "../errors";
import { checkTokenIds } from "./config";
import { checkFields, field, integer, optional, tokenId, tokenIdList } from "./fields";
import { readJsonIfPresent } from "./files";
import { formatList } from "./problems";

/** What a checkpoint recommends for generation; absent where generation_config.json is silent. */
export interface GenerationDefaults {
  /** Whether to sample; otherwise the most likely token is taken. */
  readonly doSample?: boolean;
  /** At least 0; 0 means greedy. */
  readonly temperature?: number;
  /** Tokens to choose from; 0 means all. */
  readonly topK?: number;
  /** Probability mass to choose from, above 0 and at most 1. */
  readonly topP?: number;
  /** Above 0; 1 changes nothing. */
  readonly repetitionPenalty?: number;
  readonly bosTokenId?: number;
  /** Any of them ends a text; never empty. */
  readonly eosTokenIds?: readonly number[];
  readonly padTokenId?: number;
}

function number(
  isValid: (value: number) => boolean,
  expected: string,
): z.ZodType<number | undefined> {
  return optional(
    field<number>((value) => Number.isFinite(value) && isValid(value as number), expected),
  );
}

const schema = z.object(
  {
    do_sample: optional(field<boolean>((value) => typeof value === "boolean", "true or false")),
    temperature: number((value) => value >= 0, "a number that is not negative"),
    top_k: optional(integer(0, 2 ** 31 - 1)),
    top_p: number((value) => value > 0 && value <= 1, "a number above 0 and at most 1"),
    repetition_penalty: number((value) => value > 0, "a positive number"),
    bos_token_id: tokenId,
    eos_token_id: tokenIdList,
    pad_token_id: tokenId,
  },
  { error: "expected an object" },
);

/**
 * Checks a parsed generation_config.json. Fields that we do not know are ignored.
 * @param where names the file in error messages.
 * @throws HymbaError ERR_MODEL_FORMAT with every field of a wrong type or out of range.
 */
export function parseGenerationConfig(
  json: unknown,
  vocabSize: number,
  where: string,
): GenerationDefaults {
  const raw = checkFields(schema, json, where);
  const { bos_token_id, eos_token_id, pad_token_id } = raw;
  const problems: string[] = [];
  checkTokenIds({ bos_token_id, eos_token_id, pad_token_id }, vocabSize, problems);
  if (problems.length > 0) {
    throw new HymbaError(
      "ERR_MODEL_FORMAT",
      `${where} does not fit the model: ${formatList(problems)}`,
    );
  }
  return {
    ...(raw.do_sample !== undefined && { doSample: raw.do_sample }),
    ...(raw.temperature !== undefined && { temperature: raw.temperature }),
    ...(raw.top_k !== undefined && { topK: raw.top_k }),
    ...(raw.top_p !== undefined && { topP: raw.top_p }),
    ...(raw.repetition_penalty !== undefined && { repetitionPenalty: raw.repetition_penalty }),
    ...(bos_token_id !== undefined && { bosTokenId: bos_token_id }),
    ...(eos_token_id.length > 0 && { eosTokenIds: eos_token_id }),
    ...(pad_token_id !== undefined && { padTokenId: pad_token_id }),
  };
}

/**
 * The generation defaults of a model folder; empty when it has no generation_config.json.
 * @throws HymbaError ERR_MODEL_FORMAT when the file is malformed.
 */
export async function readGenerationConfig(
  folder: string,
  vocabSize: number,
): Promise<GenerationDefaults> {
  const path = join(folder, "generation_config.json");
  const json = await readJsonIfPresent(path);
  return json === undefined ? {} : parseGenerationConfig(json, vocabSize, `"${path}"`);
}
