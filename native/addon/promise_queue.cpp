#include "addon/promise_queue.h"

#include "addon/error_js.h"

namespace hymba {

class PromiseQueue::Ticket {
 public:
  explicit Ticket(Napi::Env env) : deferred(Napi::Promise::Deferred::New(env)) {}
  Napi::Promise::Deferred deferred;
  std::function<Napi::Value(Napi::Env)> result;
};

struct PromiseQueue::State {
  Napi::ThreadSafeFunction function;
  std::atomic<bool> closed = false;
  int num_pending = 0;  // JavaScript thread only
};

PromiseQueue::PromiseQueue(Napi::Env env) : state_(std::make_shared<State>()) {
  const auto nothing = Napi::Function::New(env, [](const Napi::CallbackInfo&) {});
  // The finalizer runs when the environment ends, after which the function must not be touched.
  state_->function = Napi::ThreadSafeFunction::New(
      env, nothing, "hymba", /*maxQueueSize=*/0, /*initialThreadCount=*/1,
      [state = state_](Napi::Env) { state->closed = true; });
  state_->function.Unref(env);
}

PromiseQueue::~PromiseQueue() {
  if (!state_->closed) state_->function.Release();
}

std::pair<Napi::Promise, std::shared_ptr<PromiseQueue::Ticket>> PromiseQueue::open(Napi::Env env) {
  auto ticket = std::make_shared<Ticket>(env);
  if (state_->num_pending++ == 0) state_->function.Ref(env);
  return {ticket->deferred.Promise(), ticket};
}

void PromiseQueue::settle(std::shared_ptr<Ticket> ticket,
                          std::function<Napi::Value(Napi::Env)> result) {
  if (state_->closed) return;
  ticket->result = std::move(result);
  auto* carried = new std::shared_ptr<Ticket>(std::move(ticket));
  const auto on_js_thread = [state = state_](Napi::Env env, Napi::Function,
                                             std::shared_ptr<Ticket>* carried) {
    const std::unique_ptr<std::shared_ptr<Ticket>> owner(carried);
    if (env == nullptr) return;  // torn down: there is nobody left to tell
    if (--state->num_pending == 0) state->function.Unref(env);
    const std::shared_ptr<Ticket> ticket = std::move(*owner);
    const Napi::HandleScope scope(env);
    try {
      ticket->deferred.Resolve(ticket->result(env));
    } catch (const Napi::Error& thrown) {
      ticket->deferred.Reject(thrown.Value());
    } catch (...) {
      ticket->deferred.Reject(to_js_error(env, std::current_exception()).Value());
    }
  };
  if (state_->function.BlockingCall(carried, on_js_thread) != napi_ok) {
    state_->closed = true;
    delete carried;
  }
}

}  // namespace hymba
