/** What a bench says about several measurements of the same. */
export interface Spread {
  readonly median: number;
  readonly p10: number;
  readonly p90: number;
}

/** Median, tenth and ninetieth percentile, interpolated; `values` must not be empty. */
export function spread(values: readonly number[]): Spread {
  const [p10, median, p90] = quantiles(values, [0.1, 0.5, 0.9]);
  return { median: median!, p10: p10!, p90: p90! };
}

/** The values below which these shares of `values` lie, interpolated; `values` must not be empty. */
export function quantiles(values: readonly number[], shares: readonly number[]): number[] {
  const sorted = Float64Array.from(values).sort();
  return shares.map((share) => {
    const place = share * (sorted.length - 1);
    const below = sorted[Math.floor(place)]!;
    const above = sorted[Math.ceil(place)]!;
    return below + (above - below) * (place - Math.floor(place));
  });
}
