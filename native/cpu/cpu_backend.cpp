#include "cpu/cpu_backend.h"

#include <sched.h>
#include <sys/mman.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <vector>

#include "core/thread_pool.h"
#include "cpu/stages.h"

namespace hymba::cpu {
namespace {

// Anonymous pages: they read as zero, and cost memory only once they are written.
class HostSlab final : public Slab {
 public:
  explicit HostSlab(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED)
      fail(ErrorCode::kOutOfMemory, "cannot allocate ", bytes,
           " bytes of host memory: ", std::strerror(errno));
    data_ = data;
  }
  ~HostSlab() override {
    if (data_ != nullptr) munmap(data_, bytes_);
  }
  HostSlab(const HostSlab&) = delete;
  HostSlab& operator=(const HostSlab&) = delete;

  void* data() const override { return data_; }
  size_t bytes() const override { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

// Done when it is made: stages have run when their call returns.
class HostCopy final : public Download {
 public:
  HostCopy(const void* from, size_t bytes)
      : bytes_(static_cast<const char*>(from), static_cast<const char*>(from) + bytes) {}
  bool ready() const override { return true; }
  const void* wait() override { return bytes_.data(); }

 private:
  const std::vector<char> bytes_;
};

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(int num_threads) : pool_(num_threads) {}

  std::unique_ptr<Slab> allocate(size_t bytes) override {
    return std::make_unique<HostSlab>(bytes);
  }
  std::optional<DeviceRoom> room() override { return std::nullopt; }
  void upload(void* to, const void* from_host, size_t bytes) override {
    std::memcpy(to, from_host, bytes);
  }
  void copy(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }

  void copy_rows(void* to, const void* from, size_t bytes, size_t stride, size_t rows) override {
    for (size_t row = 0; row < rows; ++row)
      std::memcpy(static_cast<char*>(to) + row * stride,
                  static_cast<const char*>(from) + row * stride, bytes);
  }
  void fill_zero(const TensorView& view) override {
    check(view.dense(), "fill_zero: a strided view");
    std::memset(view.raw(), 0, view.bytes());
  }
  void synchronize() override {}
  void download(void* to_host, const void* from, size_t bytes) override {
    std::memcpy(to_host, from, bytes);
  }
  std::unique_ptr<Download> start_download(const void* from, size_t bytes) override {
    return std::make_unique<HostCopy>(from, bytes);
  }

  void replayable(uint64_t, const std::function<void()>& stages) override { stages(); }
  size_t scratch_bytes(const StageLimits&) const override { return 0; }
  void use_scratch(void*, size_t) override {}
  double elapsed_ms(const std::function<void()>& stages) override {
    const auto begin = std::chrono::steady_clock::now();
    stages();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
        .count();
  }

  Matrix import_matrix(std::span<const TensorView> row_blocks, DType, Arena&) override {
    check(!row_blocks.empty() && row_blocks.size() <= Matrix::kMaxBlocks,
          "import_matrix: ", row_blocks.size(), " blocks");
    Matrix matrix;
    for (const TensorView& block : row_blocks) matrix.blocks[matrix.num_blocks++] = block.raw();
    matrix.rows = row_blocks[0].dim(0);
    matrix.cols = row_blocks[0].dim(1);
    matrix.dtype = row_blocks[0].dtype();
    return matrix;
  }
  bool borrows_host_weights() const override { return true; }

 private:
  void run(const EmbedTokensArgs& args) override { cpu::embed_tokens(args); }
  void run(const GatherRowsArgs& args) override { cpu::gather_rows(args); }
  void run(const RmsNormArgs& args) override { cpu::rms_norm(args, pool_); }
  void run(const LinearArgs& args) override { cpu::linear(args, pool_); }
  void run(const GatedLinearArgs& args) override { cpu::gated_linear(args, pool_); }
  void run(const RotaryKvWriteArgs& args) override { cpu::rotary_kv_write(args, pool_); }
  void run(const AttentionArgs& args) override { cpu::attention(args, pool_); }
  void run(const CausalConv1dArgs& args) override { cpu::causal_conv1d(args, pool_); }
  void run(const XProjArgs& args) override { cpu::x_proj(args, pool_); }
  void run(const DtProjArgs& args) override { cpu::dt_proj(args, pool_); }
  void run(const SelectiveScanArgs& args) override { cpu::selective_scan(args, pool_); }
  void run(const FuseHeadsArgs& args) override { cpu::fuse_heads(args, pool_); }
  void run(const CountTokensArgs& args) override { cpu::count_tokens(args, pool_); }
  void run(const SampleArgs& args) override { cpu::sample(args, pool_); }
  void run(const TokenLogprobsArgs& args) override { cpu::token_logprobs(args, pool_); }
  void run(const RecallTokensArgs& args) override { cpu::recall_tokens(args); }
  void run(const RememberTokensArgs& args) override { cpu::remember_tokens(args); }

  ThreadPool pool_;
};

// Cores that this process may run on, which in a container is often fewer than the machine has.
int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(int num_threads) {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("f16c"))
    fail(
        ErrorCode::kUnsupportedDevice,
        "this CPU has no AVX2, FMA and F16C instructions, which the CPU backend needs (x86-64-v3)");
#endif
  return std::make_unique<CpuBackend>(num_threads > 0 ? num_threads : available_cores());
}

}  // namespace hymba::cpu
