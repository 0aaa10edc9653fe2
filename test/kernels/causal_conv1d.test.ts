import type { ActivationDType, KernelDevice } from "../../lib/kernels";
import {
  bigTest,
  compare,
  cpu,
  describeCuda,
  expectSameBits,
  guarded,
  poisoned,
  ragged,
  random,
  rounded,
  type Span,
} from "./helpers";

// The causal convolution and its state. The bits of an output, and of the state, must not depend on
// how a sequence is cut into calls, nor on what else is in a call.

interface Weights {
  readonly channels: number;
  readonly width: number;
  readonly weight: Float32Array;
  readonly bias: Float32Array | undefined;
}

function weights(channels: number, width: number, hasBias = true): Weights {
  const numbers = random(1000 * width + channels);
  return {
    channels,
    width,
    weight: numbers.normal(channels * width, 0.5),
    bias: hasBias ? numbers.normal(channels, 0.2) : undefined,
  };
}

interface Call {
  readonly spans: readonly Span[];
  /** [T, E] */
  readonly u: Float32Array;
  /** [slots, W - 1, E] */
  readonly state: Float32Array;
}

interface Result {
  readonly out: Float32Array;
  readonly state: Float32Array;
}

/** `columns`: garbage beside the rows of u and out. */
function run(
  device: KernelDevice,
  dtype: ActivationDType,
  { channels, width, weight, bias }: Weights,
  { spans, u, state }: Call,
  columns = 0,
): Result {
  const batch = ragged(spans).on(device);
  const slots = state.length / (channels * (width - 1));
  const convState = guarded(device, dtype, [slots, width - 1, channels], { data: state });
  const out = guarded(device, dtype, [batch.numTokens, channels], { columns });
  device.causalConv1d({
    batch,
    u: guarded(device, dtype, [batch.numTokens, channels], { data: u, columns }).tensor,
    weight: device.tensor("f32", [channels, width], weight),
    bias: bias && device.tensor("f32", [channels], bias),
    convState: convState.tensor,
    out: out.tensor,
  });
  convState.check();
  out.check();
  return { out: out.tensor.read(), state: convState.tensor.read() };
}

const numTokens = (spans: readonly Span[]) => spans.reduce((sum, { tokens }) => sum + tokens, 0);

function call(dtype: ActivationDType, { channels, width }: Weights, spans: Span[], slots: number) {
  const numbers = random(spans.length + slots);
  return {
    spans,
    u: rounded(dtype, numbers.normal(numTokens(spans) * channels)),
    state: rounded(dtype, numbers.normal(slots * (width - 1) * channels)),
  };
}

const BUDGET = {
  bf16: { relative: 2 ** -7, absolute: 1e-6 },
  f32: { relative: 4e-6, absolute: 1e-6 },
} as const;

function compareWithCpu(device: KernelDevice, dtype: ActivationDType, of: Weights, input: Call) {
  const expected = run(cpu(), "f32", of, input);
  for (const columns of [0, 3, 8]) {
    const actual = run(device, dtype, of, input, columns);
    compare(actual.out, expected.out, { ...BUDGET[dtype], name: "out", columns: of.channels });
    expectSameBits(actual.state, expected.state);
    const again = run(device, dtype, of, input, columns);
    expectSameBits(again.out, actual.out);
    expectSameBits(again.state, actual.state);
  }
}

/** One sequence of `u`, cut into calls of these lengths. */
function inPieces(
  device: KernelDevice,
  dtype: ActivationDType,
  of: Weights,
  u: Float32Array,
  lengths: readonly number[],
): Result {
  const stateLength = (of.width - 1) * of.channels;
  let state = rounded(dtype, random(7).normal(stateLength));
  const out = new Float32Array(u.length);
  let first = 0;
  for (const tokens of lengths) {
    const rows = u.slice(first * of.channels, (first + tokens) * of.channels);
    const piece = run(device, dtype, of, { spans: [{ tokens, source: 0 }], u: rows, state });
    out.set(piece.out, first * of.channels);
    state = piece.state;
    first += tokens;
  }
  return { out, state };
}

describeCuda("causal_conv1d", (device) => {
  // Shorter than the convolution, about as long, longer; from zeroes, in place, from another slot.
  const mixed: Span[] = [
    { tokens: 1, source: -1, slot: 0 },
    { tokens: 5, source: 1, slot: 1 },
    { tokens: 2, source: 6, slot: 2 },
    { tokens: 3, source: 3, slot: 3 },
    { tokens: 21, source: 6, slot: 5 },
    { tokens: 1, source: 4, slot: 4 },
    { tokens: 4, source: -1, slot: 7 },
  ];

  describe.each(["bf16", "f32"] as const)("%s", (dtype) => {
    describe.each([2, 3, 4])("of width %i", (width) => {
      test.each([1, 7, 8, 37, 72])("%i channels", (channels) => {
        const of = weights(channels, width);
        compareWithCpu(device, dtype, of, call(dtype, of, mixed, 9));
      });

      test("cut anywhere, the same bits", () => {
        const of = weights(16, width);
        const u = rounded(dtype, random(3).normal(96 * 16));
        const whole = inPieces(device, dtype, of, u, [96]);
        const cuts = [
          [48, 48],
          [64, 32],
          [65, 31],
          [66, 30],
          [67, 29],
          [1, 2, 3, 90],
          Array.from({ length: 96 }, () => 1),
        ];
        for (const lengths of cuts) {
          expect(inPieces(device, dtype, of, u, lengths)).toEqual(whole);
        }
      });
    });

    test("without bias", () => {
      const of = weights(24, 4, false);
      compareWithCpu(device, dtype, of, call(dtype, of, mixed, 9));
    });

    test("a span's bits do not depend on the spans beside it", () => {
      const of = weights(16, 4);
      const input = call(dtype, of, mixed, 9);
      const together = run(device, dtype, of, input);
      let first = 0;
      for (const span of mixed) {
        const rows = [first * 16, (first + span.tokens) * 16] as const;
        const alone = run(device, dtype, of, {
          ...input,
          spans: [span],
          u: input.u.slice(...rows),
        });
        expect(alone.out).toEqual(together.out.slice(...rows));
        const slot = [span.slot! * 3 * 16, (span.slot! + 1) * 3 * 16] as const;
        expect(alone.state.slice(...slot)).toEqual(together.state.slice(...slot));
        first += span.tokens;
      }
    });

    // A thread takes 1, 4 or 16 tokens: more of them when there are more.
    test.each([255, 256, 257, 1024, 1025, 1039])("%i tokens in spans of many lengths", (total) => {
      const of = weights(8, 4);
      const numbers = random(total);
      const lengths: number[] = [];
      for (let left = total; left > 0; left -= lengths.at(-1)!) {
        lengths.push(Math.min(left, numbers.integer(1, numbers.integer(2, 60))));
      }
      const slots = numbers.distinct(2 * lengths.length, 2 * lengths.length);
      const spans = lengths.map((tokens, i) => ({
        tokens,
        slot: slots[2 * i]!,
        source: [-1, slots[2 * i]!, slots[2 * i + 1]!][i % 3]!,
      }));
      compareWithCpu(device, dtype, of, call(dtype, of, spans, slots.length));
    });
  });

  test("touches no other slot, and none for a padded lane", () => {
    const of = weights(16, 4);
    const stateLength = 3 * 16;
    const convState = poisoned(device, "bf16", [6, 3, 16]);
    const known = random(1).normal(stateLength);
    convState.rows(2, 1).write(known);
    const before = convState.readBits();
    const batch = ragged([
      { tokens: 2, source: 2, slot: 4 },
      { tokens: 1, source: -1, slot: -1 },
      { tokens: 5, source: 1_000_000, slot: -1 },
      { tokens: 1, source: -1, slot: 1 },
    ]).on(device);
    const out = poisoned(device, "bf16", [9, 16]);
    device.causalConv1d({
      batch,
      u: device.tensor("bf16", [9, 16], random(2).normal(9 * 16)),
      weight: device.tensor("f32", [16, 4], of.weight),
      convState,
      out,
    });
    const after = convState.readBits();
    for (const slot of [0, 2, 3, 5]) {
      const range = [slot * stateLength, (slot + 1) * stateLength] as const;
      expect(after.slice(...range)).toEqual(before.slice(...range));
    }
    const values = convState.read();
    for (const slot of [1, 4]) {
      const range = [slot * stateLength, (slot + 1) * stateLength] as const;
      expect(values.slice(...range).every(Number.isFinite)).toBe(true);
    }
    // The rows beside a padded lane are as good as any.
    expect(out.rows(0, 2).read().every(Number.isFinite)).toBe(true);
    expect(out.rows(8, 1).read().every(Number.isFinite)).toBe(true);
  });

  test("refuses a convolution that is too wide", () => {
    const of = weights(8, 5);
    expect(() => run(device, "bf16", of, call("bf16", of, [{ tokens: 2 }], 1))).toThrow(
      expect.objectContaining({
        code: "ERR_MODEL_UNSUPPORTED",
        message: "causal_conv1d: a convolution of width 5, at most 4 on CUDA",
      }),
    );
  });

  test("the model's channels", () => {
    const of = weights(3200, 4);
    const spans = [
      { tokens: 1, source: 0 },
      { tokens: 6, source: 1 },
    ];
    const input = call("bf16", of, spans, 2);
    const expected = run(cpu(), "f32", of, input);
    const actual = run(device, "bf16", of, input);
    compare(actual.out, expected.out, { ...BUDGET.bf16, columns: 3200 });
    expect(actual.state).toEqual(expected.state);
  });

  bigTest("8192 tokens of the model's channels", () => {
    const of = weights(3200, 4);
    const spans = [5000, 1, 3000, 2, 189].map((tokens, i) => ({ tokens, source: i }));
    compareWithCpu(device, "bf16", of, call("bf16", of, spans, 5));
  });

  bigTest("a decode step of 128 sequences", () => {
    const of = weights(3200, 4);
    const spans = Array.from({ length: 128 }, (_, slot) => ({ tokens: 1, source: slot, slot }));
    compareWithCpu(device, "bf16", of, call("bf16", of, spans, 128));
  });
});
