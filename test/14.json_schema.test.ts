import Ajv2020 from "ajv/dist/2020";
import { HymbaError, type JsonSchema } from "../lib";
import { type Configuration } from "../lib/grammar/automaton";
import { ConstraintVocabulary } from "../lib/grammar/constraint";
import { compileFormat } from "../lib/grammar/response_format";
import { randomSchema } from "./helpers/random_schema";
import { randomText } from "./helpers/random_text";
import { makeVocabulary } from "./helpers/vocabulary";
import { random } from "./kernels/helpers";

// ajv decides what is valid. Formats are an extension of it: these are simple ones, in other words.
const isDate = (text: string): boolean => !Number.isNaN(Date.parse(`${text}T00:00:00Z`));
const formats = {
  date: isDate,
  time: (text: string) => !Number.isNaN(Date.parse(`2000-01-01T${text}`)),
  "date-time": (text: string) => !Number.isNaN(Date.parse(text)),
  uuid: /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/,
  ipv4: (text: string) =>
    text.split(".").every((part) => Number(part) <= 255 && /^\d+$/.test(part)),
  hostname: (text: string) => text.split(".").every((label) => /^[^-.][^.]{0,62}$/.test(label)),
  email: /^[^@\s]+@[^@\s]+\.[^@\s]+$/,
};
const ajv = new Ajv2020({ strict: false, formats, multipleOfPrecision: 6 });

const vocabulary = new ConstraintVocabulary(makeVocabulary(700, random(1)), 700);

/** Texts that a schema leads to; those that are cut are left out. */
function write(schema: JsonSchema, seed: number, count = 1, maxTokens = 400): string[] {
  const numbers = random(seed);
  const texts = Array.from({ length: count }, () => {
    const constraint = vocabulary.compile({ type: "json_schema", schema })();
    return randomText(constraint, vocabulary.bytes, numbers, maxTokens);
  });
  return texts.filter((text) => text !== undefined);
}

function accepts(schema: JsonSchema, text: string): boolean {
  const automaton = compileFormat({ type: "json_schema", schema });
  let at: Configuration | null = automaton.start;
  for (const byte of Buffer.from(text)) at = at && automaton.advance(at, byte);
  return at?.accepts ?? false;
}

describe("schemas", () => {
  test("500 of all kinds: every text that comes to an end is valid", () => {
    let finished = 0;
    const characters = new Set<string>();
    for (let seed = 0; seed < 500; seed++) {
      const schema = randomSchema(random(1000 + seed), 1 + (seed % 3));
      const validate = ajv.compile(schema);
      for (const text of write(schema, seed, 2)) {
        finished++;
        for (const c of text) characters.add(c);
        const value: unknown = JSON.parse(text);
        if (!validate(value)) {
          throw new Error(
            `${text} is not valid for ${JSON.stringify(schema)}: ${ajv.errorsText(validate.errors)}`,
          );
        }
      }
    }
    expect(finished).toBeGreaterThan(900);
    expect(characters.size).toBeGreaterThan(100);
  });

  test.each<[string, JsonSchema, readonly string[], readonly string[]]>([
    [
      "properties come in their order, optional ones may be missing",
      {
        type: "object",
        properties: { a: { type: "integer" }, b: { type: "boolean" }, c: { type: "null" } },
        required: ["b"],
      },
      ['{"a":1,"b":true,"c":null}', '{"b": true}', '{"a":1, "b":false}'],
      [
        "{}",
        '{"a":1}',
        '{"b":true,"a":1}',
        '{"b":true,}',
        '{ "b":true}',
        '{"b":true,"x":1}',
        '{"b":  true}',
      ],
    ],
    [
      "other properties have other names",
      { properties: { ab: { const: 1 }, a: { const: 2 } }, additionalProperties: { const: 3 } },
      ['{"ab":1,"a":2,"abc":3,"":3}', '{"x":3}', "{}"],
      ['{"ab":3}', '{"a":3}', '{"x":3,"a":2}'],
    ],
    [
      "arrays are as long as they may be",
      { items: { type: "integer" }, minItems: 1, maxItems: 3 },
      ["[1]", "[1,2]", "[1, 2,3]"],
      ["[]", "[1,2,3,4]", "[1,]", "[true]"],
    ],
    [
      "tuples",
      { prefixItems: [{ const: 1 }, { const: 2 }], items: { const: 3 }, minItems: 1, maxItems: 4 },
      ["[1]", "[1,2]", "[1,2,3]", "[1,2,3,3]"],
      ["[]", "[2]", "[1,3]", "[1,2,3,3,3]"],
    ],
    ["closed tuples", { items: [{ const: 1 }], additionalItems: false }, ["[]", "[1]"], ["[1,1]"]],
    [
      "lengths count characters, however they are written",
      { type: "string", minLength: 2, maxLength: 3 },
      ['"ab"', '"😀é"', '"\\u00e9\\n"', '"\\ud83d\\ude00x"'],
      ['"a"', '"abcd"', '"\\ud83d\\ude00"', '"\\ud83d"', '"a\nb"'],
    ],
    [
      "patterns are found anywhere, and their characters escaped",
      { type: "string", pattern: '"x|\\n' },
      ['"a\\"xb"', '"\\n"', '"é\\\\\\n"'],
      ['"x"', '"\\"y"'],
    ],
    [
      "patterns and lengths together",
      { type: "string", pattern: "^(?:ab)*$", minLength: 3, maxLength: 6 },
      ['"abab"', '"ababab"'],
      ['"ab"', '"abababab"', '"aba"'],
    ],
    [
      "integers between bounds",
      { type: "integer", minimum: -12, exclusiveMaximum: 105 },
      ["-12", "-9", "0", "7", "99", "104"],
      ["-13", "105", "07", "-0", "1.0", "1e1", "200"],
    ],
    [
      "numbers between bounds",
      { type: "number", exclusiveMinimum: 0.5, maximum: 12.25 },
      ["0.51", "0.500001", "1", "12.25", "12.2500", "12"],
      ["0.5", "0.50", "12.251", "13", "-1", "00.6"],
    ],
    ["multiples", { type: "integer", multipleOf: 7, minimum: 8 }, ["14", "70"], ["7", "15", "0"]],
    ["multiples of a cent", { multipleOf: 0.25 }, ["0.25", "-1.50", "3.00"], ["0.2", "0.30"]],
    ["values", { enum: ["a", 1, null], type: ["string", "null"] }, ['"a"', "null"], ["1"]],
    ["nullable", { type: "integer", nullable: true, minimum: 3 }, ["null", "3"], ["2"]],
    [
      "references, also to the whole",
      {
        type: "object",
        properties: { next: { anyOf: [{ $ref: "#" }, { const: 0 }] } },
        required: ["next"],
      },
      ['{"next":0}', '{"next":{"next":0}}'],
      ["{}", '{"next":1}'],
    ],
    [
      "a reference with escapes",
      { $ref: "#/$defs/a~1b%20c", $defs: { "a/b c": { const: 1 } } },
      ["1"],
      ["2"],
    ],
    [
      "anything",
      true,
      ["[1,{}]", '"a"', "-1.5e-7", "null", '{"a":[true]}'],
      ["", "[1", "01", "+1", ".5", "1e999"],
    ],
    ["a type without keywords of its own", { type: "string", minimum: 3 }, ['"a"'], ["3"]],
  ])("%s", (_, schema, valid, invalid) => {
    // Closed tuples are written in the way of older drafts.
    const validate = "additionalItems" in Object(schema) ? undefined : ajv.compile(schema);
    for (const text of valid) {
      expect([text, accepts(schema, text)]).toEqual([text, true]);
      expect(validate?.(JSON.parse(text))).not.toBe(false);
    }
    for (const text of invalid) expect([text, accepts(schema, text)]).toEqual([text, false]);
  });

  test("bounds of numbers are those of arithmetic", () => {
    const numbers = random(5);
    for (let round = 0; round < 60; round++) {
      const scale = [1, 10, 1000][round % 3]!;
      const a = Math.round(numbers.uniform(1, -500, 500)[0]! * scale) / scale;
      const b = a + Math.round(numbers.uniform(1, 0, 300)[0]! * scale) / scale;
      const integer = round % 2 === 0;
      const schema = { type: integer ? "integer" : "number", minimum: a, exclusiveMaximum: b };
      let automaton;
      try {
        automaton = compileFormat({ type: "json_schema", schema });
      } catch {
        expect(Math.ceil(a)).toBeGreaterThanOrEqual(b);
        continue;
      }
      const values = [a, b, Math.ceil(a), Math.floor(b), 0, -0.001, (a + b) / 2];
      for (let i = 0; i < 100; i++) values.push(numbers.uniform(1, a - 20, b + 20)[0]!);
      for (const value of values) {
        const text = value.toFixed(integer ? 0 : 3).replace(/^-(0(?:\.0*)?)$/, "$1");
        let at: Configuration | null = automaton.start;
        for (const byte of Buffer.from(text)) at = at && automaton.advance(at, byte);
        const number = Number(text);
        expect([schema, text, at?.accepts ?? false]).toEqual([
          schema,
          text,
          number >= a && number < b,
        ]);
      }
    }
  });
});

describe("what cannot be enforced is refused by name", () => {
  test.each<[unknown, string]>([
    [{ type: "array", uniqueItems: true }, '#: "uniqueItems" cannot be enforced'],
    [{ properties: { a: { not: {} } } }, '#/properties/a: "not" cannot be enforced'],
    [{ patternProperties: {} }, '"patternProperties"'],
    [{ if: {}, then: {} }, '"if"'],
    [{ dependentRequired: {} }, '"dependentRequired"'],
    [{ colour: "red" }, '"colour"'],
    [{ type: "string", format: "iri" }, '"format" "iri" cannot be enforced, only date, time'],
    [{ type: "text" }, 'unknown type "text"'],
    [{ type: "string", pattern: "a(?=b)" }, "a lookahead"],
    [{ type: "string", pattern: 3 }, '"pattern" must be a string'],
    [{ type: "string", minLength: -1 }, '"minLength" must be an integer from 0, got -1'],
    [{ type: "string", minLength: 2, maxLength: 1 }, '"minLength" is larger than "maxLength"'],
    [{ type: "integer", minimum: "3" }, '"minimum" must be a finite number, got "3"'],
    [{ type: "integer", multipleOf: 101 }, '"multipleOf" 101'],
    [{ type: "number", multipleOf: 0 }, '"multipleOf" 0'],
    [{ type: "object", minProperties: 1 }, '"minProperties"'],
    [{ properties: { a: {}, b: {} }, maxProperties: 1 }, '"maxProperties"'],
    [{ enum: [1, 2], minimum: 2 }, '"minimum" beside "enum"'],
    [{ enum: 1 }, '"enum" must be an array, got 1'],
    [{ anyOf: [{}], type: "object" }, '"type" beside "anyOf"'],
    [{ allOf: [{ minimum: 1 }, { maximum: 2 }] }, '"allOf" with more than one schema'],
    [{ anyOf: [] }, '"anyOf" must not be empty'],
    [
      { oneOf: [{ type: "integer" }, { type: "number" }] },
      "its schemas 0 and 1 may allow the same",
    ],
    [{ $ref: "other.json" }, 'must point into the schema, like "#/$defs/name"'],
    [{ $ref: "#/$defs/a" }, "finds nothing there"],
    [{ $ref: "#" }, '"$ref" to # leads back to itself'],
    [
      { $ref: "#/$defs/a", $defs: { a: { anyOf: [{ $ref: "#/$defs/a" }, {}] } } },
      "leads back to itself",
    ],
    [{ properties: { a: 3 } }, "#/properties/a: expected a schema, got 3"],
    [{ properties: [] }, '"properties" must be an object'],
    [{ type: "object", required: ["a"], additionalProperties: false }, "no text is valid"],
    [{ properties: { a: { $ref: "#" } }, required: ["a"] }, "no text is valid"],
    [{ type: "integer", minimum: 3, maximum: 2 }, "no text is valid"],
    [{ type: "string", pattern: "^a$", minLength: 2 }, "no text is valid"],
    [{ enum: [1], type: "string" }, "no text is valid"],
    [false, "no text is valid"],
  ])("%j", (schema, message) => {
    let error: unknown;
    try {
      compileFormat({ type: "json_schema", schema: schema as JsonSchema });
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(HymbaError);
    expect(error).toMatchObject({ code: "ERR_INVALID_ARGUMENT" });
    expect((error as Error).message).toContain(message);
  });

  test("oneOf is taken where its schemas are told apart", () => {
    const tagged = (kind: string) => ({
      properties: { kind: { const: kind } },
      required: ["kind"],
    });
    const schemas: JsonSchema[] = [
      { oneOf: [{ type: "string" }, { type: "integer" }, { enum: [null, true] }] },
      { oneOf: [{ const: "a" }, { enum: ["b", "c"] }] },
      {
        oneOf: [{ type: "object", ...tagged("a") }, { $ref: "#/$defs/b" }],
        $defs: { b: { type: "object", ...tagged("b") } },
      },
      { oneOf: [{ anyOf: [{ const: 1 }, { const: 2 }] }, { const: 3 }] },
    ];
    for (const schema of schemas) expect(write(schema, 1, 5).length).toBeGreaterThan(0);
  });
});
