import type { z } from "zod";
import { field, optional, valueAt } from "../checkpoint/fields";
import { describeValue } from "../checkpoint/problems";
import { ApiError } from "./api_error";

const isString = (value: unknown): value is string => typeof value === "string";
const isInteger = (value: unknown): value is number => Number.isSafeInteger(value);

/** Whether every value of an array holds. */
export const isArrayOf = (holds: (value: unknown) => boolean, value: unknown): boolean =>
  Array.isArray(value) && value.every(holds);

// Types only: in which range a number must be is what the library checks.

export const text = field<string>(isString, "a string", { type: "string" });
export const optionalText = optional(text);
export const optionalNumber = optional(
  field<number>((value) => typeof value === "number", "a number", { type: "number" }),
);
export const optionalInteger = optional(
  field<number>(isInteger, "an integer", { type: "integer" }),
);
export const optionalBoolean = optional(
  field<boolean>((value) => typeof value === "boolean", "true or false", { type: "boolean" }),
);

const TOKENS = { type: "array", items: { type: "integer" } };

export const tokens = field<readonly number[]>(
  (value) => isArrayOf(isInteger, value),
  "an array of token ids",
  TOKENS,
);
export const optionalTokens = optional(tokens);

/** A text, or token ids. */
export type Prompt = string | readonly number[];

const isPrompt = (value: unknown): value is Prompt =>
  isString(value) || isArrayOf(isInteger, value);

/** One prompt or several: always a list. */
export const prompts = field<Prompt | readonly Prompt[]>(
  (value) => isPrompt(value) || isArrayOf(isPrompt, value),
  "a string, an array of token ids, or an array of such",
  {
    anyOf: [
      { type: "string" },
      TOKENS,
      { type: "array", items: { anyOf: [{ type: "string" }, TOKENS] } },
    ],
  },
).transform((given): readonly Prompt[] => (isPrompt(given) ? [given] : given));

/**
 * The body of a request in the form that the schema asks for.
 * @param name what messages call it.
 * @throws ApiError that names the first field that does not fit or is not known.
 */
export function parseBody<T>(schema: z.ZodType<T>, body: unknown, name = "the body"): T {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  if (issue!.code === "unrecognized_keys") {
    const param = showPath([...issue.path, issue.keys[0]!]);
    throw new ApiError(`unknown field ${param}: it is not supported`, param, "unknown_parameter");
  }
  const param = showPath(issue!.path);
  const found = describeValue(valueAt(body, issue!.path));
  throw new ApiError(`${param ?? name}: ${issue!.message}, got ${found}`, param);
}

/** `messages[0].content`; null for the body itself. */
function showPath(path: readonly PropertyKey[]): string | null {
  const parts = path.map((key) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`));
  return parts.length === 0 ? null : parts.join("").replace(/^\./, "");
}
