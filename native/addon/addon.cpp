// The addon's table of contents. lib/binding.ts describes what it exports.

#include "addon/build_info.h"
#include "addon/cache_wrap.h"
#include "addon/devices.h"
#include "addon/error_js.h"
#include "addon/kernels_wrap.h"
#include "addon/model_wrap.h"
#include "addon/napi_setup.h"

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  using hymba::build_info, hymba::error_codes, hymba::probe_devices;
  const auto function = [&](const char* name, auto body) {
    exports.Set(name, Napi::Function::New(env, [body](const Napi::CallbackInfo& info) {
                  return body(info.Env());
                }));
  };
  function("buildInfo", build_info);
  function("errorCodes", error_codes);
  function("probeDevices", probe_devices);
  hymba::init_model_wrap(env, exports);
  hymba::init_cache_wrap(env, exports);
  hymba::init_kernels_wrap(env, exports);
  return exports;
}

NODE_API_MODULE(hymba, init)
