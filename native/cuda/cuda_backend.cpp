#include "cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "cuda/attention/attention.h"
#include "cuda/gemm/pack_matrix.h"
#include "cuda/gemm/x_proj.h"
#include "cuda/hybrid_heads/hybrid_heads.h"
#include "cuda/packed_matrix.h"
#include "cuda/runtime/device_room.h"
#include "cuda/runtime/replay.h"
#include "cuda/runtime/staging.h"
#include "cuda/sample/sample.h"
#include "cuda/stages.h"

namespace hymba::cuda {
namespace {

// Large enough that the copies of a checkpoint run at the bus's speed, few enough that the pinned
// memory is not missed.
constexpr int kUploadBuffers = 4;
constexpr size_t kUploadBufferBytes = 8 << 20;

// One for each (span, K/V head) of a step is the most that a stage counts. The last one counts
// tickets.
constexpr int kCounters = 64 * 1024;

class DeviceSlab final : public Slab {
 public:
  DeviceSlab(DeviceMemory memory, size_t bytes) : memory_(std::move(memory)), bytes_(bytes) {}
  void* data() const override { return memory_.get(); }
  size_t bytes() const override { return bytes_; }

 private:
  DeviceMemory memory_;
  size_t bytes_;
};

class DeviceDownload final : public Download {
 public:
  DeviceDownload(DownloadPool& pool, cudaStream_t stream, const void* from, size_t bytes)
      : pool_(pool), buffer_(pool.take(bytes)) {
    check_cuda(cudaMemcpyAsync(buffer_.memory.get(), from, bytes, cudaMemcpyDeviceToHost, stream),
               "downloading");
    check_cuda(cudaEventRecord(buffer_.arrived.get(), stream), "recording a download");
  }
  ~DeviceDownload() override {
    cudaEventSynchronize(buffer_.arrived.get());  // the buffer must not be reused before
    pool_.give_back(std::move(buffer_));
  }

  bool ready() const override { return cudaEventQuery(buffer_.arrived.get()) == cudaSuccess; }
  const void* wait() override {
    check_cuda(cudaEventSynchronize(buffer_.arrived.get()), "waiting for a download");
    return buffer_.memory.get();
  }

 private:
  DownloadPool& pool_;
  DownloadPool::Buffer buffer_;
};

// What exists once there is a device.
struct Session {
  explicit Session(const DeviceInfo& info)
      : device(info),
        stream(make_stream()),
        uploads(stream.get(), kUploadBuffers, kUploadBufferBytes) {}

  DeviceInfo device;
  Stream stream;
  UploadRing uploads;
  DownloadPool downloads;
  ReplayCache replays;
};

Session open_session() {
  constexpr int kDevice = 0;  // CUDA_VISIBLE_DEVICES picks another one
  const DeviceProbe probe = probe_devices();
  if (probe.devices.empty()) fail(ErrorCode::kNoDevice, "no usable GPU: ", probe.problem);
  const DeviceInfo& device = probe.devices[kDevice];
  if (!device.problem.empty())
    fail(ErrorCode::kUnsupportedDevice, "the kernels do not run on GPU ", kDevice, " (",
         device.name, "): ", device.problem);
  check_cuda(cudaSetDevice(kDevice), "choosing the device");
  return Session(device);
}

class CudaBackend final : public Backend {
 public:
  ~CudaBackend() override {
    if (session_) cudaStreamSynchronize(session_->stream.get());
  }

  std::unique_ptr<Slab> allocate(size_t bytes) override {
    Session& session = this->session();
    DeviceMemory memory = bytes > 0 ? allocate_device(bytes) : nullptr;
    if (bytes > 0)
      check_cuda(cudaMemsetAsync(memory.get(), 0, bytes, session.stream.get()), "clearing memory");
    return std::make_unique<DeviceSlab>(std::move(memory), bytes);
  }

  std::optional<DeviceRoom> room() override {
    session();
    return device_room();
  }

  void upload(void* to, const void* from_host, size_t bytes) override {
    Session& session = this->session();
    for (size_t done = 0; done < bytes; done += kUploadBufferBytes) {
      const size_t count = std::min(kUploadBufferBytes, bytes - done);
      session.uploads.pass(
          [&](void* buffer) {
            std::memcpy(buffer, static_cast<const char*>(from_host) + done, count);
          },
          [&](const void* buffer) {
            check_cuda(cudaMemcpyAsync(static_cast<char*>(to) + done, buffer, count,
                                       cudaMemcpyHostToDevice, session.stream.get()),
                       "uploading");
          });
    }
  }

  void copy(void* to, const void* from, size_t bytes) override {
    check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, session().stream.get()),
               "copying");
  }

  void copy_rows(void* to, const void* from, size_t bytes, size_t stride, size_t rows) override {
    check_cuda(cudaMemcpy2DAsync(to, stride, from, stride, bytes, rows, cudaMemcpyDeviceToDevice,
                                 session().stream.get()),
               "copying rows");
  }

  void fill_zero(const TensorView& view) override {
    check(view.dense(), "fill_zero: a strided view");
    check_cuda(cudaMemsetAsync(view.raw(), 0, view.bytes(), session().stream.get()), "clearing");
  }

  void synchronize() override {
    check_cuda(cudaStreamSynchronize(session().stream.get()), "waiting for the device");
  }

  void download(void* to_host, const void* from, size_t bytes) override {
    check_cuda(
        cudaMemcpyAsync(to_host, from, bytes, cudaMemcpyDeviceToHost, session().stream.get()),
        "downloading");
    synchronize();
  }

  std::unique_ptr<Download> start_download(const void* from, size_t bytes) override {
    Session& session = this->session();
    return std::make_unique<DeviceDownload>(session.downloads, session.stream.get(), from, bytes);
  }

  void replayable(uint64_t key, const std::function<void()>& stages) override {
    session().replays.run(session().stream.get(), key, stages);
  }

  size_t scratch_bytes(const StageLimits& limits) const override {
    return kCounters * sizeof(uint32_t) +
           std::max({attention_scratch_bytes(limits), x_proj_scratch_bytes(limits),
                     hybrid_heads_scratch_bytes(limits), sample_scratch_bytes(limits)});
  }

  void use_scratch(void* memory, size_t bytes) override {
    constexpr size_t kCounterBytes = kCounters * sizeof(uint32_t);
    check(bytes >= kCounterBytes, "use_scratch: ", bytes, " bytes");
    counters_ = static_cast<uint32_t*>(memory);
    scratch_ = static_cast<char*>(memory) + kCounterBytes;
    scratch_bytes_ = bytes - kCounterBytes;
  }

  double elapsed_ms(const std::function<void()>& stages) override {
    const cudaStream_t stream = session().stream.get();
    const Event begin = make_event(/*timing=*/true), end = make_event(/*timing=*/true);
    check_cuda(cudaEventRecord(begin.get(), stream), "timing");
    stages();
    check_cuda(cudaEventRecord(end.get(), stream), "timing");
    check_cuda(cudaEventSynchronize(end.get()), "timing");
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "timing");
    return milliseconds;
  }

  Matrix import_matrix(std::span<const TensorView> row_blocks, DType act, Arena& arena) override {
    return act == DType::kBF16 ? import_packed(row_blocks, arena)
                               : import_row_major(row_blocks, arena);
  }
  bool borrows_host_weights() const override { return false; }

 private:
  static Matrix describe(std::span<const TensorView> row_blocks, DType dtype) {
    check(!row_blocks.empty() && row_blocks.size() <= Matrix::kMaxBlocks,
          "import_matrix: ", row_blocks.size(), " blocks");
    return {.num_blocks = static_cast<int>(row_blocks.size()),
            .rows = row_blocks[0].dim(0),
            .cols = row_blocks[0].dim(1),
            .dtype = dtype};
  }

  // The rows of a host matrix, a pinned buffer at a time.
  template <typename Enqueue>
  void pass_rows(const TensorView& rows, const Enqueue& enqueue) {
    UploadRing& uploads = session().uploads;
    const size_t row_bytes = rows.row_elements() * dtype_bytes(rows.dtype());
    const int64_t rows_a_pass = static_cast<int64_t>(uploads.buffer_bytes() / row_bytes);
    check(rows_a_pass > 0, "import_matrix: a row of ", row_bytes, " bytes");
    for (int64_t first = 0; first < rows.rows(); first += rows_a_pass) {
      const int64_t count = std::min(rows_a_pass, rows.rows() - first);
      uploads.pass(
          [&](void* buffer) {
            std::memcpy(buffer, rows.slice_rows(first, count).raw(), count * row_bytes);
          },
          [&](const void* buffer) { enqueue(buffer, first, count); });
    }
  }

  // The pack kernel reads the pinned buffer over the bus: there is no copy in between.
  Matrix import_packed(std::span<const TensorView> row_blocks, Arena& arena) {
    Matrix matrix = describe(row_blocks, DType::kBF16);
    matrix.packed = true;
    auto* packed = static_cast<BFloat16*>(arena.take_bytes(
        packed_elements(matrix.rows, matrix.cols, matrix.num_blocks) * sizeof(BFloat16)));
    matrix.blocks[0] = packed;
    for (int block = 0; packed != nullptr && block < matrix.num_blocks; ++block) {
      const TensorView& rows = row_blocks[block];
      pass_rows(rows, [&](const void* buffer, int64_t first, int64_t count) {
        pack_rows({.rows = buffer,
                   .dtype = rows.dtype(),
                   .first_row = first,
                   .num_rows = count,
                   .block = block,
                   .matrix = &matrix,
                   .packed = packed},
                  launch_context());
        packing_ = true;
      });
    }
    return matrix;
  }

  Matrix import_row_major(std::span<const TensorView> row_blocks, Arena& arena) {
    const DType dtype = row_blocks[0].dtype();
    if (dtype == DType::kF16)
      fail(ErrorCode::kModelUnsupported,
           "float16 weights in a float32 model on CUDA: load it with dtype \"bfloat16\"");
    Matrix matrix = describe(row_blocks, dtype);
    for (int block = 0; block < matrix.num_blocks; ++block) {
      const TensorView& rows = row_blocks[block];
      void* to = arena.take_bytes(rows.bytes());
      matrix.blocks[block] = to;
      if (to != nullptr) upload(to, rows.raw(), rows.bytes());
    }
    return matrix;
  }

  Session& session() {
    if (!session_) session_.emplace(open_session());
    return *session_;
  }

  // For a stage. Kernels read matrices before they wait for their predecessor, so what packs them
  // must have ended.
  LaunchContext context() {
    if (packing_) synchronize();
    packing_ = false;
    return launch_context();
  }

  LaunchContext launch_context() {
    Session& session = this->session();
    return {.stream = session.stream.get(),
            .device = &session.device,
            .counters = counters_,
            .num_counters = kCounters - 1,
            .tickets = counters_ + kCounters - 1,
            .scratch = scratch_,
            .scratch_bytes = scratch_bytes_};
  }

  void run(const EmbedTokensArgs& args) override { cuda::embed_tokens(args, context()); }
  void run(const GatherRowsArgs& args) override { cuda::gather_rows(args, context()); }
  void run(const RmsNormArgs& args) override { cuda::rms_norm(args, context()); }
  void run(const LinearArgs& args) override { cuda::linear(args, context()); }
  void run(const GatedLinearArgs& args) override { cuda::gated_linear(args, context()); }
  void run(const RotaryKvWriteArgs& args) override { cuda::rotary_kv_write(args, context()); }
  void run(const AttentionArgs& args) override { cuda::attention(args, context()); }
  void run(const CausalConv1dArgs& args) override { cuda::causal_conv1d(args, context()); }
  void run(const XProjArgs& args) override { cuda::x_proj(args, context()); }
  void run(const DtProjArgs& args) override { cuda::dt_proj(args, context()); }
  void run(const SelectiveScanArgs& args) override { cuda::selective_scan(args, context()); }
  void run(const HybridHeadsArgs& args) override {
    if (fuses_heads(args, context()))
      cuda::hybrid_heads(args, context());
    else
      Backend::run(args);
  }
  void run(const FuseHeadsArgs& args) override { cuda::fuse_heads(args, context()); }
  void run(const NormedProductArgs& args) override {
    if (!cuda::normed_product(args, context())) Backend::run(args);
  }
  void run(const CountTokensArgs& args) override { cuda::count_tokens(args, context()); }
  void run(const SampleArgs& args) override { cuda::sample(args, context()); }
  void run(const TokenLogprobsArgs& args) override { cuda::token_logprobs(args, context()); }
  void run(const RecallTokensArgs& args) override { cuda::recall_tokens(args, context()); }
  void run(const RememberTokensArgs& args) override { cuda::remember_tokens(args, context()); }

  std::optional<Session> session_;
  uint32_t* counters_ = nullptr;
  void* scratch_ = nullptr;
  size_t scratch_bytes_ = 0;
  bool packing_ = false;  // matrices, since the device was last waited for
};

}  // namespace

std::unique_ptr<Backend> make_cuda_backend() { return std::make_unique<CudaBackend>(); }

}  // namespace hymba::cuda
