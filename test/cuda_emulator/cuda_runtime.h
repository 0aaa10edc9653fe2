// Stands in for CUDA's header of the same name: with this folder first in the include path a .cu
// file compiles as ordinary C++, and its kernels run on the CPU, checked for what a GPU punishes
// with wrong numbers (README.md).
#pragma once

#include "emulator/atomics.h"
#include "emulator/block.h"
#include "emulator/copies.h"
#include "emulator/device_math.h"
#include "emulator/errors.h"
#include "emulator/keywords.h"
#include "emulator/launch.h"
#include "emulator/runtime_api.h"
#include "emulator/vector_types.h"
#include "emulator/warp.h"
