/** A schema: an object of keywords, or whether anything or nothing is valid. */
export type JsonSchema = boolean | { readonly [keyword: string]: unknown };

/** JSON types; every integer is a number, too. */
export const TYPES = ["object", "array", "string", "integer", "number", "boolean", "null"] as const;
export type JsonType = (typeof TYPES)[number];

/** Keywords that say something about values of a type. */
const BY_TYPE: Readonly<Record<"object" | "array" | "string" | "number", readonly string[]>> = {
  object: ["properties", "required", "additionalProperties", "minProperties", "maxProperties"],
  array: ["items", "prefixItems", "additionalItems", "minItems", "maxItems"],
  string: ["minLength", "maxLength", "pattern", "format"],
  number: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"],
};

/** Keywords that decide alone: beside them only annotations, and `type` beside the first two. */
export const ALONE = ["enum", "const", "anyOf", "oneOf", "allOf", "$ref"] as const;

/** Keywords that restrict nothing. */
const ANNOTATIONS: ReadonlySet<string> = new Set([
  ...["$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default"],
  ...["example", "examples", "deprecated", "readOnly", "writeOnly"],
]);

/** Keywords that have an effect here, in the order in which they are looked at. */
const KNOWN: ReadonlySet<string> = new Set([
  ...["type", "nullable", ...ALONE],
  ...Object.values(BY_TYPE).flat(),
]);

/** The keywords that restrict something. */
export function restrictions(schema: Readonly<Record<string, unknown>>): string[] {
  return Object.keys(schema).filter((name) => !ANNOTATIONS.has(name) && schema[name] !== undefined);
}

/** Whether a keyword can be enforced. */
export function isKnown(keyword: string): boolean {
  return KNOWN.has(keyword);
}

/** The types that keywords are about. */
export function typesOfKeywords(keywords: readonly string[]): JsonType[] {
  const about = (type: keyof typeof BY_TYPE): boolean =>
    keywords.some((keyword) => BY_TYPE[type].includes(keyword));
  return (["object", "array", "string", "number"] as const).filter(about);
}
