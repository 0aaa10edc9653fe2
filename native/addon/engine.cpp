#include "addon/engine.h"

namespace hymba {

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

void Engine::run() {
  for (;;) {
    std::function<void()> job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return closed_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
  }
}

}  // namespace hymba
