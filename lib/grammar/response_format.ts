import { HymbaError } from "../errors";
import { checkChoice, checkObject, show } from "../validate";
import { Automaton } from "./automaton";
import type { Expression } from "./expression";
import { ANY_OBJECT } from "./json";
import { buildNfa } from "./nfa";
import { parseRegex } from "./regex";
import { schemaExpression } from "./schema";
import type { JsonSchema } from "./schema_keywords";

/**
 * What a generated text must be: a JSON object, JSON that a schema allows, or text that a regular
 * expression matches as a whole. docs/constrained-output.md says what schemas and patterns may have.
 */
export type ResponseFormat =
  | { readonly type: "json_object" }
  | { readonly type: "json_schema"; readonly schema: JsonSchema }
  | { readonly type: "regex"; readonly pattern: string };

/** Checks the shape of a format; what it says is checked by {@link compileFormat}. */
export function checkFormat(name: string, format: unknown): ResponseFormat {
  checkObject(name, format);
  const { type, schema, pattern } = format as Record<string, unknown>;
  checkChoice(`${name}.type`, type, ["json_object", "json_schema", "regex"]);
  if (type === "json_schema" && schema === undefined) {
    throw new TypeError(`${name}.schema must be a JSON schema, got undefined`);
  }
  if (type === "regex" && typeof pattern !== "string") {
    throw new TypeError(`${name}.pattern must be a string, got ${show(pattern)}`);
  }
  return format as ResponseFormat;
}

/**
 * The automaton of the texts that a format allows.
 * @throws HymbaError ERR_INVALID_ARGUMENT when it cannot be enforced, or when no text has it.
 */
export function compileFormat(format: ResponseFormat): Automaton {
  const start = buildStart(format);
  if (start === null) {
    throw new HymbaError(
      "ERR_INVALID_ARGUMENT",
      `no text is valid: the ${format.type} rules out all`,
    );
  }
  return new Automaton(start);
}

function buildStart(format: ResponseFormat): ReturnType<typeof buildNfa> {
  try {
    return buildNfa(expressionOf(format));
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    // Both steps are recursive, and the stack ends some hundred levels deep.
    throw new HymbaError("ERR_INVALID_ARGUMENT", `the ${format.type} is nested too deeply`, {
      cause: error,
    });
  }
}

function expressionOf(format: ResponseFormat): Expression {
  switch (format.type) {
    case "json_object":
      return ANY_OBJECT;
    case "json_schema":
      return schemaExpression(format.schema);
    case "regex":
      return parseRegex(format.pattern, "whole");
  }
}
