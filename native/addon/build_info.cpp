#include "addon/build_info.h"

#include <string_view>

#include "addon/build_info_values.h"

namespace hymba {

Napi::Object build_info(Napi::Env env) {
  Napi::Object info = Napi::Object::New(env);
  info.Set("compiler", HYMBA_COMPILER);
  info.Set("buildType", HYMBA_BUILD_TYPE);
  info.Set("cuda", HYMBA_CUDA_VERSION);
  info.Set("cudaArchitectures", HYMBA_CUDA_ARCHITECTURES);
  constexpr std::string_view kSanitizer = HYMBA_SANITIZE;
  if (!kSanitizer.empty()) info.Set("sanitizer", kSanitizer.data());
  return info;
}

}  // namespace hymba
