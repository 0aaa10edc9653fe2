// What the CUDA driver says about the machine, without ever failing: a machine may have no driver,
// or no device.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hymba::cuda {

struct DeviceInfo {
  std::string name;
  int compute_major = 0;
  int compute_minor = 0;
  int num_sms = 0;
  uint64_t shared_bytes_per_sm = 0;
  // Whether it runs what is compiled for sm_90a, unless HYMBA_PORTABLE_KERNELS is set.
  bool takes_sm90_kernels = false;
  uint64_t memory_bytes = 0;
  uint64_t available_bytes = 0;  // what a model may take at this moment
  // Whether a kernel of this build ran there and wrote what it should; empty when it did, else the
  // reason.
  std::string problem;
};

struct DeviceProbe {
  int runtime_version = 0;  // 13000: CUDA 13.0
  int driver_version = 0;   // the newest CUDA that the driver serves; 0: no driver
  std::string problem;      // why there is no device; empty when there is one
  std::vector<DeviceInfo> devices;
};

DeviceProbe probe_devices();

// 13010 -> "13.1"
std::string version_text(int version);

}  // namespace hymba::cuda
