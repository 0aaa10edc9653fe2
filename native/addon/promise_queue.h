// Settles JavaScript promises from other threads.
#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include "addon/napi_setup.h"

namespace hymba {

// One of an environment's owners of pending promises. Created, and its promises made, on the
// JavaScript thread; `settle` is for any thread. While promises are pending the event loop stays
// alive.
class PromiseQueue {
 public:
  explicit PromiseQueue(Napi::Env env);
  ~PromiseQueue();
  PromiseQueue(const PromiseQueue&) = delete;
  PromiseQueue& operator=(const PromiseQueue&) = delete;

  // A promise and the ticket that settles it.
  class Ticket;
  std::pair<Napi::Promise, std::shared_ptr<Ticket>> open(Napi::Env env);

  // Resolves with what `result` returns on the JavaScript thread, or rejects with what it throws.
  // Exactly once a ticket; when the environment is being torn down nothing happens.
  void settle(std::shared_ptr<Ticket> ticket, std::function<Napi::Value(Napi::Env)> result);

 private:
  // Shared with the calls under way, which can outlive the queue while an environment ends.
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace hymba
