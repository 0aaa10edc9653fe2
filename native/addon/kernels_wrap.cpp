#include "addon/kernels_wrap.h"

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "addon/error_js.h"
#include "addon/kernel_args.h"
#include "addon/kernel_heap.h"
#include "addon/kernel_stages.h"
#include "addon/make_backend.h"

namespace hymba {
namespace {

// For stages that cut their work over many blocks, which then meet in fp32. Generous, since no
// model's limits say here what a stage may be called with.
constexpr size_t kScratchBytes = 64 << 20;

int64_t get_int64(const Napi::Value& value) { return value.As<Napi::Number>().Int64Value(); }

struct HostBlock {
  int64_t rows;
  int64_t cols;
  DType dtype;
  std::span<const char> bytes;
};

HostBlock block_from_js(const Napi::Object& object) {
  const auto data = object.Get("bytes").As<Napi::Uint8Array>();
  const HostBlock block{.rows = get_int64(object.Get("rows")),
                        .cols = get_int64(object.Get("cols")),
                        .dtype = dtype_from_js(object.Get("dtype")),
                        .bytes = {reinterpret_cast<const char*>(data.Data()), data.ByteLength()}};
  // TypeScript lets no extent be above 2^31: the product has room.
  if (block.rows < 1 || block.cols < 1 || block.dtype == DType::kI32 ||
      block.dtype == DType::kU16 ||
      block.bytes.size() !=
          static_cast<uint64_t>(block.rows * block.cols) * dtype_bytes(block.dtype))
    fail(ErrorCode::kInvalidArgument, "a matrix of ", block.rows, " x ", block.cols, " ",
         dtype_name(block.dtype), " in ", block.bytes.size(), " bytes");
  return block;
}

// One device and everything that was allocated on it. Everything happens on the JavaScript thread,
// in the order of the calls.
class NativeKernelDevice final : public Napi::ObjectWrap<NativeKernelDevice> {
 public:
  static void init(Napi::Env env, Napi::Object exports) {
    using Self = NativeKernelDevice;
    exports.Set("NativeKernelDevice",
                DefineClass(env, "NativeKernelDevice",
                            {InstanceMethod<&Self::allocate>("allocate"),
                             InstanceMethod<&Self::import_matrix>("importMatrix"),
                             InstanceMethod<&Self::release>("release"),
                             InstanceMethod<&Self::memory_bytes>("memoryBytes"),
                             InstanceMethod<&Self::upload>("upload"),
                             InstanceMethod<&Self::download>("download"),
                             InstanceMethod<&Self::copy>("copy"), InstanceMethod<&Self::run>("run"),
                             InstanceMethod<&Self::elapsed_ms>("elapsedMs"),
                             InstanceMethod<&Self::synchronize>("synchronize"),
                             InstanceMethod<&Self::dispose>("dispose")}));
  }

  explicit NativeKernelDevice(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    guarded(info.Env(), [&] {
      backend_ = make_backend(info[0].As<Napi::String>().Utf8Value(),
                              info[1].As<Napi::Number>().Int32Value());
      // Memory is what makes a backend look for its device.
      scratch_ = backend_->allocate(kScratchBytes);
      backend_->use_scratch(scratch_->data(), scratch_->bytes());
    });
  }

  void Finalize(Napi::BasicEnv env) override { account(env, -static_cast<int64_t>(heap_.bytes())); }

 private:
  Backend& backend() const {
    if (backend_ == nullptr) fail(ErrorCode::kDisposed, "the kernel device was disposed");
    return *backend_;
  }

  // For everything but stages: what is being timed may be recorded and replayed.
  Backend& idle_backend() const {
    Backend& backend = this->backend();
    if (is_timing_) fail(ErrorCode::kBusy, "work that is being timed may only call stages");
    return backend;
  }

  // JavaScript's collector sees only the small objects that hold the memory.
  static void account(Napi::BasicEnv env, int64_t bytes) {
    Napi::MemoryManagement::AdjustExternalMemory(env, bytes);
  }

  Napi::Value allocate(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const int64_t bytes = get_int64(info[0]);
      if (bytes < 1) fail(ErrorCode::kInvalidArgument, "allocate: ", bytes, " bytes");
      const int64_t id = heap_.add(idle_backend().allocate(static_cast<size_t>(bytes)));
      account(info.Env(), bytes);
      return Napi::Number::New(info.Env(), static_cast<double>(id));
    });
  }

  // importMatrix([{ rows, cols, dtype, bytes }, …], act)
  Napi::Value import_matrix(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      Backend& backend = idle_backend();
      KernelMatrix result{
          .matrix = {}, .act = dtype_from_js(info[1]), .slab = {}, .host_blocks = {}};
      std::vector<TensorView> views;
      const auto blocks = info[0].As<Napi::Array>();
      for (uint32_t i = 0; i < blocks.Length(); ++i) {
        const HostBlock block = block_from_js(blocks.Get(i).As<Napi::Object>());
        result.host_blocks.emplace_back(block.bytes.begin(), block.bytes.end());
        views.emplace_back(result.host_blocks.back().data(), block.dtype,
                           std::initializer_list<int64_t>{block.rows, block.cols});
        if (block.rows != views[0].dim(0) || block.cols != views[0].dim(1) ||
            block.dtype != views[0].dtype())
          fail(ErrorCode::kInvalidArgument, "the blocks of a matrix differ in shape or dtype");
      }
      if (views.empty() || views.size() > Matrix::kMaxBlocks)
        fail(ErrorCode::kInvalidArgument, "a matrix of ", views.size(), " blocks");

      Arena counting;
      backend.import_matrix(views, result.act, counting);
      result.slab = backend.allocate(counting.bytes());
      Arena arena(result.slab->data(), result.slab->bytes());
      result.matrix = backend.import_matrix(views, result.act, arena);
      if (!backend.borrows_host_weights()) result.host_blocks.clear();

      account(info.Env(), static_cast<int64_t>(result.bytes()));
      return Napi::Number::New(info.Env(), static_cast<double>(heap_.add(std::move(result))));
    });
  }

  // Also while work is being timed, and after dispose: it is the collector that decides when.
  void release(const Napi::CallbackInfo& info) {
    account(info.Env(), -static_cast<int64_t>(heap_.remove(get_int64(info[0]))));
  }

  Napi::Value memory_bytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(heap_.bytes()));
  }

  // `count` bytes of a memory from an offset on.
  char* range(const Napi::Value& id, const Napi::Value& offset, size_t count) const {
    const Slab& slab = heap_.memory(get_int64(id));
    const int64_t first = get_int64(offset);
    if (first < 0 || count > slab.bytes() || static_cast<size_t>(first) > slab.bytes() - count)
      fail(ErrorCode::kInvalidArgument, count, " bytes from ", first, " on, of a memory of ",
           slab.bytes());
    return static_cast<char*>(slab.data()) + first;
  }

  // upload(memory, byteOffset, Uint8Array)
  void upload(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      const auto bytes = info[2].As<Napi::Uint8Array>();
      idle_backend().upload(range(info[0], info[1], bytes.ByteLength()), bytes.Data(),
                            bytes.ByteLength());
    });
  }

  // download(memory, byteOffset, Uint8Array)
  void download(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      auto bytes = info[2].As<Napi::Uint8Array>();
      idle_backend().download(bytes.Data(), range(info[0], info[1], bytes.ByteLength()),
                              bytes.ByteLength());
    });
  }

  // copy(to, toOffset, from, fromOffset, bytes), in the order of the stages
  void copy(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      const auto bytes = static_cast<size_t>(get_int64(info[4]));
      backend().copy(range(info[0], info[1], bytes), range(info[2], info[3], bytes), bytes);
    });
  }

  // run(stage, fields)
  void run(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      run_kernel_stage(backend(), info[0].As<Napi::String>().Utf8Value(),
                       info[1].As<Napi::Object>(), heap_);
    });
  }

  // elapsedMs(work, replayKey): with a key other than 0 the work is replayable under it.
  Napi::Value elapsed_ms(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      Backend& backend = idle_backend();
      const auto work = info[0].As<Napi::Function>();
      const auto key = static_cast<uint64_t>(get_int64(info[1]));
      const auto stages = [&] { work.Call({}); };
      const Timing timing(is_timing_);
      const double elapsed = backend.elapsed_ms([&] {
        if (key == 0)
          stages();
        else
          backend.replayable(key, stages);
      });
      return Napi::Number::New(info.Env(), elapsed);
    });
  }

  void synchronize(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] { idle_backend().synchronize(); });
  }

  // Idempotent.
  void dispose(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      if (backend_ == nullptr) return;
      idle_backend();
      account(info.Env(), -static_cast<int64_t>(heap_.bytes()));
      heap_ = {};
      scratch_ = nullptr;
      backend_ = nullptr;
    });
  }

  struct Timing {
    explicit Timing(bool& flag) : flag(flag) { flag = true; }
    ~Timing() { flag = false; }
    bool& flag;
  };

  std::unique_ptr<Backend> backend_;  // null once disposed; first: it outlives its memory
  std::unique_ptr<Slab> scratch_;
  KernelHeap heap_;
  bool is_timing_ = false;
};

}  // namespace

void init_kernels_wrap(Napi::Env env, Napi::Object exports) {
  NativeKernelDevice::init(env, exports);
}

}  // namespace hymba
