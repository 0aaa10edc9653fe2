// Computes  out[t, h] = softmax(scale · q[t, h] · Kᵀ + mask) · V over the keys j that token i may
// see:
//           j ≤ i, and (window < 0, or i - j ≤ window, or j < M). Head h reads K/V head h / (H/G).
// Shapes    q [T, H, Dk], out [T, H, Dv]; K [Dk, 64] and V [64, Dv] inside a tile
// (rotary_kv_write.cpp). Mapping   one task for (block of up to 16 consecutive tokens of a span,
// K/V head): its 16·H/G query rows go through the pages
//           together, so that a page is converted once for all of them.
// Numerics  scores, running maximum, sum and output in fp32 (online softmax, page by page). With
// bf16 pages the
//           probabilities are rounded to bf16 before they meet V, as tensor cores need them. A page
//           that a row cannot see changes nothing, so that the result does not depend on what the
//           row shares its block with.

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/math.h"
#include "cpu/stages.h"

namespace hymba::cpu {
namespace {

constexpr int kBlockTokens = 16;
constexpr float kMasked = -std::numeric_limits<float>::infinity();

// c[i, j] += Σ_k a[i, k] · b[k, j] for i < rows, j < cols, k < depth; row-major and dense; cols a
// multiple of 16 or handled by the tail. Sums run in the order of k.
void add_product(int64_t rows, int64_t cols, int64_t depth, const float* a, const float* b,
                 float* c) {
  constexpr int64_t kRows = 4;
  constexpr int64_t kCols = 16;
  const auto tile = [&](int64_t i, int64_t num_rows, int64_t j) {
    float sums[kRows][kCols];
    for (int64_t r = 0; r < num_rows; ++r)
      for (int64_t x = 0; x < kCols; ++x) sums[r][x] = c[(i + r) * cols + j + x];
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t r = 0; r < num_rows; ++r)
        for (int64_t x = 0; x < kCols; ++x)
          sums[r][x] += a[(i + r) * depth + k] * b[k * cols + j + x];
    for (int64_t r = 0; r < num_rows; ++r)
      for (int64_t x = 0; x < kCols; ++x) c[(i + r) * cols + j + x] = sums[r][x];
  };
  const int64_t tiled_cols = cols / kCols * kCols;
  for (int64_t i = 0; i < rows; i += kRows)
    for (int64_t j = 0; j < tiled_cols; j += kCols) {
      if (i + kRows <= rows)
        tile(i, kRows, j);  // a constant row count lets the compiler keep the tile in registers
      else
        tile(i, rows - i, j);
    }
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = tiled_cols; j < cols; ++j)
      for (int64_t k = 0; k < depth; ++k) c[i * cols + j] += a[i * depth + k] * b[k * cols + j];
}

// Scratch of one task, kept by its thread.
struct Scratch {
  std::vector<float> q;       // [rows, Dk], scaled
  std::vector<float> keys;    // [Dk, 64]
  std::vector<float> values;  // [64, Dv]
  std::vector<float> scores;  // [rows, 64]
  std::vector<float> out;     // [rows, Dv]
  std::vector<float> max;     // [rows]
  std::vector<float> sum;     // [rows]
};

// Consecutive tokens of one span, for one K/V head. Query rows are (token, head of the group),
// token-major.
template <typename Act>
class BlockAttention {
 public:
  BlockAttention(const AttentionArgs& args, int64_t first_token, int num_tokens, int kv_head)
      : args_(args),
        kv_(args.kv),
        first_token_(first_token),
        num_tokens_(num_tokens),
        kv_head_(kv_head),
        group_(static_cast<int>(args.q.dim(1) / args.kv.num_kv_heads)),
        rows_(num_tokens * group_),
        pages_(
            args.kv.page_table.row<int32_t>(args.batch.token_spans.data<int32_t>()[first_token])),
        first_position_(args.batch.positions.data<int32_t>()[first_token]),
        s_(scratch()) {}

  void run() {
    load_queries();
    const int last_position = first_position_ + num_tokens_ - 1;
    const int meta = kv_.num_meta_tokens;
    const int meta_end = std::min(meta, last_position + 1);
    for (int j = 0; j < meta_end; j += kPageTokens)
      visit_page(j, std::min(kPageTokens, meta_end - j));
    if (last_position >= meta) {
      const int oldest = args_.window < 0 ? meta : std::max(meta, first_position_ - args_.window);
      const int first_page = (oldest - meta) / kPageTokens;
      const int last_page = (last_position - meta) / kPageTokens;
      for (int page = first_page; page <= last_page; ++page) {
        const int first_key = meta + page * kPageTokens;
        visit_page(first_key, std::min(kPageTokens, last_position + 1 - first_key));
      }
    }
    store_output();
  }

 private:
  static Scratch& scratch() {
    thread_local Scratch instance;
    return instance;
  }

  void load_queries() {
    const int64_t dim = kv_.head_dim;
    s_.q.resize(rows_ * dim);
    for (int row = 0; row < rows_; ++row) {
      const Act* q =
          args_.q.row<Act>(first_token_ + row / group_) + (kv_head_ * group_ + row % group_) * dim;
      for (int64_t i = 0; i < dim; ++i) s_.q[row * dim + i] = args_.scale * to_float(q[i]);
    }
    s_.out.assign(rows_ * kv_.value_head_dim, 0.0f);
    s_.max.assign(rows_, kMasked);
    s_.sum.assign(rows_, 0.0f);
  }

  bool visible(int query, int key) const {
    return key <= query &&
           (args_.window < 0 || query - key <= args_.window || key < kv_.num_meta_tokens);
  }

  // The page that holds keys [first_key, first_key + num_keys), the last of them not after the
  // block's last token.
  void visit_page(int first_key, int num_keys) {
    load_page(first_key, num_keys);
    s_.scores.assign(rows_ * kPageTokens, 0.0f);
    add_product(rows_, kPageTokens, kv_.head_dim, s_.q.data(), s_.keys.data(), s_.scores.data());
    for (int row = 0; row < rows_; ++row) softmax_row(row, first_key, num_keys);
    add_product(rows_, kv_.value_head_dim, kPageTokens, s_.scores.data(), s_.values.data(),
                s_.out.data());
  }

  // Slots from num_keys on hold nothing yet, or what another sequence left. Their scores are
  // masked; their values read as zero, since not even a probability of zero would keep an infinity
  // out of the sum.
  void load_page(int first_key, int num_keys) {
    const int page = pages_[kv_.column(first_key)];
    check(page >= 0 && page < kv_.num_pages, "attention: page ", page, " at position ", first_key);
    const Act* keys = static_cast<const Act*>(kv_.pool) + kv_.tile_offset(page, kv_head_);
    const int num_key_elements = kv_.head_dim * kPageTokens;
    s_.keys.resize(num_key_elements);
    for (int i = 0; i < num_key_elements; ++i) s_.keys[i] = to_float(keys[i]);
    const Act* values = keys + num_key_elements;
    const int num_value_elements = num_keys * kv_.value_head_dim;
    s_.values.resize(kPageTokens * kv_.value_head_dim);
    for (int i = 0; i < num_value_elements; ++i) s_.values[i] = to_float(values[i]);
    std::fill(s_.values.begin() + num_value_elements, s_.values.end(), 0.0f);
  }

  // Turns a row of scores into probabilities relative to the row's new maximum, and rescales what
  // the row has so far.
  void softmax_row(int row, int first_key, int num_keys) {
    const int query = first_position_ + row / group_;
    float* scores = s_.scores.data() + row * kPageTokens;
    float page_max = kMasked;
    for (int slot = 0; slot < kPageTokens; ++slot) {
      if (slot >= num_keys || !visible(query, first_key + slot)) scores[slot] = kMasked;
      page_max = std::max(page_max, scores[slot]);
    }
    if (page_max == kMasked) {
      std::fill_n(scores, kPageTokens, 0.0f);
      return;
    }
    const float new_max = std::max(s_.max[row], page_max);
    const float rescale = s_.max[row] == kMasked ? 0.0f : exp_approx(s_.max[row] - new_max);
    float sum = 0.0f;
    for (int slot = 0; slot < kPageTokens; ++slot)
      scores[slot] = scores[slot] == kMasked ? 0.0f : exp_approx(scores[slot] - new_max);
    for (int slot = 0; slot < kPageTokens; ++slot) sum += scores[slot];
    if constexpr (std::is_same_v<Act, BFloat16>)
      for (int slot = 0; slot < kPageTokens; ++slot)
        scores[slot] = to_float(from_float<BFloat16>(scores[slot]));
    s_.sum[row] = s_.sum[row] * rescale + sum;
    s_.max[row] = new_max;
    float* out = s_.out.data() + row * kv_.value_head_dim;
    if (rescale != 1.0f)
      for (int i = 0; i < kv_.value_head_dim; ++i) out[i] *= rescale;
  }

  void store_output() {
    const int64_t dim = kv_.value_head_dim;
    for (int row = 0; row < rows_; ++row) {
      Act* out = args_.out.row<Act>(first_token_ + row / group_) +
                 (kv_head_ * group_ + row % group_) * dim;
      const float inverse = 1.0f / s_.sum[row];
      for (int64_t i = 0; i < dim; ++i) out[i] = from_float<Act>(s_.out[row * dim + i] * inverse);
    }
  }

  const AttentionArgs& args_;
  const KvLayerView& kv_;
  const int64_t first_token_;
  const int num_tokens_;
  const int kv_head_;
  const int group_;
  const int rows_;
  const int32_t* pages_;
  const int first_position_;
  Scratch& s_;
};

}  // namespace

void attention(const AttentionArgs& args, ThreadPool& pool) {
  struct Block {
    int64_t first_token;
    int num_tokens;
  };
  std::vector<Block> blocks;
  const int32_t* offsets = args.batch.span_offsets.data<int32_t>();
  const int32_t* slots = args.batch.state_slot.data<int32_t>();
  for (int span = 0; span < args.batch.num_spans; ++span)
    for (int t = offsets[span]; slots[span] >= 0 && t < offsets[span + 1]; t += kBlockTokens)
      blocks.push_back({t, std::min(kBlockTokens, offsets[span + 1] - t)});

  const int num_kv_heads = args.kv.num_kv_heads;
  with_act_type(args.q.dtype(), [&](auto type) {
    pool.parallel_for(static_cast<int64_t>(blocks.size()) * num_kv_heads, [&](int64_t task) {
      const Block& block = blocks[task / num_kv_heads];
      BlockAttention<decltype(type)>(args, block.first_token, block.num_tokens,
                                     static_cast<int>(task % num_kv_heads))
          .run();
    });
  });
}

}  // namespace hymba::cpu
