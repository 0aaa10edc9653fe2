#include "addon/devices.h"

#include <string>

#include "addon/build_info_values.h"
#ifdef HYMBA_WITH_CUDA
#include "cuda/runtime/device_info.h"
#endif

namespace hymba {
namespace {

#ifdef HYMBA_WITH_CUDA
// 0, which is no version, -> null.
Napi::Value version_or_null(Napi::Env env, int version) {
  if (version == 0) return env.Null();
  return Napi::String::New(env, cuda::version_text(version));
}

Napi::Value problem_or_null(Napi::Env env, const std::string& problem) {
  if (problem.empty()) return env.Null();
  return Napi::String::New(env, problem);
}

Napi::Object describe(Napi::Env env, const cuda::DeviceInfo& device) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("name", device.name);
  object.Set("computeCapability",
             std::to_string(device.compute_major) + "." + std::to_string(device.compute_minor));
  object.Set("multiprocessors", device.num_sms);
  object.Set("memoryBytes", static_cast<double>(device.memory_bytes));
  object.Set("availableBytes", static_cast<double>(device.available_bytes));
  object.Set("problem", problem_or_null(env, device.problem));
  return object;
}
#endif

}  // namespace

Napi::Object probe_devices(Napi::Env env) {
  Napi::Object report = Napi::Object::New(env);
  Napi::Array devices = Napi::Array::New(env);
#ifdef HYMBA_WITH_CUDA
  const cuda::DeviceProbe probe = cuda::probe_devices();
  report.Set("driverVersion", version_or_null(env, probe.driver_version));
  report.Set("runtimeVersion", version_or_null(env, probe.runtime_version));
  report.Set("problem", problem_or_null(env, probe.problem));
  for (uint32_t i = 0; i < probe.devices.size(); ++i)
    devices.Set(i, describe(env, probe.devices[i]));
#else
  report.Set("driverVersion", env.Null());
  report.Set("runtimeVersion", env.Null());
  report.Set("problem", "this addon was built without CUDA: " HYMBA_CUDA_VERSION);
#endif
  report.Set("devices", devices);
  return report;
}

}  // namespace hymba
