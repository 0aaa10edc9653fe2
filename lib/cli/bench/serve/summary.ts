import type { Row } from "../report";
import { quantiles } from "../statistics";
import type { Timing } from "./stream";

/** What is said of a run, by vLLM's definitions. */
export function summarize(timings: readonly Timing[], ms: number): Row {
  const seconds = ms / 1000;
  const sum = (of: (timing: Timing) => number): number =>
    timings.reduce((total, timing) => total + of(timing), 0);
  const inputTokens = sum(({ inputTokens }) => inputTokens);
  const outputTokens = sum(({ outputTokens }) => outputTokens);
  const withText = timings.filter(({ partsAt }) => partsAt.length > 0);
  return {
    ms,
    input_tokens: inputTokens,
    output_tokens: outputTokens,
    requests_per_s: timings.length / seconds,
    output_tokens_per_s: outputTokens / seconds,
    total_tokens_per_s: (inputTokens + outputTokens) / seconds,
    ...distribution("ttft_ms", withText.map(timeToFirst)),
    ...distribution(
      "tpot_ms",
      withText
        .filter(({ outputTokens }) => outputTokens > 1)
        .map((timing) => (endToEnd(timing) - timeToFirst(timing)) / (timing.outputTokens - 1)),
    ),
    ...distribution("itl_ms", withText.flatMap(gaps)),
    ...distribution("e2el_ms", withText.map(endToEnd)),
  };
}

const timeToFirst = ({ sentAt, partsAt }: Timing): number => partsAt[0]! - sentAt;
const endToEnd = ({ sentAt, partsAt }: Timing): number => partsAt.at(-1)! - sentAt;
const gaps = ({ partsAt }: Timing): number[] => partsAt.slice(1).map((at, i) => at - partsAt[i]!);

function distribution(name: string, values: readonly number[]): Row {
  if (values.length === 0) {
    return { [`${name}_mean`]: null, [`${name}_p50`]: null, [`${name}_p99`]: null };
  }
  const [p50, p99] = quantiles(values, [0.5, 0.99]);
  const mean = values.reduce((a, b) => a + b) / values.length;
  return { [`${name}_mean`]: mean, [`${name}_p50`]: p50!, [`${name}_p99`]: p99! };
}
