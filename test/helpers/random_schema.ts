import type { JsonSchema } from "../../lib";
import type { Random } from "../kernels/helpers";

const PATTERNS = [
  "^[a-z]{2,6}$",
  "^\\d{3}-\\d{4}$",
  "^(?:red|green|blue)( [A-Z]\\w*)?$",
  "ab+c",
  '^["\\\\/\\n\\u00e9]{1,4}$',
  "^[^aeiou]{0,5}$|^x",
  "end$",
];
const FORMATS = ["date", "time", "date-time", "uuid", "ipv4", "hostname", "email"];
const NAMES = ["id", "name", "a b", 'quo"te', "tags", "größe", "0", "nested", "x/y~z", "val"];
const VALUES = ["red", "green", 'a"b', "", 0, 1, -3, 2.5, true, null, [1, "x"], { k: [] }];

/** A schema of everything that can be enforced, nested up to `depth` times. */
export function randomSchema(numbers: Random, depth: number): JsonSchema {
  const definitions: Record<string, JsonSchema> = {};
  const make = new SchemaMaker(numbers, definitions);
  const schema = make.any(depth);
  return typeof schema === "object" ? { ...schema, $defs: definitions } : schema;
}

class SchemaMaker {
  readonly #numbers: Random;
  readonly #definitions: Record<string, JsonSchema>;

  constructor(numbers: Random, definitions: Record<string, JsonSchema>) {
    this.#numbers = numbers;
    this.#definitions = definitions;
  }

  any(depth: number): JsonSchema {
    const kinds = ["string", "string", "number", "integer", "values", "type", "nullable"] as const;
    const deep = ["object", "object", "object", "array", "array", "anyOf", "oneOf", "ref"] as const;
    const kind = this.#pick(depth > 0 ? [...kinds, ...deep, ...deep] : kinds);
    switch (kind) {
      case "string":
        return this.#string();
      case "number":
      case "integer":
        return this.#number(kind);
      case "values":
        return this.#maybe() ? { const: this.#pick(VALUES) } : { enum: this.#some(VALUES) };
      case "type":
        return this.#pick<JsonSchema>([
          { type: "boolean" },
          { type: "null" },
          { type: ["integer", "null", "boolean"] },
          true,
          {},
        ]);
      case "nullable":
        return { type: ["string", "null"], maxLength: 3 };
      case "object":
        return this.#object(depth - 1);
      case "array":
        return this.#array(depth - 1);
      case "anyOf":
        return { anyOf: [this.any(depth - 1), this.any(depth - 1)] };
      case "oneOf":
        return {
          oneOf: [
            this.#string(),
            this.#number("number"),
            this.#tagged("a", depth),
            this.#tagged("b", depth),
          ],
        };
      case "ref":
        return this.#reference(depth - 1);
    }
  }

  #maybe(): boolean {
    return this.#numbers.integer(0, 2) === 0;
  }

  #pick<T>(list: readonly T[]): T {
    return list[this.#numbers.integer(0, list.length)]!;
  }

  #some<T>(list: readonly T[]): T[] {
    const count = this.#numbers.integer(1, Math.min(5, list.length));
    return [...this.#numbers.distinct(count, list.length)].map((i) => list[i]!);
  }

  #string(): JsonSchema {
    const kind = this.#numbers.integer(0, 5);
    if (kind === 0) return { type: "string" };
    if (kind === 1) return { type: "string", format: this.#pick(FORMATS) };
    const minLength = this.#numbers.integer(0, 6);
    const lengths = {
      ...(this.#maybe() && { minLength }),
      ...(this.#maybe() && { maxLength: minLength + this.#numbers.integer(0, 12) }),
    };
    return kind === 2
      ? { type: "string", pattern: this.#pick(PATTERNS) }
      : { type: "string", ...lengths };
  }

  #number(type: "number" | "integer"): JsonSchema {
    const size = this.#pick([1, 10, 1000, 123_456, 1e9]);
    const round = (value: number): number =>
      this.#maybe() ? Math.round(value) : Math.round(value * 1000) / 1000;
    const low = round(this.#numbers.uniform(1, -size, size)[0]!);
    const high = low + 2 + round(this.#numbers.uniform(1, 0, size)[0]!);
    const step = this.#pick([1, 2, 3, 7, 10, 25]);
    return {
      type,
      ...(this.#maybe() && { [this.#maybe() ? "minimum" : "exclusiveMinimum"]: low }),
      ...(this.#maybe() && { [this.#maybe() ? "maximum" : "exclusiveMaximum"]: high + step }),
      ...(this.#numbers.integer(0, 4) === 0 && { multipleOf: step }),
    };
  }

  #object(depth: number): JsonSchema {
    const names = this.#some(NAMES);
    const additional = this.#pick<JsonSchema | undefined>([
      undefined,
      false,
      false,
      this.any(depth),
      true,
    ]);
    return {
      type: "object",
      properties: Object.fromEntries(names.map((name) => [name, this.any(depth)])),
      required: names.filter(() => this.#maybe()),
      ...(additional !== undefined && { additionalProperties: additional }),
    };
  }

  #array(depth: number): JsonSchema {
    const min = this.#numbers.integer(0, 3);
    return {
      type: "array",
      ...(this.#numbers.integer(0, 4) === 0 && { prefixItems: [this.any(depth), this.any(depth)] }),
      items: this.any(depth),
      ...(this.#maybe() && { minItems: min }),
      maxItems: min + this.#numbers.integer(0, 4),
    };
  }

  #tagged(tag: string, depth: number): JsonSchema {
    return {
      type: "object",
      properties: { kind: { const: tag }, value: this.any(depth - 1) },
      required: ["kind"],
      additionalProperties: false,
    };
  }

  /** To a list that may contain itself. */
  #reference(depth: number): JsonSchema {
    const name = `list${Object.keys(this.#definitions).length}`;
    const $ref = `#/$defs/${name}`;
    this.#definitions[name] = true;
    this.#definitions[name] = {
      type: "object",
      properties: { head: this.any(depth), tail: { anyOf: [{ type: "null" }, { $ref }] } },
      required: ["head", "tail"],
      additionalProperties: false,
    };
    return { $ref };
  }
}
