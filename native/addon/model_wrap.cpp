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
                             InstanceMethod<&NativeModel::room>("room"),
                             InstanceMethod<&NativeModel::usage>("usage"),
                             InstanceMethod<&NativeModel::create_sequence>("createSequence"),
                             InstanceMethod<&NativeModel::release_sequence>("releaseSequence"),
                             InstanceMethod<&NativeModel::snapshot>("snapshot"),
                             InstanceMethod<&NativeModel::retire_sequence>("retireSequence"),
                             InstanceMethod<&NativeModel::resume>("resume"),
                             InstanceMethod<&NativeModel::is_snapshot>("isSnapshot"),
                             InstanceMethod<&NativeModel::own_pages>("ownPages"),
                             InstanceMethod<&NativeModel::create_at>("createSequenceAt"),
                             InstanceMethod<&NativeModel::read_sequence>("readSequence"),
                             InstanceMethod<&NativeModel::write_sequence>("writeSequence"),
                             InstanceMethod<&NativeModel::step>("step"),
                             InstanceMethod<&NativeModel::trace>("trace"),
                             InstanceMethod<&NativeModel::dispose>("dispose")}));
  }

  explicit NativeModel(const Napi::CallbackInfo& info)
      : ObjectWrap(info), env_(info.Env()), promises_(info.Env()) {
    // When the environment ends (process exit, a worker's end), no thread may be left that could
    // call into it.
    napi_add_env_cleanup_hook(env_, shut_down, &engine_);
  }

  ~NativeModel() override { napi_remove_env_cleanup_hook(env_, shut_down, &engine_); }

 private:
  using Ticket = std::shared_ptr<PromiseQueue::Ticket>;

  static void shut_down(void* engine) { static_cast<Engine*>(engine)->shut_down(); }

  // Runs `work(engine)` on the engine's thread; the promise resolves with what its result becomes
  // in JavaScript. Until then the object is not collected.
  template <typename Work>
  Napi::Value run(const Napi::CallbackInfo& info, Work work) {
    auto [promise, ticket] = promises_.open(info.Env());
    Ref();
    engine_.post([this, ticket = ticket, work = std::move(work)] {
      settle(ticket, [&] { return work(engine_); });
    });
    return promise;
  }

  // Settles with what the result of `work()` becomes in JavaScript, or with what it throws.
  template <typename Work>
  void settle(const Ticket& ticket, const Work& work) {
    std::function<Napi::Value(Napi::Env)> result;
    std::exception_ptr error;
    try {
      result = work();
    } catch (...) {
      error = std::current_exception();
    }
    promises_.settle(ticket, [this, result = std::move(result), error](Napi::Env env) {
      Unref();
      if (error) std::rethrow_exception(error);
      return result(env);
    });
  }

  // The engine's model. A job may find that one before it disposed of the model.
  static Model& loaded(const Engine& engine) {
    if (engine.model == nullptr) fail(ErrorCode::kDisposed, "the model is not loaded");
    return *engine.model;
  }

  // The same for the JavaScript thread, which must not look at a model that is about to go.
  Model& model() const {
    if (disposed_) fail(ErrorCode::kDisposed, "the model was disposed");
    return loaded(engine_);
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
    return Napi::Number::New(info.Env(), engine_.load_progress);
  }

  void stop(const Napi::CallbackInfo&) { engine_.stop = true; }

  Napi::Value memory(const Napi::CallbackInfo& info) {
    return guarded(info.Env(),
                   [&] { return to_js(info.Env(), model().memory(), model().layout()); });
  }

  Napi::Value room(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return to_js(info.Env(), model().room()); });
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

  // -1: there was no room.
  Napi::Value snapshot(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const SequenceId id = info[0].As<Napi::Number>().Int64Value();
      const bool proven = info[1].As<Napi::Boolean>().Value();
      return Napi::Number::New(info.Env(),
                               static_cast<double>(model().snapshot(id, proven).value_or(-1)));
    });
  }

  void retire_sequence(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { model().retire_sequence(info[0].As<Napi::Number>().Int64Value()); });
  }

  Napi::Value resume(const Napi::CallbackInfo& info) {
    const auto tokens = info[1].As<Napi::Int32Array>();
    return guarded(info.Env(), [&] {
      const SequenceId id = model().resume(info[0].As<Napi::Number>().Int64Value(),
                                           {tokens.Data(), tokens.ElementLength()});
      return Napi::Number::New(info.Env(), static_cast<double>(id));
    });
  }

  Napi::Value is_snapshot(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const SequenceId id = info[0].As<Napi::Number>().Int64Value();
      return Napi::Boolean::New(info.Env(), model().is_snapshot(id));
    });
  }

  Napi::Value own_pages(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return Napi::Number::New(info.Env(),
                               model().own_pages(info[0].As<Napi::Number>().Int64Value()));
    });
  }

  Napi::Value create_at(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const SequenceId id = model().create_at(info[0].As<Napi::Number>().Int32Value());
      return Napi::Number::New(info.Env(), static_cast<double>(id));
    });
  }

  // As it is after the steps that were asked for before.
  Napi::Value read_sequence(const Napi::CallbackInfo& info) {
    auto carried = guarded(info.Env(), [&] {
      const SequenceId id = info[0].As<Napi::Number>().Int64Value();
      model().image_bytes(id);  // refuses a sequence without tokens
      return std::make_shared<CarriedSequence>(model().carry(id));
    });
    return run(info, [carried = std::move(carried)](Engine& engine) {
      const auto image = std::make_shared<std::vector<char>>(loaded(engine).read(*carried));
      return [image](Napi::Env env) -> Napi::Value {
        return Napi::Buffer<char>::Copy(env, image->data(), image->size());
      };
    });
  }

  // Before the steps that are asked for later.
  Napi::Value write_sequence(const Napi::CallbackInfo& info) {
    const auto bytes = info[1].As<Napi::Uint8Array>();
    std::vector<char> image(bytes.Data(), bytes.Data() + bytes.ByteLength());
    auto carried = guarded(info.Env(), [&] {
      const SequenceId id = info[0].As<Napi::Number>().Int64Value();
      const size_t expected = model().image_bytes(id);
      if (image.size() != expected)
        fail(ErrorCode::kInvalidArgument, "an image of ", image.size(),
             " bytes, but the sequence has ", expected);
      return std::make_shared<CarriedSequence>(model().carry(id));
    });
    return run(info, [carried = std::move(carried), image = std::move(image)](Engine& engine) {
      loaded(engine).write(*carried, image);
      return [](Napi::Env env) { return env.Undefined(); };
    });
  }

  // The cache moves on at once, in the order of the calls, and refuses what does not fit; the
  // device follows in the same order.
  Napi::Value step(const Napi::CallbackInfo& info) {
    auto begun = guarded(info.Env(), [&] {
      return std::make_shared<BegunStep>(model().begin(spans_from_js(info[0].As<Napi::Array>())));
    });
    auto [promise, ticket] = promises_.open(info.Env());
    Ref();
    engine_.post(
        [this, ticket = ticket, begun = std::move(begun)] { submit(ticket, std::move(*begun)); });
    return promise;
  }

  // Hands a step to the device; its promise is settled when the device is done, while the next step
  // may already be under way.
  void submit(const Ticket& ticket, BegunStep begun) {
    try {
      const auto pending = std::make_shared<PendingStep>(loaded(engine_).submit(std::move(begun)));
      engine_.defer({.ready = [pending] { return pending->ready(); },
                     .finish =
                         [this, ticket, pending] {
                           settle(ticket, [&] {
                             return [outputs = loaded(engine_).collect(std::move(*pending))](
                                        Napi::Env env) { return to_js(env, outputs); };
                           });
                         }});
    } catch (...) {
      settle(ticket, [error = std::current_exception()]() -> std::function<Napi::Value(Napi::Env)> {
        std::rethrow_exception(error);
      });
    }
  }

  Napi::Value trace(const Napi::CallbackInfo& info) {
    const auto tokens = info[0].As<Napi::Int32Array>();
    const auto layers = info[1].As<Napi::Int32Array>();
    auto begun = guarded(info.Env(), [&] {
      return std::make_shared<BegunStep>(
          model().begin_trace({tokens.Data(), tokens.ElementLength()}));
    });
    std::vector<int> layer_ids(layers.Data(), layers.Data() + layers.ElementLength());
    return run(info, [begun = std::move(begun), layer_ids = std::move(layer_ids)](Engine& engine) {
      return [traced = loaded(engine).trace(*begun, layer_ids)](Napi::Env env) {
        return to_js(env, traced);
      };
    });
  }

  // Frees the model once what was queued before is done.
  Napi::Value dispose(const Napi::CallbackInfo& info) {
    disposed_ = true;
    return run(info, [](Engine& engine) {
      engine.finish_deferred();
      engine.model = nullptr;
      return [](Napi::Env env) { return env.Undefined(); };
    });
  }

  const Napi::Env env_;
  bool disposed_ = false;
  PromiseQueue promises_;
  Engine engine_;  // last: its thread, which settles promises, ends first
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
