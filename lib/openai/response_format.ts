import { z } from "zod";
import { field } from "../checkpoint/fields";
import type { ResponseFormat } from "../grammar/response_format";
import type { JsonSchema } from "../grammar/schema_keywords";
import { optionalBoolean, optionalText } from "./body";

const schema = field<JsonSchema>(
  (value) => typeof value === "boolean" || (typeof value === "object" && value !== null),
  "a JSON schema",
  { type: ["object", "boolean"] },
);

/** `response_format`, as the library's `responseFormat`; undefined for any text. */
export const responseFormat = z
  .discriminatedUnion(
    "type",
    [
      z.strictObject({ type: z.literal("text") }),
      z.strictObject({ type: z.literal("json_object") }),
      z.strictObject({
        type: z.literal("json_schema"),
        json_schema: z.strictObject(
          {
            schema,
            name: optionalText,
            description: optionalText,
            // Every schema is enforced as it is.
            strict: optionalBoolean,
          },
          { error: "expected an object with a schema" },
        ),
      }),
    ],
    { error: "expected one of text, json_object and json_schema" },
  )
  .nullish()
  .transform((format): ResponseFormat | undefined => {
    if (format?.type === "json_object") return format;
    if (format?.type !== "json_schema") return undefined;
    return { type: "json_schema", schema: format.json_schema.schema };
  });
