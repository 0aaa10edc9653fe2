#include "cache/sequence_table.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/page.h"

namespace hymba {

SequenceTable::SequenceTable(const KvLayout& layout)
    : layout_(layout),
      pages_{RefcountPool("global page", layout.pools.global.num_pages),
             RefcountPool("window page", layout.pools.window.num_pages)},
      state_slots_("state slot", layout.num_state_slots) {}

SequenceId SequenceTable::create() {
  check_can_create("create");
  const int num_meta_tokens = layout_.options.num_meta_tokens;
  check(num_meta_tokens == 0 || prefix_slot_ >= 0, "create: the meta tokens were not run yet");
  Sequence sequence;
  sequence.position = num_meta_tokens;
  sequence.start_slot = prefix_slot_;
  for (KvPool pool : kKvPools) sequence.runs[pool].meta = prefix_pages_[pool];
  make_room({}, 1);
  const SequenceId id = insert(std::move(sequence));
  for (KvPool pool : kKvPools)
    for (int page : prefix_pages_[pool]) pages_[pool].retain(page);
  return id;
}

SequenceId SequenceTable::create_cold() {
  check_can_create("create_cold");
  PerPool<int64_t> new_pages;
  for (KvPool pool : kKvPools) new_pages[pool] = layout_.pools[pool].meta_columns;
  check_room("a sequence with meta tokens of its own", new_pages);
  make_room(new_pages, 1);
  Sequence sequence;
  for (KvPool pool : kKvPools) sequence.runs[pool].meta.resize(layout_.pools[pool].meta_columns);
  const SequenceId id = insert(std::move(sequence));
  for (KvPool pool : kKvPools)
    for (int& page : find(id).runs[pool].meta) page = pages_[pool].acquire();
  return id;
}

void SequenceTable::adopt_prefix(SequenceId id) {
  check_no_step("adopt_prefix");
  Sequence& sequence = find(id);
  const int num_meta_tokens = layout_.options.num_meta_tokens;
  check(num_meta_tokens > 0, "adopt_prefix: the model has no meta tokens");
  check(prefix_slot_ < 0, "adopt_prefix: there is a prefix already");
  check(sequence.position == num_meta_tokens, "adopt_prefix: sequence ", id, " is at position ",
        sequence.position, ", expected ", num_meta_tokens);
  prefix_slot_ = sequence.state_slot;
  for (KvPool pool : kKvPools) prefix_pages_[pool] = std::move(sequence.runs[pool].meta);
  sequences_.erase(id);
}

void SequenceTable::release(SequenceId id) {
  check_no_step("release");
  find(id);
  erase(id);
}

int SequenceTable::length(SequenceId id) const { return text_tokens(find(id).position); }

int SequenceTable::position(SequenceId id) const { return find(id).position; }

int SequenceTable::own_pages(SequenceId id) const {
  const std::vector<int32_t>& text = find(id).runs.global.text;
  return static_cast<int>(std::count_if(
      text.begin(), text.end(), [&](int page) { return pages_.global.num_users(page) == 1; }));
}

CacheUsage SequenceTable::usage() const {
  const auto of = [](const RefcountPool& pool) {
    return PoolUsage{pool.num_used(), pool.num_kept(), pool.capacity()};
  };
  return {{num_live(), num_snapshots_, layout_.options.max_sequences},
          of(state_slots_),
          of(pages_.global),
          of(pages_.window)};
}

const SequenceTable::Sequence& SequenceTable::find(SequenceId id) const {
  const auto found = sequences_.find(id);
  if (found == sequences_.end())
    fail(ErrorCode::kDisposed, "sequence ", id, " was disposed or is of another model");
  return found->second;
}

SequenceTable::Sequence& SequenceTable::find(SequenceId id) {
  return const_cast<Sequence&>(std::as_const(*this).find(id));
}

// A position inside the meta tokens comes before all text.
int SequenceTable::text_tokens(int64_t position) const {
  return static_cast<int>(std::max<int64_t>(0, position - layout_.options.num_meta_tokens));
}

void SequenceTable::check_no_step(const char* call) const {
  check(step_.empty(), call, ": a step is open");
}

void SequenceTable::check_can_create(const char* call) const {
  check_no_step(call);
  const int max_sequences = layout_.options.max_sequences;
  if (num_live() == max_sequences)
    fail(ErrorCode::kOutOfMemory, "all ", max_sequences,
         " sequences are in use: dispose one or load with a larger maxSequences");
}

// Without what snapshots can give back.
void SequenceTable::check_room(const char* who, const PerPool<int64_t>& new_pages) const {
  for (KvPool pool : kKvPools) {
    const int num_free = pages_[pool].num_free() + pages_[pool].num_kept();
    if (new_pages[pool] > num_free)
      fail(ErrorCode::kOutOfMemory, "the ", pool_name(pool), " K/V pool is full: ", who, " needs ",
           new_pages[pool], " pages of ", kPageTokens, " tokens, ", num_free, " of ",
           pages_[pool].capacity(), " are free; dispose a sequence, or load with a larger ",
           pool == KvPool::kGlobal ? "cacheTokens" : "maxSequences");
  }
}

int SequenceTable::num_live() const {
  return static_cast<int>(std::ssize(sequences_)) - num_snapshots_;
}

// Gives the sequence its slot, which make_room has seen to: there are as many as there can be
// sequences, and one for the prefix. Whatever can fail for want of memory comes before ids are
// taken.
SequenceId SequenceTable::insert(Sequence sequence) {
  const auto [entry, inserted] = sequences_.emplace(next_id_, std::move(sequence));
  num_snapshots_ += entry->second.hold == Hold::kKeep;
  entry->second.state_slot = state_slots_.acquire(entry->second.hold);
  return next_id_++;
}

void SequenceTable::erase(SequenceId id) {
  const Sequence& sequence = find(id);
  for (KvPool pool : kKvPools) {
    for (int page : sequence.runs[pool].text) pages_[pool].release(page, sequence.hold);
    for (int page : sequence.runs[pool].meta) pages_[pool].release(page, sequence.hold);
  }
  state_slots_.release(sequence.state_slot, sequence.hold);
  num_snapshots_ -= sequence.hold == Hold::kKeep;
  sequences_.erase(id);
}

}  // namespace hymba
