// The long way through what stands for several stages, which every backend can go.

#include "ops/ops.h"

namespace hymba {

void Backend::run(const HybridHeadsArgs& args) {
  run(args.rotary);
  run(args.attention);
  run(args.conv);
  run(args.x_proj);
  run(args.dt_proj);
  run(args.scan);
}

void Backend::run(const NormedProductArgs& args) {
  std::visit([&](const auto& norm) { run(norm); }, args.norm);
  std::visit([&](const auto& product) { run(product); }, args.product);
}

}  // namespace hymba
