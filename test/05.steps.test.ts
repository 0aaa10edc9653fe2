import fc from "fast-check";
import { planSteps } from "../lib/steps";

const lengths = fc.array(fc.integer({ min: 1, max: 200 }), { maxLength: 12 });
const limits = fc.record({
  maxBatchTokens: fc.integer({ min: 1, max: 64 }),
  maxPrefillSpans: fc.integer({ min: 1, max: 4 }),
});

describe("cutting requests into steps", () => {
  test("every token comes once and in order", () => {
    fc.assert(
      fc.property(lengths, limits, (lengths, limits) => {
        const done = lengths.map(() => 0);
        for (const { request, begin, end } of planSteps(lengths, limits).flat()) {
          expect(begin).toBe(done[request]);
          expect(end).toBeGreaterThan(begin);
          done[request] = end;
        }
        expect(done).toEqual(lengths);
      }),
    );
  });

  test("every step keeps the limits and takes a request once", () => {
    fc.assert(
      fc.property(lengths, limits, (lengths, limits) => {
        for (const step of planSteps(lengths, limits)) {
          const sizes = step.map(({ begin, end }) => end - begin);
          const tokens = sizes.reduce((sum, size) => sum + size, 0);
          expect(tokens).toBeGreaterThan(0);
          expect(tokens).toBeLessThanOrEqual(limits.maxBatchTokens);
          expect(sizes.filter((size) => size > 1).length).toBeLessThanOrEqual(
            limits.maxPrefillSpans,
          );
          expect(new Set(step.map(({ request }) => request)).size).toBe(step.length);
        }
      }),
    );
  });

  test("a full step is full: there are no more steps than the limits force", () => {
    fc.assert(
      fc.property(lengths, fc.integer({ min: 1, max: 64 }), (lengths, maxBatchTokens) => {
        const steps = planSteps(lengths, { maxBatchTokens, maxPrefillSpans: lengths.length });
        const total = lengths.reduce((sum, length) => sum + length, 0);
        expect(steps).toHaveLength(Math.ceil(total / maxBatchTokens));
      }),
    );
  });

  test("single tokens pass while the longer requests wait for their turn", () => {
    const steps = planSteps([5, 5, 1], { maxBatchTokens: 8, maxPrefillSpans: 1 });
    expect(steps).toEqual([
      [
        { request: 0, begin: 0, end: 5 },
        { request: 2, begin: 0, end: 1 },
      ],
      [{ request: 1, begin: 0, end: 5 }],
    ]);
  });

  test("no requests need no steps", () => {
    expect(planSteps([], { maxBatchTokens: 8, maxPrefillSpans: 1 })).toEqual([]);
  });
});
