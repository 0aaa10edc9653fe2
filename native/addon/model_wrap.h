// The JavaScript class NativeModel, and planMemory: lib/binding.ts describes both.
#pragma once

#include "addon/napi_setup.h"

namespace hymba {

void init_model_wrap(Napi::Env env, Napi::Object exports);

}  // namespace hymba
