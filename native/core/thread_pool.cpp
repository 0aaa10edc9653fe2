#include "core/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace hymba {
namespace {

using Clock = std::chrono::steady_clock;

// Regions follow each other within microseconds: that long a waiting thread keeps its core to
// itself. Then it lets others have the core, and looks again whenever it gets it. Waking a sleeper
// costs the caller 5 to 30 µs (in a virtual machine), so that a worker goes to sleep only after it
// has seen no region for as long as the pause between two tokens lasts.
constexpr std::chrono::microseconds kSpinAlone{20};
constexpr std::chrono::microseconds kSpinPolitely{200};
constexpr int kPausesPerLook = 4;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits a moment, in the way that suits a thread that has waited for `waited`.
void relax(Clock::duration waited) {
  if (waited < kSpinAlone) {
    for (int i = 0; i < kPausesPerLook; ++i) pause();
  } else {
    std::this_thread::yield();
  }
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  check(num_threads >= 1, "ThreadPool: ", num_threads, " threads");
  workers_.reserve(num_threads - 1);
  try {
    while (this->num_threads() < num_threads) workers_.emplace_back([this] { work(); });
  } catch (const std::system_error& error) {
    const int started = this->num_threads();
    stop();
    fail(ErrorCode::kOutOfMemory, "cannot start thread ", started + 1, " of ", num_threads, ": ",
         error.what());
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

// Runs the region on all threads, or returns false when the pool is in the middle of another one.
bool ThreadPool::try_run(int64_t num_tasks, TaskRef task) {
  check(num_tasks <= std::numeric_limits<uint32_t>::max(), "ThreadPool: ", num_tasks, " tasks");
  if (busy_.exchange(true, std::memory_order_acquire)) return false;
  task_ = task;
  num_tasks_ = num_tasks;
  num_unfinished_.store(num_tasks, std::memory_order_relaxed);
  ++region_;
  ticket_.store(region_ << 32 | static_cast<uint64_t>(num_tasks));
  wake_workers(num_tasks - 1);

  while (run_one_task()) {
  }
  // What is left is in the hands of workers, and at most one task long.
  const Clock::time_point start = Clock::now();
  while (num_unfinished_.load(std::memory_order_acquire) > 0) relax(Clock::now() - start);

  const std::exception_ptr error = std::exchange(error_, nullptr);
  failed_.store(false, std::memory_order_relaxed);
  busy_.store(false, std::memory_order_release);
  if (error) std::rethrow_exception(error);
  return true;
}

// Takes a task and runs it; false when there is none. Holding a task pins its region: `try_run`
// cannot return before the task is counted as finished, so task_ and num_tasks_ are those of the
// ticket.
bool ThreadPool::run_one_task() {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  do {
    if (static_cast<uint32_t>(ticket) == 0) return false;
  } while (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel,
                                          std::memory_order_acquire));
  if (!failed_.load(std::memory_order_relaxed)) {
    try {
      task_(num_tasks_ - static_cast<uint32_t>(ticket));
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      failed_.store(true, std::memory_order_relaxed);
    }
  }
  num_unfinished_.fetch_sub(1, std::memory_order_release);
  return true;
}

// The ticket was stored before num_sleeping_ is read, and a worker that goes to sleep counts itself
// before it reads the ticket a last time (both sequentially consistent): one of the two sees the
// other. Taking the mutex lets a worker that has counted itself reach its wait.
void ThreadPool::wake_workers(int64_t count) {
  const int64_t num_sleeping = num_sleeping_.load();
  if (num_sleeping == 0) return;
  { const std::lock_guard lock(mutex_); }
  for (int64_t i = std::min(count, num_sleeping); i > 0; --i) wake_.notify_one();
}

void ThreadPool::work() {
  do {
    while (run_one_task()) {
    }
  } while (wait_for_task());
}

bool ThreadPool::has_task() const { return static_cast<uint32_t>(ticket_.load()) != 0; }

// False when the pool stops.
bool ThreadPool::wait_for_task() {
  if (spin_for_task()) return true;
  std::unique_lock lock(mutex_);
  ++num_sleeping_;
  wake_.wait(lock, [this] { return stopping_ || has_task(); });
  --num_sleeping_;
  return !stopping_;
}

bool ThreadPool::spin_for_task() const {
  Clock::time_point start = Clock::now();
  uint64_t seen = ticket_.load();
  while (!stopping_.load(std::memory_order_relaxed)) {
    const uint64_t ticket = ticket_.load();
    if (static_cast<uint32_t>(ticket) != 0) return true;
    const Clock::time_point now = Clock::now();
    if (ticket != seen) {  // a region has come and gone; the next one is near
      seen = ticket;
      start = now;
    }
    if (now - start > kSpinPolitely) break;
    relax(now - start);
  }
  return false;
}

}  // namespace hymba
