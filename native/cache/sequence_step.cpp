// A step of the sequence table: what is refused, the pages it takes, the tables that stages read.

#include <algorithm>
#include <utility>

#include "cache/sequence_table.h"
#include "core/error.h"
#include "core/page.h"

namespace hymba {
namespace {

void check_extent(const char* name, std::span<int32_t> table, size_t expected) {
  check(table.size() == expected, "fill: ", name, " has ", table.size(), " elements, expected ",
        expected);
}

}  // namespace

void SequenceTable::begin_step(std::span<const SpanRequest> requests) {
  check_no_step("begin_step");
  if (requests.empty())
    fail(ErrorCode::kInvalidArgument, "a step of no sequence, expected one or more");
  std::vector<Span> spans;
  spans.reserve(requests.size());
  for (const SpanRequest& request : requests) spans.push_back(plan_span(request, spans.size()));
  take_pages(spans, check_step(spans));
  step_ = std::move(spans);
}

void SequenceTable::end_step() {
  check(!step_.empty(), "end_step: no step is open");
  for (Span& span : step_) {
    span.sequence->position += span.num_tokens;
    span.sequence->started = true;
    release_behind_window(*span.sequence);
  }
  step_.clear();
}

void SequenceTable::cancel_step() {
  check(!step_.empty(), "cancel_step: no step is open");
  // Backwards, so that the pools end up as they were to the last free id.
  for (auto span = step_.rbegin(); span != step_.rend(); ++span)
    for (KvPool pool : kKvPools) {
      std::vector<int32_t>& text = span->sequence->runs[pool].text;
      for (int i = 0; i < span->new_pages[pool]; ++i) {
        pages_[pool].release(text.back());
        text.pop_back();
      }
    }
  step_.clear();
}

// What one span needs, or what is wrong with it alone.
SequenceTable::Span SequenceTable::plan_span(const SpanRequest& request, size_t request_idx) {
  const int max_context = layout_.options.max_context_tokens;
  if (request.num_tokens < 1)
    fail(ErrorCode::kInvalidArgument, "entry ", request_idx, " of the step has ",
         request.num_tokens, " tokens, expected 1 or more");
  Span span{request.id, &find(request.id), request.num_tokens, request.generated, {}};
  check(span.sequence->hold == Hold::kUse, "begin_step: ", request.id, " is a snapshot");
  const int64_t end = int64_t{span.sequence->position} + request.num_tokens;
  if (end - layout_.options.num_meta_tokens > max_context)
    fail(ErrorCode::kContextFull, "entry ", request_idx,
         " of the step would take its sequence from ", text_tokens(span.sequence->position), " to ",
         end - layout_.options.num_meta_tokens, " tokens, expected at most ", max_context,
         ": shorten the text, or load with a larger maxContextTokens");
  for (KvPool pool : kKvPools)
    if (layout_.pools[pool].num_layers > 0)
      span.new_pages[pool] =
          static_cast<int>(pages_for(text_tokens(end))) - span.sequence->runs[pool].end();
  return span;
}

// What is wrong with the spans together. Returns the pages that they need.
PerPool<int64_t> SequenceTable::check_step(std::span<const Span> spans) const {
  std::vector<SequenceId> ids;
  int64_t num_tokens = 0;
  int num_prefill_spans = 0;
  PerPool<int64_t> new_pages;
  for (const Span& span : spans) {
    ids.push_back(span.id);
    num_tokens += span.num_tokens;
    num_prefill_spans += span.num_tokens > 1;
    for (KvPool pool : kKvPools) new_pages[pool] += span.new_pages[pool];
  }
  std::sort(ids.begin(), ids.end());
  const auto twice = std::adjacent_find(ids.begin(), ids.end());
  if (twice != ids.end())
    fail(ErrorCode::kInvalidArgument, "sequence ", *twice, " is in the step twice, expected once");
  if (num_tokens > layout_.options.max_batch_tokens)
    fail(ErrorCode::kInvalidArgument, "a step of ", num_tokens, " tokens, expected at most ",
         layout_.options.max_batch_tokens, ": split it, or load with a larger maxBatchTokens");
  if (num_prefill_spans > layout_.max_prefill_spans)
    fail(ErrorCode::kInvalidArgument, "a step with ", num_prefill_spans,
         " sequences of more than one token, expected at most ", layout_.max_prefill_spans,
         ": split it");
  check_room("the step", new_pages);
  for (KvPool pool : kKvPools)
    for (const Span& span : spans) check_exclusive(span, pool);
  return new_pages;
}

// The pages that a span writes to and that its sequence holds already have no other holder: pages
// are shared whole, and behind the position that their holders write to next.
void SequenceTable::check_exclusive(const Span& span, KvPool pool) const {
  const PageRun& run = span.sequence->runs[pool];
  const auto check_page = [&](int page) {
    check(pages_[pool].num_holders(page) == 1, "begin_step: sequence ", span.id, " would write to ",
          pool_name(pool), " page ", page, ", which it shares");
  };
  const int position = span.sequence->position;
  if (position < layout_.options.num_meta_tokens)
    for (size_t i = position / kPageTokens; i < run.meta.size(); ++i) check_page(run.meta[i]);
  if (text_tokens(position) % kPageTokens != 0 && !run.text.empty()) check_page(run.text.back());
}

// Memory for the ids first, so that nothing can fail once a page is taken.
void SequenceTable::take_pages(const std::vector<Span>& spans, const PerPool<int64_t>& new_pages) {
  for (const Span& span : spans)
    for (KvPool pool : kKvPools) {
      std::vector<int32_t>& text = span.sequence->runs[pool].text;
      text.reserve(text.size() + span.new_pages[pool]);
    }
  make_room(new_pages, 0);
  for (const Span& span : spans)
    for (KvPool pool : kKvPools)
      for (int i = 0; i < span.new_pages[pool]; ++i)
        span.sequence->runs[pool].text.push_back(pages_[pool].acquire());
}

// Frees the pages whose last token lies before all that the next token sees.
void SequenceTable::release_behind_window(Sequence& sequence) {
  PageRun& run = sequence.runs.window;
  if (layout_.pools.window.num_layers == 0) return;
  const int first = first_in_window(text_tokens(sequence.position));
  const auto keep = run.text.begin() + (first - run.first);
  for (auto page = run.text.begin(); page != keep; ++page) pages_.window.release(*page);
  run.text.erase(run.text.begin(), keep);
  run.first = first;
}

// The first page of which the token after so many sees something.
int SequenceTable::first_in_window(int length) const {
  return std::max(0, length - layout_.options.sliding_window) / kPageTokens;
}

void SequenceTable::fill(const StepTables& tables) const {
  check(!step_.empty(), "fill: no step is open");
  size_t num_tokens = 0;
  for (const Span& span : step_) num_tokens += span.num_tokens;
  check_extent("positions", tables.positions, num_tokens);
  check_extent("token_spans", tables.token_spans, num_tokens);
  check_extent("span_offsets", tables.span_offsets, step_.size() + 1);
  check_extent("state_source", tables.state_source, step_.size());
  check_extent("state_slot", tables.state_slot, step_.size());
  check_extent("is_generated", tables.is_generated, step_.size());
  check_extent("fresh", tables.fresh, step_.size());

  int token = 0;
  for (size_t s = 0; s < step_.size(); ++s) {
    const Sequence& sequence = *step_[s].sequence;
    tables.span_offsets[s] = token;
    tables.state_source[s] = sequence.started ? sequence.state_slot : sequence.start_slot;
    tables.state_slot[s] = sequence.state_slot;
    tables.is_generated[s] = step_[s].generated;
    tables.fresh[s] = !sequence.started;
    for (int i = 0; i < step_[s].num_tokens; ++i, ++token) {
      tables.positions[token] = sequence.position + i;
      tables.token_spans[token] = static_cast<int32_t>(s);
    }
  }
  tables.span_offsets[step_.size()] = token;
  fill_pages(KvPool::kGlobal, tables.global_pages);
  fill_pages(KvPool::kWindow, tables.window_pages);
}

// The format of ops/kv_view.h.
void SequenceTable::fill_pages(KvPool pool, std::span<int32_t> table) const {
  const KvPoolLayout& layout = layout_.pools[pool];
  check_extent(pool_name(pool), table, step_.size() * layout.num_columns());
  std::fill(table.begin(), table.end(), -1);
  for (size_t s = 0; s < step_.size(); ++s) {
    const PageRun& run = step_[s].sequence->runs[pool];
    check(std::ssize(run.text) <= layout.ring_columns, "fill: ", run.text.size(), " text pages in ",
          layout.ring_columns, " columns");
    const auto row = table.subspan(s * layout.num_columns(), layout.num_columns());
    std::copy(run.meta.begin(), run.meta.end(), row.begin());
    for (int page = run.first; page < run.end(); ++page)
      row[layout.meta_columns + page % layout.ring_columns] = run.text[page - run.first];
  }
}

}  // namespace hymba
