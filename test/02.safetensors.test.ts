import { open, writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  parsePrefix,
  parseSafetensorsHeader,
  readSafetensorsHeader,
} from "../lib/checkpoint/safetensors";
import { messageOf, rejectionOf } from "./helpers/error";
import {
  TemporaryFolders,
  encodeHeader,
  encodeSafetensors,
  encodeTensors,
} from "./helpers/model_files";

const folders = new TemporaryFolders();
afterAll(() => folders.remove());

async function fileWith(content: Buffer): Promise<string> {
  return join(await folders.create({ "model.safetensors": content }), "model.safetensors");
}

/** Parses a header in front of `dataBytes` bytes of data. */
function parse(header: unknown, dataBytes: number) {
  const bytes = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  return parseSafetensorsHeader(bytes, 8 + bytes.length + dataBytes, "file");
}

function problemOf(header: unknown, dataBytes = 100): string {
  return messageOf("ERR_MODEL_FORMAT", () => parse(header, dataBytes));
}

describe("a file that is right", () => {
  test("the published micro checkpoint", async () => {
    const path = join(__dirname, "golden/micro/model.safetensors");
    const entries = await readSafetensorsHeader(path);
    expect(entries).toHaveLength(155);
    const embedding = entries.find((entry) => entry.name === "model.embed_tokens.weight");
    expect(embedding).toMatchObject({ dtype: "BF16", shape: [320, 128] });
    const file = await open(path);
    const { size } = await file.stat();
    await file.close();
    expect(Math.max(...entries.map((entry) => entry.end))).toBe(size);
  });

  test("ranges count from the start of the file, whatever the order of the entries", () => {
    const header = {
      b: { dtype: "F32", shape: [1], data_offsets: [12, 16] },
      __metadata__: { format: "pt" },
      a: { dtype: "BF16", shape: [2, 3], data_offsets: [0, 12] },
    };
    const begin = 8 + JSON.stringify(header).length;
    expect(parse(header, 16)).toEqual([
      { name: "b", dtype: "F32", shape: [1], begin: begin + 12, end: begin + 16 },
      { name: "a", dtype: "BF16", shape: [2, 3], begin, end: begin + 12 },
    ]);
  });

  test("scalars, empty tensors, and types that we do not know", () => {
    const header = {
      scalar: { dtype: "F16", shape: [], data_offsets: [0, 2] },
      empty: { dtype: "F16", shape: [3, 0], data_offsets: [1, 1] },
      packed: { dtype: "F4", shape: [7], data_offsets: [2, 6] },
    };
    expect(parse(header, 6).map((entry) => entry.name)).toEqual(["scalar", "empty", "packed"]);
  });

  test("no tensors, a header padded with spaces, gaps and a rest", () => {
    expect(parse("{}      ", 0)).toEqual([]);
    const header = {
      a: { dtype: "F16", shape: [1], data_offsets: [2, 4] },
      b: { dtype: "F16", shape: [1], data_offsets: [8, 10] },
    };
    expect(parse(header, 16)).toHaveLength(2);
  });

  test("names that mean something to JavaScript are plain names", () => {
    const names = ["__proto__", "constructor", "toString", "hasOwnProperty"];
    const entries = names.map((name, i) => {
      return `"${name}": {"dtype": "F16", "shape": [1], "data_offsets": [${2 * i}, ${2 * i + 2}]}`;
    });
    const parsed = parse(`{${entries.join(",")}}`, 8);
    expect(parsed.map((entry) => entry.name)).toEqual(names);
    const inherited = '{"__proto__": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}';
    expect(problemOf(`{"x": ${inherited}}`)).toMatch(/tensor "x" has dtype nothing/);
  });

  test("only the header is read", async () => {
    const tensors = new Map([["big", { dtype: "F32", shape: [1000] }]]);
    const path = await fileWith(encodeTensors(tensors));
    const sparse = await open(path, "r+");
    const bytesBefore = process.memoryUsage().arrayBuffers;
    await sparse.truncate(2 ** 40);
    await sparse.close();
    expect(await readSafetensorsHeader(path)).toHaveLength(1);
    expect(process.memoryUsage().arrayBuffers - bytesBefore).toBeLessThan(2 ** 24);
  });
});

describe("a file that is damaged", () => {
  test("it is missing, a folder, or unreadable as a file", async () => {
    const folder = await folders.create();
    const read = (path: string) => rejectionOf("ERR_MODEL_FORMAT", readSafetensorsHeader(path));
    expect(await read(join(folder, "none"))).toMatch(/cannot read ".*none": ENOENT/);
    expect(await read(folder)).toMatch(/it is not a file/);
  });

  test.each([0, 1, 7])("it has %d bytes", async (bytes) => {
    const path = await fileWith(Buffer.alloc(bytes));
    const message = await rejectionOf("ERR_MODEL_FORMAT", readSafetensorsHeader(path));
    expect(message).toContain(`it has ${bytes} bytes, expected at least 8`);
  });

  test.each<[bigint, number, RegExp]>([
    [0n, 100, /its header is empty/],
    [93n, 100, /claims 93 bytes, but only 92 bytes follow/],
    [100_000_001n, 2 ** 40, /claims 100000001 bytes, expected at most 100000000/],
    [2n ** 64n - 1n, 2 ** 40, /claims 18446744073709551615 bytes/],
  ])("a header of %d bytes in a file of %d", (headerBytes, fileBytes, message) => {
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(headerBytes);
    expect(messageOf("ERR_MODEL_FORMAT", () => parsePrefix(prefix, fileBytes, "file"))).toMatch(
      message,
    );
  });

  test("it is cut short, at any length", async () => {
    const tensors = new Map([
      ["a", { dtype: "BF16", shape: [4] }],
      ["b", { dtype: "F32", shape: [2, 2] }],
    ]);
    const whole = encodeTensors(tensors);
    const path = await fileWith(whole);
    for (let bytes = 0; bytes < whole.length; bytes++) {
      await writeFile(path, whole.subarray(0, bytes));
      await rejectionOf("ERR_MODEL_FORMAT", readSafetensorsHeader(path));
    }
    await writeFile(path, whole);
    expect(await readSafetensorsHeader(path)).toHaveLength(2);
  });

  test.each(["", "{", "[1", "{'a': 1}", '{"a": NaN}', "PK\u0003\u0004", '\ufeff{"a": 1}'])(
    "its header is %j",
    (text) => {
      expect(problemOf(text)).toMatch(/its header is not JSON/);
    },
  );

  test("its header is not UTF-8", async () => {
    const path = await fileWith(encodeHeader(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d]), 0));
    const message = await rejectionOf("ERR_MODEL_FORMAT", readSafetensorsHeader(path));
    expect(message).toMatch(/its header is not JSON: .*encoded data was not valid/);
  });

  test.each(["[]", "null", "7", '"text"'])("its header is %s", (text) => {
    expect(problemOf(text)).toMatch(/its header should be an object/);
  });

  test("the message names the file and says what to do", async () => {
    const path = await fileWith(encodeSafetensors([], 0));
    const message = await rejectionOf("ERR_MODEL_FORMAT", readSafetensorsHeader(path));
    expect(message).toBe(
      `"${path}" is not a usable safetensors file: its header should be an object, but is []. ` +
        "Download the file again",
    );
  });
});

describe("an entry that is malformed", () => {
  const good = { dtype: "F16", shape: [2], data_offsets: [0, 4] };

  test.each<[unknown, string]>([
    [null, 'tensor "x" is null, not an object'],
    [5, "is 5, not an object"],
    [[], "has dtype nothing, expected a name"],
    [{ ...good, dtype: 16 }, "has dtype 16"],
    [{ ...good, shape: null }, "has shape null"],
    [{ ...good, shape: 2 }, "has shape 2"],
    [{ ...good, shape: [-2] }, "has shape [-2]"],
    [{ ...good, shape: [1.5] }, "has shape [1.5]"],
    [{ ...good, shape: ["2"] }, 'has shape ["2"]'],
    [{ ...good, shape: [2 ** 53] }, "has shape [9007199254740992]"],
    [{ ...good, data_offsets: undefined }, "has data_offsets nothing"],
    [{ ...good, data_offsets: [0] }, "has data_offsets [0]"],
    [{ ...good, data_offsets: [0, 4, 8] }, "has data_offsets [0,4,8]"],
    [{ ...good, data_offsets: [-4, 0] }, "has data_offsets [-4,0]"],
    [{ ...good, data_offsets: [0.5, 4.5] }, "has data_offsets [0.5,4.5]"],
    [{ ...good, data_offsets: [8, 4] }, "ends before it begins: bytes 8 to 4"],
    [{ ...good, data_offsets: [97, 101] }, "takes bytes 97 to 101 of 100; is the file truncated?"],
    [{ ...good, data_offsets: [0, 6] }, "takes 6 bytes, expected 4 for F16 [2]"],
    [{ ...good, dtype: "F32" }, "takes 4 bytes, expected 8 for F32 [2]"],
    [{ ...good, shape: [2 ** 40, 2 ** 40] }, "takes 4 bytes, expected"],
    [
      {
        ...good,
        shape: Array(30)
          .fill(2 ** 50)
          .concat(0),
      },
      "takes 4 bytes, expected NaN",
    ],
  ])("%j", (entry, message) => {
    expect(problemOf({ x: entry })).toContain(message);
  });

  test("all of them are named at once, up to twenty", () => {
    const two = problemOf({ a: { ...good, dtype: 1 }, b: good, c: 7 });
    expect(two).toMatch(/tensor "a" has dtype 1.*; tensor "c" is 7/);
    const many = Object.fromEntries(Array.from({ length: 30 }, (_, i) => [`t${i}`, i]));
    expect(problemOf(many)).toMatch(/tensor "t19" is 19, not an object; and 10 more/);
  });

  test("ranges that overlap", () => {
    const entry = (begin: number, end: number) => {
      return { dtype: "F16", shape: [(end - begin) / 2], data_offsets: [begin, end] };
    };
    expect(problemOf({ a: entry(0, 8), b: entry(6, 10) })).toContain('"a" and "b" overlap');
    expect(problemOf({ b: entry(6, 10), a: entry(0, 8) })).toContain('"a" and "b" overlap');
    expect(problemOf({ a: entry(0, 8), b: entry(0, 8) })).toContain('"a" and "b" overlap');
    const message = problemOf({ a: entry(0, 20), b: entry(2, 4), c: entry(10, 12) });
    expect(message).toMatch(/"a" and "b" overlap; tensors "a" and "c" overlap/);
    expect(parse({ a: entry(0, 8), b: entry(8, 10), c: entry(4, 4) }, 10)).toHaveLength(3);
  });

  test.each([
    '{"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}, "a": {}}',
    '{"__metadata__": {}, "__metadata__": {}}',
    '{"x": {"dtype": "F16", "dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}',
    '{"x": {"y": [{"a": 1, "b": "}\\"", "\\u0061": 2}]}}',
  ])("a key twice: %s", (header) => {
    expect(problemOf(header)).toMatch(/its header has the key "(a|__metadata__|dtype)" twice/);
  });

  test("the same key in different objects is fine", () => {
    const text = JSON.stringify({
      __metadata__: { a: "\\", b: ':{"a', list: '[{"a":1},{"a":2}]' },
      a: { dtype: "F16", shape: [1], data_offsets: [0, 2] },
      b: { dtype: "F16", shape: [1], data_offsets: [2, 4] },
    });
    expect(parse(text, 4)).toHaveLength(2);
  });
});
