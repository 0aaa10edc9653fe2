// Rotary position embedding: the table of cosines and sines that rotary_kv_write reads.
#pragma once

#include <vector>

namespace hymba {

enum class RopeType { kNone, kDefault, kNtk, kDynamicNtk };

struct RopeConfig {
  RopeType type = RopeType::kNone;
  double theta = 10000.0;
  int max_positions = 0;
  int original_max_positions = 0;
};

// Row p is for the token at position p (meta tokens included): head_dim/2 cosines, then head_dim/2
// sines, of the angles p · base^(-2k/head_dim). Empty for kNone.
//
// base: `default` theta; `ntk` theta · (2·max/original - 1)^(Dk/(Dk-2)); `dynamic_ntk` theta up to
// the original length, from there the same formula with the length p + 1 in the place of max. So
// dynamic scaling too depends on a token's own position alone: the meta tokens' keys stay
// constants, and cutting a prompt into chunks changes nothing.
std::vector<float> rope_table(const RopeConfig& rope, int head_dim, int num_positions);

}  // namespace hymba
