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

// The selective scan and its state, prefill and decode. The bits of an output, and of the state, must
// not depend on how a sequence is cut into calls, nor on what else is in a call.

interface Weights {
  readonly channels: number;
  readonly states: number;
  /** [E, N]: decays from slow to fast. */
  readonly a: Float32Array;
  readonly d: Float32Array;
}

function weights(channels: number, states: number): Weights {
  const numbers = random(100 * channels + states);
  return {
    channels,
    states,
    a: numbers.uniform(channels * states, -4, 3).map((x) => -Math.exp(x)),
    d: numbers.normal(channels),
  };
}

interface Call {
  readonly spans: readonly Span[];
  readonly u: Float32Array;
  readonly delta: Float32Array;
  readonly b: Float32Array;
  readonly c: Float32Array;
  readonly z: Float32Array;
  /** [slots, E, N] */
  readonly state: Float32Array;
}

function call(
  dtype: ActivationDType,
  { channels, states }: Weights,
  spans: readonly Span[],
  slots: number,
): Call {
  const numbers = random(spans.length + 100 * slots);
  const tokens = spans.reduce((sum, span) => sum + span.tokens, 0);
  const normal = (width: number, deviation = 1) =>
    rounded(dtype, numbers.normal(tokens * width, deviation));
  return {
    spans,
    u: normal(channels),
    delta: rounded(
      dtype,
      numbers.uniform(tokens * channels, -7, 1).map((x) => Math.exp(x)),
    ),
    b: normal(states),
    c: normal(states),
    z: normal(channels, 3),
    state: numbers.normal(slots * channels * states),
  };
}

interface Result {
  readonly out: Float32Array;
  readonly state: Float32Array;
}

/** `columns`: garbage beside the rows of all activations. */
function run(
  device: KernelDevice,
  dtype: ActivationDType,
  { channels, states, a, d }: Weights,
  input: Call,
  columns = 0,
): Result {
  const batch = ragged(input.spans).on(device);
  const slots = input.state.length / (channels * states);
  const activation = (width: number, data: Float32Array) =>
    guarded(device, dtype, [batch.numTokens, width], { data, columns }).tensor;
  const ssmState = guarded(device, "f32", [slots, channels, states], { data: input.state });
  const out = guarded(device, dtype, [batch.numTokens, channels], { columns });
  device.selectiveScan({
    batch,
    u: activation(channels, input.u),
    delta: activation(channels, input.delta),
    b: activation(states, input.b),
    c: activation(states, input.c),
    z: activation(channels, input.z),
    a: device.tensor("f32", [channels, states], a),
    d: device.tensor("f32", [channels], d),
    ssmState: ssmState.tensor,
    out: out.tensor,
  });
  ssmState.check();
  out.check();
  return { out: out.tensor.read(), state: ssmState.tensor.read() };
}

/** The largest |y| · |silu(z)| that sums of order 1 give here; an output may be off by 1e-4 of it. */
const SCALE = 10;
const BUDGET = {
  bf16: { relative: 2 ** -7, absolute: 1e-4 * SCALE },
  f32: { relative: 1e-5, absolute: 1e-5 * SCALE },
} as const;
// 2^x on a GPU is good to 2 ulp, and a state carries the errors of its steps: relative to what it has
// added up, delta · u · b of up to e · 4 · 4, not to what is left of it.
const STATE_BUDGET = { relative: 2e-5, absolute: 1e-6 * 40 };

function compareWithCpu(device: KernelDevice, dtype: ActivationDType, of: Weights, input: Call) {
  const expected = run(cpu(), "f32", of, input);
  const actual = run(device, dtype, of, input);
  compare(actual.out, expected.out, { ...BUDGET[dtype], name: "out", columns: of.channels });
  compare(actual.state, expected.state, { ...STATE_BUDGET, name: "state", columns: of.states });
  // Aligned and not, the same bits.
  for (const columns of [0, 3, 8]) {
    const again = run(device, dtype, of, input, columns);
    expectSameBits(again.out, actual.out);
    expectSameBits(again.state, actual.state);
  }
}

/** Rows [first, first + count) of the activations, for one span. */
function part({ channels, states }: Weights, input: Call, first: number, count: number): Call {
  const rows = (values: Float32Array, width: number) =>
    values.slice(first * width, (first + count) * width);
  return {
    spans: [{ tokens: count, source: 0 }],
    u: rows(input.u, channels),
    delta: rows(input.delta, channels),
    b: rows(input.b, states),
    c: rows(input.c, states),
    z: rows(input.z, channels),
    state: input.state,
  };
}

/** The one sequence of `input`, cut into calls of these lengths. */
function inPieces(
  device: KernelDevice,
  dtype: ActivationDType,
  of: Weights,
  input: Call,
  lengths: readonly number[],
): Result {
  const out = new Float32Array(input.u.length);
  let state = input.state;
  let first = 0;
  for (const tokens of lengths) {
    const piece = run(device, dtype, of, { ...part(of, input, first, tokens), state });
    out.set(piece.out, first * of.channels);
    state = piece.state;
    first += tokens;
  }
  return { out, state };
}

describeCuda("selective_scan", (device) => {
  // Around four tokens and a tile of 32; from zeroes, in place, from another slot. Five of one token.
  const mixed: Span[] = [
    { tokens: 1, source: 0, slot: 0 },
    { tokens: 5, source: -1, slot: 1 },
    { tokens: 1, source: -1, slot: 2 },
    { tokens: 33, source: 12, slot: 3 },
    { tokens: 1, source: 12, slot: 4 },
    { tokens: 2, source: 5, slot: 5 },
    { tokens: 1, source: 6, slot: 6 },
    { tokens: 70, source: 7, slot: 7 },
    { tokens: 1, source: 8, slot: 11 },
  ];

  describe.each(["bf16", "f32"] as const)("%s", (dtype) => {
    test.each([1, 8, 31, 33, 40])("%i channels", (channels) => {
      const of = weights(channels, 16);
      compareWithCpu(device, dtype, of, call(dtype, of, mixed, 14));
    });

    test.each([1, 4, 6, 8, 15, 20, 32, 50, 64])("%i states a channel", (states) => {
      const of = weights(12, states);
      compareWithCpu(device, dtype, of, call(dtype, of, mixed, 14));
    });

    test.each([1, 2, 3, 4, 5, 8, 31, 32, 33, 36, 64, 65, 97])("one span of %i tokens", (tokens) => {
      const of = weights(16, 16);
      compareWithCpu(device, dtype, of, call(dtype, of, [{ tokens, source: 0 }], 1));
    });

    test.each([1, 2, 3, 4, 5, 9])("%i spans of a token each", (spans) => {
      const of = weights(40, 16);
      const each = Array.from({ length: spans }, (_, slot) => ({ tokens: 1, source: slot, slot }));
      compareWithCpu(device, dtype, of, call(dtype, of, each, spans));
    });

    test("cut anywhere, the same bits", () => {
      const of = weights(20, 16);
      const input = call(dtype, of, [{ tokens: 96, source: 0 }], 1);
      const whole = inPieces(device, dtype, of, input, [96]);
      const single = Array.from({ length: 96 }, () => 1);
      for (const lengths of [[48, 48], [64, 32], [65, 31], [1, 2, 3, 90], [66, 1, 29], single]) {
        expect(inPieces(device, dtype, of, input, lengths)).toEqual(whole);
      }
    });

    // The kernels take tokens by fours: those that are missing must not turn -0 into 0.
    test("cut anywhere, zeroes keep their sign", () => {
      const of = weights(8, 16);
      const input = call(dtype, of, [{ tokens: 6, source: 0 }], 1);
      input.delta.fill(0);
      input.u.fill(-1);
      input.b.fill(1);
      input.state.fill(-0);
      for (const lengths of [[6], [4, 2], [3, 3], [5, 1], [1, 1, 1, 1, 1, 1]]) {
        expect(inPieces(device, dtype, of, input, lengths).state).toEqual(input.state);
      }
    });

    test("a span's bits do not depend on the spans beside it", () => {
      const of = weights(20, 16);
      const input = call(dtype, of, mixed, 14);
      const together = run(device, dtype, of, input);
      let first = 0;
      for (const span of mixed) {
        const alone = run(device, dtype, of, {
          ...part(of, input, first, span.tokens),
          spans: [span],
        });
        expect(alone.out).toEqual(together.out.slice(first * 20, (first + span.tokens) * 20));
        const slot = [span.slot! * 20 * 16, (span.slot! + 1) * 20 * 16] as const;
        expect(alone.state.slice(...slot)).toEqual(together.state.slice(...slot));
        first += span.tokens;
      }
    });
  });

  test("stays close to exact arithmetic for 1,000 steps", () => {
    const of = weights(8, 16);
    const input = call("f32", of, [{ tokens: 1000, source: 0 }], 1);
    const state = Float64Array.from(input.state);
    for (let t = 0; t < 1000; t++) {
      for (let e = 0; e < 8; e++) {
        const delta = input.delta[t * 8 + e]!;
        const deltaU = delta * input.u[t * 8 + e]!;
        for (let n = 0; n < 16; n++) {
          const i = e * 16 + n;
          state[i] = Math.exp(delta * of.a[i]!) * state[i]! + deltaU * input.b[t * 16 + n]!;
        }
      }
    }
    const actual = run(device, "f32", of, input).state;
    // Relative to what a state is of, which may cancel to less: its own channel's largest.
    for (let e = 0; e < 8; e++) {
      const channel = [e * 16, (e + 1) * 16] as const;
      const largest = Math.max(...state.slice(...channel).map(Math.abs));
      compare(actual.slice(...channel), state.slice(...channel), { absolute: 2e-5 * largest });
    }
  });

  test("a decay of nearly nothing, and of everything", () => {
    const of = weights(32, 16);
    const input = call("f32", of, [{ tokens: 40, source: 0 }], 1);
    input.delta.fill(1e-7, 0, 10 * 32);
    input.delta.fill(300, 10 * 32, 20 * 32);
    compareWithCpu(device, "f32", of, input);
  });

  test("touches no other slot, and none for a padded lane", () => {
    const of = weights(32, 16);
    const spans = [
      { tokens: 1, source: 2, slot: 4 },
      { tokens: 1, source: 1_000_000, slot: -1 },
      { tokens: 3, source: -1, slot: -1 },
      { tokens: 6, source: 2, slot: 1 },
      { tokens: 1, source: -1, slot: -1 },
    ];
    const input = call("bf16", of, spans, 6);
    const batch = ragged(spans).on(device);
    const ssmState = poisoned(device, "f32", [6, 32, 16]);
    ssmState.rows(2, 1).write(random(1).normal(32 * 16));
    const before = ssmState.readBits();
    const activation = (width: number, data: Float32Array) =>
      device.tensor("bf16", [batch.numTokens, width], data);
    const out = poisoned(device, "bf16", [batch.numTokens, 32]);
    device.selectiveScan({
      batch,
      u: activation(32, input.u),
      delta: activation(32, input.delta),
      b: activation(16, input.b),
      c: activation(16, input.c),
      z: activation(32, input.z),
      a: device.tensor("f32", [32, 16], of.a),
      d: device.tensor("f32", [32], of.d),
      ssmState,
      out,
    });
    const after = ssmState.readBits();
    const values = ssmState.read();
    for (let slot = 0; slot < 6; slot++) {
      const range = [slot * 32 * 16, (slot + 1) * 32 * 16] as const;
      if (slot === 1 || slot === 4) {
        expect(values.slice(...range).every(Number.isFinite)).toBe(true);
      } else {
        expect(after.slice(...range)).toEqual(before.slice(...range));
      }
    }
    // The rows beside a padded lane are as good as any.
    expect(out.rows(0, 1).read().every(Number.isFinite)).toBe(true);
    expect(out.rows(5, 6).read().every(Number.isFinite)).toBe(true);
  });

  test("b and c of a common row, as x_proj leaves them", () => {
    const of = weights(32, 16);
    const input = call("bf16", of, [{ tokens: 9, source: 0 }], 1);
    const expected = run(device, "bf16", of, input);
    // Rank 100: B and C begin on multiples of 8 bytes, not of 16; rows are padded to 136.
    const rows = poisoned(device, "bf16", [9, 136]);
    const b = rows.columns(100, 16);
    const c = rows.columns(116, 16);
    b.write(input.b);
    c.write(input.c);
    const activation = (data: Float32Array) => device.tensor("bf16", [9, 32], data);
    const out = poisoned(device, "bf16", [9, 32]);
    device.selectiveScan({
      batch: ragged(input.spans).on(device),
      u: activation(input.u),
      delta: activation(input.delta),
      b,
      c,
      z: activation(input.z),
      a: device.tensor("f32", [32, 16], of.a),
      d: device.tensor("f32", [32], of.d),
      ssmState: device.tensor("f32", [1, 32, 16], input.state),
      out,
    });
    expect(out.read()).toEqual(expected.out);
  });

  test("refuses more states than it has registers for", () => {
    const of = weights(8, 65);
    expect(() => run(device, "bf16", of, call("bf16", of, [{ tokens: 2 }], 1))).toThrow(
      expect.objectContaining({
        code: "ERR_MODEL_UNSUPPORTED",
        message: "selective_scan: 65 states a channel, at most 64 on CUDA",
      }),
    );
  });

  bigTest("the model's channels: prompts and decode steps together", () => {
    const of = weights(3200, 16);
    const lengths = [1, 2048, 1, 500, 1, 1, 33];
    const spans = lengths.map((tokens, slot) => ({ tokens, source: slot, slot }));
    compareWithCpu(device, "bf16", of, call("bf16", of, spans, lengths.length));
  });

  bigTest("a decode step of 128 sequences", () => {
    const of = weights(3200, 16);
    const spans = Array.from({ length: 128 }, (_, slot) => ({ tokens: 1, source: slot, slot }));
    compareWithCpu(device, "bf16", of, call("bf16", of, spans, 128));
  });
});
