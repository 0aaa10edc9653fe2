// Between JavaScript objects and the structs of native/model. TypeScript has validated them: here
// their shape is taken for granted.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "addon/napi_setup.h"
#include "model/model.h"

namespace hymba {

// Everything that a model is loaded with (NativeLoadOptions in lib/binding.ts).
struct LoadRequest {
  ModelConfig config;
  ModelOptions options;
  TensorTable table;
  std::string device;
  int num_threads = 0;
};

LoadRequest load_request_from_js(const Napi::Object& object);
std::vector<SpanInput> spans_from_js(const Napi::Array& array);

Napi::Value to_js(Napi::Env env, const std::vector<SpanOutput>& outputs);
Napi::Value to_js(Napi::Env env, const std::vector<TraceTensor>& tensors);
Napi::Value to_js(Napi::Env env, const CacheUsage& usage);
Napi::Value to_js(Napi::Env env, const std::optional<DeviceRoom>& room);
// The plan's three slabs, and what the layout says about sequences and limits.
Napi::Value to_js(Napi::Env env, const MemoryPlan& plan, const KvLayout& layout);

}  // namespace hymba
