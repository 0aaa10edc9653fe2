import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { decodeChart } from "../scripts/bench/decode_chart.mjs";
import { prefillChart } from "../scripts/bench/prefill_chart.mjs";
import { REFERENCE_DEVICE } from "../scripts/bench/references.mjs";
import { DECODE, PREFILL, readRows, shortName } from "../scripts/bench/rows.mjs";
import { element, escape } from "../scripts/bench/svg/element.mjs";
import { around, overlap, placeLabels } from "../scripts/bench/svg/labels.mjs";
import {
  fromZero,
  linearScale,
  logScale,
  oneTwoFive,
  powersOfTwo,
} from "../scripts/bench/svg/scale.mjs";
import { ROOT } from "./helpers/package";

const COMMON = {
  model: "synthetic:hymba-1.5b",
  dtype: "bfloat16",
  device: REFERENCE_DEVICE,
  driver: "580.159.04",
  sm_mhz: 1980,
  memory_mhz: 2619,
  version: "0.1.0",
  commit: "0123456789ab",
  copy_tbps: 3,
} as const;

function decodeRow(batch: number, context: number, ms = 2) {
  return {
    ...{ bench: "decode" as const, ...COMMON, batch, context },
    ...{ mean_length: context + 20, steps: 40, ms_per_step: ms, ms_p10: ms, ms_p90: ms },
    tokens_per_s: (1000 * batch) / ms,
    bytes_per_step: 3e9,
    floor_ms: 1,
    fraction_of_floor: 1 / ms,
  };
}

function prefillRow(sequences: number, tokens: number, ms = tokens / 60) {
  return {
    ...{ bench: "prefill" as const, ...COMMON, sequences, tokens, ms, ms_p10: ms, ms_p90: ms },
    ...{ tokens_per_s: (1000 * sequences * tokens) / ms, model_flops: 1e12, model_tflops: 200 },
    fraction_of_peak: 0.2,
  };
}

const fileOf = (rows: readonly object[], name = "rows.jsonl") => ({
  name,
  text: rows.map((row) => `${JSON.stringify(row)}\n`).join(""),
});

describe("scales", () => {
  const range = fc.tuple(fc.integer({ min: 1, max: 1000 }), fc.integer({ min: 1001, max: 9999 }));

  test.each([
    ["linear", linearScale],
    ["logarithmic", logScale],
  ])("a %s one maps ends to ends, and keeps the order", (_, makeScale) => {
    fc.assert(
      fc.property(range, range, fc.tuple(fc.nat(1000), fc.nat(1000)), (domain, [from, to], two) => {
        const scale = makeScale(domain, [from, to]);
        expect(scale(domain[0])).toBeCloseTo(from, 6);
        expect(scale(domain[1])).toBeCloseTo(to, 6);
        const [a, b] = two.map((value) => value + 1) as [number, number];
        expect(Math.sign(scale(a) - scale(b))).toBe(Math.sign(a - b));
      }),
    );
  });

  test("they differ in what lies in the middle", () => {
    expect(linearScale([0, 100], [0, 10])(50)).toBe(5);
    expect(logScale([1, 100], [10, 0])(10)).toBeCloseTo(5, 9);
  });

  test("ticks are round, and the values lie between them", () => {
    expect(powersOfTwo([1, 8, 256])).toEqual([1, 2, 4, 8, 16, 32, 64, 128, 256]);
    expect(powersOfTwo([80, 500])).toEqual([64, 128, 256, 512]);
    expect(powersOfTwo([8])).toEqual([8, 16]);
    expect(oneTwoFive([314, 33_000])).toEqual([200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000]);
    expect(oneTwoFive([100, 900])).toEqual([100, 200, 500, 1000]);
    expect(oneTwoFive([1000])).toEqual([1000, 2000]);
    expect(fromZero([42_000, 255_000])).toEqual([0, 5e4, 1e5, 1.5e5, 2e5, 2.5e5, 3e5]);
    expect(fromZero([100])).toEqual([0, 20, 40, 60, 80, 100]);
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 1e6 }), { minLength: 1 }), (values) => {
        for (const ticks of [powersOfTwo(values), oneTwoFive(values), fromZero(values)]) {
          expect(ticks.length).toBeGreaterThan(1);
          expect(ticks[0]).toBeLessThanOrEqual(Math.min(...values));
          expect(ticks.at(-1)).toBeGreaterThanOrEqual(Math.max(...values));
        }
      }),
    );
  });
});

describe("labels", () => {
  const bounds = { left: 0, top: 0, right: 200, bottom: 200 };
  const at = (x: number, y: number) => ({ x, y, text: "12,345", colour: "#000000" });

  test("cover neither points nor each other, and stay inside", () => {
    const place = fc.tuple(fc.nat(200), fc.nat(200));
    fc.assert(
      fc.property(fc.array(place, { maxLength: 30 }), (places) => {
        const points = places.map(([x, y]) => around(x, y, 3));
        const labels = places.map(([x, y]) => at(x, y));
        const boxes = placeLabels(labels, points, [], bounds).map(({ box }) => box);
        for (const [i, box] of boxes.entries()) {
          expect(Math.min(box.left, box.top)).toBeGreaterThanOrEqual(0);
          expect(Math.max(box.right, box.bottom)).toBeLessThanOrEqual(200);
          expect([...points, ...boxes.slice(0, i)].filter((b) => overlap(box, b))).toEqual([]);
        }
      }),
    );
  });

  test("stand above their point, or where no line runs", () => {
    const [above] = placeLabels([at(100, 100)], [], [], bounds);
    expect(above?.box.bottom).toBeLessThan(100);
    const line = Array.from({ length: 100 }, (_, y) => around(100, y, 1));
    const [below] = placeLabels([at(100, 100)], [], line, bounds);
    expect(below?.box.top).toBeGreaterThan(100);
  });

  test("are left out where there is no room", () => {
    expect(placeLabels([at(100, 100)], [bounds], [], bounds)).toEqual([]);
    expect(placeLabels([at(1, 1)], [], [], around(0, 0, 10))).toEqual([]);
  });
});

test("text and attributes are escaped, and pixels rounded", () => {
  expect(element("text", { x: 1 / 3, name: '"' }, [escape("a < b & c > d")])).toBe(
    '<text x="0.3" name="&quot;">a &lt; b &amp; c &gt; d</text>',
  );
});

type Tick = Readonly<{ value: number; at: number }>;

/** What is in a panel: its ticks, and its round points, which are our rows. */
function panelsOf(svg: string) {
  return [...svg.matchAll(/<g>(.*?)<\/g>/gs)].map(([panel]) => {
    const circles = panel.matchAll(/<circle cx="([\d.]+)" cy="([\d.]+)"/g);
    return {
      x: ticksOf(panel, "middle", (x) => x),
      // The base line of the text is 4 pixels below the tick.
      y: ticksOf(panel, "end", (_, y) => y - 4),
      points: [...circles].map(([, x, y]) => ({ x: Number(x), y: Number(y) })),
    };
  });
}

function ticksOf(panel: string, anchor: string, place: (x: number, y: number) => number): Tick[] {
  const text = `<text x="([\\d.]+)" y="([\\d.]+)" text-anchor="${anchor}" font-size="12"[^>]*>([\\d,]+)<`;
  return [...panel.matchAll(new RegExp(text, "g"))].map(([, x, y, value = ""]) => ({
    value: Number(value.replaceAll(",", "")),
    at: place(Number(x), Number(y)),
  }));
}

/** Where a value lies, from the two ticks around it. */
function between(ticks: readonly Tick[], value: number, isLog: boolean): number {
  const above = ticks.findIndex((tick) => tick.value >= value);
  const [a, b] = [ticks[Math.max(above, 1) - 1]!, ticks[Math.max(above, 1)]!];
  const f = isLog ? Math.log : Number;
  return a.at + ((f(value) - f(a.value)) / (f(b.value) - f(a.value))) * (b.at - a.at);
}

/** The panel has these points and no others. */
function expectPoints(
  { x, y, points }: ReturnType<typeof panelsOf>[number],
  values: readonly (readonly [number, number])[],
  isLog: boolean,
) {
  expect(points).toHaveLength(values.length);
  for (const [i, [column, height]] of values.entries()) {
    expect(Math.abs(points[i]!.x - between(x, column, true))).toBeLessThan(0.2);
    expect(Math.abs(points[i]!.y - between(y, height, isLog))).toBeLessThan(0.2);
  }
}

describe("the chart of decode steps", () => {
  const rows = [
    ...[1, 8, 32, 100, 256].map((batch) => decodeRow(batch, 1024, 2 + batch / 50)),
    ...[1, 128].map((batch) => decodeRow(batch, 8192, 3 + batch / 40)),
  ];
  const svg = decodeChart(rows, REFERENCE_DEVICE);

  test("has every row in its place, in both panels", () => {
    const [speeds, shares] = panelsOf(svg);
    for (const panel of [speeds!, shares!]) {
      expect(panel.x.map(({ value }) => value)).toEqual([1, 2, 4, 8, 16, 32, 64, 128, 256]);
    }
    const speed = rows.map(({ batch, tokens_per_s }) => [batch, tokens_per_s] as const);
    expectPoints(speeds!, speed, true);
    const share = rows.map((row) => [row.batch, 100 * row.fraction_of_floor] as const);
    expectPoints(shares!, share, false);
  });

  test("compares with PyTorch at the contexts that were measured", () => {
    for (const speed of ["314", "14,360", "11,170"]) expect(svg).toContain(`: ${speed} tokens/s<`);
    // 11,170 of 128,000 tokens/s.
    expect(svg).toContain("128 × 8,192: 9 % of the limit<");
    const short = decodeChart([decodeRow(1, 1024), decodeRow(128, 1024)], REFERENCE_DEVICE);
    expect(short).toContain("14,360 tokens/s");
    expect(short).not.toContain("11,170");
    expect(short).not.toContain("8,192");
  });

  test("draws the floor", () => {
    const chart = decodeChart([decodeRow(1, 64), decodeRow(4, 64)], "another");
    const [, floor] = /<polyline points="([^"]*)"[^>]*stroke-dasharray="6 4"/.exec(
      chart.slice(chart.indexOf("<g>")),
    )!;
    const { x, y } = panelsOf(chart)[0]!;
    const pixels = floor!.split(/[ ,]/).map(Number);
    // A step of one millisecond.
    const ends = [1, 4].flatMap((batch) => [
      between(x, batch, true),
      between(y, 1000 * batch, true),
    ]);
    expect(pixels).toHaveLength(4);
    for (const [i, end] of ends.entries()) expect(Math.abs(pixels[i]! - end)).toBeLessThan(0.2);
  });

  test("of another device compares with nobody", () => {
    const other = decodeChart([decodeRow(1, 1024)], "NVIDIA A100-SXM4-80GB");
    expect(other).toContain("A100");
    expect(other).not.toContain("torch.compile");
  });

  test("has colours for three contexts", () => {
    const many = (count: number) => Array.from({ length: count }, (_, i) => decodeRow(1, 64 + i));
    expect(decodeChart(many(3), REFERENCE_DEVICE)).toContain("66 tokens each");
    expect(() => decodeChart(many(4), REFERENCE_DEVICE)).toThrow(/^4 contexts, .* 3 at most$/);
  });
});

describe("the chart of prompts", () => {
  const rows = [prefillRow(1, 512), prefillRow(1, 8192), prefillRow(8, 1024)];
  const svg = prefillChart(rows, REFERENCE_DEVICE);

  test("has every row of one prompt in its place", () => {
    const [panel, ...others] = panelsOf(svg);
    expect(others).toEqual([]);
    const values = rows.slice(0, 2).map((row) => [row.tokens, row.tokens_per_s] as const);
    expectPoints(panel!, values, false);
  });

  test("compares with others on their device alone", () => {
    const others = ["42,000", "119,500", "255,000", "248,000", "238,000"];
    const drawnOn = (device: string) =>
      others.filter((speed) => prefillChart(rows, device).includes(`>${speed}</text>`));
    expect(drawnOn(REFERENCE_DEVICE)).toEqual(others);
    expect(drawnOn("another")).toEqual([]);
  });

  test("needs rows of one prompt", () => {
    expect(() => prefillChart([prefillRow(8, 1024)], "another")).toThrow(/--sequences 1/);
  });
});

describe("the rows", () => {
  test("are sorted; the last of a case counts; those of other benches are passed over", () => {
    const first = fileOf([decodeRow(8, 1024), decodeRow(1, 8192), prefillRow(1, 512)], "a.jsonl");
    const second = fileOf([decodeRow(1, 1024), decodeRow(8, 1024, 3)], "b.jsonl");
    expect(readRows(DECODE, [first, second])).toEqual({
      device: REFERENCE_DEVICE,
      rows: [decodeRow(1, 1024), decodeRow(8, 1024, 3), decodeRow(1, 8192)],
    });
    expect(readRows(PREFILL, [second, first]).rows).toEqual([prefillRow(1, 512)]);
  });

  test.each([
    ["JSON", { name: "rows.jsonl", text: "\n[1]\n" }, /^rows\.jsonl:2 is no row of a bench/],
    ["rows", { name: "rows.jsonl", text: "{" }, /^rows\.jsonl:1 is no row of a bench/],
    ["rows of it", fileOf([prefillRow(1, 1024)]), /^no row of the bench decode in rows\.jsonl$/],
    [
      "known fields",
      fileOf([decodeRow(1, 1024), { ...decodeRow(1, 1024), host: "x" }]),
      /^rows\.jsonl:2: .*"host"/,
    ],
    ["all fields", fileOf([{ ...decodeRow(1, 1024), floor_ms: undefined }]), /:1: floor_ms: /],
    ["numbers", fileOf([{ ...decodeRow(1, 1024), tokens_per_s: 0 }]), /:1: tokens_per_s: /],
    [
      "the published model",
      fileOf([{ ...decodeRow(1, 1024), model: "/home/me/model" }]),
      /:1: model: .*synthetic:hymba-1\.5b/,
    ],
    [
      "one device",
      fileOf([decodeRow(1, 1024), { ...decodeRow(8, 1024), device: "NVIDIA L4" }]),
      /several devices.*H100 80GB HBM3 \(rows\.jsonl:1\), NVIDIA L4 \(rows\.jsonl:2\)$/,
    ],
  ])("have to be %s", (_, file, message) => {
    expect(() => readRows(DECODE, [file])).toThrow(message);
  });

  test.each([
    ["NVIDIA H100 80GB HBM3", "h100"],
    ["NVIDIA H100 PCIe", "h100-pcie"],
    ["NVIDIA A100-SXM4-80GB", "a100-sxm4"],
    ["NVIDIA GeForce RTX 4090", "rtx-4090"],
  ])("of an %s are in files named %s", (device, name) => {
    expect(shortName(device)).toBe(name);
  });
});

describe("npm run bench:publish", () => {
  const folder = mkdtempSync(join(tmpdir(), "hymba-benchmarks-"));
  afterAll(() => rmSync(folder, { recursive: true }));

  const publish = (...argv: string[]) =>
    spawnSync(process.execPath, [join(ROOT, "scripts/bench/publish.mjs"), ...argv], {
      cwd: folder,
      encoding: "utf8",
    });

  test.each(["decode", "prefill"])("writes what is in docs/benchmarks: %s", (bench) => {
    const base = `h100-${bench}`;
    const committed = (name: string) =>
      readFileSync(join(ROOT, "docs", "benchmarks", name), "utf8");
    const rows = JSON.parse(committed(`${base}.json`)) as object[];
    writeFileSync(join(folder, "rows.jsonl"), fileOf(rows.toReversed()).text);
    const { status, stderr } = publish(bench, "rows.jsonl", "--output", bench);
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
    const names = readdirSync(join(folder, bench)).sort();
    expect(names).toEqual([`${base}.json`, `${base}.svg`]);
    for (const name of names) {
      expect(readFileSync(join(folder, bench, name), "utf8")).toBe(committed(name));
    }
  });

  test.each([
    [[], /^error: expected a bench and files/],
    [["decode"], /^error: expected a bench and files/],
    [["kernels", "/dev/null"], /^error: expected decode or prefill, found kernels/],
    [["decode", "/dev/null"], /^error: no row of the bench decode/],
    [["decode", "missing.jsonl"], /^error: .*missing\.jsonl/],
  ])("%j is an error", (argv, message) => {
    const { status, stdout, stderr } = publish(...argv);
    expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
    expect(stderr).toMatch(message);
  });
});
