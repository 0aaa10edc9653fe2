// The native engine of one model: a thread that owns the model and runs queued work in order.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "model/model.h"

namespace hymba {

// Knows nothing of JavaScript. All members but the atomics, and what of `model` is for the thread
// that begins steps, belong to the engine's thread.
class Engine {
 public:
  Engine();
  // Stops what runs at its next layer, drops what is queued, and joins the thread.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Queues a job. Jobs must not throw. After `shut_down` they are dropped.
  void post(std::function<void()> job);

  // The part of a job that waits for the device. While it is not ready the next job may already
  // run, so that the device has work when it becomes so. Must not throw; finished in order.
  struct Deferred {
    std::function<bool()> ready;
    std::function<void()> finish;
  };
  // The next two are for jobs.
  void defer(Deferred deferred);
  void finish_deferred();

  // Ends the running job as soon as may be, drops queued ones, finishes what was deferred, and
  // waits for the thread. Idempotent.
  void shut_down();

  std::atomic<bool> stop = false;         // asks the model to give up
  std::atomic<double> load_progress = 0;  // 0 to 1
  std::unique_ptr<Model> model;           // null before load and after dispose

 private:
  void run();
  void finish_oldest();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;  // guarded by mutex_
  bool closed_ = false;                     // guarded by mutex_
  std::deque<Deferred> deferred_;           // the thread's own
  std::thread thread_;
};

}  // namespace hymba
