// The batch sizes that decode steps are padded to.
#pragma once

#include <algorithm>
#include <cstdint>

namespace hymba {

// Decode steps of the same size run the same stages on the same memory, so a backend can replay
// them. Sizes are rounded up to few: the smallest of 1, 2, 4, 8, 16, 24, 32, then multiples of 16
// up to 128, of 32 up to 256, and of 64, that holds `num_sequences`; at most `max_sequences`.
constexpr int64_t decode_batch(int64_t num_sequences, int64_t max_sequences) {
  const auto round_up = [](int64_t value, int64_t step) {
    return (value + step - 1) / step * step;
  };
  int64_t size = 1;
  while (size < num_sequences && size < 8) size *= 2;
  if (size < num_sequences) size = round_up(num_sequences, 8);
  if (size > 32) size = round_up(num_sequences, 16);
  if (size > 128) size = round_up(num_sequences, 32);
  if (size > 256) size = round_up(num_sequences, 64);
  return std::min(size, max_sequences);
}

static_assert(decode_batch(3, 64) == 4 && decode_batch(9, 64) == 16 && decode_batch(33, 64) == 48);
static_assert(decode_batch(129, 512) == 160 && decode_batch(257, 512) == 320);
static_assert(decode_batch(60, 61) == 61);

}  // namespace hymba
