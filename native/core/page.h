// The unit in which K/V memory is handed out.
#pragma once

#include <cstdint>

namespace hymba {

// Tokens in a page of any pool.
inline constexpr int kPageTokens = 64;

// The pages that `tokens` tokens fill or begin.
constexpr int64_t pages_for(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

}  // namespace hymba
