// Runs grids: block after block, each thread of a block as a fiber. Whenever a fiber waits, another
// one that can go on is drawn by lot, so that what depends on the order of threads comes out wrong
// sooner or later, but alike in every run with the same HYMBA_EMULATOR_SEED.
#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <sstream>

#include "emulator/block.h"
#include "emulator/copies.h"
#include "emulator/fault.h"
#include "emulator/fiber.h"
#include "emulator/guarded_memory.h"
#include "emulator/launch.h"
#include "emulator/symbols.h"
#include "emulator/warp.h"

namespace emulator {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kMaxWarps = kMaxThreads / 32;

struct Thread {
  uint3 idx;
  int number;
  Stack* stack = nullptr;  // nullptr: has not started
  void* context = nullptr;
  bool has_waited_for_predecessor = false;
  const char* waits_in = nullptr;
  Site site;
  CopyQueue copies;
};

// Lanes that wait for each other.
struct Meeting {
  uint32_t mask;
  uint32_t arrived;
  const char* what;
  Site site;
};

struct Warp {
  uint32_t alive;
  uint32_t ready;
  uint32_t at_barrier;
  Site barrier_site;
  void* arguments[32];
  Meeting meetings[32];
  int num_meetings;
};

struct Block {
  const Grid* grid;
  int num_threads;
  int num_warps;
  int alive;
  uint32_t ready_warps;  // those with ready lanes
  int warp;              // of the thread that runs

  int at_barrier;
  Barrier barrier_kind;
  int barrier_votes;
  int barrier_result;

  void* host_context;
  GridResult result;

  Thread threads[kMaxThreads];
  Warp warps[kMaxWarps];
};

Block block;
Thread* current = nullptr;
std::vector<std::unique_ptr<Stack>> stacks;  // all that there are
std::vector<Stack*> free_stacks;
char* dynamic_shared = nullptr;
uint64_t lots = 0;

uint64_t draw() {  // xorshift64*
  lots ^= lots >> 12;
  lots ^= lots << 25;
  lots ^= lots >> 27;
  return lots * 0x2545f4914f6cdd1dull >> 32;
}

// One of the bits that are set.
int draw_bit(uint32_t bits) {
  const uint32_t lot = static_cast<uint32_t>(draw());
  const int start = lot & 31;
  const uint32_t rotated = std::rotr(bits, start);
  const int found = lot & 32 ? std::countr_zero(rotated) : 31 - std::countl_zero(rotated);
  return (found + start) & 31;
}

// Takes a thread that can go on. It is one of the same warp most of the time, which is faster.
Thread* draw_thread() {
  if (block.ready_warps == 0) return nullptr;
  if (block.warps[block.warp].ready == 0 || draw() % 16 == 0)
    block.warp = draw_bit(block.ready_warps);
  Warp& warp = block.warps[block.warp];
  const int lane = draw_bit(warp.ready);
  warp.ready &= ~(1u << lane);
  if (warp.ready == 0) block.ready_warps &= ~(1u << block.warp);
  return &block.threads[block.warp * 32 + lane];
}

void set_current(Thread* thread) {
  current = thread;
  threadIdx = thread->idx;
}

void set_ready(int warp_idx, uint32_t lanes) {
  if (lanes == 0) return;
  block.warps[warp_idx].ready |= lanes;
  block.ready_warps |= 1u << warp_idx;
}

void run_threads();

void continue_thread(void** from, Thread* next) {
  if (next->stack == nullptr) {
    if (free_stacks.empty()) {
      stacks.push_back(std::make_unique<Stack>());
      free_stacks.push_back(stacks.back().get());
    }
    next->stack = free_stacks.back();
    free_stacks.pop_back();
    next->context = next->stack->prepare(run_threads);
  }
  set_current(next);
  switch_context(from, next->context, next->stack);
}

[[noreturn]] void leave_block() {
  void* abandoned;
  switch_context(&abandoned, block.host_context, nullptr);
  __builtin_unreachable();
}

std::string text_of(const uint3& v) {
  std::ostringstream text;
  text << "(" << v.x << ", " << v.y << ", " << v.z << ")";
  return text.str();
}

std::string text_of(const Site& site) {
  std::ostringstream text;
  text << site.file_name() << ":" << site.line();
  return text.str();
}

[[noreturn]] void fail_block(cudaError_t error, const std::string& who, const std::string& what) {
  std::ostringstream text;
  text << "kernel " << symbol_name(block.grid->kernel) << ", block " << text_of(blockIdx) << who
       << ": " << what;
  block.result = {error, text.str()};
  leave_block();
}

// Nobody can go on, but some have not ended: says where they wait, places with many threads first.
[[noreturn]] void fail_deadlock() {
  struct Place {
    std::string name;
    int count;
    uint3 first;
  };
  std::vector<Place> places;
  for (int i = 0; i < block.num_threads; ++i) {
    const Thread& thread = block.threads[i];
    if ((block.warps[i / 32].alive >> i % 32 & 1) == 0) continue;
    const std::string name = std::string(thread.waits_in) + " at " + text_of(thread.site);
    const auto found = std::find_if(places.begin(), places.end(),
                                    [&](const Place& place) { return place.name == name; });
    if (found == places.end())
      places.push_back({name, 1, thread.idx});
    else
      ++found->count;
  }
  std::ostringstream text;
  text << "deadlock,";
  const char* separator = " ";
  for (const Place& place : places) {
    text << separator << place.count << " threads from " << text_of(place.first) << " on wait in "
         << place.name;
    separator = "; ";
  }
  text << "; " << block.num_threads - block.alive << " threads have ended";
  fail_block(cudaErrorLaunchFailure, "", text.str());
}

// Lets others run until the current thread is ready and its lot is drawn.
void wait_in(const char* what, const Site& site) {
  Thread* self = current;
  self->waits_in = what;
  self->site = site;
  Thread* next = draw_thread();
  if (next == nullptr) fail_deadlock();
  continue_thread(&self->context, next);
}

void release_barrier() {
  block.barrier_result = block.barrier_kind == Barrier::kAnd
                             ? block.barrier_votes == block.at_barrier
                         : block.barrier_kind == Barrier::kOr ? block.barrier_votes > 0
                                                              : block.barrier_votes;
  block.at_barrier = 0;
  for (int i = 0; i < block.num_warps; ++i) {
    set_ready(i, block.warps[i].at_barrier);
    block.warps[i].at_barrier = 0;
  }
}

void end_thread() {
  if (block.grid->overlaps_predecessor && !current->has_waited_for_predecessor)
    fail_thread(cudaErrorLaunchFailure,
                "it ended without a call of wait_for_predecessor(), so grids after this one may "
                "overtake those before");
  const int lane = current->number % 32;
  Warp& warp = block.warps[current->number / 32];
  warp.alive &= ~(1u << lane);
  for (int i = 0; i < warp.num_meetings; ++i)
    if (warp.meetings[i].mask >> lane & 1)
      fail_thread(cudaErrorLaunchFailure, std::string("it ended, but other lanes wait for it in ") +
                                              warp.meetings[i].what + " at " +
                                              text_of(warp.meetings[i].site));
  --block.alive;
  if (block.at_barrier > 0 && block.at_barrier == block.alive) release_barrier();
}

// Where a stack starts: runs a thread, then, on the same stack, others that have not started.
void run_threads() {
  enter_context();
  for (;;) {
    block.grid->thread();
    end_thread();
    Stack* stack = current->stack;
    Thread* next = draw_thread();
    if (next == nullptr) {
      if (block.alive > 0) fail_deadlock();
      free_stacks.push_back(stack);
      leave_block();
    }
    if (next->stack == nullptr) {
      next->stack = stack;
      set_current(next);
    } else {
      free_stacks.push_back(stack);
      void* abandoned;
      continue_thread(&abandoned, next);
    }
  }
}

void run_block() {
  block.alive = block.num_threads;
  block.at_barrier = 0;
  block.ready_warps = 0;
  block.warp = 0;
  for (int i = 0; i < block.num_threads; ++i) {
    Thread& thread = block.threads[i];
    thread.stack = nullptr;
    thread.has_waited_for_predecessor = false;
    thread.copies.clear();
  }
  for (int i = 0; i < block.num_warps; ++i) {
    const int lanes = std::min(32, block.num_threads - i * 32);
    Warp& warp = block.warps[i];
    warp.alive = lanes == 32 ? 0xffffffffu : (1u << lanes) - 1;
    warp.ready = 0;
    warp.at_barrier = 0;
    warp.num_meetings = 0;
    set_ready(i, warp.alive);
  }
  continue_thread(&block.host_context, draw_thread());
  current = nullptr;
  if (block.result.error == cudaSuccess) return;
  free_stacks.clear();  // those of the threads that were given up, too
  for (const auto& stack : stacks) free_stacks.push_back(stack.get());
}

void prepare_threads(const Grid& grid) {
  block.grid = &grid;
  block.result = {};
  block.num_threads = static_cast<int>(grid.block.x * grid.block.y * grid.block.z);
  block.num_warps = (block.num_threads + 31) / 32;
  blockDim = grid.block;
  gridDim = grid.num_blocks;
  int number = 0;
  for (unsigned z = 0; z < grid.block.z; ++z)
    for (unsigned y = 0; y < grid.block.y; ++y)
      for (unsigned x = 0; x < grid.block.x; ++x, ++number) {
        block.threads[number].idx = {x, y, z};
        block.threads[number].number = number;
      }
}

uint64_t seed() {
  static const uint64_t value = [] {
    const char* text = std::getenv("HYMBA_EMULATOR_SEED");
    return text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
  }();
  return value;
}

}  // namespace

GridResult run_grid(const Grid& grid) {
  static uint64_t num_grids = 0;
  lots = (seed() + 1) * 0x9e3779b97f4a7c15ull ^ ++num_grids * 0xd1342543de82ef95ull;
  prepare_threads(grid);
  static GuardedMemory shared_memory(kMaxSharedBytes, kSharedAlignment);
  dynamic_shared = shared_memory.right_aligned(grid.shared_bytes);
  const std::vector<MemoryRange> static_shared = static_variables(grid.kernel);
  const FaultCatcher catcher;

  // Blocks in any order: from any one on, with any stride that meets them all.
  const uint64_t blocks =
      static_cast<uint64_t>(grid.num_blocks.x) * grid.num_blocks.y * grid.num_blocks.z;
  const uint64_t start = draw() % blocks;
  uint64_t stride = draw() % blocks + 1;
  while (std::gcd(stride, blocks) != 1) ++stride;
  for (uint64_t i = 0; i < blocks && block.result.error == cudaSuccess; ++i) {
    const uint64_t idx = (start + i * stride) % blocks;
    blockIdx.x = static_cast<unsigned>(idx % grid.num_blocks.x);
    blockIdx.y = static_cast<unsigned>(idx / grid.num_blocks.x % grid.num_blocks.y);
    blockIdx.z = static_cast<unsigned>(idx / grid.num_blocks.x / grid.num_blocks.y);
    if (grid.shared_bytes > 0) std::memset(dynamic_shared, kPoison, grid.shared_bytes);
    for (const MemoryRange& range : static_shared) std::memset(range.begin, kPoison, range.bytes);
    run_block();
  }
  return block.result;
}

int meet_block(Barrier kind, const Site& site, bool predicate) {
  constexpr const char* kNames[] = {"__syncthreads", "__syncthreads_count", "__syncthreads_and",
                                    "__syncthreads_or"};
  const char* name = kNames[static_cast<int>(kind)];
  Warp& warp = block.warps[current->number / 32];
  // Warps may meet at different barriers of a program, the lanes of one warp may not.
  if (warp.at_barrier != 0 && warp.barrier_site.line() != site.line())
    fail_thread(cudaErrorLaunchFailure, std::string(name) + " at " + text_of(site) +
                                            ", but other lanes of its warp are in the barrier at " +
                                            text_of(warp.barrier_site));
  if (block.at_barrier > 0 && block.barrier_kind != kind)
    fail_thread(cudaErrorLaunchFailure, std::string(name) + " at " + text_of(site) +
                                            ", but other threads are in " +
                                            kNames[static_cast<int>(block.barrier_kind)]);
  warp.barrier_site = site;
  if (block.at_barrier == 0) block.barrier_votes = 0;
  block.barrier_kind = kind;
  block.barrier_votes += predicate;
  if (++block.at_barrier == block.alive) {
    release_barrier();
  } else {
    warp.at_barrier |= 1u << current->number % 32;
    wait_in(name, site);
  }
  return block.barrier_result;
}

void meet_warp(const char* what, const Site& site, uint32_t mask, void* arguments,
               void (*all)(void* const* arguments, uint32_t mask)) {
  const int warp_idx = current->number / 32;
  const uint32_t bit = 1u << current->number % 32;
  Warp& warp = block.warps[warp_idx];
  const auto fail_here = [&](const std::string& problem) {
    fail_thread(cudaErrorLaunchFailure,
                std::string(what) + " at " + text_of(site) + ": " + problem);
  };
  if ((mask & bit) == 0) fail_here("the mask does not name the calling lane");
  if ((mask & ~warp.alive) != 0) fail_here("the mask names lanes that have ended or do not exist");
  warp.arguments[current->number % 32] = arguments;
  int idx = 0;
  while (idx < warp.num_meetings && warp.meetings[idx].mask != mask) ++idx;
  Meeting& meeting = warp.meetings[idx];
  if (idx == warp.num_meetings) {
    meeting = {mask, 0, what, site};
    ++warp.num_meetings;
  } else if (meeting.what != what && std::strcmp(meeting.what, what) != 0) {
    fail_here(std::string("other lanes of the mask are in ") + meeting.what + " at " +
              text_of(meeting.site));
  }
  meeting.arrived |= bit;
  if (meeting.arrived != mask) {
    wait_in(what, site);
    return;
  }
  meeting = warp.meetings[--warp.num_meetings];
  all(warp.arguments, mask);
  set_ready(warp_idx, mask & ~bit);
}

void fail_thread(cudaError_t error, const std::string& what) {
  fail_block(error, ", thread " + text_of(current->idx), what);
}

void note_wait_for_predecessor() { current->has_waited_for_predecessor = true; }

void* dynamic_shared_memory() { return dynamic_shared; }

CopyQueue& copies_of_thread() { return current->copies; }

bool in_kernel() { return current != nullptr; }

}  // namespace emulator
