import type { KernelDevice } from "../../lib/kernels";
import { bigTest, compare, cpu, describeCuda, guarded, random } from "./helpers";
import { logitRows } from "./logits";

function scoreTokens(
  device: KernelDevice,
  logits: Float32Array,
  tokens: Int32Array,
  columns = 0,
): { readonly values: Float32Array; readonly bits: readonly number[] } {
  const vocabSize = logits.length / tokens.length;
  const shape = [tokens.length, vocabSize];
  const out = guarded(device, "f32", [tokens.length]);
  device.tokenLogprobs({
    logits: guarded(device, "f32", shape, { data: logits, columns }).tensor,
    tokens: device.tensor("i32", [tokens.length], tokens),
    logprob: out.tensor,
  });
  out.check();
  return { values: out.tensor.read(), bits: [...out.tensor.readBits()] };
}

/** The sum in fp32, but for the last difference. */
const budget = { absolute: 1e-5, relative: 1e-6, name: "logprob" };

describeCuda("token_logprobs", (device) => {
  // Around the 1,024 tokens that a block takes at once, and the 8 a thread.
  const sizes = [1, 2, 33, 320, 1023, 1024, 1025, 8191, 8193, 32_001];

  test.each(sizes)("is the CPU's, for a vocabulary of %i", (vocabSize) => {
    const rows = vocabSize > 10_000 ? 3 : 12;
    const numbers = random(vocabSize);
    const logits = logitRows(numbers, rows, vocabSize);
    const tokens = numbers.integers(rows, 0, vocabSize);
    const { values } = scoreTokens(device, logits, tokens);
    compare(values, scoreTokens(cpu(), logits, tokens).values, budget);
  });

  test("reads rows that lie apart, and nothing between them", () => {
    const numbers = random(1);
    const logits = logitRows(numbers, 5, 77, "normal");
    const tokens = numbers.integers(5, 0, 77);
    const { bits } = scoreTokens(device, logits, tokens);
    expect(scoreTokens(device, logits, tokens, 1).bits).toEqual(bits);
  });

  test("is the same bits in every run, and alone or among others", () => {
    const numbers = random(2);
    const logits = logitRows(numbers, 6, 3001, "peaked");
    const tokens = numbers.integers(6, 0, 3001);
    const { bits } = scoreTokens(device, logits, tokens);
    expect(scoreTokens(device, logits, tokens).bits).toEqual(bits);
    const alone = [...tokens].flatMap(
      (_, row) =>
        scoreTokens(
          device,
          logits.slice(row * 3001, (row + 1) * 3001),
          tokens.subarray(row, row + 1),
        ).bits,
    );
    expect(alone).toEqual(bits);
  });

  test("gives -Infinity for what has no probability", () => {
    const row = (...logits: number[]) => Float32Array.from(logits);
    const of = (logits: Float32Array, token: number) =>
      scoreTokens(device, logits, Int32Array.of(token)).values[0];
    expect(of(row(-Infinity, 0), 0)).toBe(-Infinity);
    expect(of(row(NaN, 0), 0)).toBe(-Infinity);
    expect(of(row(-Infinity, NaN), 1)).toBe(-Infinity);
    expect(of(row(-Infinity, 0), 1)).toBeCloseTo(0, 6);
    expect(of(row(Infinity, 0), 0)).toBe(0);
  });

  bigTest("is the CPU's for many rows of a real vocabulary", () => {
    const numbers = random(3);
    const logits = logitRows(numbers, 128, 32_001);
    const tokens = numbers.integers(128, 0, 32_001);
    const { values } = scoreTokens(device, logits, tokens);
    compare(values, scoreTokens(cpu(), logits, tokens).values, budget);
  });
});
