// Streams, events, graphs and launches.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <thread>
#include <unordered_map>

#include "emulator/device.h"
#include "emulator/guarded_memory.h"
#include "emulator/launch.h"
#include "emulator/symbols.h"

struct CUgraph_st {
  std::vector<emulator::Operation> operations;
};
struct CUgraphExec_st {
  std::shared_ptr<const std::vector<emulator::Operation>> operations;
};
struct CUstream_st {
  // While a capture is on:
  std::unique_ptr<CUgraph_st> captured;
  cudaStreamCaptureMode mode{};
  std::thread::id thread;
};
struct CUevent_st {
  std::shared_ptr<double> seconds = std::make_shared<double>(-1.0);
};

namespace emulator {
namespace {

// A host that enqueues this much without ever waiting has the device start.
constexpr size_t kMaxQueued = 4096;

struct Device {
  // One queue for all streams: the order of calls is an order that CUDA may choose, too.
  std::deque<Operation> queue;
  bool is_running = false;
  std::vector<const CUstream_st*> captures;
  cudaError_t lost = cudaSuccess;
  std::string lost_text;
  cudaError_t last_error = cudaSuccess;
  std::unordered_map<const void*, int> dynamic_shared_limits;
};

Device device;

void drain() {
  if (device.is_running) return;  // a host function that calls the runtime
  device.is_running = true;
  while (!device.queue.empty()) {
    const Operation operation = std::move(device.queue.front());
    device.queue.pop_front();
    if (device.lost == cudaSuccess) operation();
  }
  device.is_running = false;
}

void run_and_check(const Grid& grid) {
  // Only the first failure counts: what follows works with its results.
  if (device.lost != cudaSuccess) return;
  const GridResult result = run_grid(grid);
  if (result.error != cudaSuccess) return fail_device(result.error, result.message);
  const std::string overrun = find_overrun();
  if (!overrun.empty())
    fail_device(cudaErrorIllegalAddress, "kernel " + symbol_name(grid.kernel) + ": " + overrun);
}

// Whether a capture forbids this thread to wait, to allocate, or to use the default stream.
bool is_restrained() {
  return std::any_of(device.captures.begin(), device.captures.end(), [](const CUstream_st* stream) {
    return stream->mode == cudaStreamCaptureModeGlobal ||
           (stream->mode == cudaStreamCaptureModeThreadLocal &&
            stream->thread == std::this_thread::get_id());
  });
}

cudaError_t done(const std::function<void()>& body) {
  return runtime_call([&] {
    body();
    return cudaSuccess;
  });
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

std::recursive_mutex& device_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

cudaError_t runtime_call(const std::function<cudaError_t()>& body) {
  const std::lock_guard lock(device_mutex());
  cudaError_t error = device.lost;
  if (error == cudaSuccess) try {
      error = body();
    } catch (cudaError_t thrown) {
      error = thrown;
    }
  if (error != cudaSuccess) device.last_error = error;
  return error;
}

void fail_device(cudaError_t error, const std::string& message) {
  std::fprintf(stderr, "CUDA emulator: %s\n", message.c_str());
  device.lost = error;
  device.lost_text = message;
}

void refuse(cudaError_t error, const std::string& message) {
  std::fprintf(stderr, "CUDA emulator: %s\n", message.c_str());
  throw error;
}

bool is_capturing(cudaStream_t stream) { return stream != nullptr && stream->captured; }

void enqueue(cudaStream_t stream, Operation operation) {
  if (stream == nullptr) require_no_capture("use of the default stream");
  if (stream != nullptr && stream->captured) {
    stream->captured->operations.push_back(std::move(operation));
    return;
  }
  device.queue.push_back(std::move(operation));
  if (device.queue.size() > kMaxQueued) drain();
}

void require_no_capture(const char* call) {
  if (is_restrained())
    refuse(cudaErrorStreamCaptureUnsupported, std::string(call) + " during a capture");
}

void synchronize(const char* call) {
  require_no_capture(call);
  drain();
  if (device.lost != cudaSuccess) throw device.lost;
}

cudaError_t enqueue_grid(const cudaLaunchConfig_t& config, Grid grid) {
  return runtime_call([&] {
    if (!has_kernel_image()) return cudaErrorNoKernelImageForDevice;
    grid.num_blocks = config.gridDim;
    grid.block = config.blockDim;
    grid.shared_bytes = config.dynamicSmemBytes;
    for (unsigned i = 0; i < config.numAttrs; ++i)
      if (config.attrs[i].id == cudaLaunchAttributeProgrammaticStreamSerialization)
        grid.overlaps_predecessor = config.attrs[i].val.programmaticStreamSerializationAllowed != 0;

    const auto refuse_launch = [&](const std::string& problem) {
      refuse(cudaErrorInvalidConfiguration,
             "launch of " + symbol_name(grid.kernel) + ": " + problem);
    };
    for (unsigned i = 0; i < config.numAttrs; ++i)
      if (config.attrs[i].id == cudaLaunchAttributeClusterDimension)
        refuse_launch("clusters are not emulated");
    const auto text = [](const dim3& v) {
      return std::to_string(v.x) + " x " + std::to_string(v.y) + " x " + std::to_string(v.z);
    };
    const dim3& blocks = grid.num_blocks;
    const dim3& block = grid.block;
    const uint64_t threads = uint64_t{block.x} * block.y * block.z;
    if (threads == 0 || threads > 1024 || block.z > 64)
      refuse_launch("a block of " + text(block) + " threads");
    if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0 || blocks.x > 0x7fffffffu ||
        blocks.y > 65535 || blocks.z > 65535)
      refuse_launch("a grid of " + text(blocks) + " blocks");
    const auto limit = device.dynamic_shared_limits.find(grid.kernel);
    const size_t allowed =
        limit == device.dynamic_shared_limits.end()
            ? kMaxDefaultSharedBytes
            : std::max(kMaxDefaultSharedBytes, static_cast<size_t>(limit->second));
    if (grid.shared_bytes > allowed)
      refuse_launch(std::to_string(grid.shared_bytes) + " bytes of shared memory, " +
                    std::to_string(allowed) + " are allowed");
    enqueue(config.stream, [grid = std::move(grid)] { run_and_check(grid); });
    return cudaSuccess;
  });
}

}  // namespace emulator

using emulator::device;
using emulator::done;
using emulator::runtime_call;

// --- Device -------------------------------------------------------------------------------------

cudaError_t cudaDeviceSynchronize() {
  return done([] { emulator::synchronize("cudaDeviceSynchronize"); });
}

cudaError_t cudaDeviceReset() {
  const std::lock_guard lock(emulator::device_mutex());
  device.queue.clear();
  device.lost = device.last_error = cudaSuccess;
  return cudaSuccess;
}

cudaError_t cudaPeekAtLastError() {
  const std::lock_guard lock(emulator::device_mutex());
  return device.lost != cudaSuccess ? device.lost : device.last_error;
}
cudaError_t cudaGetLastError() {
  const std::lock_guard lock(emulator::device_mutex());
  const cudaError_t error = cudaPeekAtLastError();
  device.last_error = cudaSuccess;
  return error;
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define X(name, value, text) \
  case name:                 \
    return #name;
    HYMBA_EMULATOR_ERRORS(X)
#undef X
  }
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  const std::lock_guard lock(emulator::device_mutex());
  if (error == device.lost && error != cudaSuccess) return device.lost_text.c_str();
  switch (error) {
#define X(name, value, text) \
  case name:                 \
    return text;
    HYMBA_EMULATOR_ERRORS(X)
#undef X
  }
  return "unrecognized error code";
}

// --- Streams and events -------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return done([&] { *stream = new CUstream_st; });
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(emulator::device_mutex());
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  std::erase(device.captures, stream);
  delete stream;
  return device.lost;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return done([] { emulator::synchronize("cudaStreamSynchronize"); });
}
cudaError_t cudaStreamQuery(cudaStream_t) {
  return done([] { emulator::synchronize("cudaStreamQuery"); });
}
// There is one queue.
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
  return done([] {});
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return done([&] { emulator::enqueue(stream, [=] { function(data); }); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return done([&] { *event = new CUevent_st; });
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return done([&] {
    emulator::enqueue(stream, [seconds = event->seconds] { *seconds = emulator::now(); });
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return done([] { emulator::synchronize("cudaEventSynchronize"); });
}
cudaError_t cudaEventQuery(cudaEvent_t) {
  return done([] { emulator::synchronize("cudaEventQuery"); });
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  return runtime_call([&] {
    if (*from->seconds < 0 || *to->seconds < 0) return cudaErrorNotReady;
    *ms = static_cast<float>((*to->seconds - *from->seconds) * 1e3);
    return cudaSuccess;
  });
}

// --- Graphs -------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return runtime_call([&] {
    if (stream == nullptr || stream->captured) return cudaErrorStreamCaptureUnsupported;
    stream->captured = std::make_unique<CUgraph_st>();
    stream->mode = mode;
    stream->thread = std::this_thread::get_id();
    device.captures.push_back(stream);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard lock(emulator::device_mutex());
  *graph = nullptr;
  if (stream == nullptr || !stream->captured) return cudaErrorInvalidValue;
  std::erase(device.captures, stream);
  *graph = stream->captured.release();
  return device.lost;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return done([&] {
    *status = stream != nullptr && stream->captured ? cudaStreamCaptureStatusActive
                                                    : cudaStreamCaptureStatusNone;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  return done([&] {
    *exec = new CUgraphExec_st{
        std::make_shared<const std::vector<emulator::Operation>>(graph->operations)};
  });
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph,
                                          unsigned long long flags) {
  return cudaGraphInstantiate(exec, graph, flags);
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
  return done([] {});
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return done([&] {
    emulator::enqueue(stream, [operations = exec->operations] {
      for (const emulator::Operation& operation : *operations) operation();
    });
  });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

// --- Kernels ------------------------------------------------------------------------------------

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  return done([&] {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return;
    if (value < 0 || static_cast<size_t>(value) > emulator::kMaxSharedBytes)
      emulator::refuse(
          cudaErrorInvalidValue,
          emulator::symbol_name(kernel) + ": " + std::to_string(value) + " bytes of shared memory");
    device.dynamic_shared_limits[kernel] = value;
  });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
  return done([&] {
    size_t static_bytes = 0;
    for (const emulator::MemoryRange& range : emulator::static_variables(kernel))
      static_bytes += range.bytes;
    const auto limit = device.dynamic_shared_limits.find(kernel);
    *attributes = {
        .sharedSizeBytes = static_bytes,
        .localSizeBytes = 0,
        .maxThreadsPerBlock = 1024,
        .numRegs = 64,
        .maxDynamicSharedSizeBytes = limit == device.dynamic_shared_limits.end()
                                         ? static_cast<int>(emulator::kMaxDefaultSharedBytes)
                                         : limit->second,
    };
  });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*,
                                                          int block_threads, size_t shared_bytes) {
  return done([&] {
    constexpr size_t kReservedBytes = 1024;  // of every block
    *blocks = std::min<int>({32, 2048 / std::max(block_threads, 1),
                             static_cast<int>(228 * 1024 / (shared_bytes + kReservedBytes))});
  });
}
