// The cache's bookkeeping as JavaScript classes, for tests: CacheLedger and RefcountPool.
#pragma once

#include <napi.h>

namespace hymba {

void init_cache_wrap(Napi::Env env, Napi::Object exports);

}  // namespace hymba
