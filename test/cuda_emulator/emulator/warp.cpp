#include "emulator/warp.h"

#include <bit>

namespace emulator {

void vote_all(Lanes<VoteArguments> lanes) {
  uint32_t ballot = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (lanes.has(lane)) ballot |= static_cast<uint32_t>(lanes[lane].predicate) << lane;
  for (int lane = 0; lane < 32; ++lane)
    if (lanes.has(lane)) lanes[lane].ballot = ballot;
}

void match_all(Lanes<MatchArguments> lanes) {
  for (int lane = 0; lane < 32; ++lane) {
    if (!lanes.has(lane)) continue;
    lanes[lane].same = 0;
    for (int other = 0; other < 32; ++other)
      if (lanes.has(other) && lanes[other].value == lanes[lane].value)
        lanes[lane].same |= 1u << other;
  }
}

namespace {

float low(uint32_t pair) { return std::bit_cast<float>(pair << 16); }
float high(uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); }

}  // namespace

void mma_16x8x16_all(Lanes<MmaArguments> lanes) {
  float a[16][16];
  float b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4;
    const int col = lane % 4 * 2;
    const MmaArguments& own = lanes[lane];
    for (int i = 0; i < 4; ++i) {
      a[group + i % 2 * 8][col + i / 2 * 8] = low(own.a[i]);
      a[group + i % 2 * 8][col + i / 2 * 8 + 1] = high(own.a[i]);
    }
    for (int i = 0; i < 2; ++i) {
      b[col + i * 8][group] = low(own.b[i]);
      b[col + i * 8 + 1][group] = high(own.b[i]);
    }
  }
  float d[16][8];
  for (int row = 0; row < 16; ++row) {
    float sum[8] = {};
    for (int k = 0; k < 16; ++k)
      for (int col = 0; col < 8; ++col) sum[col] += a[row][k] * b[k][col];
    for (int col = 0; col < 8; ++col) d[row][col] = sum[col];
  }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) lanes[lane].d[i] += d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

template <bool kTransposed>
void load_matrix_x4_all(Lanes<LoadMatrixArguments> lanes) {
  // Read everything first: the compiler may keep a row's address where another lane's r is.
  uint16_t matrices[4][8][8];
  for (int lane = 0; lane < 32; ++lane) {
    const void* row = lanes[lane].row;
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
      fail_thread(cudaErrorMisalignedAddress,
                  "load_matrix_x4: the row of lane " + std::to_string(lane) +
                      " starts at an address that is no multiple of 16");
    std::memcpy(matrices[lane / 8][lane % 8], row, 16);
  }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4;
      const int col = lane % 4 * 2;
      const uint32_t first = kTransposed ? matrices[i][col][row] : matrices[i][row][col];
      const uint32_t second = kTransposed ? matrices[i][col + 1][row] : matrices[i][row][col + 1];
      lanes[lane].r[i] = second << 16 | first;
    }
}
template void load_matrix_x4_all<false>(Lanes<LoadMatrixArguments>);
template void load_matrix_x4_all<true>(Lanes<LoadMatrixArguments>);

}  // namespace emulator
