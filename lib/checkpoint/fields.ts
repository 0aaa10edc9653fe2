import { z } from "zod";
import { HymbaError } from "../errors";
import { describeValue, formatList } from "./problems";

/**
 * Upper limit of every width, vocabulary and position count. Far beyond any model, it keeps the
 * bytes of each tensor below 2^53: exact as a JavaScript number.
 */
export const MAX_SIZE = 2 ** 24;

/**
 * A field with one message for whatever is wrong with it; `checkFields` adds what was found.
 * @param jsonSchema what a JSON schema says of it, as far as one can.
 */
export function field<T>(
  isValid: (value: unknown) => boolean,
  expected: string,
  jsonSchema: Readonly<Record<string, unknown>> = {},
): z.ZodType<T> {
  const schema = z.custom<T>(isValid, { error: `expected ${expected}` });
  return schema.meta({ description: expected, ...jsonSchema });
}

/** Whether a value is an integer in a range, both ends included. */
export function isInteger(value: unknown, min: number, max: number): value is number {
  return Number.isInteger(value) && (value as number) >= min && (value as number) <= max;
}

/** A required integer from `min` to `max`. */
export function integer(min: number, max: number): z.ZodType<number> {
  return field((value) => isInteger(value, min, max), `an integer from ${min} to ${max}`, {
    ...{ type: "integer", minimum: min, maximum: max },
  });
}

/** A required string out of a few. */
export function oneOf<T extends string>(...values: readonly T[]): z.ZodType<T> {
  return field((value) => values.includes(value as T), values.map(describeValue).join(" or "));
}

/** Whether a value is a list of layer indices or token ids. */
export function isIndexList(value: unknown): boolean {
  return Array.isArray(value) && value.every((index) => isInteger(index, 0, MAX_SIZE));
}

/** A field that may be left out, or null, because it has a neutral value. */
export function withDefault<T>(schema: z.ZodType<T>, value: T): z.ZodType<T> {
  return schema.nullish().transform((given) => given ?? value);
}

/** A field that may be left out, or null. */
export function optional<T>(schema: z.ZodType<T>): z.ZodType<T | undefined> {
  return schema.nullish().transform((given) => given ?? undefined);
}

/** A token id; absent when the file has none. */
export const tokenId = optional(integer(0, MAX_SIZE));

/** One token id, a list of them, or none: always a list. */
export const tokenIdList = withDefault(
  field<number | readonly number[]>(
    (value) => isInteger(value, 0, MAX_SIZE) || isIndexList(value),
    "a token id or a list of token ids",
  ),
  [],
).transform((ids): readonly number[] => (typeof ids === "number" ? [ids] : ids));

/**
 * The value in the form that the schema asks for.
 * @throws HymbaError ERR_MODEL_FORMAT with every field that does not fit.
 */
export function checkFields<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const problems = result.error.issues.map(({ path, message }) => {
    const field = path.length > 0 ? `${path.map(String).join(".")}: ` : "";
    return `${field}${message}, got ${describeValue(valueAt(value, path))}`;
  });
  throw new HymbaError("ERR_MODEL_FORMAT", `${where} cannot be used: ${formatList(problems)}`, {
    cause: result.error,
  });
}

/** What is at the path of an issue. */
export function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (parent, key) => (parent as Readonly<Record<PropertyKey, unknown>>)[key],
    value,
  );
}
