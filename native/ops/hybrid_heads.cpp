// The long way through a layer's heads, which every backend can go.

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

}  // namespace hymba
