// How much memory the current device has left.
#pragma once

#include "ops/ops.h"

namespace hymba::cuda {

// Throws kDeviceLost. Makes the device's context, if there is none: it takes memory too.
DeviceRoom device_room();

}  // namespace hymba::cuda
