import { type JsonSchema, type JsonType, TYPES } from "./schema_keywords";

type Follow = (schema: JsonSchema) => JsonSchema;

/**
 * Whether it is sure that no value is valid for both schemas: by their types, by their `enum` or
 * `const`, or by a property that both require. `follow` resolves references.
 */
export function areDisjoint(a: JsonSchema, b: JsonSchema, follow: Follow, depth = 0): boolean {
  a = follow(a);
  b = follow(b);
  if (a === false || b === false) return true;
  if (a === true || b === true || depth > 8) return false;
  for (const [one, other] of [
    [a, b],
    [b, a],
  ] as const) {
    const options = one["anyOf"] ?? one["oneOf"];
    if (Array.isArray(options)) {
      return options.every((option) => areDisjoint(option as JsonSchema, other, follow, depth + 1));
    }
  }
  const typesOfB = typesOf(b);
  const shared = typesOf(a).filter((type) => typesOfB.includes(type));
  if (shared.length === 0) return true;
  const valuesA = valuesOf(a);
  const valuesB = valuesOf(b);
  if (valuesA !== undefined && valuesB !== undefined) {
    return !valuesA.some((value) => valuesB.includes(value));
  }
  if (shared.length > 1 || shared[0] !== "object") return false;
  const propertiesA = propertiesOf(a);
  const propertiesB = propertiesOf(b);
  return requiredOf(a).some(
    (name) =>
      requiredOf(b).includes(name) &&
      areDisjoint(propertiesA[name] ?? true, propertiesB[name] ?? true, follow, depth + 1),
  );
}

type SchemaObject = Exclude<JsonSchema, boolean>;

/** Numbers for integers: they are no type of their own. */
function typesOf(schema: SchemaObject): JsonType[] {
  const { type } = schema;
  const values = valuesOf(schema);
  const declared = (Array.isArray(type) ? type : type === undefined ? TYPES : [type]) as JsonType[];
  const types = declared.map((name) => (name === "integer" ? "number" : name));
  if (schema["nullable"] === true) types.push("null");
  if (values === undefined) return types;
  const typeOfText = (text: string): JsonType => {
    const value: unknown = JSON.parse(text);
    return value === null ? "null" : Array.isArray(value) ? "array" : (typeof value as JsonType);
  };
  const found = values.map(typeOfText);
  return types.filter((name) => found.includes(name) || name === "null");
}

/** The JSON texts of the values that are possible, when they are listed, and have but one text. */
function valuesOf(schema: SchemaObject): string[] | undefined {
  const values =
    "const" in schema ? [schema["const"]] : Array.isArray(schema["enum"]) ? schema["enum"] : null;
  const isPlain = (value: unknown): boolean => typeof value !== "object" || value === null;
  if (values === null || !values.every(isPlain)) return undefined;
  const texts = values.map((value) => JSON.stringify(value));
  return schema["nullable"] === true ? [...texts, "null"] : texts;
}

function requiredOf({ required }: SchemaObject): string[] {
  return Array.isArray(required) ? (required as string[]) : [];
}

function propertiesOf({ properties }: SchemaObject): Readonly<Record<string, JsonSchema>> {
  return (properties ?? {}) as Record<string, JsonSchema>;
}
