// What this addon was built with.
#pragma once

#include <napi.h>

namespace hymba {

// { compiler, buildType, cuda, cudaArchitectures }, all strings, "none" for what is not there;
// `sanitizer` in an instrumented build.
Napi::Object build_info(Napi::Env env);

}  // namespace hymba
