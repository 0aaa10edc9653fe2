import { z } from "zod";
import { field } from "../../checkpoint/fields";
import { formatList } from "../../checkpoint/problems";
import { HymbaError } from "../../errors";
import { ENDPOINTS, type Endpoint } from "../../openai/endpoint";
import { ApiError } from "../../openai/api_error";
import { parseBody, text } from "../../openai/body";
import { readLines } from "./line_reader";

/** A line of the input. */
export interface BatchLine {
  /** From 1. */
  readonly number: number;
  /** Undefined when the line is not good enough to have one. */
  readonly customId: string | undefined;
  /** What it asks for, or why that cannot be said. */
  readonly request: { readonly endpoint: Endpoint; readonly body: unknown } | ApiError;
}

const identified = z.looseObject({ custom_id: text });

const schema = z.strictObject(
  {
    custom_id: text,
    method: field<"POST">((value) => value === "POST", "POST"),
    url: field<string>(
      (value) => ENDPOINTS.has(value as string),
      [...ENDPOINTS.keys()].join(" or "),
    ),
    body: z.looseObject({}, { error: "expected an object" }),
  },
  { error: "expected an object" },
);

/** The lines of an input that are not empty. */
export async function* readBatch(path: string): AsyncGenerator<BatchLine, void, undefined> {
  for await (const { number, text } of readLines(path)) {
    if (text.trim() !== "") yield parseLine(number, text);
  }
}

function parseLine(number: number, text: string): BatchLine {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    const reason = (error as Error).message;
    const request = new ApiError(`the line is not JSON: ${reason}`, null, "invalid_json_line");
    return { number, customId: undefined, request };
  }
  const customId = identified.safeParse(json).data?.custom_id;
  try {
    const { url, body } = parseBody(schema, json, "the line");
    return { number, customId, request: { endpoint: ENDPOINTS.get(url)!, body } };
  } catch (error) {
    if (error instanceof ApiError) return { number, customId, request: error };
    throw error;
  }
}

/**
 * Looks through an input, and returns the number of its lines that are not empty.
 * @throws HymbaError ERR_INVALID_ARGUMENT when it cannot be read, or lines have the same custom_id:
 * their answers could not be told apart.
 */
export async function checkBatch(path: string): Promise<number> {
  const numbers = new Map<string, number>();
  const duplicates: string[] = [];
  let count = 0;
  try {
    for await (const { number, customId } of readBatch(path)) {
      count++;
      if (customId === undefined) continue;
      const first = numbers.get(customId);
      if (first === undefined) numbers.set(customId, number);
      else duplicates.push(`line ${number} has that of line ${first}`);
    }
  } catch (cause) {
    const reason = (cause as Error).message;
    throw new HymbaError("ERR_INVALID_ARGUMENT", `cannot read the input: ${reason}`, { cause });
  }
  if (duplicates.length > 0) {
    throw new HymbaError(
      "ERR_INVALID_ARGUMENT",
      `every line of ${path} must have a custom_id of its own: ${formatList(duplicates)}`,
    );
  }
  return count;
}

/** The number of lines that the output has no answer to. */
export async function countLeft(
  path: string,
  output: { has(line: BatchLine): boolean },
): Promise<number> {
  let count = 0;
  for await (const line of readBatch(path)) if (!output.has(line)) count++;
  return count;
}
