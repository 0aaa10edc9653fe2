// What an exponent of e is multiplied by to make it one of 2.
#pragma once

namespace hymba::cuda {

inline constexpr float kLog2E = 1.44269504088896341f;

}  // namespace hymba::cuda
