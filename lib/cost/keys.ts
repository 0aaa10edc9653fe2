/** The keys that the queries of one sequence see. */
export interface VisibleKeys {
  /** Pairs of a query and a key, for one head. */
  readonly pairs: number;
  /** Different keys of text tokens. */
  readonly textKeys: number;
  /** Keys of meta tokens; all sequences share them. */
  readonly metaKeys: number;
}

/**
 * Counts what text tokens `first` to `first + count - 1` of a sequence see of it.
 * @param window text tokens before its own that a query sees; -1: all. Meta tokens are always seen.
 */
export function visibleKeys(
  first: number,
  count: number,
  window: number,
  numMetaTokens: number,
): VisibleKeys {
  const end = first + count;
  const reach = window < 0 ? end : window;
  // Queries before `reach` see everything before them: 1, 2, … keys; the others reach + 1 each.
  const growing = Math.min(Math.max(reach - first, 0), count);
  const grown = (growing * (2 * first + growing + 1)) / 2;
  return {
    pairs: grown + (count - growing) * (reach + 1) + count * numMetaTokens,
    textKeys: end - Math.max(first - reach, 0),
    metaKeys: numMetaTokens,
  };
}

/** What several sequences of the same batch see. */
export function addKeys(sequences: readonly VisibleKeys[]): VisibleKeys {
  return {
    pairs: sequences.reduce((sum, { pairs }) => sum + pairs, 0),
    textKeys: sequences.reduce((sum, { textKeys }) => sum + textKeys, 0),
    metaKeys: Math.max(0, ...sequences.map(({ metaKeys }) => metaKeys)),
  };
}
