// Checks the CUDA emulator: that it computes what CUDA defines, and that it finds what CUDA leaves
// undefined. Prints one line a check that failed and exits with 1, or nothing.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "cuda/device/ptx.cuh"
#include "cuda/device/reduce.cuh"
#include "cuda/device/shared.cuh"

using namespace hymba::cuda;

namespace {

int num_failures = 0;

void expect(bool condition, const std::string& what) {
  if (condition) return;
  std::printf("failed: %s\n", what.c_str());
  ++num_failures;
}

template <typename T>
struct Buffer {
  T* data = nullptr;
  size_t count;

  explicit Buffer(size_t count) : count(count) { cudaMalloc(&data, count * sizeof(T)); }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
    cudaMemcpy(data, values.data(), count * sizeof(T), cudaMemcpyHostToDevice);
  }
  ~Buffer() { cudaFree(data); }
  std::vector<T> read() const {
    std::vector<T> values(count);
    cudaMemcpy(values.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost);
    return values;
  }
};

template <typename... Params, typename... Args>
cudaError_t start(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
                  cudaStream_t stream, Args... args) {
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
}

// Starts, waits, and expects an error whose text has `text` in it.
template <typename... Params, typename... Args>
void expect_failure(const std::string& text, void (*kernel)(Params...), dim3 block, Args... args) {
  start(kernel, 1, block, 0, nullptr, args...);
  const cudaError_t error = cudaDeviceSynchronize();
  const std::string actual = cudaGetErrorString(error);
  expect(error != cudaSuccess && actual.find(text) != std::string::npos,
         "\"" + actual + "\" does not say \"" + text + "\"");
  cudaDeviceReset();
}

// --- What CUDA defines --------------------------------------------------------------------------

__global__ void shuffle_kernel(int* out) {
  wait_for_predecessor();
  const int lane = threadIdx.x % 32;
  int* row = out + threadIdx.x * 6;
  row[0] = __shfl_sync(kAllLanes, lane, lane + 5);
  row[1] = __shfl_up_sync(kAllLanes, lane, 3, 8);
  row[2] = __shfl_down_sync(kAllLanes, lane, 3, 8);
  row[3] = __shfl_xor_sync(kAllLanes, lane, 16);
  // Halves of a warp on their own, at the same time.
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  row[4] = static_cast<int>(__ballot_sync(half, lane % 3 == 0));
  row[5] = static_cast<int>(__reduce_add_sync(half, static_cast<unsigned>(lane)));
}

void test_shuffles() {
  Buffer<int> out(64 * 6);
  start(shuffle_kernel, 1, 64, 0, nullptr, out.data);
  const std::vector<int> rows = out.read();
  for (int thread = 0; thread < 64; ++thread) {
    const int lane = thread % 32;
    unsigned ballot = 0;
    int sum = 0;
    for (int i = lane / 16 * 16; i < lane / 16 * 16 + 16; ++i) {
      if (i % 3 == 0) ballot |= 1u << i;
      sum += i;
    }
    const int expected[6] = {
        (lane + 5) % 32, lane % 8 >= 3 ? lane - 3 : lane, lane % 8 < 5 ? lane + 3 : lane,
        lane ^ 16,       static_cast<int>(ballot),        sum};
    for (int i = 0; i < 6; ++i)
      expect(rows[thread * 6 + i] == expected[i],
             "shuffle " + std::to_string(i) + " of thread " + std::to_string(thread));
  }
}

__global__ void sum_kernel(const float* in, int count, float* out, unsigned* counter) {
  __shared__ float slots[32];
  allow_successor();
  wait_for_predecessor();
  float sum = 0.0f;
  for (int i = threadIdx.x; i < count; i += blockDim.x) sum += in[blockIdx.x * count + i];
  sum = block_sum(sum, slots);
  const int ends = __syncthreads_count(threadIdx.x % 2 == 0);
  if (threadIdx.x != 0) return;
  out[blockIdx.x] = sum + static_cast<float>(ends);
  if (arrive(counter, gridDim.x - 1) == gridDim.x - 1) out[gridDim.x] = 1.0f;
}

void test_sums_and_graphs() {
  const int rows = 7, count = 1000;
  std::vector<float> values(rows * count);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 13);
  Buffer<float> in(values), out(rows + 1);
  Buffer<unsigned> counter(1);
  cudaStream_t stream = nullptr;
  cudaStreamCreate(&stream);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
  cudaMemsetAsync(counter.data, 0, sizeof(unsigned), stream);
  start(sum_kernel, rows, 96, 0, stream, in.data, count, out.data, counter.data);
  expect(cudaDeviceSynchronize() == cudaErrorStreamCaptureUnsupported, "a wait in a capture");
  cudaStreamEndCapture(stream, &graph);
  cudaGraphInstantiate(&exec, graph);
  cudaGraphDestroy(graph);
  for (int run = 0; run < 2; ++run) {
    cudaMemset(out.data, 0, (rows + 1) * sizeof(float));
    cudaGraphLaunch(exec, stream);
    const std::vector<float> sums = out.read();
    for (int row = 0; row < rows; ++row) {
      float expected = 48.0f;
      for (int i = 0; i < count; ++i) expected += values[row * count + i];
      expect(sums[row] == expected, "sum of row " + std::to_string(row));
    }
    expect(sums[rows] == 1.0f, "the last block is the last");
  }
  expect(counter.read()[0] == 0, "the counter is zero again");
  cudaGraphExecDestroy(exec);
  cudaStreamDestroy(stream);
}

// D[16][8] = A[16][16] · B, B from [k][n] (transposed load) or from [n][k].
__global__ void mma_kernel(const uint16_t* a, const uint16_t* b, bool transposed, float* out) {
  auto* shared = dynamic_shared<uint16_t>();
  const int lane = threadIdx.x;
  wait_for_predecessor();
  copy_16_async(shared + lane * 8, a + lane * 8);
  copy_16_async(shared + 256 + lane % 16 * 8, b + lane % 16 * 8);
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  uint32_t a_regs[4], b_regs[4];
  load_matrix_x4(a_regs, shared + lane % 16 * 16 + lane / 16 * 8);
  const uint16_t* b_shared = shared + 256;
  if (transposed)
    load_matrix_x4_transposed(b_regs, b_shared + lane % 16 * 8);
  else
    load_matrix_x4(b_regs, b_shared + lane % 8 * 16 + lane / 8 % 2 * 8);
  float d[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  mma_16x8x16(d, a_regs, {b_regs[0], b_regs[1]});
  for (int i = 0; i < 4; ++i) out[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

void test_tensor_cores() {
  std::mt19937 random(1);
  std::vector<uint16_t> a(256), b(128);
  const auto fill = [&](std::vector<uint16_t>& bits) {
    for (uint16_t& x : bits)
      x = static_cast<uint16_t>(pack_bf16x2(static_cast<float>(random() % 17) - 8.0f, 0.0f));
  };
  const auto value = [](uint16_t bits) { return __uint_as_float(uint32_t{bits} << 16); };
  for (const bool transposed : {false, true}) {
    fill(a);
    fill(b);
    Buffer<uint16_t> a_device(a), b_device(b);
    Buffer<float> out(128);
    start(mma_kernel, 1, 32, 768, nullptr, a_device.data, b_device.data, transposed, out.data);
    const std::vector<float> d = out.read();
    for (int m = 0; m < 16; ++m)
      for (int n = 0; n < 8; ++n) {
        float expected = 1.0f;
        for (int k = 0; k < 16; ++k)
          expected += value(a[m * 16 + k]) * value(b[transposed ? k * 8 + n : n * 16 + k]);
        expect(d[m * 8 + n] == expected, "mma " + std::to_string(m) + ", " + std::to_string(n));
      }
  }
}

__global__ void copy_kernel(const float* in, float* out) {
  auto* shared = dynamic_shared<float>();
  wait_for_predecessor();
  out[0] = shared[0];
  copy_16_async(shared, in);
  commit_copies();
  copy_16_async(shared + 4, in, 8);
  commit_copies();
  out[1] = shared[0];
  wait_copies<1>();
  out[2] = shared[0];
  out[3] = shared[4];
  wait_copies<0>();
  out[4] = shared[5];
  out[5] = shared[6];
}

void test_copies() {
  Buffer<float> in(std::vector<float>{1, 2, 3, 4}), out(6);
  start(copy_kernel, 1, 1, 32, nullptr, in.data, out.data);
  const std::vector<float> values = out.read();
  expect(std::isnan(values[0]), "shared memory starts as NaN");
  expect(std::isnan(values[1]), "a copy that nobody waited for is not there");
  expect(values[2] == 1 && std::isnan(values[3]), "the older group is there, the newer is not");
  expect(values[4] == 2 && values[5] == 0, "bytes after the valid ones are zero");
}

// --- What CUDA leaves undefined -----------------------------------------------------------------

__global__ void forgets_to_wait_kernel() { allow_successor(); }

__global__ void diverging_barrier_kernel() {
  wait_for_predecessor();
  if (threadIdx.x % 2 == 0)
    __syncthreads();
  else
    __syncwarp(0xaaaaaaaau), __syncthreads();
}

__global__ void deadlock_kernel() {
  wait_for_predecessor();
  if (threadIdx.x == 0)
    __syncthreads();
  else
    __syncwarp();
}

__global__ void waits_for_later_block_kernel(const uint32_t* counter) {
  wait_for_predecessor();
  wait_for_count(counter, 1);
}

__global__ void ended_lane_kernel() {
  wait_for_predecessor();
  if (threadIdx.x == 3) return;
  __shfl_xor_sync(kAllLanes, 1, 1);
}

__global__ void write_kernel(int* out, int idx) {
  wait_for_predecessor();
  out[idx] = 1;
}

__global__ void misaligned_kernel(const int* in, int4* out) {
  wait_for_predecessor();
  *out = *reinterpret_cast<const int4*>(in + 1);
}

__global__ void static_bounds_kernel(int* out, int idx) {
  __shared__ int slots[8];
  wait_for_predecessor();
  slots[idx] = 1;
  *out = slots[0];
}

__global__ void static_poison_kernel(int* out) {
  __shared__ int slots[8];
  wait_for_predecessor();
  *out = slots[3];
  slots[3] = 5;
}

__global__ void race_kernel(int* out) {
  __shared__ int slot[64];
  wait_for_predecessor();
  slot[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = slot[63 - threadIdx.x];  // no barrier
}

void test_failures() {
  Buffer<int> out(64);
  expect_failure("wait_for_predecessor", forgets_to_wait_kernel, 32);
  expect_failure("forgets_to_wait_kernel()", forgets_to_wait_kernel, 32);
  expect_failure("other lanes of its warp are in the barrier", diverging_barrier_kernel, 32);
  expect_failure("deadlock", deadlock_kernel, 32);
  {
    const Buffer<uint32_t> counter(std::vector<uint32_t>{0});
    expect_failure("waits for blocks", waits_for_later_block_kernel, 32, counter.data);
  }
  expect_failure("ended", ended_lane_kernel, 32);
  expect_failure("do not exist", ended_lane_kernel, 2);
  expect_failure("4 bytes behind an allocation of 256 bytes", write_kernel, 1, out.data, 65);
  expect_failure("no allocation", write_kernel, 1, nullptr, 0);
  expect_failure("misaligned access", misaligned_kernel, 1, out.data,
                 reinterpret_cast<int4*>(out.data));
  expect_failure("index 8 outside", static_bounds_kernel, 1, out.data, 8);
  for (const int idx : {-2, 3}) {
    Buffer<int> small(3);
    expect_failure("next to an allocation of 12 bytes", write_kernel, 1, small.data, idx);
  }
  for (int run = 0; run < 2; ++run) {
    start(static_poison_kernel, 1, 1, 0, nullptr, out.data);
    expect(out.read()[0] == -1, "static shared memory starts as NaN");
  }
  start(race_kernel, 1, 64, 0, nullptr, out.data);
  const std::vector<int> raced = out.read();
  int num_stale = 0;
  for (int i = 0; i < 64; ++i) num_stale += raced[i] != 63 - i;
  expect(num_stale > 0, "a missing barrier shows");
  expect(start(write_kernel, 1, 1025, 0, nullptr, out.data, 0) == cudaErrorInvalidConfiguration,
         "a block of 1025 threads is refused");
  expect(start(write_kernel, 1, 1, 49153, 0, out.data, 0) == cudaErrorInvalidConfiguration,
         "shared memory that was not asked for is refused");
  expect(cudaMemset(out.data, 0, 257) == cudaErrorInvalidValue, "a memset past the end is refused");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--help") == 0) {
    std::printf(
        "Usage: emulator_selftest\n\nChecks the CUDA emulator; exits with 1 on failures.\n");
    return 0;
  }
  test_shuffles();
  test_sums_and_graphs();
  test_tensor_cores();
  test_copies();
  test_failures();
  return num_failures > 0 ? 1 : 0;
}
