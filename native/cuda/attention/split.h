// How the keys of a single token are divided among blocks.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/page.h"

namespace hymba::cuda {

// A unit is what one block visits: so many of the token's pages, in their order. It depends on what
// a page table row can name and the window can reach, never on the step: so that a token's result
// does not depend on its company.
struct SplitPlan {
  int unit_pages = 0;
  int max_units = 0;  // of a token that sees as many pages as it ever can
};

// One page a warp is the least that keeps a block busy, and the most parallel: with it the five K/V
// heads of one sequence and a window of 1024 make 25 blocks. Each unit costs a partial result,
// which at 4 pages is 3 % of the bytes of the keys and values; more than 20 of them take the block
// that merges them longer than they save.
inline constexpr int kMinUnitPages = 4;
inline constexpr int kMaxUnits = 20;

constexpr SplitPlan plan_split(int64_t max_pages) {
  int64_t unit_pages = kMinUnitPages;
  while (unit_pages * kMaxUnits < max_pages) unit_pages *= 2;
  return {static_cast<int>(unit_pages),
          static_cast<int>(std::max<int64_t>(1, (max_pages + unit_pages - 1) / unit_pages))};
}

// The most pages that one token sees: window + 1 keys of the text touch no more than here.
constexpr int64_t max_visible_pages(int64_t meta_columns, int64_t ring_columns, int64_t window) {
  if (window < 0) return meta_columns + ring_columns;
  return meta_columns + std::min(ring_columns, (window + kPageTokens - 1) / kPageTokens + 1);
}

// Spans of a launch. More go into further launches, which use the same scratch memory one after the
// other: 256 sequences fill any device many times over.
inline constexpr int kMaxLaunchSpans = 256;

}  // namespace hymba::cuda
