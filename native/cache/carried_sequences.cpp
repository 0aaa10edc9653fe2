// Sequences that are carried out of the cache, or into it: what they hold, and room for one that
// comes as it is.

#include <algorithm>
#include <utility>

#include "cache/sequence_table.h"
#include "core/error.h"
#include "core/page.h"

namespace hymba {

SequenceHoldings SequenceTable::holdings(SequenceId id) const {
  check_no_step("holdings");
  check_whole("holdings", id);
  const Sequence& sequence = find(id);
  SequenceHoldings held{.state_slot = sequence.state_slot, .pages = {}};
  for (KvPool pool : kKvPools) held.pages[pool] = sequence.runs[pool].text;
  return held;
}

SequenceId SequenceTable::create_at(int length) {
  check_can_create("create_at");
  check(length > 0, "create_at: a sequence of ", length, " tokens");
  const KvLayoutOptions& options = layout_.options;
  if (length > options.max_context_tokens)
    fail(ErrorCode::kContextFull, "a sequence of ", length,
         " tokens, but the model was loaded for ", options.max_context_tokens,
         ": load with a larger maxContextTokens");
  Sequence sequence;
  sequence.position = options.num_meta_tokens + length;
  sequence.started = true;
  PerPool<int64_t> new_pages;
  for (KvPool pool : kKvPools) {
    if (layout_.pools[pool].num_layers == 0) continue;
    PageRun& run = sequence.runs[pool];
    run.meta = prefix_pages_[pool];
    if (pool == KvPool::kWindow) run.first = first_in_window(length);
    new_pages[pool] = pages_for(length) - run.first;
    run.text.resize(new_pages[pool]);
  }
  check_room("the sequence", new_pages);
  make_room(new_pages, 1);
  const SequenceId id = insert(std::move(sequence));
  for (KvPool pool : kKvPools) {
    PageRun& run = find(id).runs[pool];
    for (int page : run.meta) pages_[pool].retain(page);
    for (int& page : run.text) page = pages_[pool].acquire();
  }
  return id;
}

}  // namespace hymba
