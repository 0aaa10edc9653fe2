// What the emulated device says about itself.
#include "emulator/device.h"
#include "emulator/guarded_memory.h"
#include "emulator/runtime_api.h"
#include "emulator/settings.h"

namespace emulator {

bool has_kernel_image() {
  const size_t compute = setting("COMPUTE", 90);
  return compute >= 80 && compute <= setting("MAX_COMPUTE", 999);
}

}  // namespace emulator

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = static_cast<int>(emulator::setting("DRIVER", 13000));
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  int runtime = 0, driver = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  *count = driver < runtime ? 0 : 1;
  return driver < runtime ? cudaErrorInsufficientDriver : cudaSuccess;
}
cudaError_t cudaGetDevice(int* idx) {
  *idx = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int idx) { return idx == 0 ? cudaSuccess : cudaErrorInvalidDevice; }

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int idx) {
  if (idx != 0) return cudaErrorInvalidDevice;
  // An H100, but for the memory.
  *properties = {
      .name = "CUDA emulator",
      .totalGlobalMem = emulator::device_bytes(),
      .sharedMemPerBlock = emulator::kMaxDefaultSharedBytes,
      .sharedMemPerBlockOptin = emulator::kMaxSharedBytes,
      .sharedMemPerMultiprocessor = 228 * 1024,
      .regsPerBlock = 65536,
      .regsPerMultiprocessor = 65536,
      .warpSize = 32,
      .maxThreadsPerBlock = 1024,
      .maxThreadsPerMultiProcessor = 2048,
      .maxThreadsDim = {1024, 1024, 64},
      .maxGridSize = {0x7fffffff, 65535, 65535},
      .major = static_cast<int>(emulator::setting("COMPUTE", 90) / 10),
      .minor = static_cast<int>(emulator::setting("COMPUTE", 90) % 10),
      .multiProcessorCount = 132,
      .l2CacheSize = 50 << 20,
      .persistingL2CacheMaxSize = 0,
      .integrated = 0,
  };
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int idx) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, idx);
  if (error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      break;
    case cudaDevAttrWarpSize:
      *value = properties.warpSize;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      break;
    case cudaDevAttrL2CacheSize:
      *value = properties.l2CacheSize;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(properties.sharedMemPerMultiprocessor);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      break;
  }
  return cudaSuccess;
}
