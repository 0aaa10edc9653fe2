#include "addon/error_js.h"

#include <new>

namespace hymba {
namespace {

Napi::Error make_error(Napi::Env env, const char* message, const char* code) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  return error;
}

}  // namespace

Napi::Error to_js_error(Napi::Env env, std::exception_ptr exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const Error& error) {
    return make_error(env, error.what(), error.code_name());
  } catch (const std::bad_alloc&) {
    return make_error(env, "out of host memory", "ERR_OUT_OF_MEMORY");
  } catch (const std::exception& error) {
    return make_error(env, error.what(), "ERR_INTERNAL");
  } catch (...) {
    return make_error(env, "an unknown native exception", "ERR_INTERNAL");
  }
}

Napi::Array error_codes(Napi::Env env) {
  auto codes = Napi::Array::New(env);
  for (const char* name : kErrorCodeNames) codes.Set(codes.Length(), name);
  return codes;
}

}  // namespace hymba
