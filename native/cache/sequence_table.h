// Which pages and which state slot each sequence holds; page tables and positions of a step.
//
// A step: begin_step takes all pages that it needs or, on any error, nothing; fill writes what the
// stages read; end_step commits once they ran; cancel_step undoes a step of which no stage ran.
//
// A snapshot is a sequence that stands still: others go on from it. It shares all pages with them
// that are full, and has a copy of the one that is not and of the state. Snapshots keep what they
// hold and use nothing: whatever only they hold counts as free, and they make room when something
// of it is needed. There are proven ones, which more than one text begins with, and others, most of
// which nobody will ask for. The larger of the two groups gives the one that was of use least
// recently: so neither do the many others drive the proven ones out, nor proven ones that are out
// of date the others.
//
// Invariants, outside of a step and while one is open:
//
// A page or slot is free, or held by exactly the sequences (and the prefix) that count as its
// users, and the snapshots that keep it.
//
// A sequence holds the pages of all its text in the global pool, and in the window pool those that
// its next token, or any token of the open step, can see: never more than the pool's ring columns,
// so that no two of them meet in a column.
//
// What a step writes to has one holder: a sequence's pages from its write position on, and its
// slot.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "cache/kv_layout.h"
#include "cache/refcount_pool.h"

namespace hymba {

// Never used twice in a table.
using SequenceId = int64_t;

struct SpanRequest {
  SequenceId id = 0;
  int num_tokens = 0;
  bool generated = false;  // the tokens were sampled, not given: penalties tell the two apart
};

// Where the metadata of a step go: T tokens, S spans. All extents must match.
struct StepTables {
  std::span<int32_t> positions;     // [T]
  std::span<int32_t> token_spans;   // [T]
  std::span<int32_t> span_offsets;  // [S+1]
  std::span<int32_t> state_source;  // [S]; -1: from zeros
  std::span<int32_t> state_slot;    // [S]
  std::span<int32_t> is_generated;  // [S]
  std::span<int32_t> fresh;         // [S]: 1 when the slot starts a new sequence
  // Rows of ops/kv_view.h's page table. A column without a page is -1, so that a stage that reads
  // one by mistake is caught.
  std::span<int32_t> global_pages;  // [S, columns of the global pool]
  std::span<int32_t> window_pages;  // [S, columns of the window pool]
};

// `used` by sequences, the prefix and an open step; `kept` by nobody but snapshots, which is as
// good as free.
struct PoolUsage {
  int used = 0;
  int kept = 0;
  int total = 0;
};

struct CacheUsage {
  PoolUsage sequences;
  PoolUsage state_slots;
  PoolUsage global_pages;
  PoolUsage window_pages;
};

// What has to be copied before the next step, in this order.
struct CacheCopies {
  struct Copy {
    int from = 0;
    int to = 0;
  };
  PerPool<std::vector<Copy>> pages;
  std::vector<Copy> slots;  // SSM and conv state
};

// What of the cache is a sequence's own, but for the shared prefix.
struct SequenceHoldings {
  int state_slot = 0;
  PerPool<std::vector<int32_t>> pages;  // in the order of the text
};

class SequenceTable {
 public:
  explicit SequenceTable(const KvLayout& layout);

  // A sequence that starts after the shared prefix. Throws kOutOfMemory when all are in use.
  SequenceId create();
  // A sequence that starts from nothing: its first tokens are the meta tokens, in pages of its own.
  // Throws kOutOfMemory when all sequences, or the pages for its meta tokens, are in use.
  SequenceId create_cold();
  // Takes over the pages and the state of a cold sequence that had exactly the meta tokens: all
  // sequences created from now on start from them. The sequence is no more. Once a table, before
  // the first create(); not for a model without meta tokens.
  void adopt_prefix(SequenceId id);
  // Gives back all that a sequence or a snapshot holds. Throws kDisposed when there is none.
  void release(SequenceId id);

  // A snapshot of what the sequence is now, which leaves it as it was; none when there is no room
  // for one besides what is in use. Throws kDisposed.
  std::optional<SequenceId> snapshot(SequenceId id, bool proven);
  // Makes the sequence a snapshot, under the same id. Throws kDisposed.
  void retire(SequenceId id);
  // A sequence that goes on from a snapshot, which is proven by that. It stays, unless nothing else
  // can make room: then the sequence takes its place. Throws kDisposed when it is gone,
  // kOutOfMemory when all sequences are in use.
  SequenceId resume(SequenceId snapshot);
  bool is_snapshot(SequenceId id) const;
  // Those that came up since they were taken last.
  CacheCopies take_copies();

  // What has to be carried out of the cache to have a sequence elsewhere. Throws kDisposed.
  SequenceHoldings holdings(SequenceId id) const;
  // A sequence of so many text tokens, at least one, that holds what one has after as many: what
  // that is has yet to be carried in. Throws kContextFull, kOutOfMemory.
  SequenceId create_at(int length);

  // Text tokens so far. Throws kDisposed.
  int length(SequenceId id) const;
  // Of the next token, counted from the first meta token. Throws kDisposed.
  int position(SequenceId id) const;
  // Text pages of the global pool that no other sequence uses. Throws kDisposed.
  int own_pages(SequenceId id) const;

  // Opens a step of one span a sequence. Throws kInvalidArgument, kDisposed, kContextFull or
  // kOutOfMemory; then nothing has changed.
  void begin_step(std::span<const SpanRequest> requests);
  void fill(const StepTables& tables) const;
  // The spans' tokens are in the cache. Frees the pages that no later token of theirs can see.
  void end_step();
  // As if the step had not begun, but that snapshots that made room for it stay gone. Not for a
  // step whose stages ran: states are updated in place.
  void cancel_step();

  CacheUsage usage() const;

 private:
  // The pages of one pool that a sequence holds.
  struct PageRun {
    std::vector<int32_t> meta;
    std::vector<int32_t> text;  // of text pages first, first + 1, …
    int first = 0;

    int end() const { return first + static_cast<int>(text.size()); }
  };

  struct Sequence {
    int position = 0;
    int state_slot = 0;
    int start_slot = -1;   // whose state it starts from; -1: from zeros
    bool started = false;  // its own slot holds its state
    PerPool<PageRun> runs;
    Hold hold = Hold::kUse;  // kKeep: a snapshot
    // Of a snapshot:
    bool proven = false;
    int64_t last_use = 0;  // counted by clock_
  };

  struct Span {
    SequenceId id = 0;
    Sequence* sequence = nullptr;
    int num_tokens = 0;
    bool generated = false;
    PerPool<int> new_pages;
  };

  Sequence& find(SequenceId id);
  const Sequence& find(SequenceId id) const;
  int text_tokens(int64_t position) const;

  void check_no_step(const char* call) const;
  void check_can_create(const char* call) const;
  void check_room(const char* who, const PerPool<int64_t>& new_pages) const;
  int num_live() const;
  SequenceId insert(Sequence sequence);
  void erase(SequenceId id);

  void check_whole(const char* call, SequenceId id) const;
  Sequence& find_snapshot(SequenceId id);
  void hold_as(Sequence& sequence, Hold hold);
  bool make_room(const PerPool<int64_t>& new_pages, int new_slots, SequenceId spared = -1);
  SequenceId next_to_go(SequenceId spared) const;
  SequenceId copy_of(SequenceId id, Hold hold, bool proven);
  PerPool<int64_t> pages_to_copy(const Sequence& sequence) const;

  Span plan_span(const SpanRequest& request, size_t request_idx);
  PerPool<int64_t> check_step(std::span<const Span> spans) const;
  void check_exclusive(const Span& span, KvPool pool) const;
  void take_pages(const std::vector<Span>& spans, const PerPool<int64_t>& new_pages);
  void release_behind_window(Sequence& sequence);
  int first_in_window(int length) const;
  void fill_pages(KvPool pool, std::span<int32_t> table) const;

  const KvLayout layout_;
  PerPool<RefcountPool> pages_;
  RefcountPool state_slots_;
  std::unordered_map<SequenceId, Sequence> sequences_;  // and snapshots
  int num_snapshots_ = 0;
  int64_t clock_ = 0;
  CacheCopies copies_;
  SequenceId next_id_ = 0;
  int prefix_slot_ = -1;
  PerPool<std::vector<int32_t>> prefix_pages_;
  std::vector<Span> step_;  // empty: no step is open
};

}  // namespace hymba
