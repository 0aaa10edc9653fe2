#include "model/rope.h"

#include <cmath>

namespace hymba {
namespace {

double rope_base(const RopeConfig& rope, int head_dim, int position) {
  const auto scaled = [&](double length) {
    const double stretch = 2.0 * length / rope.original_max_positions - 1.0;
    return rope.theta * std::pow(stretch, static_cast<double>(head_dim) / (head_dim - 2));
  };
  if (rope.type == RopeType::kNtk) return scaled(rope.max_positions);
  if (rope.type == RopeType::kDynamicNtk && position + 1 > rope.original_max_positions)
    return scaled(position + 1);
  return rope.theta;
}

}  // namespace

std::vector<float> rope_table(const RopeConfig& rope, int head_dim, int num_positions) {
  std::vector<float> table;
  if (rope.type == RopeType::kNone) return table;
  const int half = head_dim / 2;
  table.resize(static_cast<size_t>(num_positions) * head_dim);
  for (int position = 0; position < num_positions; ++position) {
    const double base = rope_base(rope, head_dim, position);
    float* row = table.data() + static_cast<size_t>(position) * head_dim;
    for (int k = 0; k < half; ++k) {
      // The model was trained with fp32 frequencies and fp32 angles; only the cosine and sine
      // themselves are taken exactly.
      const float frequency = static_cast<float>(std::pow(base, -2.0 * k / head_dim));
      const float angle = static_cast<float>(position) * frequency;
      row[k] = static_cast<float>(std::cos(static_cast<double>(angle)));
      row[half + k] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
  return table;
}

}  // namespace hymba
