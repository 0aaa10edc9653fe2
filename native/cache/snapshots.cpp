// The snapshots of the sequence table: how they come to be, what goes on from them, and how they
// make room.

#include <algorithm>
#include <utility>

#include "cache/sequence_table.h"
#include "core/error.h"
#include "core/page.h"

namespace hymba {

std::optional<SequenceId> SequenceTable::snapshot(SequenceId id, bool proven) {
  check_no_step("snapshot");
  const Sequence& sequence = find(id);
  check_whole("snapshot", id);
  if (!make_room(pages_to_copy(sequence), 1)) return std::nullopt;
  return copy_of(id, Hold::kKeep, proven);
}

void SequenceTable::retire(SequenceId id) {
  check_no_step("retire");
  Sequence& sequence = find(id);
  check_whole("retire", id);
  hold_as(sequence, Hold::kKeep);
}

SequenceId SequenceTable::resume(SequenceId id) {
  check_can_create("resume");
  Sequence& snapshot = find_snapshot(id);
  snapshot.proven = true;
  snapshot.last_use = ++clock_;
  if (make_room(pages_to_copy(snapshot), 1, id)) return copy_of(id, Hold::kUse, false);
  hold_as(snapshot, Hold::kUse);
  auto entry = sequences_.extract(id);
  entry.key() = next_id_;
  sequences_.insert(std::move(entry));
  return next_id_++;
}

bool SequenceTable::is_snapshot(SequenceId id) const {
  const auto found = sequences_.find(id);
  return found != sequences_.end() && found->second.hold == Hold::kKeep;
}

CacheCopies SequenceTable::take_copies() { return std::exchange(copies_, {}); }

// Something can go on from it: it has a state of its own, and text after the meta tokens.
void SequenceTable::check_whole(const char* call, SequenceId id) const {
  const Sequence& sequence = find(id);
  check(sequence.hold == Hold::kUse, call, ": sequence ", id, " is a snapshot");
  check(sequence.started && text_tokens(sequence.position) > 0, call, ": sequence ", id,
        " has no tokens");
}

SequenceTable::Sequence& SequenceTable::find_snapshot(SequenceId id) {
  Sequence& snapshot = find(id);
  check(snapshot.hold == Hold::kKeep, "resume: sequence ", id, " is no snapshot");
  return snapshot;
}

void SequenceTable::hold_as(Sequence& sequence, Hold hold) {
  const auto change = [&](RefcountPool& pool, int id) {
    pool.retain(id, hold);
    pool.release(id, sequence.hold);
  };
  for (KvPool pool : kKvPools) {
    for (int page : sequence.runs[pool].meta) change(pages_[pool], page);
    for (int page : sequence.runs[pool].text) change(pages_[pool], page);
  }
  change(state_slots_, sequence.state_slot);
  sequence.hold = hold;
  sequence.proven = false;
  sequence.last_use = ++clock_;
  num_snapshots_ += hold == Hold::kKeep ? 1 : -1;
}

// Drops snapshots until so much is free. Returns false when there cannot be so much, without
// dropping any unless one has to be spared.
bool SequenceTable::make_room(const PerPool<int64_t>& new_pages, int new_slots, SequenceId spared) {
  const auto lacks = [&](bool count_kept) {
    const auto lacks_ids = [&](const RefcountPool& pool, int64_t count) {
      return count > pool.num_free() + (count_kept ? pool.num_kept() : 0);
    };
    return lacks_ids(pages_.global, new_pages.global) ||
           lacks_ids(pages_.window, new_pages.window) || lacks_ids(state_slots_, new_slots);
  };
  if (lacks(/*count_kept=*/true)) return false;
  while (lacks(/*count_kept=*/false)) {
    const SequenceId id = next_to_go(spared);
    if (id < 0) return false;
    erase(id);
  }
  return true;
}

// -1: none.
SequenceId SequenceTable::next_to_go(SequenceId spared) const {
  struct Group {
    int size = 0;
    SequenceId oldest = -1;
    int64_t oldest_use = 0;
  };
  Group proven, others;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence.hold != Hold::kKeep || id == spared) continue;
    Group& group = sequence.proven ? proven : others;
    if (group.size++ == 0 || sequence.last_use < group.oldest_use) {
      group.oldest = id;
      group.oldest_use = sequence.last_use;
    }
  }
  return proven.size > others.size ? proven.oldest : others.oldest;
}

// The page that is not full: whoever goes on writes to it.
PerPool<int64_t> SequenceTable::pages_to_copy(const Sequence& sequence) const {
  PerPool<int64_t> pages;
  for (KvPool pool : kKvPools)
    pages[pool] =
        text_tokens(sequence.position) % kPageTokens != 0 && !sequence.runs[pool].text.empty();
  return pages;
}

SequenceId SequenceTable::copy_of(SequenceId id, Hold hold, bool proven) {
  const PerPool<int64_t> to_copy = pages_to_copy(find(id));
  Sequence copy = find(id);
  copy.hold = hold;
  copy.proven = proven;
  copy.last_use = ++clock_;
  const SequenceId copy_id = insert(std::move(copy));
  Sequence& made = find(copy_id);
  const Sequence& original = find(id);
  copies_.slots.push_back({original.state_slot, made.state_slot});
  for (KvPool pool : kKvPools) {
    PageRun& run = made.runs[pool];
    for (int page : run.meta) pages_[pool].retain(page, hold);
    const auto full = run.text.end() - to_copy[pool];
    for (auto page = run.text.begin(); page != full; ++page) pages_[pool].retain(*page, hold);
    if (to_copy[pool] == 0) continue;
    const int from = run.text.back();
    run.text.back() = pages_[pool].acquire(hold);
    copies_.pages[pool].push_back({from, run.text.back()});
  }
  return copy_id;
}

}  // namespace hymba
