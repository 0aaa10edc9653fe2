/**
 * The device that the model tests run on: the CPU, or what HYMBA_TEST_DEVICE says. `cuda` runs the
 * same tests on a GPU (or, with the emulated addon, on the emulator).
 */
export const DEVICE = process.env["HYMBA_TEST_DEVICE"] === "cuda" ? "cuda" : "cpu";

/**
 * How far two ways to the same logits may be apart, as a relative error of the whole. On the CPU no
 * bit may differ. On a GPU short and long spans, and small and large steps, take different kernels,
 * which round differently (docs/kernels.md says what is the same bits there, and
 * test/28.cuda.test.ts checks that).
 */
export const SAME = {
  float32: DEVICE === "cpu" ? 0 : 2e-5,
  bfloat16: DEVICE === "cpu" ? 0 : 2e-2,
} as const;
