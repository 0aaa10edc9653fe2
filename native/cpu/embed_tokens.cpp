// Computes  out[t] = table[id[t]], or meta[-1 - id[t]] for the meta tokens; and out[i] =
// in[rows[i]] for chosen rows. Shapes    token_ids [T], table [V, C], meta [M, C], out [T, C] fp32.
// Numerics  exact: every stored precision fits in fp32.
// Limits    ids are checked before they get here; the check below only guards against our own
// mistakes.

#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/stages.h"

namespace hymba::cpu {
namespace {

template <typename W>
void copy_row(const W* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = to_float(from[i]);
}

}  // namespace

void embed_tokens(const EmbedTokensArgs& args) {
  const int64_t width = args.table.cols;
  for (int64_t t = 0; t < args.token_ids.rows(); ++t) {
    const int64_t id = args.token_ids.data<int32_t>()[t];
    const Matrix& source = id < 0 ? args.meta : args.table;
    const int64_t row = id < 0 ? -1 - id : id;
    check(row < source.rows, "embed_tokens: row ", row, " of ", source.rows);
    with_weight_type(source.dtype, [&](auto type) {
      using W = decltype(type);
      copy_row(static_cast<const W*>(source.blocks[0]) + row * width, args.out.row<float>(t),
               width);
    });
  }
}

void gather_rows(const GatherRowsArgs& args) {
  const size_t row_bytes = args.in.row_elements() * sizeof(float);
  for (int64_t i = 0; i < args.rows.rows(); ++i)
    std::memcpy(args.out.row<float>(i), args.in.row<float>(args.rows.data<int32_t>()[i]),
                row_bytes);
}

}  // namespace hymba::cpu
