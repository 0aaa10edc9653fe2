import { HymbaError } from "../errors";
import { show } from "../validate";
import {
  call,
  choice,
  EMPTY,
  type Expression,
  literal,
  NOTHING,
  optional,
  repeat,
  type Rule,
  sequence,
} from "./expression";
import { FORMATS } from "./formats";
import { both } from "./intersect";
import {
  ANY_ARRAY,
  ANY_INTEGER,
  ANY_NUMBER,
  ANY_OBJECT,
  ANY_STRING,
  ANY_VALUE,
  BOOLEAN,
  COMMA,
  escaped,
  member,
  NULL,
  quoted,
  separated,
  STRING_CHARACTER,
} from "./json";
import { isPossibleStep, MOST_STEP, type NumberRange, numbersIn } from "./numbers";
import { otherStrings } from "./other_strings";
import { parseRegex } from "./regex";
import { areDisjoint } from "./schema_disjoint";
import {
  ALONE,
  isKnown,
  type JsonSchema,
  type JsonType,
  restrictions,
  TYPES,
  typesOfKeywords,
} from "./schema_keywords";

type SchemaObject = Readonly<Record<string, unknown>>;

/**
 * The JSON texts that a schema allows, or some of them: objects have the properties that the schema
 * names, in its order.
 * @throws HymbaError ERR_INVALID_ARGUMENT, with the place in the schema, when it is malformed or asks
 * for what cannot be enforced. Nothing is left out silently.
 */
export function schemaExpression(schema: unknown): Expression {
  return new Compiler(schema).compile(schema, "#");
}

class Compiler {
  readonly #root: unknown;
  /** What references refer to. */
  readonly #rules = new Map<string, Rule>();
  /** Strings and numbers by their keywords: what can follow inside of equal ones is worked out once. */
  readonly #leaves = new Map<string, Expression>();
  /** References that are followed before anything was read. */
  readonly #following: string[] = [];

  constructor(root: unknown) {
    this.#root = root;
  }

  compile(schema: unknown, where: string): Expression {
    if (schema === true) return ANY_VALUE;
    if (schema === false) return NOTHING;
    if (!isObject(schema)) refuse(where, `expected a schema, got ${show(schema)}`);
    const keywords = restrictions(schema);
    for (const keyword of keywords) {
      if (!isKnown(keyword)) refuse(where, `"${keyword}" cannot be enforced`);
    }
    const main = this.#main(schema, keywords, where);
    return schema["nullable"] === true ? choice(main, NULL) : main;
  }

  #main(schema: SchemaObject, keywords: readonly string[], where: string): Expression {
    const alone = ALONE.find((keyword) => keywords.includes(keyword));
    if (alone === undefined) {
      return choice(
        ...this.#types(schema, keywords, where).map((type) => this.#typed(type, schema, where)),
      );
    }
    const allowed = alone === "enum" || alone === "const" ? ["type", "nullable"] : ["nullable"];
    const beside = keywords.find((keyword) => keyword !== alone && !allowed.includes(keyword));
    if (beside !== undefined) refuse(where, `"${beside}" beside "${alone}" cannot be enforced`);
    switch (alone) {
      case "const":
        return this.#values([schema["const"]], schema, where);
      case "enum":
        return this.#values(list(schema, "enum", where), schema, where);
      case "$ref":
        return this.#reference(schema["$ref"], where);
      default:
        return this.#combined(alone, list(schema, alone, where), where);
    }
  }

  /** The types that are asked for; without any, those that the other keywords are about, or all. */
  #types(schema: SchemaObject, keywords: readonly string[], where: string): JsonType[] {
    const { type } = schema;
    if (type === undefined) {
      const implied = typesOfKeywords(keywords);
      return implied.length > 0 ? implied : TYPES.filter((name) => name !== "integer");
    }
    const types: unknown[] = Array.isArray(type) ? type : [type];
    for (const name of types) {
      if (!TYPES.includes(name as JsonType)) refuse(where, `unknown type ${show(name)}`);
    }
    return types as JsonType[];
  }

  #typed(type: JsonType, schema: SchemaObject, where: string): Expression {
    switch (type) {
      case "null":
        return NULL;
      case "boolean":
        return BOOLEAN;
      case "integer":
      case "number":
        return this.#leaf(type, schema, () => this.#number(type === "integer", schema, where));
      case "string":
        return this.#leaf(type, schema, () => this.#string(schema, where));
      case "array":
        return this.#inside(() => this.#array(schema, where));
      case "object":
        return this.#inside(() => this.#object(schema, where));
    }
  }

  #leaf(type: JsonType, schema: SchemaObject, compile: () => Expression): Expression {
    const keywords = restrictions(schema).sort();
    const key = JSON.stringify([type, ...keywords.map((keyword) => [keyword, schema[keyword]])]);
    let leaf = this.#leaves.get(key);
    if (leaf === undefined) this.#leaves.set(key, (leaf = call({ body: compile() })));
    return leaf;
  }

  #values(values: readonly unknown[], schema: SchemaObject, where: string): Expression {
    const types = schema["type"] === undefined ? undefined : this.#types(schema, [], where);
    const possible = values.filter(
      (value) => types === undefined || types.some((type) => isOfType(value, type)),
    );
    return choice(...possible.map((value) => literal(JSON.stringify(value))));
  }

  #reference(pointer: unknown, where: string): Expression {
    if (typeof pointer !== "string" || !/^#(?:\/|$)/.test(pointer)) {
      refuse(where, `"$ref" must point into the schema, like "#/$defs/name", got ${show(pointer)}`);
    }
    if (this.#following.includes(pointer)) {
      refuse(where, `"$ref" to ${pointer} leads back to itself`);
    }
    let rule = this.#rules.get(pointer);
    if (rule === undefined) {
      rule = { body: EMPTY };
      this.#rules.set(pointer, rule);
      this.#following.push(pointer);
      rule.body = this.compile(this.#resolve(pointer, where), pointer);
      this.#following.pop();
    }
    return call(rule);
  }

  /** Behind a bracket a reference may lead back. */
  #inside(compile: () => Expression): Expression {
    const following = this.#following.splice(0);
    const expression = compile();
    this.#following.push(...following);
    return expression;
  }

  #resolve(pointer: string, where: string): unknown {
    let value = this.#root;
    for (const part of pointer.split("/").slice(1)) {
      const name = decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~");
      if (typeof value !== "object" || value === null || !Object.hasOwn(value, name)) {
        refuse(where, `"$ref" to ${pointer} finds nothing there`);
      }
      value = (value as SchemaObject)[name];
    }
    return value;
  }

  #combined(
    keyword: "anyOf" | "oneOf" | "allOf",
    schemas: readonly unknown[],
    where: string,
  ): Expression {
    if (schemas.length === 0) refuse(where, `"${keyword}" must not be empty`);
    if (keyword === "allOf" && schemas.length > 1) {
      refuse(where, '"allOf" with more than one schema cannot be enforced: write them as one');
    }
    if (keyword === "oneOf") this.#checkDisjoint(schemas, where);
    return choice(...schemas.map((schema, i) => this.compile(schema, `${where}/${keyword}/${i}`)));
  }

  /** A text that one schema allows must not be allowed by another: that is not looked at later. */
  #checkDisjoint(schemas: readonly unknown[], where: string): void {
    const follow = (schema: JsonSchema): JsonSchema => {
      for (let steps = 0; steps < 32 && isObject(schema); steps++) {
        const pointer = schema["$ref"];
        if (typeof pointer !== "string") break;
        schema = this.#resolve(pointer, where) as JsonSchema;
      }
      return schema;
    };
    for (const [i, a] of schemas.entries()) {
      for (const [j, b] of schemas.entries()) {
        if (j <= i || areDisjoint(a as JsonSchema, b as JsonSchema, follow)) continue;
        refuse(
          where,
          `"oneOf" cannot be enforced, since its schemas ${i} and ${j} may allow the same value: ` +
            'use "anyOf", or tell them apart by type or by a required property with "const"',
        );
      }
    }
  }

  #number(integer: boolean, schema: SchemaObject, where: string): Expression {
    const minimum = finite(schema, "minimum", where);
    const above = finite(schema, "exclusiveMinimum", where);
    const maximum = finite(schema, "maximum", where);
    const below = finite(schema, "exclusiveMaximum", where);
    const multipleOf = finite(schema, "multipleOf", where);
    if ([minimum, above, maximum, below, multipleOf].every((value) => value === undefined)) {
      return integer ? ANY_INTEGER : ANY_NUMBER;
    }
    if (multipleOf !== undefined && !isPossibleStep(multipleOf, integer)) {
      refuse(
        where,
        `"multipleOf" ${multipleOf} cannot be enforced: its digits must be a number from 1 to ` +
          `${MOST_STEP}`,
      );
    }
    const aboveMin = above !== undefined && above >= (minimum ?? -Infinity);
    const belowMax = below !== undefined && below <= (maximum ?? Infinity);
    const min = aboveMin ? above : minimum;
    const max = belowMax ? below : maximum;
    const range: NumberRange = {
      ...(min !== undefined && { min }),
      ...(max !== undefined && { max }),
      ...(multipleOf !== undefined && { multipleOf }),
      aboveMin,
      belowMax,
      integer,
    };
    return numbersIn(range);
  }

  #string(schema: SchemaObject, where: string): Expression {
    const [min, max] = bounds(schema, "minLength", "maxLength", where);
    const { pattern, format } = schema;
    const contents: Expression[] = [];
    if (pattern !== undefined) {
      if (typeof pattern !== "string") refuse(where, `"pattern" must be a string`);
      contents.push(escaped(at(where, () => parseRegex(pattern, "search"))));
    }
    if (format !== undefined) {
      const regex = FORMATS.get(format as string);
      if (regex === undefined) {
        const known = [...FORMATS.keys()].join(", ");
        refuse(where, `"format" ${show(format)} cannot be enforced, only ${known}`);
      }
      contents.push(escaped(parseRegex(regex, "whole")));
    }
    if (min > 0 || max < Infinity) contents.push(repeat(STRING_CHARACTER, min, max));
    if (contents.length === 0) return ANY_STRING;
    return quoted(contents.reduce(both));
  }

  #array(schema: SchemaObject, where: string): Expression {
    const [min, max] = bounds(schema, "minItems", "maxItems", where);
    const tuple = schema["prefixItems"] ?? (Array.isArray(schema["items"]) ? schema["items"] : []);
    if (!Array.isArray(tuple)) refuse(where, `"prefixItems" must be an array`);
    const isOldTuple = schema["prefixItems"] === undefined && Array.isArray(schema["items"]);
    const rest = isOldTuple ? schema["additionalItems"] : schema["items"];
    const restName = isOldTuple ? "additionalItems" : "items";
    if (tuple.length === 0 && rest === undefined && min === 0 && max === Infinity) return ANY_ARRAY;
    const first = tuple.map((item, i) => this.compile(item, `${where}/prefixItems/${i}`));
    const other = this.compile(rest ?? true, `${where}/${restName}`);
    return sequence("[", items(first, other, min, max), "]");
  }

  #object(schema: SchemaObject, where: string): Expression {
    const { properties = {}, additionalProperties: additional } = schema;
    if (!isObject(properties)) refuse(where, `"properties" must be an object`);
    const required = schema["required"] === undefined ? [] : list(schema, "required", where);
    const named = Object.keys(properties);
    const names = [...new Set([...named, ...required.map(String)])];
    const [min, max] = bounds(schema, "minProperties", "maxProperties", where);
    if (names.length === 0 && additional === undefined && min === 0 && max === Infinity) {
      return ANY_OBJECT;
    }
    const valueOf = (name: string): Expression =>
      Object.hasOwn(properties, name)
        ? this.compile(properties[name], `${where}/properties/${name}`)
        : this.compile(additional ?? true, `${where}/additionalProperties`);
    const members = names.map((name) => ({
      text: member(literal(JSON.stringify(name)), valueOf(name)),
      required: required.includes(name),
    }));
    // Names that the schema does not know are written only where it speaks of them.
    const isOpen = additional === undefined ? names.length === 0 : additional !== false;
    const others = isOpen
      ? member(
          quoted(otherStrings(names)),
          this.compile(additional ?? true, `${where}/additionalProperties`),
        )
      : undefined;
    const numRequired = members.filter((one) => one.required).length;
    if (min > numRequired) {
      refuse(where, `"minProperties" cannot be enforced beyond the required properties`);
    }
    if (others === undefined ? max < names.length : numRequired < names.length && max < Infinity) {
      refuse(where, `"maxProperties" cannot be enforced beside optional properties`);
    }
    if (max < names.length) return NOTHING;
    return sequence("{", membersInOrder(members, others, max - names.length), "}");
  }
}

/** Items of an array: the first ones each of its own kind. */
function items(
  first: readonly Expression[],
  other: Expression,
  min: number,
  max: number,
): Expression {
  const count = Math.min(first.length, max);
  let rest = separated(other, Math.max(0, min - count), max - count);
  if (count > 0) rest = repeat(sequence(COMMA, other), Math.max(0, min - count), max - count);
  for (let i = count - 1; i >= 0; i--) {
    const item = i === 0 ? first[i]! : sequence(COMMA, first[i]!);
    rest = i < min ? sequence(item, rest) : optional(sequence(item, rest));
  }
  return rest;
}

interface Member {
  readonly text: Expression;
  readonly required: boolean;
}

/** Members of an object, each once and in their order, then up to `most` others. */
function membersInOrder(
  members: readonly Member[],
  others: Expression | undefined,
  most: number,
): Expression {
  // What may follow behind a comma, and what may stand at the beginning.
  let following = others === undefined ? EMPTY : repeat(sequence(COMMA, others), 0, most);
  let leading = others === undefined ? EMPTY : separated(others, 0, most);
  for (const { text, required } of [...members].reverse()) {
    const begin = sequence(text, following);
    leading = required ? begin : choice(begin, leading);
    const next = sequence(COMMA, text);
    following = sequence(required ? next : optional(next), following);
  }
  return leading;
}

function refuse(where: string, what: string): never {
  throw new HymbaError("ERR_INVALID_ARGUMENT", `the schema at ${where}: ${what}`);
}

/** An error of `call`, with the place in the schema. */
function at<T>(where: string, call: () => T): T {
  try {
    return call();
  } catch (cause) {
    throw new HymbaError(
      "ERR_INVALID_ARGUMENT",
      `the schema at ${where}: ${(cause as Error).message}`,
      { cause },
    );
  }
}

function isObject(value: unknown): value is SchemaObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function list(schema: SchemaObject, keyword: string, where: string): readonly unknown[] {
  const value = schema[keyword];
  if (!Array.isArray(value)) refuse(where, `"${keyword}" must be an array, got ${show(value)}`);
  return value;
}

function finite(schema: SchemaObject, keyword: string, where: string): number | undefined {
  const value = schema[keyword];
  if (value === undefined) return undefined;
  if (typeof value !== "number" || !Number.isFinite(value)) {
    refuse(where, `"${keyword}" must be a finite number, got ${show(value)}`);
  }
  return value;
}

function bounds(
  schema: SchemaObject,
  minKeyword: string,
  maxKeyword: string,
  where: string,
): [min: number, max: number] {
  const count = (keyword: string, fallback: number): number => {
    const value = finite(schema, keyword, where) ?? fallback;
    if (value !== fallback && (!Number.isSafeInteger(value) || value < 0)) {
      refuse(where, `"${keyword}" must be an integer from 0, got ${value}`);
    }
    return value;
  };
  const min = count(minKeyword, 0);
  const max = count(maxKeyword, Infinity);
  if (min > max) refuse(where, `"${minKeyword}" is larger than "${maxKeyword}"`);
  return [min, max];
}

function isOfType(value: unknown, type: JsonType): boolean {
  switch (type) {
    case "null":
      return value === null;
    case "array":
      return Array.isArray(value);
    case "object":
      return isObject(value);
    case "integer":
      return Number.isInteger(value);
    default:
      return typeof value === type;
  }
}
