// Errors on their way from C++ to JavaScript. lib/errors.ts turns them into HymbaError by their
// `code`.
#pragma once

#include <exception>

#include "addon/napi_setup.h"
#include "core/error.h"

namespace hymba {

// An Error of JavaScript with the message, and the name of our code as `code`; ERR_INTERNAL for
// exceptions that are not ours.
Napi::Error to_js_error(Napi::Env env, std::exception_ptr exception);

// The names of all codes, in the order of ErrorCode.
Napi::Array error_codes(Napi::Env env);

// Runs `body` on the JavaScript thread; what it throws arrives in JavaScript.
template <typename Body>
auto guarded(Napi::Env env, const Body& body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_js_error(env, std::current_exception());
  }
}

}  // namespace hymba
