#include "addon/model_wrap.h"

#include <memory>
#include <utility>

#include "addon/convert.h"
#include "addon/engine.h"
#include "addon/error_js.h"
#include "addon/make_backend.h"
#include "addon/promise_queue.h"

namespace hymba {
namespace {

// Owns the engine of one model. Everything slow happens on the engine's thread and comes back as a
// promise; what only moves integers (sequences, usage) is synchronous.
class NativeModel final : public Napi::ObjectWrap<NativeModel> {
 public:
  static void init(Napi::Env env, Napi::Object exports) {
    exports.Set("NativeModel",
                DefineClass(env, "NativeModel",
                            {InstanceMethod<&NativeModel::load>("load"),
                             InstanceMethod<&NativeModel::load_progress>("loadProgress"),
                             InstanceMethod<&NativeModel::stop>("stop"),
                             InstanceMethod<&NativeModel::memory>("memory"),
                             InstanceMethod<&NativeModel::usage>("usage"),
                             InstanceMethod<&NativeModel::create_sequence>("createSequence"),
                             InstanceMethod<&NativeModel::release_sequence>("releaseSequence"),
                             InstanceMethod<&NativeModel::step>("step"),
                             InstanceMethod<&NativeModel::trace>("trace"),
                             InstanceMethod<&NativeModel::dispose>("dispose")}));
  }

  explicit NativeModel(const Napi::CallbackInfo& info)
      : ObjectWrap(info), shared_(std::make_shared<Shared>(info.Env())) {
    // When the environment ends (process exit, a worker's end), no thread may be left that could
    // call into it.
    info.Env().AddCleanupHook([weak = std::weak_ptr(shared_)] {
      if (const auto shared = weak.lock()) shared->engine.shut_down();
    });
  }

 private:
  // Jobs under way keep it alive, so that a model may be collected while they run.
  struct Shared {
    explicit Shared(Napi::Env env) : promises(env) {}
    PromiseQueue promises;
    Engine engine;
  };

  // Runs `work(engine)` on the engine's thread; the promise resolves with what its result becomes
  // in JavaScript.
  template <typename Work>
  Napi::Value run(const Napi::CallbackInfo& info, Work work) {
    auto [promise, ticket] = shared_->promises.open(info.Env());
    shared_->engine.post([shared = shared_.get(), keep_alive = shared_, ticket = ticket,
                          work = std::move(work)]() mutable {
      std::function<Napi::Value(Napi::Env)> result;
      std::exception_ptr error;
      try {
        result = work(shared->engine);
      } catch (...) {
        error = std::current_exception();
      }
      // The last reference may be this one; it goes to the JavaScript thread to die there.
      auto settle = [keep_alive = std::move(keep_alive),
                     result = std::move(result)](Napi::Env env) { return result(env); };
      shared->promises.settle(std::move(ticket), std::move(settle), error);
    });
    return promise;
  }

  Model& model() const {
    if (shared_->engine.model == nullptr) fail(ErrorCode::kDisposed, "the model is not loaded");
    return *shared_->engine.model;
  }

  Napi::Value load(const Napi::CallbackInfo& info) {
    LoadRequest request =
        guarded(info.Env(), [&] { return load_request_from_js(info[0].As<Napi::Object>()); });
    return run(info, [request = std::move(request)](Engine& engine) {
      engine.model =
          std::make_unique<Model>(request.config, request.options, request.table,
                                  make_backend(request.device, request.num_threads), engine.stop,
                                  [&engine](double fraction) { engine.load_progress = fraction; });
      return [](Napi::Env env) { return env.Undefined(); };
    });
  }

  Napi::Value load_progress(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), shared_->engine.load_progress);
  }

  void stop(const Napi::CallbackInfo&) { shared_->engine.stop = true; }

  Napi::Value memory(const Napi::CallbackInfo& info) {
    return guarded(info.Env(),
                   [&] { return to_js(info.Env(), model().memory(), model().layout()); });
  }

  Napi::Value usage(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return to_js(info.Env(), model().usage()); });
  }

  Napi::Value create_sequence(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return Napi::Number::New(info.Env(), static_cast<double>(model().create_sequence()));
    });
  }

  void release_sequence(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { model().release_sequence(info[0].As<Napi::Number>().Int64Value()); });
  }

  Napi::Value step(const Napi::CallbackInfo& info) {
    std::vector<SpanInput> spans = guarded(info.Env(), [&] {
      model();
      return spans_from_js(info[0].As<Napi::Array>());
    });
    return run(info, [spans = std::move(spans)](Engine& engine) {
      return [outputs = engine.model->step(spans)](Napi::Env env) { return to_js(env, outputs); };
    });
  }

  Napi::Value trace(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { model(); });
    const auto tokens = info[0].As<Napi::Int32Array>();
    const auto layers = info[1].As<Napi::Int32Array>();
    std::vector<int32_t> token_ids(tokens.Data(), tokens.Data() + tokens.ElementLength());
    std::vector<int> layer_ids(layers.Data(), layers.Data() + layers.ElementLength());
    return run(
        info, [token_ids = std::move(token_ids), layer_ids = std::move(layer_ids)](Engine& engine) {
          return [traced = engine.model->trace(token_ids, layer_ids)](Napi::Env env) {
            return to_js(env, traced);
          };
        });
  }

  // Frees the model once what was queued before is done.
  Napi::Value dispose(const Napi::CallbackInfo& info) {
    return run(info, [](Engine& engine) {
      engine.model = nullptr;
      return [](Napi::Env env) { return env.Undefined(); };
    });
  }

  std::shared_ptr<Shared> shared_;
};

Napi::Value plan_memory_js(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const LoadRequest request = load_request_from_js(info[0].As<Napi::Object>());
    const auto backend = make_backend(request.device, /*num_threads=*/1);
    const MemoryPlan plan = plan_memory(request.config, request.options, request.table, *backend);
    return to_js(info.Env(), plan, make_kv_layout(request.config, request.options));
  });
}

}  // namespace

void init_model_wrap(Napi::Env env, Napi::Object exports) {
  NativeModel::init(env, exports);
  exports.Set("planMemory", Napi::Function::New(env, plan_memory_js));
}

}  // namespace hymba
