#include "addon/engine.h"

namespace hymba {
namespace {

// Jobs that may run while an earlier one waits for the device. One keeps the device busy: it is
// enqueued while its predecessor computes.
constexpr size_t kRunAhead = 1;

}  // namespace

Engine::Engine() : thread_([this] { run(); }) {}

Engine::~Engine() { shut_down(); }

void Engine::post(std::function<void()> job) {
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    jobs_.push_back(std::move(job));
  }
  wake_.notify_one();
}

void Engine::shut_down() {
  std::deque<std::function<void()>> dropped;  // destroyed outside of the lock
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    dropped.swap(jobs_);
  }
  stop = true;
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Engine::defer(Deferred deferred) { deferred_.push_back(std::move(deferred)); }

void Engine::finish_deferred() {
  while (!deferred_.empty()) finish_oldest();
}

void Engine::finish_oldest() {
  const Deferred oldest = std::move(deferred_.front());
  deferred_.pop_front();
  oldest.finish();
}

void Engine::run() {
  for (;;) {
    std::function<void()> job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return closed_ || !jobs_.empty() || !deferred_.empty(); });
      if (closed_ && jobs_.empty()) break;
      if (!jobs_.empty()) {
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
    }
    if (job) {
      job();
    } else {
      finish_oldest();
    }
    while (!deferred_.empty() && (deferred_.size() > kRunAhead || deferred_.front().ready()))
      finish_oldest();
  }
  finish_deferred();
}

}  // namespace hymba
