// A fork-join pool for short parallel regions: about a hundred of them make one decoded token.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace hymba {

// `parallel_for` hands out tasks one by one to whichever thread is free, the calling one included,
// and returns when all are done. Which thread runs a task is not determined: a task's result must
// depend on its index only.
//
// Workers look out for the next region for a fraction of a millisecond, then sleep. A worker that
// comes late finds nothing left to do: the caller never waits for one to wake up.
class ThreadPool {
 public:
  // `num_threads` ≥ 1 counts the calling thread. Throws kOutOfMemory when a thread cannot be
  // started.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls fn(task) for every task in [0, num_tasks), num_tasks < 2^32. When tasks throw, the first
  // exception to arrive is thrown here, and tasks that had not begun by then are dropped. A call
  // from inside a task, or from another thread while the pool is busy, runs on the thread that
  // makes it.
  template <typename Fn>
  void parallel_for(int64_t num_tasks, Fn&& fn) {
    if (num_tasks > 1 && !workers_.empty() && try_run(num_tasks, TaskRef(fn))) return;
    for (int64_t task = 0; task < num_tasks; ++task) fn(task);
  }

 private:
  // A reference to a callable: two words, where a std::function would allocate.
  class TaskRef {
   public:
    TaskRef() = default;
    template <typename Fn>
    explicit TaskRef(Fn& fn)
        : object_(const_cast<void*>(static_cast<const void*>(std::addressof(fn)))),
          call_([](void* object, int64_t task) { (*static_cast<Fn*>(object))(task); }) {}
    void operator()(int64_t task) const { call_(object_, task); }

   private:
    void* object_ = nullptr;
    void (*call_)(void*, int64_t) = nullptr;
  };

  bool try_run(int64_t num_tasks, TaskRef task);
  bool run_one_task();
  void wake_workers(int64_t count);
  void work();
  bool wait_for_task();
  bool spin_for_task() const;
  bool has_task() const;
  void stop();

  std::vector<std::thread> workers_;
  std::atomic<bool> busy_ = false;

  // The current region. Written before its ticket is, and left alone until its last task is done.
  TaskRef task_;
  int64_t num_tasks_ = 0;
  uint64_t region_ = 0;

  // Upper half: the region's number; lower half: how many of its tasks nobody has taken yet. One
  // word, so that a worker that was suspended between reading it and taking a task cannot take one
  // of a later region by mistake.
  alignas(64) std::atomic<uint64_t> ticket_ = 0;
  alignas(64) std::atomic<int64_t> num_unfinished_ = 0;

  std::atomic<bool> failed_ = false;
  std::exception_ptr error_;  // guarded by mutex_

  std::atomic<int> num_sleeping_ = 0;
  std::atomic<bool> stopping_ = false;
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace hymba
